"""Accuracy, intervals, corruption errors, predictions and the paper's numbers, against numbers worked out by hand."""

import io
import math
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from genint.evaluate.metrics.accuracy import accuracy, difference_interval, topk_hits, wilson_interval
from genint.evaluate.metrics.bootstrap import bootstrap_over_clusters, paired_bootstrap
from genint.evaluate.metrics.calibration import calibration_error, negative_log_likelihood
from genint.evaluate.metrics.corruption_error import (
    ALEXNET_CLEAN_ERROR,
    ALEXNET_ERRORS,
    ALEXNET_SEVERITY_ERRORS,
    CORRUPTIONS,
    EXTRA_CORRUPTIONS,
    TEST_CORRUPTIONS,
    ce,
    mce,
    photo_errors,
    relative_ce,
    relative_mce,
)
from genint.evaluate.prediction import Cache, match_classes, predict, predict_sets
from genint.evaluate.report.paper import paper_accuracy, paper_cells, paper_corruption
from genint.evaluate.test_sets import FileSet, open_test_set
from genint.manifests.errors import FormatError, GenintError, UsageError
from genint.train.checkpoint import Classifier, Preprocessing
from PIL import Image
from torch import Tensor, nn

PLAIN = Preprocessing(resize=None, crop=4, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
NAMES = tuple(f"class-{number}" for number in range(10))


@dataclass(frozen=True)
class Pictures:
    """A test set in memory: picture i is of class i % 10, which its red value tells."""

    count: int = 40
    name: str = "pictures"
    class_names: tuple[str, ...] = NAMES
    protocol: str = "as it is"
    marked: str = "own"
    notes: tuple[str, ...] = ()
    allowed: tuple[int, ...] | None = None
    groups: tuple[tuple[int, ...], ...] | None = None
    several: bool = False
    damaged: int | None = None

    def __len__(self) -> int:
        return self.count

    def labels(self, position: int) -> tuple[int, ...]:
        label = position % 10
        return (label, (label + 1) % 10) if self.several and position % 2 else (label,)

    def read(self, position: int) -> bytes:
        if position == self.damaged:
            return b"no picture"
        buffer = io.BytesIO()
        Image.new("RGB", (4, 4), (position % 10, 0, 0)).save(buffer, "PNG")
        return buffer.getvalue()

    def key(self, position: int) -> str:
        return f"picture-{position}"

    def digest(self) -> str:
        return f"{self.count} pictures"

    def stamp(self) -> str:
        return self.digest()

    def transform(self, preprocessing: Preprocessing) -> Callable[[Image.Image], Tensor]:
        return preprocessing.prepare

    def frame(self, picture: Image.Image) -> Image.Image:
        return picture

    def clusters(self) -> None:
        return None

    def grouping(self) -> None:
        return None


class Oracle(nn.Module):
    """Reads the class off the picture, plus `shift`; counts its batches."""

    def __init__(self, classes: int = 10, shift: int = 0) -> None:
        super().__init__()
        self.classes, self.shift, self.batches = classes, shift, 0

    def forward(self, images: Tensor) -> Tensor:
        self.batches += 1
        label = (images[:, 0, 2, 2] * 255).round().long() + self.shift
        return nn.functional.one_hot(label % self.classes, self.classes).float()


class Constant(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.tensor([0.5, 0.1, 0.2, 0.9, 0.3, 0.6, 0.7, 0.0, 0.0, 0.0]).expand(len(images), -1)


class Chance(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)

    def forward(self, images: Tensor) -> Tensor:
        return torch.rand(len(images), 10, generator=self.generator)


def classifier(model: nn.Module, names: tuple[str, ...] = NAMES) -> Classifier:
    return Classifier("toy", model.eval(), "toy", names, PLAIN, "0" * 64)


def test_full_precision_is_full_whatever_torch_was_told() -> None:
    seen = []

    class Watching(Oracle):
        def forward(self, images: Tensor) -> Tensor:
            seen.append((torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision))
            return super().forward(images)

    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]  # as type checkers know them
    before = convolutions.fp32_precision
    try:
        convolutions.fp32_precision = "tf32"
        predict(classifier(Watching()), Pictures(), batch_size=40)
        assert convolutions.fp32_precision == "tf32"
    finally:
        convolutions.fp32_precision = before
    assert seen == [("ieee", "ieee")]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_oracle_is_always_right_for_any_number_of_workers(workers: int) -> None:
    found = predict(classifier(Oracle()), Pictures(), batch_size=7, workers=workers)
    assert accuracy(found.hit1).value == accuracy(found.hit5).value == 1.0
    assert found.top5[:, 0].tolist() == [position % 10 for position in range(40)]
    assert found.labels.tolist() == [[position % 10] for position in range(40)]


def test_a_constant_classifier_is_right_on_its_own_class() -> None:
    found = predict(classifier(Constant()), Pictures())
    assert found.top5[0].tolist() == [3, 6, 5, 0, 4]
    assert accuracy(found.hit1).value == pytest.approx(0.1)
    assert accuracy(found.hit5).value == pytest.approx(0.5)


def test_chance_is_one_in_ten_and_five_in_ten() -> None:
    found = predict(classifier(Chance()), Pictures(count=4000), batch_size=256)
    top1, top5 = accuracy(found.hit1, 0.9999), accuracy(found.hit5, 0.9999)
    assert top1.low < 0.1 < top1.high
    assert top5.low < 0.5 < top5.high


def test_any_label_of_several_counts_once() -> None:
    # Shifted by one, odd pictures are answered with their second label.
    found = predict(classifier(Oracle(shift=1)), Pictures(several=True), batch_size=1)
    assert found.hit1.tolist() == [bool(position % 2) for position in range(40)]
    assert found.labels.shape == (40, 2)
    both = topk_hits(np.array([[0, 1, 2]]), np.array([[0, 1]]))
    assert both.tolist() == [True]
    assert topk_hits(np.array([[3, -1]]), np.array([[2, -1]])).tolist() == [False]


def test_predictions_can_be_restricted_to_some_classes() -> None:
    found = predict(classifier(Constant()), replace(Pictures(), allowed=(1, 2)))
    assert found.top5[0].tolist() == [2, 1, -1, -1, -1]


def test_classes_are_matched_by_name_and_not_by_place() -> None:
    reversed_names = tuple(reversed(NAMES))
    assert match_classes(Pictures(), classifier(Oracle(), reversed_names)).tolist() == list(range(9, -1, -1))
    found = predict(classifier(Oracle(), reversed_names), Pictures())
    assert not found.hit1.any()
    with pytest.raises(UsageError, match="pictures: toy knows no class 'class-9', nor 0 others"):
        predict(classifier(Oracle(9), NAMES[:9]), Pictures())


def test_fewer_classes_than_five_leave_places_empty() -> None:
    names = NAMES[:3]
    found = predict(classifier(Oracle(3), names), replace(Pictures(count=3), class_names=names))
    assert sorted(found.top5[0].tolist()) == [-1, -1, 0, 1, 2]
    assert found.hit5.all()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_an_error_that_names_it(workers: int) -> None:
    with pytest.raises(FormatError, match=r"^pictures: picture-8: unreadable image: ") as caught:
        predict(classifier(Oracle()), Pictures(damaged=8), batch_size=4, workers=workers)
    assert "Traceback" not in str(caught.value)


def test_logits_that_are_not_finite_are_an_error() -> None:
    class Broken(Oracle):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) * torch.nan

    with pytest.raises(GenintError, match="not finite"):
        predict(classifier(Broken()), Pictures())


