"""Fréchet distance of two sets of features: how far generated pictures are from real ones."""

import numpy as np
from numpy.typing import NDArray


def frechet_distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Squared Fréchet distance of the normals fitted to features [N, D] and [M, D] (Heusel et al. 2017, equation 6)."""
    shift = first.mean(0) - second.mean(0)
    covariances = [np.atleast_2d(np.cov(features, rowvar=False)) for features in (first, second)]
    # tr(sqrt(A B)): the roots of the product's eigenvalues, which are real and not negative but for rounding.
    roots = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).real.clip(0.0))
    return float(shift @ shift + np.trace(sum(covariances)) - 2.0 * roots.sum())
