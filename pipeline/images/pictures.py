"""Read the pictures of others: upright, RGB, of the size asked for, or lost for a reason that can be counted."""

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from ...manifests.errors import GenintError
from ...manifests.inputs import Listing

MAX_PIXELS = 89_478_485  # where Pillow begins to warn: a small file can decode to gigabytes

# What Pillow raises for damaged files, found by flipping bytes in seven formats.
DAMAGE = (OSError, SyntaxError, ValueError, TypeError, OverflowError, struct.error)

# How the viewer has to turn the stored picture, by EXIF orientation; 1 is upright.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnfitImageError(Exception):
    """An image that is whole, but cannot be what the stream asks for: the reason to count it by, and the detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class LostImageError(Exception):
    """An image that leaves a hole: the reason to count it by, and the detail, which names the image."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Decoded:
    """A picture upright in RGB; `as_stored` if that is what its file holds, in `file_format`."""

    image: Image.Image
    file_format: str
    as_stored: bool


@contextmanager
def naming(name: str) -> Iterator[None]:
    """What decoding and fitting raise becomes a LostImageError that names the image."""
    try:
        yield
    except UnfitImageError as error:
        raise LostImageError(error.reason, f"{name}: {error}") from error
    except DAMAGE as error:
        raise LostImageError("unreadable image", f"{name}: {_describe(error)}") from error


def read_listed(listing: Listing, name: str, path: str) -> bytes:
    """The bytes of a file of input `name`.

    Raises LostImageError where it cannot be read, GenintError where the whole input is gone: that is no reason to
    write shards of holes.
    """
    root = Path(listing.root)
    try:
        return listing.read(path)
    except OSError as error:
        if not root.is_dir():
            raise GenintError(f"input {name}: no folder {root} on this machine") from error
        raise LostImageError("unreadable file", f"{path}: {error.strerror}") from error


def decode_picture(content: bytes) -> Decoded:
    """Decode an image file. Raises UnfitImageError where it is too large, one of `DAMAGE` where it is no image."""
    # Metadata warnings of single files would drown the build's own output.
    with warnings.catch_warnings(action="ignore"), _open(content) as opened:
        _check_pixels(*opened.size)
        turn = TURNS.get(opened.getexif().get(ExifTags.Base.Orientation, 1))
        opened.load()
        image = _to_rgb(opened)
        as_stored = turn is None and opened.mode == "RGB"
        return Decoded(image if turn is None else image.transpose(turn), (opened.format or "").lower(), as_stored)


def fit_picture(image: Image.Image, resize: int | None, crop: int | None) -> Image.Image:
    """Resize to a shorter side (bicubic, antialiased), then cut the centre square. None leaves a step out.

    Raises UnfitImageError where the image is too small for the crop, or would become too large.
    """
    if resize is not None:
        scale = resize / min(image.size)
        width, height = (max(resize, round(side * scale)) for side in image.size)
        _check_pixels(width, height)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    if crop is not None:
        if min(image.size) < crop:
            raise UnfitImageError("image too small", f"{image.width} x {image.height} pixels, crop of {crop}")
        left, top = (image.width - crop) // 2, (image.height - crop) // 2
        image = image.crop((left, top, left + crop, top + crop))
    return image


def _open(content: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content))
    except Image.DecompressionBombError as error:
        raise UnfitImageError("image too large", str(error)) from error


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnfitImageError("image too large", f"{width} x {height} pixels, limit {MAX_PIXELS:,} pixels")


def _to_rgb(image: Image.Image) -> Image.Image:
    """Eight bits a channel. Pillow's own conversion clips 16-bit grey, which turns pictures white."""
    if image.mode.startswith("I"):
        grey = np.asarray(image, np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError(f"pixel values {grey.min()} to {grey.max()}: neither 8 nor 16 bits")
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels: nothing says which value is white")
    return image.convert("RGB")


def _describe(error: Exception) -> str:
    # Pillow's own message for it holds a memory address.
    if isinstance(error, UnidentifiedImageError):
        return "no image of a known format"
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
