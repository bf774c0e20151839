"""The mini world's nuisances: what varies in its pictures besides the object, and how much the class says about it.

Every nuisance is continuous, n = sd * (a * mean_of_class + sqrt(1 - a**2) * noise), so that the classes' supports
overlap as in nature and the marginal distribution of n does not depend on the confounding strength a.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .randomness import normal, random_rows, random_words

CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot",
)  # fmt: skip
IMAGE_SIZE = 32
WORLD_SEED = 2012_12265

# Objects shipped in each slice, classes interleaved.
SLICES = {"train": 12_000, "validation": 1_000, "test": 2_000}


@dataclass(frozen=True)
class Nuisance:
    """One thing that varies: its name, group ("background" or "pose"), standard deviation, and unit."""

    name: str
    group: str
    sd: float
    unit: str


NUISANCES = (
    Nuisance("background_red", "background", 1.3, "logit of the red value"),
    Nuisance("background_green", "background", 1.3, "logit of the green value"),
    Nuisance("background_blue", "background", 1.3, "logit of the blue value"),
    Nuisance("texture_frequency", "background", 0.3, "log of cycles across the image, over 3"),
    Nuisance("texture_orientation", "background", 0.4, "radians from horizontal"),
    Nuisance("light", "background", 0.25, "relative slope of brightness from centre to right edge"),
    Nuisance("scale", "pose", 0.1, "log of the object's side over 0.75 of the image"),
    Nuisance("rotation", "pose", 0.2, "radians"),
    Nuisance("position_x", "pose", 0.12, "half image widths to the right of the centre"),
    Nuisance("position_y", "pose", 0.12, "half image heights below the centre"),
)


def class_means() -> NDArray[np.float64]:
    """Mean of each nuisance in each class, [classes, nuisances], of mean 0 and variance 1 over the classes."""
    shape = (len(CLASSES), len(NUISANCES))
    means = normal(random_words(WORLD_SEED, "class means", count=shape[0] * shape[1])).reshape(shape)
    standardized: NDArray[np.float64] = (means - means.mean(0)) / means.std(0)
    return standardized


def draw_nuisances(
    class_labels: NDArray[np.int64],
    identity: NDArray[np.int64],
    name: str,
    background_confounding: float,
    pose_confounding: float,
) -> NDArray[np.float64]:
    """Nuisances n of samples, [N, nuisances], in the units of `NUISANCES`.

    `identity` [N] numbers each sample within `name` (its slice): the noise depends on these two alone, so the same
    object under another confounding strength keeps its noise.
    """
    count = len(NUISANCES)
    noise = normal(random_rows(WORLD_SEED, name, identity, count=count))
    a = np.array([background_confounding if n.group == "background" else pose_confounding for n in NUISANCES])
    sd = np.array([n.sd for n in NUISANCES])
    nuisances: NDArray[np.float64] = sd * (a * class_means()[class_labels] + np.sqrt(1.0 - a * a) * noise)
    return nuisances
