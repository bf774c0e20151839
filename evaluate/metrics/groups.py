"""Accuracy by group (Sagawa et al. 2020): what a mean over images hides, the worst group shows."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .accuracy import Hits, Measured, accuracy


def group_accuracies(hits: Hits, numbers: NDArray[np.int64]) -> list[Measured]:
    """Accuracy of each group with its interval; `numbers` [N] are the images' groups from 0, each of which occurs."""
    return [accuracy(hits[numbers == number]) for number in range(int(numbers.max()) + 1)]


def worst_group(measured: Sequence[Measured]) -> int:
    """Place of the group of the smallest accuracy; of several, the one of the most images."""
    return min(range(len(measured)), key=lambda place: (measured[place].value, -measured[place].count))


def mean_over_groups(measured: Sequence[Measured]) -> float:
    """Mean of the groups' accuracies: each counts alike, however many images it has."""
    return float(np.mean([group.value for group in measured]))
