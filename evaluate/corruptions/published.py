"""The 19 corruptions of ImageNet-C by name, each with its constants of the five severities.

Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations" (2019), as
their code makes pictures of 224 pixels; other sizes are corrupted with the same constants.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import numpy as np

from . import blur, digital, noise, weather
from .frost import FrostPhotographs
from .pixels import Pixels, Rng

# Of the definitions below: a change of any picture raises it, and copies made by another version are not gone on with.
VERSION: Final = 1

Corruption = Callable[..., Pixels]
"""(picture, rng, *constants) to a picture of the same size; those without noise leave `rng` alone."""

Strengths = tuple[tuple[Any, ...], ...]


def _zooms(last: float, step: float) -> tuple[Any, ...]:
    return (np.arange(1, last, step),)


PUBLISHED: Final[Mapping[str, tuple[Corruption, Strengths]]] = {
    "gaussian_noise": (noise.gaussian_noise, ((0.08,), (0.12,), (0.18,), (0.26,), (0.38,))),
    "shot_noise": (noise.shot_noise, ((60,), (25,), (12,), (5,), (3,))),
    "impulse_noise": (noise.impulse_noise, ((0.03,), (0.06,), (0.09,), (0.17,), (0.27,))),
    # radius, sigma
    "defocus_blur": (blur.defocus_blur, ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))),
    # sigma, reach, rounds
    "glass_blur": (blur.glass_blur, ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))),
    # radius, sigma
    "motion_blur": (blur.motion_blur, ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))),
    "zoom_blur": (
        blur.zoom_blur,
        (_zooms(1.11, 0.01), _zooms(1.16, 0.01), _zooms(1.21, 0.02), _zooms(1.26, 0.02), _zooms(1.31, 0.03)),
    ),
    # mean, spread, size, threshold, radius, sigma, kept
    "snow": (
        weather.snow,
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    # kept, share of frost
    "frost": (weather.frost, ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))),
    # thickness, decay
    "fog": (weather.fog, ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))),
    "brightness": (weather.brightness, ((0.1,), (0.2,), (0.3,), (0.4,), (0.5,))),
    "contrast": (digital.contrast, ((0.4,), (0.3,), (0.2,), (0.1,), (0.05,))),
    # alpha, sigma, shift
    "elastic_transform": (
        digital.elastic_transform,
        ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)),
    ),
    "pixelate": (digital.pixelate, ((0.6,), (0.5,), (0.4,), (0.3,), (0.25,))),
    "jpeg_compression": (digital.jpeg_compression, ((25,), (18,), (15,), (10,), (7,))),
    "speckle_noise": (noise.speckle_noise, ((0.15,), (0.2,), (0.35,), (0.45,), (0.6,))),
    "gaussian_blur": (blur.gaussian_blur, ((1,), (2,), (3,), (4,), (6,))),
    # mean, spread, sigma, threshold; strength of water or edge of mud; whether it is mud
    "spatter": (
        weather.spatter,
        (
            (0.65, 0.3, 4, 0.69, 0.6, False),
            (0.65, 0.3, 3, 0.68, 0.6, False),
            (0.65, 0.3, 2, 0.68, 0.5, False),
            (0.65, 0.3, 1, 0.65, 1.5, True),
            (0.67, 0.4, 1, 0.65, 1.5, True),
        ),
    ),
    # factor, added
    "saturate": (digital.saturate, ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))),
}


def apply(
    picture: Pixels, corruption: str, severity: int, rng: Rng, photographs: FrostPhotographs | None = None
) -> Pixels:
    """The picture, corrupted; `severity` is 1 to 5. Only frost looks at `photographs`, and grows its own without."""
    function, strengths = PUBLISHED[corruption]
    if corruption == "frost":
        function = partial(function, photographs=photographs)
    return function(picture, rng, *strengths[severity - 1])
