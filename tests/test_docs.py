"""Every command in the README runs; full-scale ones with --dry-run."""

import re
import shlex
import sys
from pathlib import Path

import pytest
from genint.evaluate.cli import main as evaluate
from genint.pipeline.cli import main as pipeline
from genint.train.cli import main as train

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
LINES = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines() if line.strip()]
COMMANDS = [shlex.split(line, comments=True) for line in LINES]
MAINS = {"genint-pipeline": pipeline, "genint-train": train, "genint-evaluate": evaluate}
# The same commands on less: the mini dataset with fewer images, and trainings of a few steps.
SMALLER = [
    "streams.observational.latents_per_class=30",
    "streams.interventional.latents_per_class=30",
    "streams.transfer.num_samples=100",
    "streams.counterfactual.samples_per_class=20",
    "streams.counterfactual.bank=5",
    "streams.recomposed.num_samples=100",
]
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
# What a reader has and a test has not.
STAND_INS = {"/data/imagenet/train": "datasets/mini:natural", "s3://bucket/genint-imagenet-256": "datasets/mini"}
FULL_SCALE = ("genint-imagenet-128", "genint-imagenet-256", "gan-augmentation-256", "figure-5-256")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A folder in which the commands run one after another, as a reader would."""
    return tmp_path_factory.mktemp("reader")


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0] in MAINS], ids=" ".join)
def test_command_runs(workplace, monkeypatch, capfd, command):
    monkeypatch.chdir(workplace)
    name, *arguments = command
    if name == "genint-pipeline":
        if any(recipe in arguments for recipe in FULL_SCALE) and "--dry-run" not in arguments:
            arguments = [*arguments, "--dry-run"]
        if arguments == ["build-shards"]:
            arguments += [part for override in SMALLER for part in ("--set", override)]
        arguments = [re.sub("^s3://bucket/", "memory://bucket/", argument) for argument in arguments]
    else:
        arguments = [STAND_INS.get(argument, argument) for argument in arguments]
        if name == "genint-train" and "--out" in arguments and "--dry-run" not in arguments:
            arguments += ["--steps", "2"]
        if arguments[0] == "run":
            arguments += ["--corruptions", "0"]
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    code = 0
    try:
        MAINS[name]()
    except SystemExit as ending:
        code = int(ending.code or 0)
    assert code == 0, capfd.readouterr().err


def test_make_targets_of_the_first_screen_exist():
    named = {command[1] for command in COMMANDS if command[0] == "make"}
    assert named == {"demo", "test"}
    assert named <= TARGETS


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_make_targets_that_are_named_exist(page):
    named = set(re.findall(r"`make ([\w-]+)|^make ([\w-]+)", (ROOT / page).read_text(), re.MULTILINE))
    assert named
    assert {first or second for first, second in named} <= TARGETS


def test_every_shipped_recipe_is_in_the_table():
    from genint.manifests.recipe import shipped_recipes

    text = (ROOT / "README.md").read_text()
    assert [name for name in shipped_recipes() if f"`{name}`" not in text] == []


def test_pictures_of_the_readme_are_in_the_repository():
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    assert pictures
    assert [path for path in pictures if not (ROOT / path).exists()] == []
