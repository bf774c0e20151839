"""Bootstrap intervals: over images, paired, and over classes."""

import numpy as np
from numpy.typing import NDArray

from ...manifests.randomness import integers_below, random_words
from .accuracy import Hits

RESAMPLES = 1000


def bootstrap_over_classes(
    values: NDArray[np.float64], class_labels: NDArray[np.int64], seed: int, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """95 % interval of the mean of `values` [Q]: whole classes are drawn again, as other classes might have been."""
    labels = np.unique(class_labels)
    sums = np.array([values[class_labels == label].sum() for label in labels])
    counts = np.array([(class_labels == label).sum() for label in labels])
    words = random_words(seed, "bootstrap over classes", count=resamples * len(labels))
    drawn = integers_below(len(labels), words).reshape(resamples, len(labels))
    low, high = np.quantile(sums[drawn].sum(1) / counts[drawn].sum(1), (0.025, 0.975))
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
