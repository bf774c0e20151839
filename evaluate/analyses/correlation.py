"""How well nuisances predict labels in a training distribution: the paper's indirect measure (section 3.1, Figure 3).

A ResNet learns to read the coordinates z of the latent off intervened images. It then reads them off the images of
any distribution, a small classifier learns z -> y there, and its accuracy on natural test images, over chance, is
the correlation of that distribution.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from ...manifests.dataset import load_dataset
from ...manifests.errors import UsageError
from ...manifests.randomness import draw_without_replacement, random_words
from ...train.vision import v2
from ..metrics.label_accuracy import classify_by_network, classify_linearly
from ..report.page import save_figure
from ..report.plots import LEGEND, WIDTH, legend_beside
from ..report.results import Analysis
from .distributions import is_natural, load_distributions, load_images, parse_stream, stream_preprocessing
from .nuisance_predictor import NuisancePredictor, PredictorSettings, fit_stream_predictor, read_nuisances
from .stream_images import StreamImages, check_same_classes

NORMAL_95 = 1.96


# Accuracy over chance


@dataclass(frozen=True)
class CorrelationSettings:
    """Which numbers of classes are tried, with how many random choices of them."""

    class_counts: tuple[int, ...] = (2, 5, 10)
    subsets: int = 5
    epochs: int = 20
    seed: int = 0


@dataclass(frozen=True)
class Correlation:
    """How many times better than chance z tells n classes; 1 is no correlation, n is a perfect one."""

    distribution: str
    num_classes: int
    correlation: float  # accuracy times n, mean over the subsets
    interval: tuple[float, float]  # 95 %
    values: tuple[float, ...]  # of each subset
    linear: float  # the same mean by logistic regression
    images: int  # of the training distribution, all classes
    test_images: int


def draw_classes(known: int, count: int, seed: int, subset: int) -> NDArray[np.int64]:
    """`count` of the `known` class labels at random, sorted; the same for every distribution."""
    if not 2 <= count <= known:
        raise UsageError(f"{count} classes of {known}: choose from 2 to {known}")
    return np.sort(draw_without_replacement(known, random_words(seed, "classes", count, subset, count=count)))


def correlation_interval(accuracies: Sequence[float], num_classes: int, test_images: int) -> tuple[float, float]:
    """95 % interval of the mean correlation: spread over subsets and sampling error of the test images, added.

    Conservative: where subsets differ in their classes, part of the second is in the first.
    """
    values = np.array(accuracies)
    mean = values.mean()
    variance = (values.var(ddof=1) / len(values) if len(values) > 1 else 0.0) + mean * (1.0 - mean) / test_images
    half = NORMAL_95 * math.sqrt(variance)
    return float((mean - half) * num_classes), float((mean + half) * num_classes)


def correlate(
    distribution: str,
    train: NDArray[np.float64],
    train_labels: NDArray[np.int64],
    test: NDArray[np.float64],
    test_labels: NDArray[np.int64],
    known_classes: int,
    settings: CorrelationSettings = CorrelationSettings(),
) -> list[Correlation]:
    """Correlation of nuisances z [N, k] and labels of one distribution, for each number of classes (Figure 3).

    A classifier is trained on the distribution's z and tested on z of natural images, `test`.
    """
    results = []
    for count in settings.class_counts:
        accuracies, linear, tested = [], [], []
        for subset in range(settings.subsets):
            classes = draw_classes(known_classes, count, settings.seed, subset)
            rows, queries = np.isin(train_labels, classes), np.isin(test_labels, classes)
            missing = [int(label) for label in classes if not (train_labels == label).any()]
            if missing or not queries.any():
                raise UsageError(f"{distribution}: no image of class {missing[0] if missing else list(classes)}")
            arrays = train[rows], train_labels[rows], test[queries], test_labels[queries]
            accuracies.append(classify_by_network(*arrays, settings.seed + subset, settings.epochs))
            linear.append(classify_linearly(*arrays))
            tested.append(int(queries.sum()))
        results.append(
            Correlation(
                distribution=distribution,
                num_classes=count,
                correlation=float(np.mean(accuracies)) * count,
                interval=correlation_interval(accuracies, count, min(tested)),
                values=tuple(accuracy * count for accuracy in accuracies),
                linear=float(np.mean(linear)) * count,
                images=len(train),
                test_images=min(tested),
            )
        )
    return results


# The distributions that are no streams


def mixup_images(images: StreamImages, alpha: float = 0.4, seed: int = 0) -> StreamImages:
    """Each image mixed with another one (Zhang et al. 2018), under the label of the larger share."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        order = torch.randperm(len(images))
        share = torch.distributions.Beta(alpha, alpha).sample((len(images),))
    weights = share.view(-1, 1, 1, 1)
    mixed = (weights * images.images.float() + (1.0 - weights) * images.images[order].float()).round().to(torch.uint8)
    labels = torch.from_numpy(images.class_labels)
    dominant = torch.where(share >= 0.5, labels, labels[order]).numpy()
    return _as_distribution(images, "mixup", mixed, dominant)


