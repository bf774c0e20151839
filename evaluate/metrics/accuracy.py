"""Accuracy, how sure one can be of it, and of the difference between two models on the same images."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Hits = NDArray[np.bool_]
"""[N]: whether each image was classified rightly."""


@dataclass(frozen=True)
class Measured:
    """A share in [0, 1] of `count` images, with Wilson's interval."""

    hits: int
    count: int
    value: float
    low: float
    high: float


def accuracy(hits: Hits, confidence: float = 0.95) -> Measured:
    """Share of right images, with its interval."""
    right, count = int(np.count_nonzero(hits)), len(hits)
    low, high = wilson_interval(right, count, confidence)
    return Measured(right, count, right / count, low, high)


def difference_interval(first: Measured, second: Measured) -> tuple[float, float]:
    """Interval of the first share less the second, of other images (Newcombe 1998, method 10), from Wilson's ends."""
    difference = first.value - second.value
    below = math.hypot(first.value - first.low, second.high - second.value)
    above = math.hypot(first.high - first.value, second.value - second.low)
    return difference - below, difference + above


def topk_hits(topk: NDArray[np.integer], labels: NDArray[np.integer]) -> Hits:
    """Whether any of an image's labels is among its predictions, once however many are.

    topk: [N, k] classes, labels: [N, M]; -1 stands for none in either.
    """
    found = (topk[:, :, None] == labels[:, None, :]) & (labels[:, None, :] >= 0)
    hits: Hits = found.any(axis=(1, 2))
    return hits


def wilson_interval(hits: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a share, [low, high] in [0, 1] (Wilson 1927). Holds at 0 and 1, where hits -+ z*s.d. has width 0."""
    if not 0 <= hits <= count or count == 0:
        raise ValueError(f"{hits} hits of {count}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = hits / count
    centre = share + z * z / (2 * count)
    half = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    # Exact at the ends, where rounding would leave 1e-17.
    low = 0.0 if hits == 0 else float((centre - half) / scale)
    high = 1.0 if hits == count else float((centre + half) / scale)
    return low, high
