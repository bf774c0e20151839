"""Open the pictures of others: of the formats we read, within a pixel limit, upright, in RGB, or refused in words.

All rooms decode through here, so that a picture is the same in shards, in training and in evaluation.
"""

import ctypes
import io
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError, _imaging

from .errors import FormatError

# Pillow's format of each extension that counts as a picture. Content decides which of them a file is; a file of any
# other format is none, whatever its name: Pillow would hand PostScript to an interpreter.
FORMATS = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".png": "PNG", ".webp": "WEBP", ".bmp": "BMP",
    ".gif": "GIF", ".tif": "TIFF", ".tiff": "TIFF", ".ppm": "PPM", ".pgm": "PPM",
}  # fmt: skip
IMAGE_EXTENSIONS = frozenset(FORMATS)

MAX_PIXELS = 89_478_485  # where Pillow begins to warn: a small file can decode to gigabytes

# What Pillow raises for damaged files, found by changing bytes in all these formats.
DAMAGE = (
    OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, OverflowError, struct.error,
    Image.DecompressionBombError,
)  # fmt: skip

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


class PictureError(FormatError):
    """A picture that cannot be read, or cannot be what is asked of it: the reason to count it by, the detail, and the
    picture's name where it is known."""

    def __init__(self, reason: str, detail: str, name: str = "") -> None:
        super().__init__(": ".join(filter(None, (name, reason, detail))))
        self.reason, self.detail, self.name = reason, detail, name

    def __reduce__(self) -> tuple[type["PictureError"], tuple[str, str, str]]:
        return PictureError, (self.reason, self.detail, self.name)


class _Silence:
    """`warnings.catch_warnings` for several threads, which it is not for: the first that comes in sets the filter, and
    the last that goes takes it back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._filter = warnings.catch_warnings(action="ignore")
                self._filter.__enter__()
            self._inside += 1

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._filter.__exit__(None, None, None)


_silence = _Silence()


@contextmanager
def damage_named(name: str = "") -> Iterator[None]:
    """What a damaged or unfit picture raises inside becomes a PictureError of that name.

    Pillow's warnings about the metadata of single files are dropped.
    """
    try:
        with _silence:
            yield
    except PictureError as error:
        raise PictureError(error.reason, error.detail, error.name or name) from error
    except Image.DecompressionBombError as error:
        raise PictureError("image too large", _describe(error), name) from error
    except DAMAGE as error:
        raise PictureError("unreadable image", _describe(error), name) from error


def open_picture(content: bytes) -> Image.Image:
    """Open a picture upright, decoded only if it has to be turned: `format` is then None, as of any picture made.

    To be used, as what decodes the result, within `damage_named`. Raises PictureError where it is too large.
    """
    image = Image.open(io.BytesIO(content), formats=tuple(dict.fromkeys(FORMATS.values())))
    check_pixels(*image.size)
    if image.format == "TIFF":
        _silence_libtiff()
    turn = TURNS.get(_orientation(image))
    return image if turn is None else to_rgb(image).transpose(turn)


def to_rgb(image: Image.Image) -> Image.Image:
    """Eight bits a channel. Pillow's own conversion clips 16-bit grey, which turns pictures white."""
    if image.mode.startswith("I"):
        grey = np.asarray(image, np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise PictureError("unreadable image", f"pixel values {grey.min()} to {grey.max()}: neither 8 nor 16 bits")
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise PictureError("unreadable image", "floating-point pixels: nothing says which value is white")
    return image.convert("RGB")


def decode_picture(content: bytes, name: str = "") -> Image.Image:
    """A picture upright in RGB. Raises PictureError that names it."""
    with damage_named(name):
        return to_rgb(open_picture(content))


def check_pixels(width: int, height: int) -> None:
    """Raise PictureError where a picture is larger than we decode, or than it may become."""
    if min(width, height) < 1:
        raise PictureError("unreadable image", f"{width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise PictureError("image too large", f"{width} x {height} pixels, limit {MAX_PIXELS:,} pixels")


def resized_size(width: int, height: int, shorter: int) -> tuple[int, int]:
    """Width and height with a shorter side of `shorter`, rounded. Raises PictureError where they are too large."""
    scale = shorter / min(width, height)
    width, height = max(shorter, round(width * scale)), max(shorter, round(height * scale))
    check_pixels(width, height)
    return width, height


def _orientation(image: Image.Image) -> int:
    if image.format == "PNG":
        image.load()  # metadata may follow the pixels; damaged pixels must not pass for damaged metadata
    with suppress(*DAMAGE):  # metadata without meaning leave the picture as it is stored
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        return orientation if isinstance(orientation, int) else 1
    return 1


@cache
def _silence_libtiff() -> None:
    """Keep libtiff from printing about damaged files, without a name, what Pillow raises anyway."""
    # A wheel without libtiff's symbols has nothing to silence.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


def _describe(error: Exception) -> str:
    # Pillow's own message for it holds a memory address.
    if isinstance(error, UnidentifiedImageError):
        return "no image of a known format"
    text = str(error).strip().splitlines()
    return text[0][:200] if text else type(error).__name__
