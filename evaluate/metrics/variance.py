"""Variance explained, and variance within classes."""

import numpy as np
from numpy.typing import NDArray


def coefficients_of_determination(read: NDArray[np.float64], true: NDArray[np.float64]) -> NDArray[np.float64]:
    """R2 [k] of each column: 1 - residual sum of squares over that around the mean."""
    residual = np.square(true - read).sum(0)
    around_mean = np.square(true - true.mean(0)).sum(0)
    r2: NDArray[np.float64] = 1.0 - residual / around_mean
    return r2


def within_class_sd(values: NDArray[np.float64], class_labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Standard deviation [columns] around each class's own mean, all classes together."""
    centred = np.concatenate(
        [values[class_labels == c] - values[class_labels == c].mean(0) for c in np.unique(class_labels)]
    )
    return np.asarray(np.sqrt(np.square(centred).mean(0)))
