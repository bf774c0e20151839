"""Every command in the README runs; full-scale ones with --dry-run."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
COMMANDS = [shlex.split(line, comments=True) for block in BLOCKS for line in block.splitlines() if line.strip()]
FULL_SCALE = ("genint-imagenet-128", "genint-imagenet-256", "gan-augmentation-256", "figure-5-256")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A folder in which the commands run one after another, as a reader would."""
    return tmp_path_factory.mktemp("reader")


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0] == "genint-pipeline"], ids=" ".join)
def test_command_runs(run_cli, workplace, monkeypatch, command):
    monkeypatch.chdir(workplace)
    arguments = command[1:]
    if any(name in arguments for name in FULL_SCALE) and "--dry-run" not in arguments:
        arguments = [*arguments, "--dry-run"]
    result = run_cli(*(re.sub("^s3://bucket/", "memory://bucket/", argument) for argument in arguments))
    assert result.exit_code == 0, result.err


def test_make_targets_of_the_first_screen_exist():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {command[1] for command in COMMANDS if command[0] == "make"}
    assert named == {"demo", "test"}
    assert named <= targets


def test_every_shipped_recipe_is_in_the_table():
    from genint.manifests.recipe import shipped_recipes

    text = (ROOT / "README.md").read_text()
    assert [name for name in shipped_recipes() if f"`{name}`" not in text] == []


def test_pictures_of_the_readme_are_in_the_repository():
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    assert pictures
    assert [path for path in pictures if not (ROOT / path).exists()] == []
