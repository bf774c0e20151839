"""Repack natural images."""

from collections.abc import Iterator, Sequence

from ...manifests.sources.natural import NaturalStream
from ...manifests.sources.stream import Sample
from ..images.encode import encode_image
from ..images.pictures import LostImageError, decode_picture, fit_picture, naming, read_listed
from .rendering import RenderContext, Rendered


def repack_natural(context: RenderContext, stream: NaturalStream, samples: Sequence[Sample]) -> Iterator[Rendered]:
    """Read each sample's file; one that cannot be read is a failure with its path, not an exception."""
    listing = context.facts.inputs[stream.images]
    for sample in samples:
        path = sample.parameters["path"]
        try:
            content = read_listed(listing, stream.images, path)
            with naming(path):
                encoded = repack_image(content, stream)
        except LostImageError as error:
            yield Rendered(sample, failure=error.reason, detail=error.detail)
        else:
            yield Rendered(sample, encoded=encoded)


def repack_image(content: bytes, stream: NaturalStream) -> bytes:
    """Image bytes upright, RGB, resized and cropped as the stream asks; untouched where nothing has to change.

    Raises what `decode_picture` and `fit_picture` raise.
    """
    decoded = decode_picture(content)
    keeps_size = stream.resize is None and stream.crop is None
    if keeps_size and decoded.as_stored and decoded.file_format == stream.image_format:
        return content
    return encode_image(fit_picture(decoded.image, stream.resize, stream.crop), stream)
