"""Shape bias (Geirhos et al. 2019): of the answers that are either, how many go by shape and not by texture."""

import numpy as np
from numpy.typing import NDArray


def shape_bias(
    answers: NDArray[np.integer], shapes: NDArray[np.integer], textures: NDArray[np.integer]
) -> tuple[float, int] | None:
    """Share of shape decisions, and the number of decisions for either; None where there is no such decision.

    answers, shapes, textures: [N] classes; shape and texture of an image differ.
    """
    by_shape, by_texture = int((answers == shapes).sum()), int((answers == textures).sum())
    decisions = by_shape + by_texture
    return (by_shape / decisions, decisions) if decisions else None