def autoaugment_images(images: StreamImages, seed: int = 0) -> StreamImages:
    """Each image under one draw of AutoAugment's ImageNet policy (Cubuk et al. 2018)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = v2.AutoAugment()
        augmented = torch.stack([policy(image) for image in images.images])
    return _as_distribution(images, "autoaugment", augmented, images.class_labels)


def _as_distribution(images: StreamImages, name: str, pixels: Tensor, labels: NDArray[np.int64]) -> StreamImages:
    return StreamImages(f"{name} of {images.stream}", images.class_names, pixels, labels, images.parameters, None)


# All of Figure 3


@dataclass(frozen=True)
class CorrelationReport:
    """Figure 3 with the error of the predictor it rests on, and its two controls."""

    correlations: tuple[Correlation, ...]
    controls: tuple[Correlation, ...]  # "random z" must give 1, "one-hot y" must give n
    test_stream: str
    predictor_stream: str
    predictor_r2: tuple[float, ...]  # of each component, on held-out latents
    predictor_images: int


def measure_correlations(
    predictor: NuisancePredictor,
    predictor_stream: str,
    distributions: Sequence[StreamImages],
    test: StreamImages,
    settings: CorrelationSettings = CorrelationSettings(),
) -> CorrelationReport:
    """Correlation of nuisances and labels in each training distribution, tested on natural images (Figure 3).

    Give distributions of equal size: a classifier that has seen more images reads z better.
    """
    check_same_classes(test, *distributions)
    known = len(test.class_names)
    test_z = read_nuisances(predictor, test.images)
    correlations: list[Correlation] = []
    for images in distributions:
        z = read_nuisances(predictor, images.images)
        correlations += correlate(images.stream, z, images.class_labels, test_z, test.class_labels, known, settings)
    return CorrelationReport(
        tuple(correlations),
        tuple(control_correlations(distributions[0].class_labels, test.class_labels, known, settings)),
        test.stream,
        predictor_stream,
        predictor.r2,
        predictor.trained_on,
    )


def control_correlations(
    train_labels: NDArray[np.int64],
    test_labels: NDArray[np.int64],
    known_classes: int,
    settings: CorrelationSettings = CorrelationSettings(),
) -> list[Correlation]:
    """What the measure must say of a z that is noise (1) and of one that is the label (n)."""
    rng = np.random.Generator(np.random.Philox(settings.seed))
    noise = [rng.standard_normal((len(labels), known_classes)) for labels in (train_labels, test_labels)]
    one_hot = [np.eye(known_classes)[labels] for labels in (train_labels, test_labels)]
    return [
        *correlate("random z", noise[0], train_labels, noise[1], test_labels, known_classes, settings),
        *correlate("one-hot y", one_hot[0], train_labels, one_hot[1], test_labels, known_classes, settings),
    ]


# The section of the report


def analyse_correlation(
    predictor: str, distributions: Sequence[str], test: str, limit: int, epochs: int, folder: Path, device: str
) -> Analysis:
    """Figure 3. Streams are `DATASET:STREAM`; natural ones also count as mixed up and as auto-augmented."""
    preprocessing = stream_preprocessing([predictor, test, *distributions])
    location, name = parse_stream(predictor)
    dataset = load_dataset(location)
    generated = load_images(predictor, preprocessing)
    found: list[StreamImages] = []
    for text, images in zip(distributions, load_distributions(distributions, preprocessing, limit), strict=True):
        found.append(images)
        if is_natural(*parse_stream(text)):
            found += [mixup_images(images), autoaugment_images(images)]
    sizes = {len(images) for images in found}
    tested = load_images(test, preprocessing)
    check_same_classes(tested, *found)
    known = len(tested.class_names)
    if known < 2:
        raise UsageError(f"stream {tested.stream!r}: one class; a correlation with labels takes 2 or more")
    counts = tuple(count for count in (2, 5, 10, 20, 50, 100, 200, 500, 1000) if count <= known)
    fitted = fit_stream_predictor(dataset, generated, preprocessing, PredictorSettings(epochs=epochs), device)
    report = measure_correlations(fitted, name, found, tested, CorrelationSettings(class_counts=counts))
    save_figure(plot_correlations(report), folder / "correlation.svg")
    texts = [
        "How well a classifier reads the label off the nuisances that a frozen predictor sees in an image, over chance "
        f"(1 = not at all): trained on each distribution, tested on {report.test_stream} (Figure 3). The predictor "
        f"learned from {report.predictor_images:,} images of {report.predictor_stream}; on latents it has not seen it "
        f"explains {100 * float(np.mean(report.predictor_r2)):.0f} % of the variance (R², mean over "
        f"{len(report.predictor_r2)} directions).",
        "Controls: a random z must give 1, the label itself as z must give the number of classes.",
    ]
    if len(sizes) > 1:
        texts.append(f"The distributions are of different sizes ({min(sizes):,} to {max(sizes):,} images).")
    return Analysis(
        "Correlation of nuisances and labels", texts,
        ["distribution", "images", *(f"{count} classes" for count in counts)], _correlation_rows(report, counts),
        asdict(report), {"correlation.svg": "Accuracy over chance, against the number of classes."},
    )  # fmt: skip


def _correlation_rows(report: CorrelationReport, counts: Sequence[int]) -> list[list[str]]:
    rows = []
    for name in dict.fromkeys(row.distribution for row in (*report.correlations, *report.controls)):
        of = {row.num_classes: row for row in (*report.correlations, *report.controls) if row.distribution == name}
        cells = [f"{of[n].correlation:.2f} ({of[n].interval[0]:.2f} to {of[n].interval[1]:.2f})" for n in counts]
        rows.append([name, f"{of[counts[0]].images:,}", *cells])
    return rows


def plot_correlations(report: CorrelationReport) -> Figure:
    """Accuracy over chance against the number of classes, a line for each training distribution (Figure 3)."""
    figure = Figure(figsize=(WIDTH + LEGEND, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for number, name in enumerate(dict.fromkeys(row.distribution for row in report.correlations)):
        rows = [row for row in report.correlations if row.distribution == name]
        counts, means = [row.num_classes for row in rows], [row.correlation for row in rows]
        below = [row.correlation - row.interval[0] for row in rows]
        above = [row.interval[1] - row.correlation for row in rows]
        # matplotlib's ten colours begin again.
        line = "-" if number < 10 else "--"
        axes.errorbar(counts, means, (below, above), marker="o", capsize=3, label=name, linestyle=line)
    axes.axhline(1.0, color="grey", linestyle=":", label="chance")
    axes.set_xlabel("classes")
    axes.set_ylabel("accuracy over chance")
    legend_beside(figure)
    return figure
