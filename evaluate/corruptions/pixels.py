"""What passes between corruptions: pictures as arrays, and the generator that noise is drawn from."""

from typing import Any

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""[H, W, 3] RGB, 0 to 255."""

# Its streams are frozen for good (NEP 19), which numpy promises of no Generator; and they are what the official code,
# which draws from numpy's global generator, would draw after the same seed.
Rng = RandomState


def to_unit(picture: Pixels, dtype: type[np.floating[Any]] = np.float64) -> NDArray[Any]:
    """[0, 255] to [0, 1]. Corruptions compute in the precision that the official code does."""
    return np.asarray(picture.astype(dtype) / dtype(255))


def to_pixels(unit: NDArray[Any]) -> Pixels:
    """[0, 1] to [0, 255]; what lies outside is clipped. Truncated and not rounded, as the official images are."""
    return np.asarray(np.clip(unit, 0, 1) * 255).astype(np.uint8)
