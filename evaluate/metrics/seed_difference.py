"""A difference between two ways of training, over seeds: seeds are the unit, images never."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

Interval = tuple[float, float]


@dataclass(frozen=True)
class SeedDifference:
    """Mean difference of `seeds` pairs, in the unit of the values, with 95 % intervals of Student's t.

    paired: over the pairs' differences; what a seed does to both ways alike, such as the order of their natural images,
    cancels. unpaired: Welch's, as if the seeds had nothing in common.
    """

    seeds: int
    difference: float
    paired: Interval
    unpaired: Interval


def difference_over_seeds(first: Sequence[float], second: Sequence[float]) -> SeedDifference:
    """Values of the first way less those of the second, [N] of the same N >= 2 seeds in the same order."""
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"{len(first)} and {len(second)} values: must be of the same seeds, two or more")
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    count, difference = len(a), float((a - b).mean())
    paired = stats.t.ppf(0.975, count - 1) * float(stats.sem(a - b))
    variances = np.array([a.var(ddof=1), b.var(ddof=1)]) / count
    total = float(variances.sum())
    # Of Welch & Satterthwaite; any number does where nothing varies.
    freedom = total**2 / float(np.square(variances).sum() / (count - 1)) if total > 0 else 1.0
    unpaired = stats.t.ppf(0.975, freedom) * total**0.5
    return SeedDifference(
        count, difference, (difference - paired, difference + paired), (difference - unpaired, difference + unpaired)
    )
