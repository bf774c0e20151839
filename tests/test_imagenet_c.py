"""ImageNet-C: the official layout and transform, what lacks by name, and a run of all its sets."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from genint.evaluate.metrics.corruption_error import (
    ALEXNET_ERRORS,
    BAR_CORRUPTIONS,
    EXTRA_CORRUPTIONS,
    SEVERITIES,
    TEST_CORRUPTIONS,
    mce,
)
from genint.evaluate.prediction import Cache, predict_sets
from genint.evaluate.report.report import accuracy_lines, write_report
from genint.evaluate.report.results import CheckpointEntry, Results
from genint.evaluate.run import corruption_errors
from genint.evaluate.test_sets import CorruptionSet, imagenet_c, open_test_set
from genint.manifests.errors import UsageError
from genint.manifests.inputs import imagenet_wnids
from genint.train.checkpoint import Classifier, Preprocessing
from PIL import Image
from torch import Tensor, nn

WNIDS = tuple(f"n{number:08d}" for number in range(4))


def lay_out(root: Path, corruptions: tuple[str, ...]) -> Path:
    for corruption in corruptions:
        for severity in SEVERITIES:
            (root / corruption / str(severity)).mkdir(parents=True)
    return root


def test_official_layout_is_75_sets_or_95(tmp_path: Path) -> None:
    sets = open_test_set(f"imagenet-c={lay_out(tmp_path, TEST_CORRUPTIONS)}")
    assert len(sets) == 75 and all(one.marked == "official" and len(one) == 50_000 for one in sets)
    assert [(one.name) for one in sets[:6]] == [
        *(f"imagenet-c/gaussian_noise/{severity}" for severity in SEVERITIES), "imagenet-c/shot_noise/1",
    ]  # fmt: skip
    lay_out(tmp_path, EXTRA_CORRUPTIONS)
    assert len(open_test_set(f"imagenet-c={tmp_path}")) == 95


def test_missing_parts_are_named(tmp_path: Path) -> None:
    root = lay_out(tmp_path, TEST_CORRUPTIONS)
    (root / "fog" / "4").rmdir()
    shutil.rmtree(root / "snow")
    with pytest.raises(UsageError, match=r"lacks snow/1, snow/2, snow/3, snow/4, snow/5, fog/4$"):
        open_test_set(f"imagenet-c={root}")
    lay_out(root, ("saturate",))
    with pytest.raises(UsageError, match="extra corruption saturate but lacks speckle_noise, gaussian_blur, spatter"):
        open_test_set(f"imagenet-c={root}")


def test_c_bar_is_50_sets_with_a_mean_error_and_no_ce(tmp_path: Path) -> None:
    sets = open_test_set(f"imagenet-c-bar={lay_out(tmp_path / 'bar', BAR_CORRUPTIONS)}")
    assert len(sets) == 50 and all(one.marked == "official" and len(one) == 50_000 for one in sets)
    assert (sets[0].name, sets[-1].name) == ("imagenet-c-bar/blue_noise_sample/1", "imagenet-c-bar/sparkles/5")
    assert "CenterCrop(224) only" in sets[0].protocol
    # Severity s of corruption c errs in (2 c + s) %: 2 c + 3 of a corruption, 12 over the ten.
    errors = {name: {s: (2 * c + s) / 100 for s in SEVERITIES} for c, name in enumerate(BAR_CORRUPTIONS)}
    found = corruption_errors("x", "imagenet-c-bar", "official", errors, 0.76)
    assert (found.ce, found.mce, found.relative_mce) == (None, None, None)
    assert found.error["sparkles"] == pytest.approx(21.0) and found.mean_error == pytest.approx(12.0)
    entry = CheckpointEntry("x", "x", None, "resnet50", "0" * 64, None, None, "")
    results = Results(checkpoints=[entry], corruption=[found])
    assert accuracy_lines(results)[0].endswith("imagenet-c-bar mean error")
    page = write_report(tmp_path, results).read_text()
    assert "there are no constants of AlexNet" in page and "genint-evaluate corrupted itself" not in page
    (tmp_path / "bar" / "sparkles" / "5").rmdir()
    with pytest.raises(UsageError, match=r"lacks sparkles/5$"):
        open_test_set(f"imagenet-c-bar={tmp_path / 'bar'}")


def test_incomplete_set_is_refused_when_it_is_looked_into(tmp_path: Path) -> None:
    root = lay_out(tmp_path, TEST_CORRUPTIONS)
    folder = root / "gaussian_noise" / "1" / imagenet_wnids()[0]
    folder.mkdir()
    Image.new("RGB", (2, 2)).save(folder / "0.JPEG")
    first = open_test_set(f"imagenet-c={root}")[0]
    with pytest.raises(UsageError, match="gaussian_noise/1: lacks class folders n01443537, n01484850"):
        first.labels(0)


def test_official_transform_is_the_centre_crop_alone(tmp_path: Path) -> None:
    one = open_test_set(f"imagenet-c={lay_out(tmp_path, TEST_CORRUPTIONS)}")[0]
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (224, 224, 3), np.uint8)
    # As they are published: 224 px, and any resize would change them.
    for preprocessing in (Preprocessing(), Preprocessing(resize=232, crop=300)):
        prepared = one.transform(preprocessing)(Image.fromarray(pixels))
        assert torch.equal(prepared, torch.from_numpy(pixels).permute(2, 0, 1))
    assert "CenterCrop(224) only" in one.protocol
    larger = np.pad(pixels, ((16, 16), (16, 16), (0, 0)))
    assert torch.equal(
        one.transform(Preprocessing())(Image.fromarray(larger)), torch.from_numpy(pixels).permute(2, 0, 1)
    )


class Noisy(nn.Module):
    """Reads the class off red, and errs where blue says so; counts its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.batches = 0

    def forward(self, images: Tensor) -> Tensor:
        self.batches += 1
        label = (images[:, 0, 0, 0] * 255).round().long() + (images[:, 2, 0, 0] > 0.5).long()
        return nn.functional.one_hot(label % len(WNIDS), len(WNIDS)).float()


