"""`genint-evaluate run`: numbers with their conditions, one self-contained page, and mistakes named in one line."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import pytest
import torch
from genint.evaluate.cli import main
from genint.evaluate.report.paper import paper_accuracy
from genint.evaluate.report.report import accuracy_lines, mean_over_seeds, write_report
from genint.evaluate.report.results import (
    Accuracy,
    CheckpointEntry,
    CorruptionErrors,
    Results,
    load_results,
    save_results,
)
from genint.evaluate.run import corruption_errors
from genint.manifests.errors import FormatError
from genint.manifests.world import CLASSES
from genint.train.checkpoint import Preprocessing, describe_model, make_model, save_checkpoint
from genint.train.configuration import shipped_presets


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Two run folders with untrained classifiers of the mini world, and one of other classes."""
    folder = tmp_path_factory.mktemp("runs")
    for seed, (name, classes) in enumerate({"a": CLASSES, "b": CLASSES, "other": ("cat", "dog")}.items()):
        torch.manual_seed(seed)
        (folder / name).mkdir()
        content = describe_model("resnet18", tuple(classes), Preprocessing(None, 32))
        model = make_model("resnet18", len(classes)).state_dict()
        configuration = {"preset": "mini-erm", "seed": seed}
        save_checkpoint(
            folder / name / "last.pt", {**content, "model": model, "step": 5, "configuration": configuration}
        )
    return folder


@pytest.fixture
def evaluate(run_main) -> Callable[..., tuple[int, str, str]]:
    """Run `genint-evaluate` with arguments, in this process: exit code, stdout and stderr."""
    return lambda *arguments: astuple(run_main(main, *arguments))


@pytest.fixture(scope="module")
def report(runs, reference, tmp_path_factory) -> Path:
    """A report on two checkpoints of one row, and one by itself."""
    out = tmp_path_factory.mktemp("report") / "out"
    command = [sys.executable, "-c", "from genint.evaluate.cli import main; main()", "run", "--corruptions", "0"]
    checkpoints = [f"--checkpoint=both={runs / 'a'}", f"--checkpoint=both={runs / 'b'}", f"--checkpoint={runs / 'a'}"]
    subprocess.run([*command, *checkpoints, "--shards", f"{reference}:natural", "--out", out], check=True)
    return out


def test_every_number_has_its_protocol_digest_count_and_environment(report):
    content = json.loads((report / "results.json").read_text())
    assert len(content["accuracy"]) == 3
    for entry in content["accuracy"]:
        assert entry["images"] == 60
        assert entry["protocol"]
        assert re.fullmatch("[0-9a-f]{64}", entry["digest"])
        assert content["environments"][entry["environment"]]["precision"] == "fp32"
        low, high = entry["top1_interval"]
        assert low <= entry["top1"] <= high
    assert [(e["name"], e["group"], e["seed"]) for e in content["checkpoints"]] == [
        ("both/a", "both", 0), ("both/b", "both", 1), ("a", "a", 0),
    ]  # fmt: skip
    first, second = content["differences"]
    assert (first["baseline"], first["checkpoint"]) == ("both/a", "both/b")
    assert second["difference"] == 0.0  # the same classifier under another name


def test_page_needs_nothing_outside_itself(report):
    page = (report / "index.html").read_text()
    assert "<svg" in page
    outside = re.findall(r"""(?:src|href)=["'](?!data:|#)([^"']+)""", page)
    assert outside == []


def test_page_looks_right_in_a_browser(report, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on this machine")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--virtual-time-budget=2000"]
    dumped = subprocess.run(
        [browser, *flags, "--dump-dom", (report / "index.html").as_uri()], capture_output=True, text=True, timeout=120
    ).stdout
    # What the browser made of the page, not what was written.
    assert dumped.count("<table") == 5
    assert dumped.count("<svg") == 1
    assert "tiny/natural" in dumped


