"""A dataset is mended, grown, joined with others and tidied, and every time it is one that `verify` accepts."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from genint.manifests.dataset import load_dataset
from genint.manifests.errors import RecipeError
from genint.manifests.growth import grow_recipe
from genint.manifests.manifest import load_manifest
from genint.manifests.recipe import Recipe, load_recipe, read_recipe
from genint.manifests.storage import Storage
from genint.pipeline.cli import cli
from PIL import Image

RECIPE = """
name = "small"
seed = 7
[generator]
name = "mini"
batch_size = 4
[[streams]]
name = "natural"
source = "mini-world"
objects = "train"
num_samples = 10
samples_per_shard = 4
image_format = "png"
[[streams]]
name = "photos"
source = "natural"
images = "photos"
max_failures = 0.5
samples_per_shard = 3
[[streams]]
name = "moved"
source = "interventional"
classes = [3, 5]
latents_per_class = 1
interventions_per_latent = 2
num_directions = 4
step_ranges = 4.0
samples_per_shard = 3
image_format = "png"
"""
SHARD = "natural/0000/natural-0000001.tar"
BROKEN = "ant/1.png"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished dataset, beside its photographs, of which one cannot be read yet."""
    folder = tmp_path_factory.mktemp("built")
    for name in ("ant", "bee"):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (8, 8), (i * 50, 0, 0)).save(folder / "photos" / name / f"{i}.png")
    broken = folder / "photos" / BROKEN
    (folder / "whole.png").write_bytes(broken.read_bytes())
    broken.write_bytes(b"\0" * broken.stat().st_size)
    (folder / "small.toml").write_text(RECIPE)
    words = ["build-shards", folder / "small.toml", "--input", f"photos={folder / 'photos'}", "--workers", 1]
    cli([*map(str, words), "--out", str(folder / "dataset"), "--device", "cpu"], standalone_mode=False)
    return folder


@pytest.fixture
def dataset(built: Path, tmp_path: Path) -> Path:
    """A copy to change, with its photographs beside it."""
    shutil.copytree(built, tmp_path / "copy")
    return tmp_path / "copy" / "dataset"


@pytest.fixture
def run(dataset: Path, run_cli: Callable[..., Any]) -> Callable[..., Any]:
    """Run a command on the copy, which must be sound afterwards."""

    def command(name: str, *words: object) -> Any:
        photos = dataset.parent / "photos"
        result = run_cli(name, dataset, "--input", f"photos={photos}", "--workers", 1, "--device", "cpu", *words)
        if result.exit_code == 0:
            assert run_cli("verify", dataset).exit_code == 0
        return result

    return command


def contents(dataset: Path) -> dict[str, bytes]:
    return {path.relative_to(dataset).as_posix(): path.read_bytes() for path in sorted(dataset.rglob("*.tar"))}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[600] ^= 1
    path.write_bytes(content)


# Repair.


def test_repair_makes_damaged_shards_again_and_no_others(dataset: Path, run: Callable[..., Any]) -> None:
    before, times = contents(dataset), {path: path.stat().st_mtime_ns for path in dataset.rglob("*.tar")}
    flip(dataset / SHARD)
    (dataset / "moved" / "0000" / "moved-0000000.tar").unlink()
    (dataset / "README.md").write_text("other words\n")
    result = run("repair")
    assert result.exit_code == 0, result.err
    assert f"{SHARD}: sha256 differs from its record; made again" in result.err
    assert contents(dataset) == before
    changed = {path.name for path, time in times.items() if path.stat().st_mtime_ns != time}
    # The shard with a hole is tried again too.
    assert changed == {"natural-0000001.tar", "moved-0000000.tar", *lost_shards(dataset)}


def lost_shards(dataset: Path) -> set[str]:
    lines = (dataset / "manifest" / "photos-00000.jsonl").read_text().splitlines()
    return {Path(record["path"]).name for record in map(json.loads, lines) if record["failures"]}


def test_repair_fills_holes_where_what_was_unreadable_is_readable_now(dataset: Path, run: Callable[..., Any]) -> None:
    assert load_manifest(Storage(dataset)).stream("photos").failures == {"unreadable image": 1}
    (dataset.parent / "photos" / BROKEN).write_bytes((dataset.parent / "whole.png").read_bytes())
    assert run("repair").exit_code == 0
    entry = load_manifest(Storage(dataset)).stream("photos")
    assert (entry.samples, entry.failures) == (4, {})


def test_repair_of_a_sound_dataset_changes_nothing(dataset: Path, run: Callable[..., Any]) -> None:
    (dataset.parent / "photos" / BROKEN).write_bytes((dataset.parent / "whole.png").read_bytes())
    run("repair")
    shutil.rmtree(dataset / "records" / "environments")  # as in a copy that was fetched
    manifest = (dataset / "manifest.json").read_bytes()
    assert "complete already" in run("repair").out
    assert (dataset / "manifest.json").read_bytes() == manifest


# Extend.


