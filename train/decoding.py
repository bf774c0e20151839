"""Encoded pictures to pixels: the decoding that training and evaluation share."""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ..manifests.errors import FormatError

MAX_PIXELS = 89_478_485  # where Pillow begins to warn: a small file can decode to gigabytes

# What Pillow raises for damaged files.
DAMAGE = (OSError, SyntaxError, ValueError, TypeError, OverflowError, struct.error, Image.DecompressionBombError)


@contextmanager
def damage_named() -> Iterator[None]:
    """Turn what Pillow raises for a damaged file, at opening or at decoding, into FormatError."""
    try:
        yield
    except DAMAGE as error:
        # Pillow's message for an unknown format holds a memory address.
        text = "no image of a known format" if isinstance(error, UnidentifiedImageError) else str(error)
        raise FormatError(f"unreadable image: {text.strip() or type(error).__name__}") from error


def open_picture(content: bytes) -> Image.Image:
    """Open a picture without decoding it, within `damage_named`. Raises FormatError where it is too large or deep."""
    image = Image.open(io.BytesIO(content))
    if image.width * image.height > MAX_PIXELS:
        raise FormatError(f"unreadable image: {image.width} x {image.height} pixels, limit {MAX_PIXELS:,} pixels")
    if image.mode.startswith(("I", "F")):
        # Pillow's conversion would clip them, which turns pictures white.
        raise FormatError(f"unreadable image: pixels of mode {image.mode}; expected 8 bits a channel")
    return image


def decode(content: bytes) -> Image.Image:
    """A picture in RGB. Raises FormatError where it is damaged or too large."""
    with damage_named():
        return open_picture(content).convert("RGB")


def decode_pixels(image: Image.Image, content: bytes) -> NDArray[np.uint8]:
    """Pixels [H, W, 3] in RGB of an opened picture and its encoded content; within `damage_named` only."""
    if image.format == "JPEG" and image.mode in ("L", "RGB"):
        # The same library gives the same pixels as through Pillow, in three fifths of the time. Orientation flags are
        # left alone, as torchvision's ImageFolder does.
        try:
            pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(content, "RGB")
            return pixels
        except ValueError:
            pass  # damaged, or odd in a way that Pillow forgives: it has the last word
    return np.array(image.convert("RGB"))
