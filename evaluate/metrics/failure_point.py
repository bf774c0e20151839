"""Failure point (Dünkel et al. 2025): the smallest strength of a shift at which a classifier misreads a sample."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .accuracy import Hits


@dataclass(frozen=True)
class FailureDistribution:
    """Where samples fail: shares in [0, 1] of all, by strength in rising order.

    first: of samples first misread at a strength; with `never` they sum to 1. misread: of those misread at a strength,
    whether or not at a smaller one. median: place of the strength by which half of the samples have failed; None where
    fewer did.
    """

    first: tuple[float, ...]
    never: float
    misread: tuple[float, ...]
    median: int | None


def failure_points(hits: Hits) -> NDArray[np.int64]:
    """Place of the first strength at which each sample is misread; the number of strengths where it never is.

    hits: [S, N], whether sample n was read rightly at strength s; strengths rise.
    """
    found: NDArray[np.int64] = np.where(hits.all(axis=0), len(hits), np.argmin(hits, axis=0))
    return found


def distribute_failures(hits: Hits) -> FailureDistribution:
    """Distribution of the failure points of samples [S, N]."""
    strengths, samples = hits.shape
    counts = np.bincount(failure_points(hits), minlength=strengths + 1)
    failed = np.cumsum(counts[:-1]) * 2 >= samples
    return FailureDistribution(
        first=tuple((counts[:-1] / samples).tolist()),
        never=float(counts[-1] / samples),
        misread=tuple((1.0 - hits.mean(axis=1)).tolist()),
        median=int(np.argmax(failed)) if failed.any() else None,
    )