def test_evaluation_changes_nothing_in_the_model() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    predict(classifier(model), Pictures())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_bf16_answers_as_fp32_where_classes_are_far_apart() -> None:
    full = predict(classifier(Oracle()), Pictures())
    half = predict(classifier(Oracle()), Pictures(), precision="bf16")
    assert np.array_equal(full.top5[:, 0], half.top5[:, 0])


def test_interrupted_evaluation_goes_on_where_it_was(tmp_path: Path) -> None:
    sets = [replace(Pictures(count=10 + number), name=f"set-{number}") for number in range(6)]
    first = Oracle()
    run = predict_sets(classifier(first), sets, Cache(tmp_path, {}), batch_size=64)
    before = [next(run) for _ in range(4)]
    run.close()
    second = Oracle()
    after = list(predict_sets(classifier(second), sets, Cache(tmp_path, {}), batch_size=64))
    assert (first.batches, second.batches) == (4, 2)
    assert [test_set.name for test_set, _ in after] == [test_set.name for test_set in sets]
    for (_, earlier), (_, later) in zip(before, after[:4], strict=True):
        assert np.array_equal(earlier.top5, later.top5) and np.array_equal(earlier.labels, later.labels)
    assert not list(tmp_path.glob("*.tmp.*"))


def test_a_killed_worker_and_a_temporary_folder_without_sockets_are_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def kill(_done: int) -> None:
        for worker in multiprocessing.active_children():
            os.kill(worker.pid or 0, signal.SIGKILL)

    with pytest.raises(GenintError, match="loader worker was killed") as caught:
        predict(classifier(Oracle()), Pictures(count=4000), batch_size=4, workers=1, progress=kill)
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(multiprocessing.current_process()._config, "tempdir", str(tmp_path / ("x" * 120)))  # type: ignore[attr-defined]
    with pytest.raises(GenintError, match=r"socket in the temporary folder: .*; set TMPDIR to a shorter path"):
        predict(classifier(Oracle()), Pictures(), workers=1)


