"""Two rows of reports against each other, over the seeds that both have."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from genint.evaluate.cli import main
from genint.evaluate.report.results import Accuracy, CheckpointEntry, CorruptionErrors, Results, save_results

Run = Callable[..., Any]


def report(folder: Path, top1: dict[str, float], digest: str = "d", sha256: str = "0") -> Path:
    """A folder of results: of each `row/seed` the accuracy on one set and the error on a corrupted copy of it."""
    checkpoints, accuracy, corruption = [], [], []
    for name, value in top1.items():
        row, _, seed = name.partition("/")
        checkpoints.append(CheckpointEntry(name, row, None, "resnet18", sha256 * 64, None, int(seed), ""))
        accuracy.append(Accuracy(name, "set", "", "own", digest, 100, value, (0.0, 1.0), 1.0, (0.0, 1.0), ""))
        corruption.append(CorruptionErrors(name, "copy", "generated", {"fog": 50.0}, 100 - 100 * value, images=7))
    folder.mkdir()
    save_results(folder, Results(checkpoints=checkpoints, accuracy=accuracy, corruption=corruption))
    return folder


@pytest.fixture
def compare(run_main: Run) -> Run:
    return partial(run_main, main, "compare")


def test_any_two_rows_are_compared_over_pairs_of_one_seed(compare: Run, tmp_path: Path) -> None:
    values = {"erm/0": 0.1, "a/0": 0.5, "a/1": 0.6, "a/2": 0.9, "b/0": 0.7, "b/1": 0.9, "b/5": 0.1}
    folder = report(tmp_path / "report", values)
    found = json.loads(compare("a", "b", "--results", folder, "--json").out)
    assert [(each["test_set"], each["measure"], each["seeds"]) for each in found] == [
        ("set", "top-1", [0, 1]), ("copy", "mean error", [0, 1]),
    ]  # fmt: skip
    top1, error = found
    assert (top1["baseline"], top1["row"]) == pytest.approx((55, 80))
    assert top1["difference"] == pytest.approx(25) and error["difference"] == pytest.approx(-25)
    # Differences of 20 and 30 points: t(0.975, 1) = 12.706205 times 5.
    assert top1["paired"] == pytest.approx([25 - 63.531, 25 + 63.531], abs=1e-3)
    table = compare("a", "b", "--results", folder).out.splitlines()
    assert table[1].split() == ["set", "top-1", "55.00", "80.00", "+25.00", "-38.53", "to", "+88.53", "0,", "1"]
    # One pair is a difference without an interval.
    assert "one pair of seeds" in compare("erm", "b", "--results", folder).out


def test_rows_of_different_reports_are_compared_on_the_same_images(compare: Run, tmp_path: Path) -> None:
    first = report(tmp_path / "first", {"a/0": 0.5, "a/1": 0.6})
    second = report(tmp_path / "second", {"b/0": 0.7, "b/1": 0.9}, sha256="1")
    result = compare("a", "b", "--results", first, "--results", second)
    assert result.exit_code == 0 and "+25.00" in result.out, result.err
    other = report(tmp_path / "other", {"b/0": 0.7}, digest="e")
    refused = compare("a", "b", "--results", first, "--results", other)
    assert refused.exit_code == 2 and f"set: other images in {other} than in {first}" in refused.err
    again = report(tmp_path / "again", {"a/0": 0.7}, sha256="2")
    refused = compare("a", "b", "--results", first, "--results", again)
    assert refused.exit_code == 2 and "another checkpoint is called 'a/0'" in refused.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "bb"], "no row 'bb' in these reports; did you mean 'b'?"),
        (["a", "b"], "measured on no set in common with the same seed; seeds: 0 and 3"),
    ],
)
def test_rows_that_cannot_be_compared_are_refused(compare: Run, tmp_path: Path, words: list[str], message: str) -> None:
    folder = report(tmp_path / "report", {"a/0": 0.5, "b/3": 0.6})
    result = compare(*words, "--results", folder)
    assert result.exit_code == 2 and message in result.err
    assert "expected a folder of genint-evaluate run" in compare("a", "b", "--results", tmp_path).err
