"""Repack natural images."""

import io
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import ExifTags, Image, ImageOps

from ...manifests.sources.natural import NaturalStream
from ...manifests.sources.stream import Sample
from ..encode import encode_image
from ..rendering import RenderContext, Rendered

MAX_PIXELS = 178_956_970  # Pillow's own warning limit, made an error: a small file can decode to gigabytes


def repack_natural(context: RenderContext, stream: NaturalStream, samples: Sequence[Sample]) -> Iterator[Rendered]:
    """Read each sample's file; one that cannot be read is a failure with its path, not an exception."""
    root = Path(context.facts.inputs[stream.images].root)
    for sample in samples:
        path = root / sample.parameters["path"]
        try:
            content = path.read_bytes()
            yield Rendered(sample, encoded=repack_image(content, stream))
        # Pillow reports damage with any of these, by file format.
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            reason = "image too large" if isinstance(error, Image.DecompressionBombError) else "unreadable image"
            message = str(error).replace(str(root), "").splitlines()[0] if str(error) else type(error).__name__
            yield Rendered(sample, failure=reason, detail=f"{sample.parameters['path']}: {message}")


def repack_image(content: bytes, stream: NaturalStream) -> bytes:
    """Image bytes upright, RGB, resized and cropped as the stream asks; untouched where nothing has to change.

    Raises OSError, SyntaxError or ValueError where they are no image, and Image.DecompressionBombError above the limit.
    """
    # Metadata warnings of single files would drown the build's own output.
    with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content)) as opened:
        if opened.width * opened.height > MAX_PIXELS:
            raise Image.DecompressionBombError(f"{opened.width} x {opened.height} pixels, limit {MAX_PIXELS}")
        upright = opened.getexif().get(ExifTags.Base.Orientation, 1) == 1
        opened.load()
        untouched = (
            upright
            and opened.mode == "RGB"
            and stream.resize is None
            and stream.crop is None
            and (opened.format or "").lower() == stream.image_format
        )
        if untouched:
            return content
        image = ImageOps.exif_transpose(opened).convert("RGB")
    if stream.resize is not None:
        scale = stream.resize / min(image.size)
        width, height = (max(stream.resize, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    if stream.crop is not None:
        if min(image.size) < stream.crop:
            raise ValueError(f"{image.width} x {image.height} pixels are smaller than the crop of {stream.crop}")
        left, top = (image.width - stream.crop) // 2, (image.height - stream.crop) // 2
        image = image.crop((left, top, left + stream.crop, top + stream.crop))
    return encode_image(image, stream)
