"""Every command that the makefiles give is one that the programs take."""

import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest
from genint.evaluate.cli import cli as evaluate
from genint.pipeline.cli import cli as pipeline
from genint.train.cli import train
from genint.train.configuration import load_configuration

ROOT = Path(__file__).parents[1]
PROGRAMS = {"genint-pipeline": pipeline, "genint-train": train, "genint-evaluate": evaluate}
# Of a makefile's variables: what it needs to say what it would do.
MNIST = [f"{name}=." for name in ("MNIST", "TEXTURES", "CHECKPOINTS")]


def planned(*arguments: str) -> list[list[str]]:
    """Commands that make would give, word by word, without what the shell puts in."""
    command = ["make", "-n", "--no-print-directory", *arguments, "BIN=bin"]
    text = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.startswith("bin/genint-")]
    plain = [re.sub(r"\$\(\(.*?\)\)", "10", line) for line in lines]
    return [shlex.split(re.sub(r'"\$\(.*?\)"', "[0]", line).removeprefix("bin/")) for line in plain]


@pytest.mark.parametrize(
    "arguments",
    [
        ("demo", "VENV=none", "PYTHON=true"),
        ("-f", "results/paper-mini.mk", "WORK=none"),
        ("-f", "results/confounding-sweep.mk", "WORK=none", "OUT=none"),
        ("-f", "results/cgn-mnist.mk", "WORK=none", "OUT=none", "input_of=--input $(1)=$(2)", *MNIST),
    ],
    ids=["demo", "paper-mini", "confounding-sweep", "cgn-mnist"],
)
def test_commands_of_a_makefile_are_right(arguments: tuple[str, ...]) -> None:
    commands = planned(*arguments)
    assert len(commands) > 5
    for program, *words in commands:
        command: click.Command = PROGRAMS[program]
        if isinstance(command, click.Group):
            command, words = command.commands[words[0]], words[1:]
        parsed = command.make_context(program, list(words)).params
        if parsed.get("preset"):
            load_configuration(parsed["preset"], parsed["overrides"], {})
