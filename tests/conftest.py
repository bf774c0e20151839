"""Shared by the tests: a tiny recipe of every kind of stream, and the command line in this process."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from genint.pipeline.cli import main

# One thread, as workers use: two compete with whatever else runs. Set before torch is imported, and inherited.
os.environ["OMP_NUM_THREADS"] = "1"
# Ray would otherwise report usage; and workers of a cluster started by a test must find the tests' folder.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

TINY_RECIPE = Path(__file__).with_name("tiny.toml")


@dataclass(frozen=True)
class Result:
    """What a command left: its exit code and what it printed."""

    exit_code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def tiny_recipe() -> Path:
    return TINY_RECIPE


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Path) -> Path:
    """The tiny dataset, built by one worker without interruption. Not to be changed."""
    out = tmp_path_factory.mktemp("reference") / "dataset"
    command = [sys.executable, "-c", "from genint.pipeline.cli import main; main()", "build-shards"]
    subprocess.run([*command, tiny_recipe, "--out", out, "--workers", "1"], check=True)
    return out


@pytest.fixture
def run_main(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run a command's `main` with arguments, in this process."""

    def run(main: Callable[[], None], *arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", [f"genint-{main.__module__.split('.')[1]}", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as ending:
            code = int(ending.code or 0)
        captured = capfd.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture
def run_cli(run_main: Callable[..., Result]) -> Callable[..., Result]:
    """Run `genint-pipeline` with arguments, in this process."""
    return partial(run_main, main)


@pytest.fixture(scope="session")
def find_children() -> Callable[[int, str], list[int]]:
    """Ids of a process's children whose command line holds a text. From /proc: a bare Debian has no pgrep."""

    def find(parent: int, command: str) -> list[int]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # ended meanwhile
                # After the name, which may hold anything but ends with the last parenthesis: state, then the parent.
                of = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if of == parent and command in (folder / "cmdline").read_text():
                    found.append(int(folder.name))
        return found

    return find


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Development data that is not part of the product."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside this checkout")
    return folder
