"""ImageNet-V2's folders are numbers: read as such, where sorting them as strings gives chance."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from genint.evaluate.metrics.accuracy import accuracy
from genint.evaluate.prediction import predict
from genint.evaluate.test_sets import open_test_set
from genint.evaluate.test_sets.imagenet_v2 import VARIANTS, class_labels
from genint.manifests.errors import UsageError
from genint.manifests.inputs import imagenet_wnids
from genint.train.checkpoint import Classifier, Preprocessing
from genint.train.vision import torchvision
from PIL import Image
from torch import Tensor, nn

PLAIN = Preprocessing(resize=None, crop=2, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


class Oracle(nn.Module):
    """Reads the class off a picture's red and green."""

    def forward(self, images: Tensor) -> Tensor:
        red, green = (images[:, :2, 1, 1] * 255).round().long().T
        return nn.functional.one_hot(red + 250 * green, 1000).float()


@pytest.fixture(scope="module")
def oracle() -> Classifier:
    return Classifier("oracle", Oracle().eval(), "toy", imagenet_wnids(), PLAIN, "0" * 64)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ImageNet-V2 as it unpacks: three variants of 1,000 folders of 10 images, whose colour tells the class."""
    root = tmp_path_factory.mktemp("v2") / "imagenet-v2"
    first, *others = (root / folder for folder in VARIANTS.values())
    for label in range(1000):
        folder = first / str(label)
        folder.mkdir(parents=True)
        Image.new("RGB", (2, 2), (label % 250, label // 250, 0)).save(folder / "0.png")
        for number in range(1, 10):
            os.link(folder / "0.png", folder / f"{number}.png")
    for other in others:
        other.symlink_to(first)
    return root


def test_numeric_folders_are_read_as_numbers(release: Path, oracle: Classifier) -> None:
    top, threshold, matched = open_test_set(f"imagenet-v2={release}")
    assert (top.name, threshold.name, matched.name) == (
        "imagenet-v2/top-images", "imagenet-v2/threshold0.7", "imagenet-v2/matched-frequency",
    )  # fmt: skip
    assert top.marked == "official" and len(top) == 10_000
    found = predict(oracle, top, batch_size=500)
    assert accuracy(found.hit1).value == 1.0
    # What ImageFolder makes of the same folders, which the set's own README recommends.
    naive = np.array([label for _, label in torchvision.datasets.ImageFolder(release / VARIANTS["top-images"]).samples])
    assert np.mean(found.top5[:, 0] == naive) < 0.02


def test_one_variant_may_be_given_alone(release: Path, tmp_path: Path) -> None:
    (one,) = open_test_set(f"imagenet-v2={release / VARIANTS['top-images']}")
    assert one.name == "imagenet-v2/top-images"
    shutil.copytree(release, tmp_path / "v2", symlinks=True)
    (tmp_path / "v2" / VARIANTS["threshold0.7"]).unlink()
    with pytest.raises(UsageError, match=r"lacks imagenetv2-threshold0.7-format-val$"):
        open_test_set(f"imagenet-v2={tmp_path / 'v2'}")


def test_incomplete_variant_is_refused_by_what_lacks(release: Path, tmp_path: Path) -> None:
    copy = tmp_path / VARIANTS["top-images"]
    shutil.copytree(release / VARIANTS["top-images"], copy, copy_function=os.link)
    (copy / "437" / "3.png").unlink()
    with pytest.raises(UsageError, match="9 images in class folder 437; expected 10"):
        open_test_set(f"imagenet-v2={copy}")
    shutil.rmtree(copy / "437")
    with pytest.raises(UsageError, match="999 of 1,000 class folders; class 437 is missing"):
        open_test_set(f"imagenet-v2={copy}")


def test_folders_are_numbers_alone_or_wnids_alone() -> None:
    wnids = imagenet_wnids()
    assert class_labels(("0", "10", "100", "2"), "x") == {"0": 0, "10": 10, "100": 100, "2": 2}
    assert class_labels(wnids[5:2:-1], "x") == {wnids[5]: 5, wnids[4]: 4, wnids[3]: 3}
    for folders, problem in [
        (("0", wnids[1]), f"class folder '{wnids[1]}': expected numbers"),
        (("0", "tench"), "class folder 'tench': expected numbers"),
        ((wnids[0], "tench"), "class folder 'tench': expected numbers"),
        (("0", "1000"), "'1000' is none of ImageNet's 1,000"),
        (("-1", "0"), "'-1': expected"),
        (("n00000001",), "'n00000001' is none of"),
        (("01", "1"), "'01' and '1' are the same class"),
    ]:
        with pytest.raises(UsageError, match=problem):
            class_labels(folders, "x")
