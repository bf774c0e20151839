"""A build that goes on checks what it finds: it mends what can be made again, and refuses by name what cannot."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from genint.pipeline.cli import cli

STREAM = """
[[streams]]
name = "{0}"
source = "mini-world"
objects = "{1}"
num_samples = 12
samples_per_shard = 6
image_format = "png"
"""
RECORD = "records/natural/0000/0000000.json"
SHARD = "natural/0000/natural-0000001.tar"

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.toml"
    path.write_text('name = "small"\nseed = 7\n' + STREAM.format("natural", "train") + STREAM.format("shown", "test"))
    return path


def build(recipe: Path, out: Path, *more: str) -> None:
    words = ["build-shards", str(recipe), "--out", str(out), "--workers", "1", "--device", "cpu", *more]
    cli(words, standalone_mode=False)


@pytest.fixture(scope="module")
def finished(recipe: Path) -> Path:
    build(recipe, recipe.with_name("finished"))
    return recipe.with_name("finished")


@pytest.fixture(scope="module")
def begun(recipe: Path) -> Path:
    """A build that was stopped after its first stream, before anything was closed."""
    build(recipe, recipe.with_name("begun"), "--stream", "natural")
    dataset = recipe.with_name("begun")
    for line in (dataset / "manifest" / "natural-00000.jsonl").read_text().splitlines():
        record = dataset / "records" / "natural" / "0000" / f"{json.loads(line)['shard_index']:07d}.json"
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(line)
    shutil.rmtree(dataset / "manifest")
    for name in ("manifest.json", "SHA256SUMS", "README.md", "croissant.json"):
        (dataset / name).unlink()
    return dataset


@pytest.fixture
def go_on(recipe: Path, tmp_path: Path, run_cli: Callable[..., Any]) -> Callable[[Path, Damage], Any]:
    """Copy a dataset, damage the copy, and give the same command again."""

    def run(dataset: Path, damage: Damage) -> Any:
        copy = shutil.copytree(dataset, tmp_path / "dataset")
        damage(copy)
        return run_cli("build-shards", recipe, "--out", copy, "--workers", 1, "--device", "cpu")

    return run


def cut(name: str, size: int = -1) -> Damage:
    return lambda dataset: (dataset / name).write_bytes((dataset / name).read_bytes()[:size])


def lose(name: str) -> Damage:
    return lambda dataset: (dataset / name).unlink()


def edit(name: str, /, **changes: Any) -> Damage:
    def change(dataset: Path) -> None:
        content = json.loads((dataset / name).read_text())
        (dataset / name).write_text(json.dumps({**content, **changes}))

    return change


def flip_content(name: str) -> Damage:
    def flip(dataset: Path) -> None:
        content = bytearray((dataset / name).read_bytes())
        content[600] ^= 1
        (dataset / name).write_bytes(content)

    return flip


def comment_on_the_recipe(dataset: Path) -> None:
    with open(dataset / "recipe.toml", "a") as file:
        file.write("# harmless\n")


def lose_environments(dataset: Path) -> None:
    shutil.rmtree(dataset / "records" / "environments")


def is_sound(dataset: Path, finished: Path, run_cli: Callable[..., Any]) -> bool:
    same = (dataset / "SHA256SUMS").read_text() == (finished / "SHA256SUMS").read_text()
    return bool(same and run_cli("verify", dataset).exit_code == 0)


@pytest.mark.parametrize(
    "damage",
    [
        lose("natural/0000/natural-0000000.idx"),
        cut("natural/0000/natural-0000000.idx"),
        cut(SHARD),
        lose(SHARD),
        lose("SHA256SUMS"),
        cut("SHA256SUMS"),
        cut("manifest.json", 50),
        edit("manifest.json", name="other"),
        lose("manifest/natural-00000.jsonl"),
        comment_on_the_recipe,
        lose("recipe.toml"),
    ],
)
def test_what_a_finished_dataset_lost_is_made_again(
    finished: Path, go_on: Callable[..., Any], run_cli: Callable[..., Any], tmp_path: Path, damage: Damage
) -> None:
    result = go_on(finished, damage)
    assert result.exit_code == 0, result.err
    assert "not complete: " in result.err
    assert "complete already" not in result.out
    assert is_sound(tmp_path / "dataset", finished, run_cli)
    assert "complete already" in go_on_again(tmp_path / "dataset", run_cli)


def go_on_again(dataset: Path, run_cli: Callable[..., Any]) -> str:
    recipe = dataset / "recipe.toml"
    return str(run_cli("build-shards", recipe, "--out", dataset, "--workers", 1, "--device", "cpu").out)


@pytest.mark.parametrize(
    "damage",
    [
        edit(RECORD, sha256="0" * 64),
        edit(RECORD, index_sha256="0" * 64),
        edit(RECORD, parameters_sha256="0" * 64),
        edit(RECORD, shard_index=1),
        edit(RECORD, samples=5),
        edit(RECORD, path="../x.tar"),
        edit(RECORD, environment="x"),
        edit(RECORD, first_key="natural-00000000x"),
        cut(RECORD, 20),
        cut(SHARD),
        flip_content(SHARD),
        cut("natural/0000/natural-0000001.idx", 0),
        comment_on_the_recipe,
        lose("recipe.toml"),
        lose_environments,
    ],
)
def test_what_is_not_sound_in_a_dataset_under_way_is_made_again(
    begun: Path, finished: Path, go_on: Callable[..., Any], run_cli: Callable[..., Any], tmp_path: Path, damage: Damage
) -> None:
    result = go_on(begun, damage)
    assert result.exit_code == 0, result.err
    assert is_sound(tmp_path / "dataset", finished, run_cli)


def edit_recipe(dataset: Path) -> None:
    path = dataset / "recipe.toml"
    path.write_text(path.read_text().replace("background_confounding = 0.8", "background_confounding = 0.1", 1))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (edit_recipe, "recipe.toml: edited since the build began (streams.natural.background_confounding: 0.8 -> 0.1)"),
        (cut("recipe.toml", 5), "recipe.toml: damaged: "),
        (edit("records/plan.json", class_names=["x"]), "records/plan.json: edited since the build began"),
        (cut("records/plan.json", 5), "records/plan.json: damaged: "),
    ],
)
def test_what_cannot_be_told_right_from_wrong_is_refused_by_name(
    begun: Path, go_on: Callable[..., Any], damage: Damage, expected: str
) -> None:
    result = go_on(begun, damage)
    assert result.exit_code in (1, 2)
    assert expected in result.err


def test_a_recipe_that_was_edited_can_be_had_back_as_the_refusal_says(
    begun: Path, finished: Path, go_on: Callable[..., Any], run_cli: Callable[..., Any], recipe: Path, tmp_path: Path
) -> None:
    result = go_on(begun, edit_recipe)
    assert "remove it, and the same command writes it again" in result.err
    (tmp_path / "dataset" / "recipe.toml").unlink()
    again = run_cli("build-shards", recipe, "--out", tmp_path / "dataset", "--workers", 1, "--device", "cpu")
    assert again.exit_code == 0
    assert is_sound(tmp_path / "dataset", finished, run_cli)


def test_a_damaged_part_is_named_with_what_to_do(finished: Path, go_on: Callable[..., Any], tmp_path: Path) -> None:
    result = go_on(finished, cut("manifest/natural-00000.jsonl", 20))
    assert result.exit_code == 1
    assert "remove it to have its shards made again" in result.err
    assert "natural-00000.jsonl: damaged" in result.err


def test_a_tar_that_no_record_knows_is_named(finished: Path, go_on: Callable[..., Any]) -> None:
    stray = "natural/0000/natural-0000099.tar"
    result = go_on(finished, lambda dataset: shutil.copy(dataset / SHARD, dataset / stray))
    assert result.exit_code == 1
    assert f"{stray}: no record knows it" in result.err


def test_leftovers_of_a_killed_build_are_swept_and_never_in_the_way(
    recipe: Path, finished: Path, run_cli: Callable[..., Any], tmp_path: Path
) -> None:
    out = tmp_path / "dataset"
    left = [out / f"{name}.tmp.{'0' * 32}" for name in ("recipe.toml", "preview/x.jpg", "records/a", "manifest/x")]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (out / "preview").rename(tmp_path / "aside")
    assert run_cli("build-shards", recipe, "--out", out, "--workers", 1, "--device", "cpu").exit_code == 2  # manifest/
    shutil.rmtree(out / "manifest")
    (out / "notes.tmp.txt").touch()
    assert run_cli("build-shards", recipe, "--out", out, "--workers", 1, "--device", "cpu").exit_code == 0
    assert not any(path.exists() for path in left)
    assert (out / "notes.tmp.txt").exists()
    assert is_sound(out, finished, run_cli)


def test_a_worker_that_cannot_start_is_one_line(begun: Path, go_on: Callable[..., Any]) -> None:
    def block(dataset: Path) -> None:
        lose_environments(dataset)
        (dataset / "records" / "environments").write_text("a file")

    result = go_on(begun, block)
    assert result.exit_code == 1
    (line,) = [line for line in result.err.splitlines() if not line.startswith(("small: ", "writes to "))]
    assert line.startswith("error: a worker cannot start: ") and "environments" in line


def test_the_lock_of_a_finished_dataset_names_no_machine(finished: Path) -> None:
    assert (finished / "records" / "driver.lock").read_bytes() == b""


def test_inspect_and_preview_refuse_a_shard_that_is_not_as_recorded(
    finished: Path, run_cli: Callable[..., Any], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(finished, tmp_path / "dataset"))
    for name in ("natural/0000/natural-0000000.tar", SHARD):
        flip_content(name)(copy)
    lose("preview/natural.jpg")(copy)  # sheets that are there are left alone
    for words in (("inspect", copy, "natural-00000003"), ("preview", copy)):
        result = run_cli(*words)
        assert result.exit_code == 1
        assert "sha256 differs from its record" in result.err
    assert run_cli("inspect", copy, "shown-00000003").exit_code == 0


@pytest.mark.parametrize("key", ["natural-²", "natural-000000003", "natural-" + "9" * 5000, "x" * 100_000])
def test_keys_that_are_none_are_refused_in_short(finished: Path, run_cli: Callable[..., Any], key: str) -> None:
    result = run_cli("inspect", finished, key)
    assert result.exit_code == 2
    assert len(result.err) < 500


def test_status_says_complete_of_what_is_complete(finished: Path, run_cli: Callable[..., Any], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(finished, tmp_path / "dataset"))
    assert run_cli("status", copy).out.endswith("complete: its manifest is written\n")
    lose(SHARD)(copy)
    assert "not complete: its manifest is written, but 1 shards are missing" in run_cli("status", copy).out
    cut("manifest.json", 50)(copy)
    assert run_cli("status", copy).exit_code == 1
