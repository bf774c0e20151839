"""Calibration: does a classifier that is 80 % sure of its answers give 80 % right ones?"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from .accuracy import Hits

BINS: Final = 15


def calibration_error(confidence: NDArray[np.floating], hits: Hits, bins: int = BINS) -> float:
    """Expected calibration error in [0, 1] (Naeini et al. 2015; Guo et al. 2017): over `bins` of equal width, the
    distance of accuracy from mean confidence, weighted by the bin's images.

    confidence: [N], probability of the class answered. A confidence on a border counts to the bin below it.
    """
    if not len(confidence) or len(confidence) != len(hits):
        raise ValueError(f"{len(confidence)} confidences and {len(hits)} answers: must be as many, and some")
    place = np.clip(np.ceil(confidence.astype(np.float64) * bins).astype(int) - 1, 0, bins - 1)
    sums = np.bincount(place, confidence, bins) - np.bincount(place, hits, bins)
    return float(np.abs(sums).sum() / len(hits))


def negative_log_likelihood(log_probabilities: NDArray[np.floating]) -> float:
    """Mean negative log probability of the right labels, in nats; [N], of all right labels of an image together."""
    return float(-log_probabilities.mean(dtype=np.float64))