def test_cache_is_for_one_checkpoint_set_protocol_precision_and_device(tmp_path: Path) -> None:
    cache, one, pictures = Cache(tmp_path, {}), classifier(Oracle()), Pictures()
    cache.entry(one, pictures, "fp32").save(predict(one, pictures))
    assert cache.entry(one, pictures, "fp32").load() is not None
    assert cache.entry(one, pictures, "bf16").load() is None
    assert cache.entry(replace(one, sha256="1" * 64), pictures, "fp32").load() is None
    assert cache.entry(replace(one, preprocessing=replace(PLAIN, crop=3)), pictures, "fp32").load() is None
    assert cache.entry(one, replace(pictures, protocol="zoomed"), "fp32").load() is None
    assert Cache(tmp_path, {"device": "cuda: NVIDIA H200"}).entry(one, pictures, "fp32").load() is None
    assert cache.entry(one, replace(pictures, count=39), "fp32").load() is None


def test_cache_is_for_the_files_as_they_were_read(tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / "set" / label).mkdir(parents=True)
        for number in range(40):
            Image.new("RGB", (4, 4)).save(tmp_path / "set" / label / f"{number:02d}.png")
    cache, one = Cache(tmp_path / "kept", {}), classifier(Constant())
    (pictures,) = open_test_set(f"folder={tmp_path / 'set'}")
    assert isinstance(pictures, FileSet)
    before = cache.entry(one, pictures, "fp32").path
    assert cache.entry(one, replace(pictures), "fp32").path == before
    # Neither its size nor the few images that a digest reads tell that this one was written anew.
    changed = tmp_path / "set" / "a" / "01.png"
    changed.write_bytes(changed.read_bytes())
    os.utime(changed, (1, 1))
    assert replace(pictures).digest() == pictures.digest()
    assert cache.entry(one, replace(pictures), "fp32").path != before


def test_damaged_cache_entry_is_made_again(tmp_path: Path) -> None:
    one, pictures = classifier(Oracle()), Pictures()
    entry = Cache(tmp_path, {}).entry(one, pictures, "fp32")
    entry.save(predict(one, pictures))
    entry.path.write_bytes(entry.path.read_bytes()[:100])
    assert entry.load() is None


def test_calibration_error_is_the_distance_of_accuracy_from_confidence_bin_by_bin() -> None:
    # Bins of a fifteenth: (0.8, 0.8667] holds the first two, half of them right; (0.2, 0.2667] the third, right.
    confidence, hits = np.array([0.81, 0.85, 0.25, 1.0]), np.array([True, False, True, True])
    assert calibration_error(confidence, hits) == pytest.approx((2 * abs(0.83 - 0.5) + abs(0.25 - 1.0) + 0.0) / 4)
    assert calibration_error(np.full(10, 0.9), np.arange(10) < 9) == pytest.approx(0.0)
    # A border belongs to the bin below: 3 / 15 and 2.5 / 15 share one.
    assert calibration_error(np.array([0.2, 2.5 / 15]), np.array([True, False])) == pytest.approx(
        abs(0.2 + 2.5 / 15 - 1) / 2
    )


def test_probabilities_of_answers_and_labels_are_those_of_the_softmax() -> None:
    found = predict(classifier(Oracle()), Pictures(several=True))
    # Logits of one 1 among nine 0; every second image has the class that the Oracle answers and another one.
    right, other = math.e / (math.e + 9), 1 / (math.e + 9)
    assert found.confidence == pytest.approx(np.full(40, right))
    assert np.exp(found.log_likelihood[:2]) == pytest.approx([right, right + other])
    assert negative_log_likelihood(found.log_likelihood) == pytest.approx(
        -(math.log(right) + math.log(right + other)) / 2
    )
    # Among few classes, their probabilities add up to 1.
    few = predict(classifier(Oracle()), Pictures(count=2, allowed=(0, 1)))
    assert few.confidence == pytest.approx(np.full(2, math.e / (math.e + 1)))


