"""Repack natural images."""

from collections.abc import Iterator, Sequence

from ...manifests.pictures import PictureError, damage_named
from ...manifests.sources.natural import NaturalStream
from ...manifests.sources.stream import Sample
from ..images.encode import encode_image
from ..images.pictures import decode_stored, fit_picture, read_listed
from .rendering import RenderContext, Rendered


def repack_natural(context: RenderContext, stream: NaturalStream, samples: Sequence[Sample]) -> Iterator[Rendered]:
    """Read each sample's file; one that cannot be read is a failure with its path, not an exception."""
    listing = context.facts.inputs[stream.images]
    for sample in samples:
        path = sample.parameters["path"]
        try:
            content = read_listed(listing, stream.images, path)
            with damage_named(path):
                encoded = repack_image(content, stream)
        except PictureError as error:
            yield Rendered(sample, failure=error.reason, detail=f"{error.name}: {error.detail}")
        else:
            yield Rendered(sample, encoded=encoded)


def repack_image(content: bytes, stream: NaturalStream) -> bytes:
    """Image bytes upright, RGB, resized and cropped as the stream asks; untouched where nothing has to change.

    Raises PictureError.
    """
    decoded = decode_stored(content)
    keeps_size = stream.resize is None and stream.crop is None
    if keeps_size and decoded.as_stored and decoded.file_format == stream.image_format:
        return content
    return encode_image(fit_picture(decoded.image, stream.resize, stream.crop), stream)
