"""From encoded pictures to training images: random crops and more, a function of the sample's own random words.

Augmentations as in the released training code; AutoAugment fills with the same grey.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..manifests.pictures import MAX_PIXELS, PictureError, damage_named, open_picture, to_rgb
from .checkpoint import Preprocessing
from .decoding import decode_pixels
from .vision import v2

AugmentationName = Literal[
    "standard", "additional", "autoaugment", "randaugment", "trivialaugment", "augmix", "pad-crop", "none"
]
AUGMENTATIONS: tuple[AugmentationName, ...] = get_args(AugmentationName)

# Random words that an augmentation may use: ten attempts at a crop, its place, a flip, and two seeds.
WORDS = 25
FLIP, POLICY, ERASING = 22, 23, 24
CROP_ATTEMPTS = 10
LOG_RATIOS = (math.log(3 / 4), math.log(4 / 3))
PADDING = 4
GREY = 128

Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels"""


@dataclass(frozen=True)
class Augmentation:
    """An augmentation by name; `size` of the result in pixels, `crop_scale` the share of the area in random crops.

    standard        random crop resized (antialiased), horizontal flip
    additional      rotation by any angle, then standard, then colour jitter and vertical flip
    autoaugment     standard, then AutoAugment's policy for ImageNet, as torchvision has it (the released code's turns
                    pictures one way alone and shears them along x bicubically)
    randaugment     standard, then two operations of magnitude 9 (Cubuk et al. 2020)
    trivialaugment  standard, then one operation of random magnitude (wide; Müller & Hutter 2021)
    augmix          standard, then a mixture of chains of operations, none of which is one of ImageNet-C's corruptions
                    (Hendrycks et al. 2020, without its consistency loss)
    pad-crop        horizontal flip and a crop from the picture with 4 more pixels mirrored at each side
    none            shorter side to `size`, centre crop

    With probability `erasing` a random rectangle of the result is then set to `fill` (Zhong et al. 2020).
    """

    name: AugmentationName
    size: int
    crop_scale: tuple[float, float] = (0.08, 1.0)
    erasing: float = 0.0
    fill: tuple[int, int, int] = (GREY, GREY, GREY)

    def __call__(self, content: bytes, words: NDArray[np.uint64]) -> Tensor:
        """An encoded picture to uint8 [3, size, size], with `WORDS` random words. Raises PictureError where damaged."""
        draws = words.tolist()
        with damage_named():
            pixels = self._augment(open_picture(content), content, draws)
        return _apply(self._erasing, pixels, draws[ERASING]) if self.erasing else pixels

    def _augment(self, image: Image.Image, content: bytes, draws: Sequence[int]) -> Tensor:
        if self.name == "pad-crop":
            return self._pad_and_crop(decode_pixels(image, content), draws)
        if self.name == "none":
            return self._plain.prepare(to_rgb(image))
        if self.name == "additional":
            return _to_tensor(_apply(self._additional, _reduced_to_turn(to_rgb(image)), draws[POLICY]))
        pixels = self._crop(image, content, draws)
        if self.name == "standard":
            return pixels
        return _to_tensor(_apply(self._policy, Image.fromarray(pixels.permute(1, 2, 0).numpy()), draws[POLICY]))

    def _crop(self, image: Image.Image, content: bytes, draws: Sequence[int]) -> Tensor:
        box = draw_crop(*image.size, self.crop_scale, draws)
        pixels = resized_crop(image, content, box, self.size)
        return pixels.flip(2) if draws[FLIP] >> 63 else pixels

    def _pad_and_crop(self, pixels: NDArray[np.uint8], draws: Sequence[int]) -> Tensor:
        if pixels.shape[:2] != (self.size, self.size):
            raise PictureError(
                "image of another size",
                f"{pixels.shape[1]} x {pixels.shape[0]} pixels; pad-crop takes {self.size} x {self.size}",
            )
        rows, columns = (self._mirrored[_below(2 * PADDING + 1, draw) :][: self.size] for draw in draws[:2])
        if draws[FLIP] >> 63:
            columns = columns[::-1]
        return torch.from_numpy(pixels[rows[:, None], columns]).permute(2, 0, 1)

    @cached_property
    def _mirrored(self) -> NDArray[np.int64]:
        """Index of each pixel of a padded line [size + 2 * PADDING], mirrored at the edges."""
        return np.pad(np.arange(self.size), PADDING, mode="reflect")

    @cached_property
    def _plain(self) -> Preprocessing:
        return Preprocessing(self.size, self.size)

    @cached_property
    def _policy(self) -> Any:
        fill = [GREY] * 3
        if self.name == "randaugment":
            return v2.RandAugment(num_ops=2, magnitude=9, fill=fill)
        if self.name == "trivialaugment":
            return v2.TrivialAugmentWide(fill=fill)
        if self.name == "augmix":
            return v2.AugMix(all_ops=False, fill=fill)
        return v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET, fill=fill)

    @cached_property
    def _erasing(self) -> Any:
        return v2.RandomErasing(self.erasing, value=list(self.fill))

    @cached_property
    def _additional(self) -> Any:
        return v2.Compose(
            [
                v2.RandomRotation((0, 360), v2.InterpolationMode.BILINEAR, expand=True),
                v2.RandomResizedCrop(self.size, self.crop_scale),
                v2.RandomHorizontalFlip(),
                v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
                v2.RandomVerticalFlip(),
            ]
        )


