"""A row's mean over its seeds with an interval, and how both are written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ...manifests.errors import UsageError
from .results import Accuracy, Clustered, Results


@dataclass(frozen=True)
class Mean:
    """A mean with its 95 % interval: Student's t over seeds, or of the images where there is one seed alone."""

    value: float
    low: float
    high: float
    seeds: int

    @property
    def percent(self) -> str:
        return f"{100 * self.value:.2f}"

    @property
    def interval(self) -> str:
        """In percent."""
        return f"{100 * self.low:.1f} to {100 * self.high:.1f}"


def mean_over_seeds(values: Sequence[float], interval: tuple[float, float], clustered: Clustered | None = None) -> Mean:
    """Mean of a group's values; where the group has one member alone with its own `interval` over images, or over
    latents or photos, of which several images are no independent draws."""
    if len(values) == 1:
        # Other classes are another question than other images of these.
        if clustered is None or clustered.unit == "class":
            return Mean(values[0], *interval, seeds=1)
        return Mean(values[0], *clustered.interval, seeds=1)
    mean, error = plain_mean(values), float(stats.sem(values))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return Mean(mean, mean - half, mean + half, len(values))


def plain_mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def group_accuracies(results: Results) -> dict[tuple[str, str], Mean]:
    """Top-1 by (group, test set), in [0, 1]."""
    return {
        place: mean_over_seeds([entry.top1 for entry in entries], entries[0].top1_interval, entries[0].clustered)
        for place, entries in accuracies_by_row(results).items()
    }


def accuracies_by_row(results: Results) -> dict[tuple[str, str], list[Accuracy]]:
    """What was measured, by (group, test set): one entry a seed."""
    group_of = {entry.name: entry.group for entry in results.checkpoints}
    members: dict[tuple[str, str], list[Accuracy]] = {}
    for entry in results.accuracy:
        members.setdefault((group_of[entry.checkpoint], entry.test_set), []).append(entry)
    return members


def row_gains(results: Results, test_set: str, rows: Mapping[str, str]) -> dict[str, float]:
    """Top-1 of rows on a set less the first row's, means over seeds, in points, by the keys of `rows`.

    Raises UsageError where a row was not measured on the set.
    """
    means = group_accuracies(results)
    first = results.checkpoints[0].group if results.checkpoints else ""
    for row in (first, *rows.values()):
        if (row, test_set) not in means:
            known = ", ".join(sorted({name for name, measured in means if measured == test_set})) or "none"
            raise UsageError(f"row {row!r} was not measured on {test_set!r}; rows that were: {known}")
    return {name: 100 * (means[row, test_set].value - means[first, test_set].value) for name, row in rows.items()}
