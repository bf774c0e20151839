"""At which strength of a shift each sample is first misread, for classifiers on streams along a strength axis."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..train.checkpoint import Classifier
from .metrics.bootstrap import bootstrap_over_clusters
from .metrics.failure_point import FailureDistribution, distribute_failures, failure_points
from .prediction import CACHE, Cache, Precision, match_classes, predict_sets
from .report.page import save_figure
from .report.plots import WIDTH
from .report.results import Analysis, describe_environment
from .test_sets.strength_axis import StrengthAxis

FIGURE = "failure-points.svg"


def analyse_failure_points(
    classifiers: Sequence[tuple[str, Classifier]],
    axis: StrengthAxis,
    folder: Path,
    device: str = "cpu",
    precision: Precision = "fp32",
    batch_size: int = 64,
    workers: int = 0,
) -> Analysis:
    """The distribution of failure points of every classifier, as a section of the report.

    Predictions are kept in `folder`. Raises UsageError before any work where a classifier does not know the classes.
    """
    for _, classifier in classifiers:
        for one in axis.sets:
            match_classes(one, classifier)
    clusters = axis.sets[0].clusters()
    members = clusters.numbers[axis.positions[0]] if clusters else np.arange(axis.positions.shape[1])
    found: dict[str, FailureDistribution] = {}
    intervals: dict[str, tuple[float, float]] = {}
    environment = {**describe_environment(device), "precision": precision}
    cache = Cache(folder / CACHE, environment)
    for name, classifier in classifiers:
        predicted = predict_sets(classifier, axis.sets, cache, batch_size, workers, device, precision)
        hits = np.stack([each.hit1[places] for (_, each), places in zip(predicted, axis.positions, strict=True)])
        found[name] = distribute_failures(hits)
        intervals[name] = bootstrap_over_clusters(failure_points(hits) == len(hits), members)
    save_figure(plot_failures(axis, found), folder / FIGURE)
    analysis = _describe(axis, found, intervals, f"{clusters.unit} clusters" if clusters else "images")
    return replace(analysis, data=analysis.data | {"environment": environment})


def _describe(
    axis: StrengthAxis,
    found: dict[str, FailureDistribution],
    intervals: dict[str, tuple[float, float]],
    unit: str,
) -> Analysis:
    strengths, samples = [f"{value:g}" for value in axis.values], axis.positions.shape[1]
    rows = []
    for name, failures in found.items():
        low, high = intervals[name]
        median = "–" if failures.median is None else strengths[failures.median]
        rows.append(
            [
                name,
                f"{samples:,}",
                *(f"{100 * share:.1f}" for share in failures.first),
                f"{100 * failures.never:.1f} ({100 * low:.1f} to {100 * high:.1f})",
                median,
            ]
        )
    left_out = f" {axis.left_out:,} samples that lack at one of the strengths are left out." if axis.left_out else ""
    texts = [
        f"The same samples at several strengths of one shift, {axis.key}: share in percent of those first misread at "
        "each, in the order in which the shift grows; of those never misread, with a 95 % interval (bootstrap over "
        f"{unit}); and the strength by which half have failed.{left_out}"
    ]
    columns = ["", "n", *(f"{axis.key} = {strength}" for strength in strengths), "never", "median"]
    data = {
        "key": axis.key,
        "values": list(axis.values),
        "streams": [one.name for one in axis.sets],
        "digests": [one.digest() for one in axis.sets],
        "samples": samples,
        "left_out": axis.left_out,
        "unit": unit,
        "checkpoints": {
            name: asdict(failures) | {"never_interval": list(intervals[name])} for name, failures in found.items()
        },
    }
    caption = "Share of samples that have failed by each strength; dashed, the share misread at that strength alone."
    return Analysis("Failure points", texts, columns, rows, data, {FIGURE: caption})


def plot_failures(axis: StrengthAxis, found: dict[str, FailureDistribution]) -> Figure:
    """Cumulative distribution of failure points, and the error at each strength."""
    figure = Figure(figsize=(WIDTH, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, failures) in enumerate(found.items()):
        color = f"C{number % 10}"
        axes.plot(axis.values, 100 * np.cumsum(failures.first), "o-", color=color, label=name)
        axes.plot(axis.values, [100 * share for share in failures.misread], "--", color=color)
    if axis.values[0] > axis.values[-1]:
        axes.invert_xaxis()
    axes.set_xlabel(axis.key)
    axes.set_ylabel("samples that failed, %")
    axes.legend(fontsize="x-small")
    return figure