def test_wilson_interval_agrees_with_hand_numbers() -> None:
    # z = 1.959964: p = 0.81, n = 100: (0.81 + 0.019207 -+ 1.959964 * sqrt(0.001539 + 0.00009604)) / 1.038415
    assert wilson_interval(81, 100) == pytest.approx((0.722216, 0.874850), abs=1e-5)
    # No hit of 10: z^2 / (n + z^2) = 3.841459 / 13.841459.
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.277533), abs=1e-6)
    assert wilson_interval(10, 10) == pytest.approx((1 - 0.277533, 1.0), abs=1e-6)
    assert wilson_interval(5, 10)[0] + wilson_interval(5, 10)[1] == pytest.approx(1.0)
    narrow, wide = wilson_interval(30, 100, 0.9), wilson_interval(30, 100, 0.99)
    assert wide[0] < narrow[0] < 0.3 < narrow[1] < wide[1]
    with pytest.raises(ValueError, match="0 hits of 0"):
        wilson_interval(0, 0)


def test_interval_of_a_difference_agrees_with_newcombes_example() -> None:
    # 56 of 70 and 48 of 80 (Newcombe 1998, table II, method 10): 0.0524 to 0.3339.
    first, second = (accuracy(np.arange(count) < hits) for hits, count in ((56, 70), (48, 80)))
    assert difference_interval(first, second) == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_clusters_are_drawn_again_as_wholes() -> None:
    # Each of 400 clusters is right or wrong as a whole: five images of one are worth no more than one.
    right = np.arange(400) % 2 == 0
    hits, clusters = np.repeat(right, 5), np.repeat(np.arange(400), 5)
    low, high = bootstrap_over_clusters(hits, clusters)
    # Standard error sqrt(0.25 / 400) = 0.025, and of 2,000 independent images 0.0112.
    assert (low, high) == pytest.approx((0.5 - 1.96 * 0.025, 0.5 + 1.96 * 0.025), abs=0.006)
    assert bootstrap_over_clusters(hits, np.arange(2000)) == pytest.approx((0.478, 0.522), abs=0.004)
    # Where every cluster has the same mean, which of them are drawn makes no difference.
    assert bootstrap_over_clusters(np.tile([0.0, 1.0], 30), np.repeat(np.arange(30), 2)) == (0.5, 0.5)
    with pytest.raises(ValueError, match="must be as many"):
        bootstrap_over_clusters(hits, clusters[1:])


def test_paired_bootstrap_knows_that_models_share_their_images() -> None:
    rng = np.random.default_rng(0)
    easy = rng.random(10_000) < 0.7
    better = easy.copy()
    better[np.flatnonzero(~easy)[:100]] = True
    difference, low, high = paired_bootstrap(better, easy)
    assert difference == pytest.approx(0.01)
    # 100 images of 10,000 are worth 1, the rest 0: standard error sqrt(0.01 * 0.99 / 10,000) = 0.000995.
    assert (low, high) == pytest.approx((0.01 - 1.96 * 0.000995, 0.01 + 1.96 * 0.000995), abs=2e-4)
    assert paired_bootstrap(easy, better) == pytest.approx((-difference, -high, -low), abs=2e-4)
    assert paired_bootstrap(easy, easy) == (0.0, 0.0, 0.0)
    assert paired_bootstrap(better, easy, seed=5) == paired_bootstrap(better, easy, seed=5)
    with pytest.raises(ValueError, match="must be the same"):
        paired_bootstrap(easy, better[1:])


def test_paired_bootstrap_equals_drawing_images() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random(200) < 0.6, rng.random(200) < 0.5
    drawn = rng.integers(200, size=(20_000, 200))
    differences = (a[drawn].astype(int) - b[drawn]).mean(axis=1)
    _, low, high = paired_bootstrap(a, b, resamples=20_000)
    assert (low, high) == pytest.approx(tuple(np.quantile(differences, [0.025, 0.975])), abs=0.011)


def test_fake_alexnet_has_an_mce_of_exactly_100() -> None:
    errors = {}
    for corruption in TEST_CORRUPTIONS:
        by_severity = []
        for error in ALEXNET_SEVERITY_ERRORS[corruption]:
            hits = np.arange(50_000) >= round(50_000 * error)
            by_severity.append(1 - accuracy(hits).value)
        errors[corruption] = by_severity
    assert mce(errors) == pytest.approx(100.0, abs=1e-9)
    assert all(ce(corruption, errors[corruption]) == pytest.approx(100.0, abs=1e-9) for corruption in errors)
    assert relative_mce(errors, ALEXNET_CLEAN_ERROR) == pytest.approx(100.0, abs=1e-9)


