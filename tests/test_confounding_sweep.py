"""The figure and table of `make confounding-sweep`, from results as `genint-evaluate run` leaves them."""

import subprocess
import sys
from pathlib import Path

import pytest
from genint.evaluate.report.results import Accuracy, CheckpointEntry, Results, save_results

ROOT = Path(__file__).parents[1]


def save_strength(folder: Path, shifted: dict[str, list[float]]) -> None:
    """Results of rows with a value a seed on the shifted test; all are right on half of the other."""
    results = Results()
    for row, values in shifted.items():
        for seed, value in enumerate(values):
            name = f"{row}/seed-{seed}"
            results.checkpoints.append(CheckpointEntry(name, row, None, "resnet18", "0" * 64, 1, seed, "."))
            for test_set, top1 in (("mini/test", 0.5), ("mini/test-shifted", value)):
                results.accuracy.append(
                    Accuracy(name, test_set, "", "own", "", 100, top1, (top1, top1), 1.0, (1.0, 1.0), "")
                )
    folder.mkdir(parents=True)
    save_results(folder, results)


@pytest.mark.parametrize("seeds", [1, 2])
def test_every_strength_and_row_is_drawn_and_tabled(tmp_path: Path, seeds: int) -> None:
    save_strength(tmp_path / "0.5", {"erm": [0.4, 0.5][:seeds], "genint": [0.6, 0.7][:seeds]})
    save_strength(tmp_path / "0.9", {"erm": [0.2, 0.3][:seeds], "free": [0.3, 0.3][:seeds]})
    command = [sys.executable, str(ROOT / "results" / "plot_confounding.py"), str(tmp_path), "0.5", "0.9"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed == (tmp_path / "confounding.md").read_text()
    erm = "50.0 / 40.0 | 50.0 / 20.0" if seeds == 1 else "50.0 / 45.0 | 50.0 / 25.0"
    assert f"| erm | {erm} |" in printed.splitlines()
    assert "| genint | 50.0 / 65.0 | – / – |" in printed.splitlines() or seeds == 1
    assert (tmp_path / "confounding.svg").read_text().count("<svg") == 1
