"""Corruptions in memory and saved as JPEG: how far apart they are, and what that changes for a classifier."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from genint.evaluate.cli import main
from genint.evaluate.corrupt import corrupt_picture, picture_seed
from genint.evaluate.report.results import load_results
from genint.evaluate.saved_difference import compare_top1, measure_saved
from genint.evaluate.test_sets import open_test_set
from genint.train.checkpoint import Classifier, Preprocessing
from PIL import Image
from torch import Tensor, nn

PLAIN = Preprocessing(None, 32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class Exact(nn.Module):
    """Answers with class 0 for the very pixels that it was shown, and else with class 1."""

    def __init__(self, known: Tensor) -> None:
        super().__init__()
        self.known = known

    def forward(self, images: Tensor) -> Tensor:
        same = (images[:, None] == self.known[None]).flatten(2).all(2).any(1)
        return nn.functional.one_hot((~same).long(), 2).float()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three pictures of two classes."""
    rng = np.random.default_rng(0)
    for name in ("cat/a", "cat/b", "dog/c"):
        path = tmp_path / "set" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).resize((32, 32)).save(path)
    return tmp_path / "set"


def test_the_difference_is_that_of_a_jpeg_and_what_it_costs_a_classifier(pictures: Path) -> None:
    (source,) = open_test_set(f"folder={pictures}")
    plain = [
        corrupt_picture(Image.open(pictures / key), "fog", severity, picture_seed(0, key, "fog", severity))
        for key in source.paths
        for severity in range(1, 6)
    ]
    distances = []
    for picture in plain:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=85, optimize=True)
        distances.append(np.abs(np.asarray(picture, float) - np.asarray(Image.open(buffer), float)).mean())
    known = PLAIN.normalize(torch.stack([PLAIN.prepare(picture) for picture in plain]))
    exact = Classifier("exact", Exact(known).eval(), "toy", ("cat", "dog"), PLAIN, "0" * 64)
    (fog,) = measure_saved(source, [("exact", exact)], 3, corruptions=["fog"])
    assert fog.pixels == pytest.approx(np.mean(distances)) and fog.pixels > 0.5
    # In memory every picture is a cat, saved none is: of two cats and a dog, two are right, and then one.
    assert fog.in_memory["exact"].tolist() == [[True] * 5] * 2 + [[False] * 5]
    assert fog.saved["exact"].tolist() == [[False] * 5] * 2 + [[True] * 5]
    value, low, high = compare_top1([fog], "exact")
    assert value == pytest.approx(100 / 3) and low <= value <= high


def test_the_command_measures_pictures_without_a_checkpoint_and_adds_a_section(
    pictures: Path, tmp_path: Path, run_main
) -> None:
    out = tmp_path / "out"
    found = run_main(main, "saved-difference", f"folder={pictures}", "--images", 1, "--out", out)
    assert found.exit_code == 0, found.err
    analysis = load_results(out).analyses["saved-difference"]
    assert len(analysis.rows) == 16 and analysis.data["images"] == 1
    assert float(analysis.rows[-1][1]) == pytest.approx(np.mean(list(analysis.data["pixels"].values())), abs=0.01)
    assert "Corruptions in memory and saved" in (out / "index.html").read_text()
    refused = run_main(main, "saved-difference", f"folder={pictures}", "--resize", 256, "--out", out)
    assert refused.exit_code == 2 and "--resize 256: expected a --crop too" in refused.err
