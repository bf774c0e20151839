"""The paper in miniature: its rows, runs that are kept while they are of the present data, and paired differences."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from genint.manifests.manifest import Fingerprint

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"


def load_script(name: str) -> ModuleType:
    """A script of `results/` as a module."""
    sys.path.insert(0, str(RESULTS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(RESULTS))


@pytest.fixture(scope="module")
def tabulate() -> ModuleType:
    return load_script("tabulate_mini")


@pytest.fixture(scope="module")
def rows() -> ModuleType:
    return load_script("mini_rows")


def save_run(folder: Path, row: str, seed: int, shifted: float, **changes: object) -> None:
    top1 = {"validation": 0.9, "test": 0.9, "test-background": 0.3, "test-shifted": shifted}
    run = {
        "row": row, "seed": seed, "row_key": row, "tests": "t", "images_per_step": 128, "images": {}, "top1": top1,
        "corrupted_error": 0.3, "cpu_seconds": 60.0, **changes,
    }  # fmt: skip
    path = folder / "runs" / row / f"seed-{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(run))


def run_script(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(RESULTS / "tabulate_mini.py"), str(folder)]
    return subprocess.run(command, capture_output=True, text=True)


def test_rows_are_compared_by_pairs_of_one_seed(tmp_path: Path):
    for seed, (natural, cgn) in enumerate(((0.20, 0.41), (0.30, 0.52), (0.25, 0.48))):
        save_run(tmp_path, "erm", seed, natural)
        save_run(tmp_path, "cgn", seed, cgn, images_per_step=256)
        save_run(tmp_path, "mixup", seed, natural + (0.01, -0.01, 0.0)[seed])
    save_run(tmp_path, "cgn", 7, 0.9, cpu_seconds=None)  # no other row has this seed; it went on after an interruption
    result = run_script(tmp_path)
    assert result.returncode == 0, result.stderr
    # 21, 22 and 23 points: 22 +- 4.303 x 1 / sqrt(3), whose p is that of t = 22 sqrt(3) at 2 degrees of freedom.
    assert "| CGN | +22.0 (+19.5 to +24.5) | 0.001 |" in result.stdout
    assert "| Mixup | +0.0 (-2.5 to +2.5) | 1.000 |" in result.stdout
    rows = {row["name"]: row for row in json.loads((tmp_path / "tables" / "results.json").read_text())["rows"]}
    (paired,) = [found for found in rows["cgn"]["paired"]["erm"] if found["test_set"] == "test-shifted"]
    assert paired["seeds"] == [0, 1, 2]
    assert paired["p"] == pytest.approx(0.000688, rel=1e-2) and paired["p_holm"] == pytest.approx(2 * paired["p"])
    page = (tmp_path / "tables" / "index.html").read_text()
    assert "less natural only" in page and "<svg" in page
    assert (tmp_path / "tables" / "differences.svg").read_text().count("<svg") == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [({"row_key": "other"}, "runs of different data or presets"), ({"tests": "u"}, "other test sets")],
)
def test_runs_of_different_data_are_never_mixed(tmp_path: Path, change: dict[str, str], said: str):
    save_run(tmp_path, "erm", 0, 0.2)
    save_run(tmp_path, "erm", 1, 0.2, **change)
    result = run_script(tmp_path)
    assert result.returncode == 1
    assert said in result.stderr and "`make paper-mini` makes them anew" in result.stderr


def test_holm_corrects_the_smallest_most_and_keeps_the_order(tabulate: ModuleType):
    assert tabulate.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert tabulate.holm([0.6, 0.5]) == [1.0, 1.0]
    assert tabulate.holm([]) == []


def test_pairs_that_differ_by_one_number_have_a_p(tabulate: ModuleType):
    assert tabulate.paired_p([1.0, 2.0], [1.0, 2.0]) == 1.0
    assert tabulate.paired_p([2.0, 3.0], [1.0, 2.0]) == 0.0


def test_what_seeds_can_show_is_what_tables_of_the_t_test_say(tabulate: ModuleType):
    # Cohen 1988: ten pairs see an effect of 1.0 standard deviations with a power of 80 %.
    assert tabulate.smallest_difference(2.0, 10) == pytest.approx(2.0, rel=0.01)
    assert tabulate.smallest_difference(1.0, 40) < 0.5


def test_every_row_is_what_the_trainer_takes(rows: ModuleType, tmp_path: Path):
    from genint.train.configuration import load_configuration

    assert len({row.name for row in rows.ROWS}) == len(rows.ROWS)
    for row in rows.ROWS:
        configuration = load_configuration(row.preset, row.overrides, {"seed": 3})
        # One classifier and as many steps for all: rows differ by what they see.
        (stage,) = configuration.stages
        assert configuration.arch == "resnet18-half"
        leading = stage.batch_sizes["natural" if row.natural else "int"]
        assert configuration.images_per_epoch // leading in (46, 47) and stage.epochs == 8
        assert set(row.datasets) <= set(rows.DATASETS)
        kinds = {"observational": "int", "interventional": "int", "transfer": "transfer", "stylized": "transfer"}
        terms = {kinds.get(name, "counterfactual") for name in row.names} | ({"natural"} if row.natural else set())
        assert set(stage.terms) == terms, row.name
        words = row.arguments(tmp_path, 3)
        assert words[words.index("--seed") + 1] == "3"
        assert ("--imagenet" in words) == (row.natural is not None)


def test_a_row_is_made_again_where_what_it_is_made_of_has_changed():
    identity = load_script("paper_mini").identity
    recipe = {
        "name": "mini", "seed": 1, "generator.name": "mini", "notes": "",
        "streams.natural.source": "mini-world", "streams.natural.samples_per_shard": 5,
        "streams.other.source": "mini-world", "streams.other.samples_per_shard": 5,
        "streams.made.source": "recomposed", "streams.made.objects": "natural",
    }  # fmt: skip

    def known(**changes: object) -> dict[str, object]:
        fingerprint = Fingerprint(
            recipe={**recipe, **{key.replace("__", "."): value for key, value in changes.items()}}
        )
        return identity(SimpleNamespace(fingerprint=fingerprint), "made")

    assert known() == known(notes="other words", streams__other__samples_per_shard=6)
    for change in ({"streams__made__objects": "other"}, {"streams__natural__samples_per_shard": 6}, {"seed": 2}):
        assert known() != known(**change)