def test_extend_adds_samples_and_leaves_those_that_were_there(dataset: Path, run: Callable[..., Any]) -> None:
    before = contents(dataset)
    words = ("--set", "streams.moved.latents_per_class=3", "--set", "streams.natural.num_samples=11")
    result = run("extend", *words)
    assert result.exit_code == 0, result.err
    after = contents(dataset)
    assert before.items() < after.items()
    assert sorted(after.keys() - before.keys()) == [
        "moved/0000/moved-0000002.tar", "moved/0000/moved-0000003.tar", "moved/0000/moved-0000004.tar",
        "natural/0000/natural-0000003.tar",
    ]  # fmt: skip
    manifest = load_manifest(Storage(dataset))
    assert (manifest.version, manifest.stream("moved").samples, manifest.stream("natural").samples) == ("1.1.0", 12, 11)
    # The same command again has nothing to do, and says so; the next one goes on from here.
    assert "complete already" in run("extend", *words).out
    assert run("extend", "--set", "streams.moved.latents_per_class=4").exit_code == 0
    assert load_dataset(str(dataset)).recipe.stream("moved").grown_from == [1, 3]
    assert after.items() < contents(dataset).items()


def test_an_interrupted_extension_goes_on(dataset: Path, run: Callable[..., Any]) -> None:
    plan = (dataset / "records" / "plan.json").read_bytes()
    words = ("--set", "streams.moved.latents_per_class=2")
    run("extend", *words)
    sums = (dataset / "SHA256SUMS").read_bytes()
    # As after a kill between recipe and plan, and in the midst of a shard.
    (dataset / "manifest.json").unlink()
    (dataset / "records" / "plan.json").write_bytes(plan)
    (dataset / "moved" / "0000" / "moved-0000002.tar").unlink()
    assert run("extend", *words).exit_code == 0
    assert (dataset / "SHA256SUMS").read_bytes() == sums


def test_members_of_a_class_join_behind_those_that_were_there() -> None:
    small, large = load_recipe("mini"), load_recipe("mini", ["streams.counterfactual.samples_per_class=500"])
    grown = grow_recipe(small, ["streams.counterfactual.samples_per_class=500"], "mini")
    assert grown.stream("counterfactual").grown_from == [400]
    assert grown.version == "1.1.0"
    assert grown.stream("counterfactual").stages == [400, 500]
    assert large.stream("counterfactual").stages == [500]


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("streams.moved.latents_per_class=0", "greater than 0"),
        ("streams.natural.num_samples=9", "streams.natural.num_samples: 10 -> 9: samples that are there would change"),
        (
            "streams.moved.truncation=0.5",
            "what may be raised: streams.natural.num_samples, streams.moved.latents_per_c",
        ),
        ("seed=8", "seed: 7 -> 8"),
    ],
)
def test_what_would_change_samples_is_no_extension(override: str, found: str) -> None:
    with pytest.raises(RecipeError) as caught:
        grow_recipe(read_recipe(RECIPE, "small"), [override], "small")
    assert found in str(caught.value)


def test_what_others_draw_from_does_not_grow() -> None:
    with pytest.raises(RecipeError, match="'transfer' reads 'interventional', which therefore cannot grow"):
        grow_recipe(load_recipe("mini"), ["streams.interventional.latents_per_class=300"], "mini")


# Merge.


def part(recipe: Recipe, *names: str) -> str:
    tree = recipe.model_copy(update={"streams": [recipe.stream(name) for name in names], "name": names[0]})
    return tree.to_toml()


def test_streams_that_were_built_apart_become_what_one_build_makes(
    built: Path, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    recipe = load_dataset(str(built / "dataset")).recipe
    photos = ("--input", f"photos={built / 'photos'}")
    for names in (("natural", "photos"), ("moved",)):
        (tmp_path / "part.toml").write_text(part(recipe, *names))
        words = (*photos, "--out", tmp_path / names[0], "--workers", 1, "--device", "cpu")
        assert run_cli("build-shards", tmp_path / "part.toml", *words[0 if "photos" in names else 2 :]).exit_code == 0
    merge = ("merge", tmp_path / "natural", tmp_path / "moved", "--out", tmp_path / "small")
    assert run_cli(*merge).exit_code == 0
    assert run_cli("verify", tmp_path / "small").exit_code == 0
    # All but the names of the parts in notes and version, of which there are none.
    assert (tmp_path / "small" / "SHA256SUMS").read_text() == (built / "dataset" / "SHA256SUMS").read_text()
    assert run_cli(*merge).exit_code == 2  # it is finished

    # Two of one name, or of other seeds, are no dataset.
    refused = run_cli("merge", tmp_path / "moved", built / "dataset", "--out", tmp_path / "two")
    assert refused.exit_code == 2 and "two of them have a stream or an input 'moved'" in refused.err
    assert not (tmp_path / "two" / "recipe.toml").exists()


# Clean.


def test_clean_removes_what_nobody_refers_to(dataset: Path, run_cli: Callable[..., Any]) -> None:
    half = dataset / "natural" / "0000" / f"natural-0000001.tar.tmp.{'0' * 32}"
    record = dataset / "records" / "natural" / "0000" / "0000001.json"
    record.parent.mkdir(parents=True)
    for path in (half, record):
        path.write_bytes(b"{}")
    assert run_cli("clean", dataset, "--dry-run").out.endswith("2 files would be removed, 4 B\n")
    assert half.exists()
    result = run_cli("clean", dataset)
    assert result.exit_code == 0 and result.out.endswith("2 files removed, 4 B\n")
    assert not half.exists() and not record.exists()
    assert run_cli("verify", dataset).exit_code == 0


def test_clean_of_a_build_under_way_takes_shards_without_a_record(dataset: Path, run_cli: Callable[..., Any]) -> None:
    (dataset / "manifest.json").unlink()
    for path in (dataset / "manifest").iterdir():
        if path.name.startswith("natural"):
            path.unlink()
    assert "natural/0000/natural-0000000.idx" in run_cli("clean", dataset).out
    assert {name.partition("/")[0] for name in contents(dataset)} == {"photos", "moved"}
