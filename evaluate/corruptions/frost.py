"""Frost to lay over a picture: pieces of the official photographs where the user has them, or ice that is grown."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...manifests.errors import UsageError
from ...manifests.pictures import decode_picture
from .pixels import Pixels, Rng

# Those that the official code draws from: it has a sixth, but draws of five.
PHOTOGRAPHS: Final = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
# Mean and standard deviation of red, green and blue in each of them (the third shows the same as the second).
PALETTE: Final = (
    ((77.7, 149.1, 165.7), (26.9, 16.5, 15.3)),
    ((200.8, 205.4, 214.5), (21.4, 22.1, 22.6)),
    ((200.8, 205.4, 214.5), (21.4, 22.1, 22.6)),
    ((137.6, 152.8, 165.2), (28.5, 28.5, 29.9)),
    ((112.4, 123.4, 134.8), (44.4, 43.3, 41.7)),
)
# Of grown ice, in pixels: size of the patches in which needles lie alike, and a needle's length and width.
PATCH, LENGTH, WIDTH = 14.0, 5.0, 0.7
DIRECTIONS: Final = 7


@dataclass(frozen=True)
class FrostPhotographs:
    """The official photographs, by the names that they have in hendrycks/robustness. digest: of their files."""

    pictures: tuple[Pixels, ...]
    digest: str

    def cut(self, rng: Rng, height: int, width: int) -> Pixels:
        """[H, W, 3]: a random piece of a random one, which is magnified first where it is too small (the official
        code knows pictures of 224 pixels alone, for which none is)."""
        photograph = self.pictures[rng.randint(len(self.pictures))]
        factor = max(height / photograph.shape[0], width / photograph.shape[1])
        if factor >= 1:
            size = [int(np.ceil(side * factor * 1.1)) for side in photograph.shape[1::-1]]
            photograph = np.asarray(Image.fromarray(photograph).resize(size, Image.Resampling.BICUBIC))
        top = rng.randint(0, photograph.shape[0] - height)
        left = rng.randint(0, photograph.shape[1] - width)
        return photograph[top : top + height, left : left + width]


def load_frost(folder: str | os.PathLike[str]) -> FrostPhotographs:
    """Raises UsageError where one of the photographs is not there, and PictureError where one cannot be read."""
    paths = [Path(folder, name) for name in PHOTOGRAPHS]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise UsageError(
            f"{folder}: lacks {', '.join(missing)}; expected {', '.join(PHOTOGRAPHS)}, as hendrycks/robustness has "
            "them in ImageNet-C/create_c"
        )
    digest, pictures = hashlib.sha256(), []
    for path in paths:
        content = path.read_bytes()
        digest.update(hashlib.sha256(content).digest())
        # Of a transparent one the colours as they are, which is what the official code reads too.
        pictures.append(np.asarray(decode_picture(content, str(path))))
    return FrostPhotographs(tuple(pictures), digest.hexdigest())


def grow_frost(rng: Rng, height: int, width: int) -> NDArray[np.float64]:
    """[H, W, 3] in [0, 255]: patches of ice needles, each patch with a direction of its own.

    The photographs may not be shipped; this has the mean and spread of one of them by channel, and none of its shapes.
    """
    mean, spread = (np.array(values) for values in PALETTE[rng.randint(len(PALETTE))])
    angles = np.pi * (np.arange(DIRECTIONS) + rng.uniform(size=DIRECTIONS)) / DIRECTIONS
    needles = np.stack([_smooth_noise(rng, height, width, LENGTH, WIDTH, angle) for angle in angles])
    patches = np.stack([_smooth_noise(rng, height, width, PATCH, PATCH, 0.0) for _ in angles])
    lying = np.take_along_axis(needles, patches.argmax(axis=0)[None], axis=0)[0]
    ice = lying + 0.5 * _smooth_noise(rng, height, width, 2 * PATCH, 2 * PATCH, 0.0)
    ice = (ice - ice.mean()) / ice.std()
    return np.asarray(np.clip(mean + spread * ice[..., None], 0, 255))


def _smooth_noise(
    rng: Rng, height: int, width: int, length: float, breadth: float, angle: float
) -> NDArray[np.float64]:
    """[H, W] of standard deviation 1: white noise under an oblong gaussian (in pixels; periodic, hence the fringe)."""
    fringe = 64
    down = np.fft.fftfreq(height + fringe)[:, None]
    right = np.fft.rfftfreq(width + fringe)[None]
    along = right * np.cos(angle) + down * np.sin(angle)
    across = down * np.cos(angle) - right * np.sin(angle)
    gaussian = np.exp(-2 * np.pi**2 * ((along * length) ** 2 + (across * breadth) ** 2))
    shape = (height + fringe, width + fringe)
    smooth = np.fft.irfft2(np.fft.rfft2(rng.normal(size=shape)) * gaussian, s=shape)
    return np.asarray(smooth / smooth.std())[:height, :width]
