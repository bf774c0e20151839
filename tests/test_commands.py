"""What all commands share: JSON in place of tables, and where they write, how to go on, what to look at."""

import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from genint.evaluate import cli as evaluate
from genint.pipeline import cli as pipeline
from genint.train import cli as train

PROGRAMS = {
    "genint-pipeline": (pipeline.cli, pipeline.main),
    "genint-evaluate": (evaluate.cli, evaluate.main),
    "genint-train": (train.train, train.main),
    "genint-train presets": (train.presets, train.main),
}
# What these print is no table: JSON always, a file's place, or what they did in a sentence.
WITHOUT_TABLE = {
    "genint-pipeline fit-reader",
    "genint-pipeline schema", "genint-pipeline inspect", "genint-pipeline fit-generator", "genint-pipeline fit-encoder",
    "genint-pipeline fit-saliency", "genint-pipeline fit-cgn", "genint-pipeline directions", "genint-pipeline preview",
    "genint-pipeline interpolate", "genint-pipeline repair", "genint-pipeline extend", "genint-pipeline merge",
    "genint-pipeline sign", "genint-pipeline publish", "genint-pipeline fetch", "genint-evaluate corrupt",
    "genint-evaluate saved-difference", "genint-evaluate failure-points", "genint-evaluate fit-line",
    "genint-evaluate correlation", "genint-evaluate causal-bound", "genint-evaluate nuisances",
    "genint-evaluate sources", "genint-evaluate grad-cam",
}  # fmt: skip
Run = Callable[..., Any]


def all_commands() -> Iterator[tuple[str, click.Command]]:
    """Every command of every program, by the words that call it."""

    def walk(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
        if isinstance(command, click.Group):
            for word, inner in command.commands.items():
                yield from walk(f"{name} {word}", inner)
        else:
            yield name, command

    for name, (command, _) in PROGRAMS.items():
        yield from walk(name, command)


def test_every_command_that_prints_a_table_prints_json_too() -> None:
    with_json = {name for name, command in all_commands() if any("--json" in p.opts for p in command.params)}
    assert with_json.isdisjoint(WITHOUT_TABLE)
    assert with_json | WITHOUT_TABLE == {name for name, _ in all_commands()}


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        ("genint-pipeline recipes", {"name", "description", "streams"}),
        ("genint-pipeline recipes mini", {"name", "seed", "generator", "streams"}),
        ("genint-pipeline build-shards {recipe} --dry-run", {"device", "streams", "bytes", "device_seconds"}),
        ("genint-pipeline status {dataset}", {"streams", "complete"}),
        ("genint-pipeline verify {dataset}", {"streams", "shards", "samples", "other_files", "rebuilt"}),
        ("genint-pipeline verify {dataset} --rebuild 1", {"streams", "shards", "samples", "other_files", "rebuilt"}),
        ("genint-pipeline clean {dataset} --dry-run", {"removed", "bytes"}),
        ("genint-train presets", {"mini-genint", "resnet18-genint"}),
        ("genint-train presets --differences", {"resnet18-genint"}),
        ("genint-train presets mini-genint", {"arch", "stages"}),
        (
            "genint-train --shards {dataset} --preset mini-genint --dry-run --set batch_sizes.natural=8 "
            "--set batch_sizes.int=4",
            {"configuration", "streams", "stages"},
        ),
    ],
)
def test_json_is_all_of_stdout(run_main: Run, reference: Path, tiny_recipe: Path, command: str, keys: set[str]) -> None:
    program, *arguments = shlex.split(command.format(dataset=reference, recipe=tiny_recipe))
    result = run_main(PROGRAMS[program][1], *arguments, "--json")
    assert result.exit_code == 0, result.err
    tree = json.loads(result.out)
    assert (tree[0] if isinstance(tree, list) else tree).keys() >= keys


def test_json_without_a_table_is_refused(run_main: Run, tiny_recipe: Path, tmp_path: Path) -> None:
    built = run_main(pipeline.main, "build-shards", tiny_recipe, "--out", tmp_path / "none", "--json")
    trained = run_main(train.main, "--out", tmp_path / "run", "--json")
    for result in (built, trained):
        assert result.exit_code == 2
        assert "--json: only with --dry-run" in result.err


def steps_after(result: Any) -> list[list[str]]:
    """The commands that a result's last lines name."""
    return [shlex.split(line[6:]) for line in result.err.splitlines() if line.startswith("next: genint-")]


def test_long_commands_say_where_they_write_and_their_next_steps_work(
    run_main: Run, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "natural.toml"
    recipe.write_text(
        'name = "natural"\nseed = 1\n[[streams]]\nname = "natural"\nsource = "mini-world"\nobjects = "train"\n'
        'num_samples = 20\nsamples_per_shard = 10\nimage_format = "png"\n'
    )
    waiting = [
        ["genint-pipeline", "build-shards", str(recipe), "--out", "built", "--workers", "1"],
        ["genint-pipeline", "fetch", str(reference), "fetched"],
        ["genint-pipeline", "publish", str(reference), f"{tmp_path}/published"],
    ]
    for command in waiting:
        result = run_main(PROGRAMS[command[0]][1], *command[1:])
        assert result.exit_code == 0, result.err
        where = command[command.index("--out") + 1] if "--out" in command else command[-1]
        said = result.err.splitlines()
        assert f"writes to {where}; if it is interrupted, the same command goes on" in said
        assert any(line.startswith("next: ") for line in said)
        for step in steps_after(result):
            # As it stands, but for the length of a training on so few images.
            short = ["--dry-run", "--set", "batch_sizes.natural=8"] if step[0] == "genint-train" else []
            if "fetched" not in step or not short:
                assert run_main(PROGRAMS[step[0]][1], *step[1:], *short).exit_code == 0, step
