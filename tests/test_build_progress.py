"""What a build says of itself: to its user, to a log, and to whoever asks from another process."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from genint.manifests import console
from genint.manifests.console import ProgressDisplay
from genint.manifests.storage import Storage
from genint.pipeline.shards.progress import PROGRESS, ProgressFile, TimeLeft, time_left
from genint.pipeline.shards.settle import driver_lock

Run = Callable[..., Any]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "natural.toml"
    path.write_text(
        'name = "natural"\nseed = 1\n[[streams]]\nname = "natural"\nsource = "mini-world"\nobjects = "train"\n'
        'num_samples = 20\nsamples_per_shard = 10\nimage_format = "png"\n'
    )
    return path


def test_time_left_is_that_of_the_costs_and_names_what_is_not_measured() -> None:
    left = time_left({"a": 100, "b": 10, "c": 0}, {"a": 0.5, "b": 60.0, "c": None}, workers=5)
    assert left == TimeLeft(130.0, ())
    assert str(left) == "about 2.2 min left"
    assert str(time_left({"a": 100, "b": 1}, {"a": 0.5}, 1)) == "about 50 s left and b not measured yet"
    assert str(time_left({"b": 1}, {}, 1)) == "b not measured yet"


def test_a_log_has_what_is_shown_with_times_and_quiet_shows_nothing(run_cli: Run, recipe: Path, tmp_path: Path) -> None:
    log, out = tmp_path / "build.log", tmp_path / "dataset"
    words = ["build-shards", recipe, "--out", out, "--workers", 1, "--device", "cpu", "--log", log]
    quiet = run_cli(*words, "--quiet")
    assert (quiet.exit_code, quiet.err) == (0, "")
    lines = log.read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC  ", line) for line in lines)
    logged = "\n".join(lines)
    assert "$ genint-pipeline build-shards" in logged and "natural: 20/20 samples" in logged
    assert "natural-0000001.tar: 10 samples" not in logged

    # A log is added to; verbose tells of each shard; errors are in it whatever is shown.
    (out / "manifest.json").unlink()
    (out / "natural" / "0000" / "natural-0000001.tar").unlink()
    verbose = run_cli(*words, "--verbose")
    assert verbose.exit_code == 0 and "natural-0000001.tar: 10 samples in " in verbose.err
    assert run_cli(*words, "--set", "seed=2", "--quiet").exit_code == 2
    logged = log.read_text()
    assert logged.count("$ genint-pipeline") == 3 and "natural-0000001.tar: 10 samples in " in logged
    assert logged.splitlines()[-1].endswith("choose another --out") and "UTC  error: " in logged.splitlines()[-1]
    assert not (out / PROGRESS).exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--verbose", "--quiet"], "--verbose and --quiet: give one of them"),
        (["--log", "/nowhere/a.log"], "--log /nowhere/a.log: No such file or directory"),
    ],
)
def test_what_cannot_be_shown_or_logged_is_refused(run_cli: Run, words: list[str], message: str) -> None:
    result = run_cli("recipes", *words)
    assert result.exit_code == 2 and message in result.err


def test_a_log_holds_names_that_are_no_text(run_cli: Run, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    result = run_cli("status", "no-\udcff", "--log", log)
    assert result.exit_code in (1, 2) and "Traceback" not in result.err
    assert "no-\\udcff" in log.read_text("utf-8")


def test_status_tells_of_a_build_of_another_process_and_of_one_that_ended(
    run_cli: Run, recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "dataset"
    assert run_cli("build-shards", recipe, "--out", out, "--workers", 1, "--device", "cpu").exit_code == 0
    (out / "manifest.json").unlink()
    tree = {
        "done_samples": 12, "total_samples": 20, "samples_per_second": 3.5, "seconds_left": 2.3,
        "left": "about 2 s left", "retries": 1, "faults": {}, "lost_workers": 0, "lost_samples": 2,
    }  # fmt: skip
    ProgressFile(Storage(out)).write(tree)
    with driver_lock(Storage(out)):
        said = run_cli("status", out).out.splitlines()[-2:]
        found = json.loads(run_cli("status", out, "--json").out)
    assert said[0].startswith("under way: process ")
    assert said[1] == "12 of 20 samples, 3.5 samples/s, about 2 s left, 1 retries, 2 samples lost"
    assert (found["state"], found["complete"]) == ("building", False)
    assert found["build"].items() >= tree.items() and found["builder"].startswith("process ")

    ProgressFile(Storage(out)).write({**tree, "faults": {"natural shard 1": "OSError: broken"}})
    ended = json.loads(run_cli("status", out, "--json").out)
    assert (ended["state"], ended["builder"]) == ("stopped", None)
    assert "1 shards failed, first natural shard 1: OSError: broken" in ended["message"].splitlines()
    # What somebody else wrote there is no reason to fail.
    for content in (b"no json", b"[1]", b'{"done_samples": "many", "faults": 3}'):
        Storage(out).write(PROGRESS, content)
        with driver_lock(Storage(out)):
            assert run_cli("status", out).exit_code == 0


def test_a_line_appears_at_least_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with ProgressDisplay("work", "samples") as display:
        for _ in range(61):
            display.update(5, 10, left="nothing moves")
            now += 1.0
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 7 and lines[-1] == "work: 5/10 samples, nothing moves"
