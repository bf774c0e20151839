"""Share of a map's mass that lies on the object."""

import numpy as np
from numpy.typing import NDArray


def mass_share(maps: NDArray[np.float32], masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Share [N] of each map's positive part that lies on the object; nan where no part of the map is positive.

    maps, masks: [N, H, W].
    """
    positive = np.maximum(maps, 0.0).astype(np.float64)
    total = positive.sum((1, 2))
    on_object = (positive * masks).sum((1, 2))
    shares: NDArray[np.float64] = np.divide(on_object, total, out=np.full(len(maps), np.nan), where=total > 0)
    return shares