def draw_crop(width: int, height: int, scale: tuple[float, float], draws: Sequence[int]) -> Box:
    """A random box in a picture, distributed as torchvision's RandomResizedCrop: area uniform in `scale` of the whole,
    logarithm of the aspect ratio uniform between those of 3:4 and 4:3; the centre where ten attempts do not fit.

    draws: 22 words of 64 bits.
    """
    for attempt in range(CROP_ATTEMPTS):
        area = width * height * _between(*scale, draws[2 * attempt])
        ratio = math.exp(_between(*LOG_RATIOS, draws[2 * attempt + 1]))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = _below(width - w + 1, draws[20]), _below(height - h + 1, draws[21])
            return left, top, left + w, top + h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def resized_crop(image: Image.Image, content: bytes, box: Box, size: int) -> Tensor:
    """`box` of a picture that is opened and not decoded, as uint8 [3, size, size] in RGB: bilinear, antialiased.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where the box then still has `size` pixels a side.
    """
    left, top, right, bottom = box
    smaller = min(right - left, bottom - top)
    reduction = next((r for r in (8, 4, 2) if smaller >= r * size), 1) if image.format == "JPEG" else 1
    if reduction > 1:
        image.draft(None, (image.width // reduction, image.height // reduction))
        part = (left / reduction, top / reduction, right / reduction, bottom / reduction)
        return _to_tensor(to_rgb(image).resize((size, size), Image.Resampling.BILINEAR, box=part))
    # torch resizes bytes in less than half of Pillow's time, to the same values but for rounding.
    crop = torch.from_numpy(decode_pixels(image, content)[top:bottom, left:right]).permute(2, 0, 1)
    resized: Tensor = torch.nn.functional.interpolate(crop[None], (size, size), mode="bilinear", antialias=True)[0]
    return resized


def _reduced_to_turn(image: Image.Image) -> Image.Image:
    """A picture small enough for its frame to stay within the pixel limit when it is turned by any angle."""
    # Of all frames around a turned rectangle, that at 45 degrees is the largest: a square of (width + height)^2 / 2.
    factor = math.ceil((image.width + image.height) / math.sqrt(2 * MAX_PIXELS))
    return image.reduce(factor) if factor > 1 else image


def _to_tensor(image: Image.Image) -> Tensor:
    """An RGB picture as uint8 [3, H, W]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _apply(transform: Any, image: Any, seed: int) -> Any:
    """A v2 transform of a picture or its pixels, its random draws from `seed`; torch's generator is kept."""
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(seed)
        return transform(image)


def _between(low: float, high: float, word: int) -> float:
    return low + (high - low) * ((word >> 11) * 2.0**-53)


def _below(bound: int, word: int) -> int:
    """A word to an integer in [0, bound)."""
    return (word >> 32) * bound >> 32
