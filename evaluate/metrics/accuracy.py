"""Accuracy, how sure one can be of it, and of the difference between two models on the same images."""

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


def paired_bootstrap(
    hits_a: Hits, hits_b: Hits, seed: int = 0, resamples: int = 10_000, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Accuracy of a less that of b on the same images, with its percentile bootstrap interval: (difference, low, high).

    Images are drawn anew with both models' results on them, so what is hard for both does not widen the interval. An
    image is worth -1, 0 or 1; drawing N of them is drawing how many of each there are.
    """
    if len(hits_a) != len(hits_b) or not len(hits_a):
        raise ValueError(f"{len(hits_a)} and {len(hits_b)} images: must be the same, and some")
    count = len(hits_a)
    only_a = int(np.count_nonzero(hits_a & ~hits_b))
    only_b = int(np.count_nonzero(hits_b & ~hits_a))
    rng = np.random.Generator(np.random.Philox(seed))
    shares = np.array([only_a, only_b, count - only_a - only_b]) / count
    drawn = rng.multinomial(count, shares, size=resamples)
    differences = (drawn[:, 0] - drawn[:, 1]) / count
    low, high = np.quantile(differences, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return (only_a - only_b) / count, float(low), float(high)