@pytest.fixture
def small_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All 75 sets with 4 classes of 5 images; at severity s, s images of each class are hopeless."""
    monkeypatch.setattr(imagenet_c, "imagenet_wnids", lambda: WNIDS)
    monkeypatch.setattr(imagenet_c, "IMAGES_PER_CLASS", 5)
    monkeypatch.setattr(imagenet_c, "OFFICIAL_CROP", 2)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for label in range(len(WNIDS)):
        for hopeless in (0, 255):
            Image.new("RGB", (2, 2), (label, 0, hopeless)).save(pictures / f"{label}-{hopeless}.png")
    root = tmp_path / "c"
    for corruption in TEST_CORRUPTIONS:
        for severity in SEVERITIES:
            for label, wnid in enumerate(WNIDS):
                folder = root / corruption / str(severity) / wnid
                folder.mkdir(parents=True)
                for number in range(5):
                    hopeless = 255 if number < severity else 0
                    os.link(pictures / f"{label}-{hopeless}.png", folder / f"{number}.png")
    return root


def test_all_sets_run_in_one_process_and_go_on_after_an_interrupt(small_release: Path, tmp_path: Path) -> None:
    plain = Preprocessing(resize=256, crop=2, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    first, second = Noisy(), Noisy()
    sets = open_test_set(f"imagenet-c={small_release}")
    run = predict_sets(
        Classifier("noisy", first.eval(), "toy", WNIDS, plain, "0" * 64), sets, Cache(tmp_path / "kept", {})
    )
    for _ in range(30):
        next(run)
    run.close()
    errors: dict[str, list[float]] = {corruption: [] for corruption in TEST_CORRUPTIONS}
    again = Classifier("noisy", second.eval(), "toy", WNIDS, plain, "0" * 64)
    for one, found in predict_sets(again, sets, Cache(tmp_path / "kept", {})):
        assert isinstance(one, CorruptionSet)
        errors[one.corruption].append(1 - float(found.hit1.mean()))
    assert (first.batches, second.batches) == (30, 45)
    assert all(values == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0]) for values in errors.values())
    assert mce(errors) == pytest.approx(np.mean([60 / ALEXNET_ERRORS[corruption] for corruption in TEST_CORRUPTIONS]))