def test_second_run_adds_to_the_folder_and_reuses_predictions(report, runs, reference, evaluate, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(report, out)
    before = {path: path.stat().st_mtime_ns for path in (out / "cache").iterdir()}
    code, printed, error = evaluate(
        "run", "--checkpoint", runs / "b", "--shards", f"{reference}:natural", "--corruptions", 0, "--out", out
    )
    assert code == 0, error
    assert {path: path.stat().st_mtime_ns for path in (out / "cache").iterdir()} == before
    assert [entry.name for entry in load_results(out).checkpoints] == ["both/a", "both/b", "a", "b"]
    assert "tiny/natural" in printed


def test_corrupted_copy_is_made_once_and_told_apart(runs, reference, evaluate, tmp_path):
    arguments = ("run", "--checkpoint", runs / "a", "--shards", f"{reference}:natural", "--corruptions", 1)
    code, _, error = evaluate(*arguments, "--out", tmp_path / "out")
    assert code == 0, error
    (entry,) = load_results(tmp_path / "out").corruption
    assert (entry.marked, entry.mce, entry.ce) == ("generated", None, None)
    assert len(entry.error) == 15
    page = (tmp_path / "out" / "index.html").read_text()
    assert "do not apply" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "nowhere"], "nowhere: no such checkpoint"),
        (["--checkpoint", "{runs}/other"], "other knows no class"),
        (["--checkpoint", "x={runs}/a", "--checkpoint", "x={runs}/a"], "given twice"),
        (["--checkpoint", "{runs}/a", "--shards", "{reference}:nothing"], "no stream 'nothing'"),
        (["--checkpoint", "{runs}/a", "--imagenet", "{runs}"], "imagenet={runs}"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(evaluate, runs, reference, tmp_path, arguments, message):
    filled = [argument.format(runs=runs, reference=reference) for argument in arguments]
    if "--shards" not in filled and "--imagenet" not in filled:
        filled += ["--shards", f"{reference}:natural"]
    code, _, error = evaluate("run", *filled, "--corruptions", 0, "--out", tmp_path / "out")
    assert code == 2
    assert message.format(runs=runs) in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out" / "results.json").exists()


def test_without_data_the_default_dataset_is_named(evaluate, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, error = evaluate("run", "--checkpoint", runs / "a", "--out", "out")
    assert code == 2
    assert "genint-pipeline build-shards" in error


def test_folder_with_other_things_is_refused(evaluate, runs, reference, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    code, _, error = evaluate("run", "--checkpoint", runs / "a", "--shards", f"{reference}:natural", "--out", tmp_path)
    assert code == 2
    assert "holds something else" in error


def test_mean_over_seeds_has_students_interval():
    mean = mean_over_seeds([0.80, 0.82, 0.84], (0.0, 1.0))
    assert mean.value == pytest.approx(0.82)
    # t(0.975, 2) = 4.302653; s.d. 0.02, over the square root of 3
    assert mean.high - mean.value == pytest.approx(4.302653 * 0.02 / 3**0.5)
    assert mean_over_seeds([0.5], (0.4, 0.6)) == type(mean)(0.5, 0.4, 0.6, 1)


def entry(name: str, group: str, preset: str | None = None) -> CheckpointEntry:
    return CheckpointEntry(name, group, preset, "resnet18", "0" * 64, None, None, "")


def test_table_has_a_row_a_group():
    results = Results(
        checkpoints=[entry("g/1", "g"), entry("g/2", "g"), entry("single", "single")],
        accuracy=[
            Accuracy(name, "set", "", "own", "", 100, top1, (0.0, 1.0), 1.0, (0.0, 1.0), "")
            for name, top1 in (("g/1", 0.4), ("g/2", 0.6), ("single", 0.7))
        ],
    )
    header, first, second = accuracy_lines(results)
    assert header.split() == ["top-1,", "%", "set"]
    assert first.split()[:2] == ["g", "50.00"]
    assert second.split()[:2] == ["single", "70.00"]


def test_papers_numbers_stand_beside_official_sets_alone(tmp_path):
    def page(marked: str) -> str:
        results = Results(
            checkpoints=[entry("x", "x", "resnet18-genint")],
            accuracy=[Accuracy("x", "imagenet", "", marked, "", 9, 0.5, (0.1, 0.9), 0.6, (0.2, 0.9), "")],
        )
        return write_report(tmp_path, results).read_text()

    assert "paper 70.41" in page("official")
    assert "paper 70.41" not in page("own")


def test_presets_of_tables_1_to_3_are_found_in_the_papers_tables():
    presets = [name for name in shipped_presets() if re.match("resnet(18|152)-", name) and "figure" not in name]
    assert len(presets) > 20
    assert [name for name in presets if paper_accuracy(name, "objectnet:genint") is None] == []


def test_relative_mce_needs_the_clean_accuracy():
    from genint.evaluate.metrics.corruption_error import ALEXNET_CLEAN_ERROR, ALEXNET_SEVERITY_ERRORS

    errors = {name: dict(enumerate(values, 1)) for name, values in ALEXNET_SEVERITY_ERRORS.items()}
    found = corruption_errors("alexnet", "imagenet-c", "official", errors, 1.0 - ALEXNET_CLEAN_ERROR)
    assert found.mce == pytest.approx(100.0, abs=1e-3)
    assert found.relative_mce == pytest.approx(100.0, abs=1e-2)
    assert corruption_errors("alexnet", "imagenet-c", "official", errors, None).relative_mce is None


def test_results_survive_a_round_trip_and_damage_is_named(tmp_path):
    results = Results(
        checkpoints=[entry("x", "x")],
        corruption=[CorruptionErrors("x", "copy", "generated", {"fog": 50.0}, 50.0)],
    )
    save_results(tmp_path, results)
    assert load_results(tmp_path) == results
    (tmp_path / "results.json").write_text('{"format": "other"}')
    with pytest.raises(FormatError, match=r"results\.json: not a file of results"):
        load_results(tmp_path)
