"""Repack natural images."""

import io
import struct
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from ...manifests.errors import GenintError
from ...manifests.sources.natural import NaturalStream
from ...manifests.sources.stream import Sample
from ..encode import encode_image
from ..rendering import RenderContext, Rendered

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


def repack_natural(context: RenderContext, stream: NaturalStream, samples: Sequence[Sample]) -> Iterator[Rendered]:
    """Read each sample's file; one that cannot be read is a failure with its path, not an exception.

    Raises GenintError where the whole input is gone: that is no reason to write shards of holes.
    """
    root = Path(context.facts.inputs[stream.images].root)
    for sample in samples:
        path = sample.parameters["path"]
        try:
            content = (root / path).read_bytes()
        except OSError as error:
            if not root.is_dir():
                raise GenintError(f"input {stream.images}: no folder {root} on this machine") from error
            yield Rendered(sample, failure="unreadable file", detail=f"{path}: {error.strerror}")
            continue
        try:
            yield Rendered(sample, encoded=repack_image(content, stream))
        except UnfitImageError as error:
            yield Rendered(sample, failure=error.reason, detail=f"{path}: {error}")
        except DAMAGE as error:
            yield Rendered(sample, failure="unreadable image", detail=f"{path}: {_describe(error)}")


def repack_image(content: bytes, stream: NaturalStream) -> bytes:
    """Image bytes upright, RGB, resized and cropped as the stream asks; untouched where nothing has to change.

    Raises UnfitImageError where the image is too large or too small, one of `DAMAGE` where the bytes are no image.
    """
    # Metadata warnings of single files would drown the build's own output.
    with warnings.catch_warnings(action="ignore"), _open(content) as opened:
        _check_pixels(*opened.size)
        turn = TURNS.get(opened.getexif().get(ExifTags.Base.Orientation, 1))
        opened.load()
        untouched = (
            turn is None
            and opened.mode == "RGB"
            and stream.resize is None
            and stream.crop is None
            and (opened.format or "").lower() == stream.image_format
        )
        if untouched:
            return content
        image = _to_rgb(opened)
    if turn is not None:
        image = image.transpose(turn)
    if stream.resize is not None:
        scale = stream.resize / min(image.size)
        width, height = (max(stream.resize, round(side * scale)) for side in image.size)
        _check_pixels(width, height)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    if stream.crop is not None:
        if min(image.size) < stream.crop:
            raise UnfitImageError("image too small", f"{image.width} x {image.height} pixels, crop of {stream.crop}")
        left, top = (image.width - stream.crop) // 2, (image.height - stream.crop) // 2
        image = image.crop((left, top, left + stream.crop, top + stream.crop))
    return encode_image(image, stream)


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
