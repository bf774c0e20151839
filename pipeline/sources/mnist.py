"""Draw the MNIST worlds' digits."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...manifests.digits import SIDE, Digit, digit_path, load_digits
from ...manifests.errors import FormatError, GenintError, UsageError
from ...manifests.inputs import Listing
from ...manifests.pictures import PictureError, decode_picture
from ...manifests.sources.mnist import (
    IMAGE_SIZE,
    TEXTURE_FOLDERS,
    TEXTURE_PADDING,
    TEXTURE_SIDE,
    ColoredMnistStream,
    MnistStream,
    WildlifeMnistStream,
)
from ...manifests.sources.stream import Facts, Sample
from ..images.encode import encode_mask
from ..images.pictures import read_listed
from .rendering import RenderContext, Rendered

BATCH = 500
# Of a grey value in [0, 1]: above it a pixel is digit.
INK = 0.1


def draw_mnist(context: RenderContext, stream: MnistStream, samples: Sequence[Sample]) -> Iterator[Rendered]:
    """Draw samples; each brings the digit's mask as `mask.png`."""
    for start in range(0, len(samples), BATCH):
        batch = samples[start : start + BATCH]
        images, masks = paint_digits(context.facts, stream, batch)
        for sample, image, mask in zip(batch, images, masks, strict=True):
            yield Rendered(sample, image, members={"mask.png": encode_mask(mask)})


def paint_digits(
    facts: Facts, stream: MnistStream, samples: Sequence[Sample]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Images [N, 32, 32, 3] and masks of the digits [N, 32, 32] of samples."""
    parts = []
    for start in range(0, len(samples), BATCH):
        batch = samples[start : start + BATCH]
        pictures = _read_digits(facts.inputs[stream.mnist], stream.mnist, [s.parameters["path"] for s in batch])
        masks = pictures[:, _NEAREST[:, None], _NEAREST] > INK * 255
        parts.append((_paint(facts, stream, batch, pictures, masks), masks))
    return np.concatenate([images for images, _ in parts]), np.concatenate([masks for _, masks in parts])


def check_textures(stream: WildlifeMnistStream, facts: Facts, roots: Mapping[str, str]) -> None:
    """Raise UsageError where a texture cannot be read."""
    try:
        _load_textures(facts.inputs[stream.textures], stream.textures, _texture_paths(facts, stream))
    except PictureError as error:
        raise UsageError(f"input {stream.textures!r}: {error}") from error


def _paint(
    facts: Facts,
    stream: MnistStream,
    samples: Sequence[Sample],
    pictures: NDArray[np.uint8],
    masks: NDArray[np.bool_],
) -> NDArray[np.uint8]:
    """Images [N, 32, 32, 3] of digits [N, 28, 28] under the samples' factors."""
    factors = [sample.parameters["factors"] for sample in samples]
    if isinstance(stream, WildlifeMnistStream):
        textures = _load_textures(facts.inputs[stream.textures], stream.textures, _texture_paths(facts, stream))
        objects, backgrounds = (
            np.stack([_cut(textures[folder, f[f"{part}_class"]], f[f"{part}_window"]) for f in factors])
            for folder, part in enumerate(TEXTURE_FOLDERS)
        )
        return np.where(masks[..., None], objects, backgrounds)
    objects = np.array([f["object_rgb"] for f in factors])[:, None, None]
    if isinstance(stream, ColoredMnistStream):
        painted = pictures[:, _CENTRED[:, None], _CENTRED, None] / 255.0 * objects
    else:
        painted = np.where(masks[..., None], objects, np.array([f["background_rgb"] for f in factors])[:, None, None])
    return np.rint(painted * 255.0).astype(np.uint8)


def _cut(texture: NDArray[np.uint8], window: Sequence[int]) -> NDArray[np.uint8]:
    top, left = window
    return texture[top : top + IMAGE_SIZE, left : left + IMAGE_SIZE]


def _read_digits(listing: Listing, name: str, paths: Sequence[str]) -> NDArray[np.uint8]:
    """Pictures [N, 28, 28]. Raises GenintError where the files are gone, or others than those listed."""
    found = []
    for path in paths:
        digit = Digit.of(path)
        images = _load_part(listing.root, name, digit.part)
        if digit.number >= len(images) or path != digit_path(
            digit.class_label, digit.part, digit.number, images[digit.number]
        ):
            raise GenintError(f"input {name}: {listing.root}: picture {path} is another than when it was listed")
        found.append(images[digit.number])
    return np.stack(found)


@lru_cache(maxsize=2)
def _load_part(root: str, name: str, part: str) -> NDArray[np.uint8]:
    if not Path(root).is_dir():
        raise GenintError(f"input {name}: no folder {root} on this machine")
    try:
        return load_digits(Path(root), part)[0]
    except FormatError as error:
        raise GenintError(f"input {name}: {root}: {error}") from error


def _texture_paths(facts: Facts, stream: WildlifeMnistStream) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(stream.texture_paths(facts, folder)) for folder in TEXTURE_FOLDERS)


@lru_cache(maxsize=1)
def _load_textures(listing: Listing, name: str, paths: tuple[tuple[str, ...], ...]) -> NDArray[np.uint8]:
    """Textures [object or background, class, side, side, 3], padded. Raises PictureError where one is unreadable."""
    edge = (TEXTURE_PADDING, TEXTURE_PADDING)
    textures = []
    for path in (path for folder in paths for path in folder):
        content = read_listed(listing, name, path)
        picture = decode_picture(content, path).resize((TEXTURE_SIDE, TEXTURE_SIDE), Image.Resampling.NEAREST)
        textures.append(np.pad(np.asarray(picture), (edge, edge, (0, 0)), "reflect"))
    return np.stack(textures).reshape(len(paths), -1, *textures[0].shape)


# Which pixel of the digit is nearest to each of the image's: by its left edge, as torch's interpolation (and so the
# worlds with masks), or by its centre, as Pillow's (and so colored MNIST).
_NEAREST = np.arange(IMAGE_SIZE) * SIDE // IMAGE_SIZE
_CENTRED = (2 * np.arange(IMAGE_SIZE) + 1) * SIDE // (2 * IMAGE_SIZE)
