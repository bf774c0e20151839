"""How far an intervention may go along each direction."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .errors import UsageError

# Lowest and highest step size of directions 0 to 59, in the order of falling variance, as the released research code
# set them by hand for BigGAN-deep at 256 px.
GENINT_STEP_RANGES: NDArray[np.float64] = np.array([
    (-3, 3), (-4, 2), (-3, 3), (-4, 3), (-3, 5), (-4, 4), (-5, 5), (-5, 5), (-6, 6), (-6, 6),
    (-7, 7), (-8, 8), (-8, 10), (-10, 7), (-10, 10), (-8, 8), (-10, 10), (-10, 10), (-5, 10), (-10, 8),
    (-8, 12), (-10, 10), (-10, 7), (-10, 10), (-12, 10), (-7, 10), (-10, 8), (-10, 10), (-8, 8), (-8, 8),
    (-8, 8), (-8, 12), (-10, 9), (-10, 10), (-10, 10), (-10, 10), (-12, 12), (-10, 12), (-12, 12), (-12, 10),
    (-12, 12), (-12, 10), (-10, 12), (-12, 12), (-12, 8), (-12, 12), (-12, 12), (-12, 12), (-13, 12), (-12, 12),
    (-12, 12), (6, 12), (-13, 12), (-12, 13), (-12, 12), (-12, 15), (-12, 15), (-12, 15), (-12, 12), (-10, 12),
], np.float64)  # fmt: skip

# The released list says "2 values" before 12, 6, -12 for direction 51, and so reads as 6 to 12. It was surely meant
# as -12 to 12: "released" keeps what the published data were made with, "released-51-symmetric" what was meant.
RELEASED, RELEASED_51_SYMMETRIC = "released", "released-51-symmetric"

RangeSpec = str | float | Sequence[float] | Sequence[Sequence[float]]


def step_ranges(spec: RangeSpec, num_directions: int, step_scale: float = 1.0) -> NDArray[np.float64]:
    """Lowest and highest step size of each direction, [num_directions, 2]; step sizes are uniform between them.

    spec: "released" or "released-51-symmetric"; a number r for -r to r everywhere; or one r or one pair (low, high) a
    direction. step_scale is the paper's s and multiplies both ends: 1.0 is 100 %.
    """
    if num_directions < 1:
        raise UsageError(f"num_directions = {num_directions}: at least 1 is needed")
    if not (math.isfinite(step_scale) and step_scale > 0):
        raise UsageError(f"step_scale = {step_scale}: a positive number is needed (1.0 is the whole range)")
    ranges = _released_ranges(spec) if isinstance(spec, str) else _own_ranges(spec, num_directions)
    if len(ranges) < num_directions:
        raise UsageError(f"{num_directions} directions, but step ranges for {len(ranges)}; give one for each direction")
    ranges = ranges[:num_directions]
    for j, (low, high) in enumerate(ranges):
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise UsageError(f"step range of direction {j}: from {low:g} to {high:g} is no finite, rising range")
    return ranges * step_scale


def _released_ranges(name: str) -> NDArray[np.float64]:
    if name not in (RELEASED, RELEASED_51_SYMMETRIC):
        raise UsageError(f"step ranges {name!r}: known are {RELEASED!r}, {RELEASED_51_SYMMETRIC!r}, or numbers")
    ranges = GENINT_STEP_RANGES.copy()
    if name == RELEASED_51_SYMMETRIC:
        ranges[51] = -12, 12
    return ranges


def _own_ranges(spec: float | Sequence[float] | Sequence[Sequence[float]], count: int) -> NDArray[np.float64]:
    try:
        numbers = np.asarray(spec, np.float64)
    except ValueError as error:
        raise UsageError("step ranges: either one number a direction or one pair a direction, not a mixture") from error
    if numbers.ndim == 2 and numbers.shape[1] == 2:
        return numbers
    if numbers.ndim > 1:
        raise UsageError(f"step ranges of shape {numbers.shape}: a number, a number a direction or a pair a direction")
    reach = np.full(count, numbers) if numbers.ndim == 0 else numbers
    return np.stack((-reach, reach), axis=1)