def test_corruption_errors_agree_with_hand_numbers() -> None:
    half = [0.3, 0.4, 0.5, 0.6, 0.7]
    assert ce("gaussian_noise", half) == pytest.approx(100 * 0.5 / 0.886428)
    assert relative_ce("gaussian_noise", half, 0.2) == pytest.approx(100 * (2.5 - 5 * 0.2) / (5 * (0.886428 - 0.43478)))
    perfect = dict.fromkeys(TEST_CORRUPTIONS, [0.0] * 5)
    assert mce(perfect) == 0.0
    # Extra corruptions are for validation: they do not enter the mean.
    assert mce(perfect | dict.fromkeys(EXTRA_CORRUPTIONS, [1.0] * 5)) == 0.0
    assert ce("saturate", [1.0] * 5) == pytest.approx(100 / 0.658248)


def test_what_photos_add_to_the_corruption_errors_averages_to_them() -> None:
    # Two photos; the first is misread under every corruption and severity, the second at severities 4 and 5 of fog.
    never, always = np.array([True, False]), np.array([True, True])
    wrong = {name: [never] * 3 + [always if name == "fog" else never] * 2 for name in CORRUPTIONS}
    photos = photo_errors(wrong, in_units_of_alexnet=False)
    assert photos == pytest.approx([100.0, 100 * 0.4 / 15])
    errors = {name: [float(hits.mean()) for hits in by] for name, by in wrong.items()}
    assert photo_errors(wrong, in_units_of_alexnet=True).mean() == pytest.approx(mce(errors))
    few = photo_errors({"sparkles": [never, always]}, in_units_of_alexnet=False)
    assert few == pytest.approx([100.0, 50.0])


def test_incomplete_corruption_errors_are_refused() -> None:
    errors = {name: [0.5] * 5 for name in TEST_CORRUPTIONS if name not in ("snow", "fog")}
    with pytest.raises(UsageError, match="no errors of snow, fog"):
        mce(errors)
    with pytest.raises(UsageError, match="frost: errors of 3 severities"):
        mce(dict.fromkeys(TEST_CORRUPTIONS, [0.5] * 5) | {"frost": [0.5] * 3})
    with pytest.raises(UsageError, match="'rain' is none of"):
        ce("rain", [0.5] * 5)


def test_alexnet_constants_are_those_of_19_corruptions() -> None:
    assert len(TEST_CORRUPTIONS) == 15 and len(EXTRA_CORRUPTIONS) == 4 and len(CORRUPTIONS) == 19
    for corruption, by_severity in ALEXNET_SEVERITY_ERRORS.items():
        assert np.mean(by_severity) == pytest.approx(ALEXNET_ERRORS[corruption], abs=1e-9)


def test_papers_numbers_are_whole_and_say_where_they_stand() -> None:
    cells = paper_cells()
    counts = {table: sum(cell.table == table for cell in cells) for table in "1234"}
    assert counts == {"1": 7 * 8, "2": 13 * 16, "3": 14 * 8, "4": 4 * 2}
    assert all(0 < cell.value <= 100 for cell in cells)
    quoted = {(cell.table, cell.row) for cell in cells if cell.origin == "quoted"}
    assert ("1", "ImageNet only") in quoted and ("4", "Observational GAN t=1.5") in quoted
    assert ("4", "Interventional GAN t=1.0") not in quoted
    quote = next(cell for cell in cells if cell.origin == "quoted" and cell.table == "1")
    assert (quote.arch, quote.augmentation, quote.value) == ("resnet152", "standard", 30.0)
    assert "Barbu" in quote.source


def test_papers_corruption_errors_average_to_its_mce() -> None:
    for arch in ("resnet18", "resnet152"):
        for method in ("imagenet-only", "stylized", "mixup", "autoaugment", "gan-augmentation", "genint-transfer"):
            row = paper_corruption(f"{arch}-{method}")
            assert np.mean([row[name] for name in TEST_CORRUPTIONS]) == pytest.approx(row["mce"], abs=0.1)
    gains = [
        paper_corruption(f"{arch}-imagenet-only")["mce"] - paper_corruption(f"{arch}-genint-transfer")["mce"]
        for arch in ("resnet18", "resnet152")
    ]
    assert gains == pytest.approx([12.48, 7.57])


def test_papers_accuracies_are_found_by_a_checkpoints_name() -> None:
    assert paper_accuracy("resnet18-genint-transfer", "objectnet:genint") == 22.34
    assert paper_accuracy("resnet18-genint-transfer-additional", "objectnet:genint") == 27.03
    assert paper_accuracy("resnet152-genint", "imagenet-v2/top-images") == 80.77
    assert paper_accuracy("resnet152-genint-additional", "imagenet-v2/top-images") is None
    assert paper_accuracy("resnet18-genint", "objectnet:zoom") is None
    assert paper_accuracy("my-run", "imagenet") is None
    assert paper_corruption("resnet18-genint") == {}
