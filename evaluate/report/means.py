"""A row's mean over its seeds with an interval, and how both are written."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from .results import Clustered


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
