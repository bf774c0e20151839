"""Bootstrap intervals: over images, paired, and over clusters of images that were not drawn one by one."""

import numpy as np
from numpy.typing import NDArray

from .accuracy import Hits

RESAMPLES = 1000
# Numbers held at once while clusters are drawn again.
MOST_DRAWN = 1 << 22


def bootstrap_over_clusters(
    values: NDArray[np.generic], clusters: NDArray[np.int64], seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """95 % percentile interval of the mean of `values` [N] (Field & Welsh 2007): whole clusters are drawn again.

    clusters: [N], a number for what each image was drawn with: its class, latent or photo. Drawing C clusters is
    drawing how many of each kind there are, a kind being a sum of values and a count of images.
    """
    if len(values) != len(clusters) or not len(values):
        raise ValueError(f"{len(values)} values in clusters of {len(clusters)}: must be as many, and some")
    _, places = np.unique(clusters, return_inverse=True)
    sums_and_counts = np.stack([np.bincount(places, values), np.bincount(places)], axis=1)
    kinds, number = np.unique(sums_and_counts, axis=0, return_counts=True)
    rng = np.random.Generator(np.random.Philox(seed))
    at_once = max(1, MOST_DRAWN // len(kinds))
    means = []
    for start in range(0, resamples, at_once):
        drawn = rng.multinomial(number.sum(), number / number.sum(), size=min(at_once, resamples - start))
        means.append(drawn @ kinds[:, 0] / (drawn @ kinds[:, 1]))
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return float(low), float(high)


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
