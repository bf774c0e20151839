"""The table and figure of `make cgn-mnist`, from results as `genint-evaluate run` leaves them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from genint.evaluate.report.results import (
    Accuracy,
    CheckpointEntry,
    GroupAccuracy,
    Groups,
    Results,
    save_results,
)

ROOT = Path(__file__).parents[1]


def save_run(folder: Path, world: str, row: str, seed: int, top1: float, visible: float) -> None:
    checkpoint = CheckpointEntry("run", row, None, "mnist-cnn", "0" * 64, 1, seed, ".")
    accuracy = Accuracy("run", "test", "", "own", "", 100, top1, (top1, top1), 1.0, (1.0, 1.0), "")
    shares = [GroupAccuracy(name, 50, share, (share, share)) for name, share in (("false", 0.1), ("true", visible))]
    groups = Groups("run", "test", "0" * 64, shares, "false", (0.1 + visible) / 2)
    path = folder / "runs" / world / row / f"seed-{seed}"
    path.mkdir(parents=True)
    save_results(path, Results(checkpoints=[checkpoint], accuracy=[accuracy], groups=[groups]))


def tabulate(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "results" / "tabulate_cgn_mnist.py"), str(folder)]
    return subprocess.run(command, capture_output=True, text=True)


def test_rows_stand_beside_what_was_published(tmp_path: Path) -> None:
    for seed, top1 in enumerate((0.84, 0.86, 0.88)):
        save_run(tmp_path, "double-colored", "cgn", seed, top1, 0.95)
    save_run(tmp_path, "wildlife", "cgn-alone-10000", 0, 0.5, 0.5)
    printed = tabulate(tmp_path).stdout
    assert printed == (tmp_path / "cgn-mnist.md").read_text()
    lines = printed.splitlines()
    # Student's t of three seeds: 4.303 x 2 points / sqrt(3).
    ours = "86.0 ± 5.0 (3 seeds; visible digits 95.0) | 89.0 | 85.5"
    assert f"| + CGN: 100,000 counterfactuals | – | 95.1 | 95.9 | {ours} | – | 85.7 | 62.8 |" in lines
    assert any("10,000" in line and "50.0 (1 seed)" in line for line in lines)
    cells = json.loads((tmp_path / "cgn-mnist.json").read_text())
    assert cells[0]["top1"] == pytest.approx([84.0, 86.0, 88.0]) and cells[0]["seeds"] == [0, 1, 2]
    assert (tmp_path / "cgn-mnist.svg").read_text().count("<svg") == 1


def test_an_empty_folder_says_what_makes_its_runs(tmp_path: Path) -> None:
    result = tabulate(tmp_path)
    assert result.returncode == 1 and "`make cgn-mnist` makes them" in result.stderr


def test_make_says_which_folder_is_missing_before_it_works(tmp_path: Path) -> None:
    command = ["make", "-f", "results/cgn-mnist.mk", f"WORK={tmp_path}/w", f"OUT={tmp_path}/o", "MNIST=nowhere"]
    result = subprocess.run([*command, "BIN=false", "WORLDS=colored"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert "mnist: nothing at 'nowhere'; give MNIST=DIR TEXTURES=DIR CHECKPOINTS=DIR" in result.stderr
    assert not (tmp_path / "w").exists()
