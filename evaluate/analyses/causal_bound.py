"""How tightly an intervention bounds the causal effect: log P(x|z), and Theorem 1 (paper, sections 3.4 and 5.4).

x are held-out natural images, x' images generated under the intervention z, P(x|x') a similarity of their features,
and P(x'|z) uniform over a dictionary of x'. Figures 5 and 6 report the mean over x of

    log P(x|z) = log sum_x' P(x|x') P(x'|z).

The released code takes the best x' alone, drops P(x'|z), and compares images of one class. `score` and `reduction`
are the choices; the defaults are those whose scale agrees with the paper's -5.162. A maximum grows with the
dictionary, so all dictionaries have the same size a class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ...manifests.dataset import Dataset, load_dataset
from ...manifests.errors import UsageError
from ...manifests.randomness import draw_without_replacement, random_words
from ...train.checkpoint import Classifier
from ..metrics.bootstrap import bootstrap_over_clusters
from ..metrics.likelihood import REDUCTIONS, SCORES, Reduction, Score, class_log_likelihoods
from ..metrics.rank_agreement import rank_agreement
from ..metrics.theorem1 import TheoremValues, causal_interval, normalized_likelihoods, share_tighter
from ..report.page import save_figure
from ..report.plots import WIDTH
from ..report.results import Analysis, shown_locations
from .distributions import load_images
from .features import ImageFeatures, extract_features, predict_top1
from .latents import read_intervention
from .stream_images import StreamImages, check_same_classes, load_stream, open_stream, read_labels

DICTIONARY_SIZE = 500
SWEPT = (("truncation", "truncation t"), ("num_directions", "directions k"), ("step_scale", "step scale s"))
LETTERS = {"truncation": "t", "num_directions": "k", "step_scale": "s"}


def draw_dictionary(class_labels: NDArray[np.int64], per_class: int, seed: int) -> NDArray[np.int64]:
    """Rows of `per_class` random images of each class that occurs, [classes * per_class].

    Raises UsageError where a class has fewer: dictionaries of different sizes cannot be compared.
    """
    rows = []
    for label in np.unique(class_labels):
        members = np.flatnonzero(class_labels == label)
        if len(members) < per_class:
            raise UsageError(
                f"class {label}: {len(members)} generated images, a dictionary takes {per_class}; "
                "build more or ask for smaller dictionaries"
            )
        words = random_words(seed, "dictionary", int(label), count=per_class)
        rows.append(members[draw_without_replacement(len(members), words)])
    return np.concatenate(rows)


@dataclass(frozen=True)
class CausalBound:
    """log P(x|z) of one generated stream, mean over the queries."""

    stream: str
    query_stream: str
    score: str
    reduction: str
    log_likelihood: float
    interval: tuple[float, float]  # 95 %, bootstrap over classes
    per_class: tuple[float, ...]  # mean of each class, in order of the class labels
    queries: int
    dictionary_size: int  # images a class
    features: str  # name of the classifier whose features are compared


def measure_causal_bound(
    queries: ImageFeatures,
    dictionary: ImageFeatures,
    score: Score = "xent",
    reduction: Reduction = "max",
    seed: int = 0,
) -> CausalBound:
    """Mean log P(x|z) of held-out natural `queries` under the intervention that made `dictionary` (Figures 5 and 6).

    Raises UsageError where the classes of the two differ, or the dictionary has more images of one than of another.
    """
    check_same_classes(queries, dictionary)
    values = class_log_likelihoods(
        queries.features,
        queries.class_labels,
        dictionary.features,
        dictionary.class_labels,
        SCORES[score],
        REDUCTIONS[reduction],
    )
    return CausalBound(
        stream=dictionary.stream,
        query_stream=queries.stream,
        score=score,
        reduction=reduction,
        log_likelihood=float(values.mean()),
        interval=bootstrap_over_clusters(values, queries.class_labels, seed),
        per_class=tuple(float(values[queries.class_labels == c].mean()) for c in np.unique(queries.class_labels)),
        queries=len(queries.class_labels),
        dictionary_size=dictionary.images_per_class,
        features=queries.classifier,
    )


@dataclass(frozen=True)
class BoundDifference:
    """log P(x|z) of one intervention less that of another: means of classes, paired.

    The interval of a single bound is mostly that classes differ from each other; this one leaves that out.
    """

    first: str
    second: str
    difference: float
    interval: tuple[float, float]  # 95 %, bootstrap over classes


def compare_bounds(first: CausalBound, second: CausalBound, seed: int = 0) -> BoundDifference:
    """Which of two interventions is the more effective, on the same queries, by dictionaries of the same size."""
    for name in ("query_stream", "score", "reduction", "queries", "dictionary_size", "features"):
        ours, theirs = getattr(first, name), getattr(second, name)
        if ours != theirs:
            raise UsageError(f"{first.stream} and {second.stream} cannot be compared: {name} {ours!r} and {theirs!r}")
    differences = np.array(first.per_class) - np.array(second.per_class)
    interval = bootstrap_over_clusters(differences, np.arange(len(differences)), seed)
    return BoundDifference(first.stream, second.stream, float(differences.mean()), interval)


def measure_theorem_bound(queries: ImageFeatures, dictionary: ImageFeatures, score: Score = "xent") -> TheoremValues:
    """Theorem 1's bound of every query with its true label, P(y|x) being the classifier's own."""
    check_same_classes(queries, dictionary)
    likelihood = normalized_likelihoods(queries.features, dictionary.features, SCORES[score])
    return TheoremValues(dictionary.stream, likelihood, *causal_interval(queries.label_probabilities, likelihood))


# The sweep over t, k and s


@dataclass(frozen=True)
class SweepPoint:
    """One intervention I(t, k, s) with its causal bound, and what a classifier trained on its images reaches."""

    dataset: str
    stream: str
    truncation: float  # t
    num_directions: int  # k; 0: no intervention
    step_scale: float  # s; 0: no intervention
    step_ranges: str  # what s multiplies, as the recipe gives it: a number, a name, or their mean
    bound: CausalBound
    theorem: TheoremValues
    accuracy: float | None


def load_dictionary(
    dataset: Dataset, stream: str, classifier: Classifier, per_class: int, seed: int = 0
) -> StreamImages:
    """`per_class` random images of each class of a generated stream; the rest is not decoded."""
    samples = open_stream(dataset, stream)
    rows = draw_dictionary(read_labels(samples), per_class, seed)
    return load_stream(samples, classifier.preprocessing, np.sort(rows).tolist())


def measure_sweep(
    locations: Sequence[str],
    stream: str,
    classifier: Classifier,
    queries: StreamImages,
    accuracies: Mapping[str, float] | None = None,
    score: Score = "xent",
    reduction: Reduction = "max",
    dictionary_size: int = DICTIONARY_SIZE,
    seed: int = 0,
) -> list[SweepPoint]:
    """Both bounds of `stream` in each dataset, with t, k and s as their recipes say (Figure 6).

    `accuracies`, by location, are of classifiers trained on that stream (Figure 5).
    """
    asked = extract_features(classifier, queries)
    points = []
    for location, name in zip(locations, shown_locations(locations), strict=True):
        dataset = load_dataset(location)
        images = load_dictionary(dataset, stream, classifier, dictionary_size, seed)
        dictionary = extract_features(classifier, images)
        points.append(
            SweepPoint(
                name,
                stream,
                *read_intervention(dataset, stream),
                measure_causal_bound(asked, dictionary, score, reduction, seed),
                measure_theorem_bound(asked, dictionary, score),
                None if accuracies is None else accuracies.get(location),
            )
        )
    return points


# The section of the report


def analyse_causal_bound(
    classifier: Classifier,
    datasets: Sequence[str],
    stream: str,
    queries: str,
    trained: Mapping[str, Classifier],
    score: Score,
    reduction: Reduction,
    dictionary_size: int,
    folder: Path,
) -> Analysis:
    """Figures 5 and 6, and Theorem 1's own bound, for `stream` of each dataset.

    `trained`, by dataset, are classifiers trained on it: their accuracy on the queries stands beside its bound.
    """
    asked = load_images(queries, classifier.preprocessing)
    accuracies = {
        location: float((predict_top1(own, asked.images) == asked.class_labels).mean())
        for location, own in trained.items()
    }
    points = measure_sweep(datasets, stream, classifier, asked, accuracies, score, reduction, dictionary_size)
    figures = {}
    bars = "bars: 95 % of the difference to the first dataset, class by class"
    drawn: list[tuple[str, Figure, str]] = [
        ("sweep.svg", plot_sweep(points), f"log P(x|z) against t, k and s; {bars}.")
    ]
    if any(point.accuracy is not None for point in points):
        drawn.append(
            ("bound-accuracy.svg", plot_bound_and_accuracy(points), f"Top-1 accuracy against log P(x|z); {bars}.")
        )
    for name, figure, caption in drawn:
        save_figure(figure, folder / name)
        figures[name] = caption
    best = max(points, key=lambda point: point.bound.log_likelihood)
    texts = [
        f"Mean log P(x|z) of {len(asked):,} images of {asked.stream} under dictionaries of {dictionary_size} images a "
        f"class (score {score}, reduction {reduction}; features of {classifier.name}). Higher is a tighter bound on "
        f"the causal effect; highest for {_describe(best)}.",
        "Theorem 1's bound on P(y|do(x)) of the true label, from P(x|z) normalised over the queries; its mean width is "
        "1 - 1/queries for any intervention, so interventions are compared query by query: the share of queries whose "
        "bound is tighter than the first dataset's.",
    ]
    agreement = rank_agreement(
        {point.dataset: point.bound.log_likelihood for point in points if point.accuracy is not None},
        {point.dataset: point.accuracy for point in points if point.accuracy is not None},
    )
    if agreement:
        texts.append(
            f"Kendall's tau between log P(x|z) and the accuracy of training on the dataset, over {len(accuracies)} "
            f"datasets: {agreement.kendall:.2f} (p = {agreement.kendall_p_value:.2f} for no agreement)."
        )
    return Analysis(
        "Causal bound", texts,
        ["dataset", "t", "k", "s", "step ranges", "log P(x|z)", "accuracy, %", "lower", "upper",
         "tighter than the first", "log P(x|z) less the first's"],
        [_bound_row(point, points[0]) for point in points],
        [{**asdict(point), "theorem": asdict(point.theorem.summary())} for point in points],
        figures,
    )  # fmt: skip


def _describe(point: SweepPoint) -> str:
    return (
        f"t = {point.truncation:g}, k = {point.num_directions}, s = {100 * point.step_scale:g} % of {point.step_ranges}"
    )


def _difference(found: BoundDifference) -> str:
    return f"{found.difference:+.3f} ({found.interval[0]:+.3f} to {found.interval[1]:+.3f})"


def _bound_row(point: SweepPoint, first: SweepPoint) -> list[str]:
    bound, theorem = point.bound, point.theorem.summary()
    return [
        point.dataset,
        f"{point.truncation:g}",
        str(point.num_directions),
        f"{100 * point.step_scale:g} %",
        point.step_ranges,
        f"{bound.log_likelihood:.3f} ({bound.interval[0]:.3f} to {bound.interval[1]:.3f})",
        "–" if point.accuracy is None else f"{100 * point.accuracy:.2f}",
        f"{theorem.lower:.2g}",
        f"{theorem.upper:.6f}",
        "–" if point is first else f"{100 * share_tighter(point.theorem, first.theorem):.1f} %",
        "–" if point is first else _difference(compare_bounds(bound, first.bound)),
    ]


def plot_sweep(points: Sequence[SweepPoint]) -> Figure:
    """log P(x|z) against t, k and s, one at a time (Figure 6).

    Bars are 95 % intervals of the difference to the first point, class by class: those of the values themselves say
    mostly that classes differ from each other.
    """
    if not points:
        raise UsageError("no point of a sweep to draw")
    figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
    panels = figure.subplots(1, len(SWEPT), sharey=True)
    for axes, (name, label) in zip(panels, SWEPT, strict=True):
        for others, group in _lines(points, name).items():
            group = sorted(group, key=lambda point: _setting(point)[name])
            values = [_setting(point)[name] for point in group]
            means = [point.bound.log_likelihood for point in group]
            axes.errorbar(values, means, _error_bars(group, points[0]), marker="o", capsize=3, label=others)
        axes.set_xlabel(label)
        if axes.lines:
            axes.legend(fontsize="x-small")
    panels[0].set_ylabel("log P(x|z)")
    return figure


def plot_bound_and_accuracy(points: Sequence[SweepPoint]) -> Figure:
    """Accuracy of classifiers trained on an intervention's images against its log P(x|z) (Figure 5).

    Bars as in `plot_sweep`.
    """
    known = [point for point in points if point.accuracy is not None]
    if not known:
        raise UsageError("no point of the sweep has an accuracy")
    figure = Figure(figsize=(WIDTH, 3.5), layout="constrained")
    axes = figure.add_subplot()
    bounds = [point.bound.log_likelihood for point in known]
    for point, bound in zip(known, bounds, strict=True):
        assert point.accuracy is not None
        place = (bound, 100.0 * point.accuracy)
        axes.errorbar(*place, xerr=_error_bars([point], points[0]), marker="o", color="C0", capsize=3)
        text = f"t={point.truncation:g} k={point.num_directions} s={point.step_scale:g}"
        if len({other.step_ranges for other in known}) > 1:
            text += f" ({point.step_ranges})"
        on_the_right = bound > (min(bounds) + max(bounds)) / 2
        axes.annotate(
            text, place, (-4 if on_the_right else 4, 4), textcoords="offset points", fontsize="x-small",
            ha="right" if on_the_right else "left",
        )  # fmt: skip
    axes.locator_params(axis="x", nbins=6)
    axes.set_xlabel("log P(x|z)")
    axes.set_ylabel("top-1 accuracy, %")
    return figure


def _setting(point: SweepPoint) -> dict[str, float]:
    return {name: float(getattr(point, name)) for name, _ in SWEPT}


def _lines(points: Sequence[SweepPoint], name: str) -> dict[str, list[SweepPoint]]:
    """Points that differ in `name` alone, by the rest of their setting, as a legend has it; one point is no line."""
    lines: dict[str, list[SweepPoint]] = {}
    for point in points:
        others = [f"{LETTERS[key]}={value:g}" for key, value in _setting(point).items() if key != name]
        lines.setdefault(", ".join([*others, f"ranges {point.step_ranges}"]), []).append(point)
    return {others: group for others, group in lines.items() if len(group) > 1}


def _error_bars(points: Sequence[SweepPoint], first: SweepPoint) -> tuple[list[float], list[float]]:
    """How far the interval of each point's difference to `first` reaches below and above it."""
    found = [compare_bounds(point.bound, first.bound) for point in points]
    return [d.difference - d.interval[0] for d in found], [d.interval[1] - d.difference for d in found]
