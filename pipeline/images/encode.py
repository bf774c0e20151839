"""Turn pixels into the bytes of an image file."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...manifests.sources.stream import Stream


def encode_image(image: NDArray[np.uint8] | Image.Image, stream: Stream) -> bytes:
    """Encode an image [H, W, 3] uint8 as the stream asks: JPEG 4:4:4, or lossless PNG or WebP."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    if stream.image_format == "jpeg":
        picture.save(buffer, "JPEG", quality=stream.jpeg_quality, subsampling="4:4:4")
    elif stream.image_format == "png":
        picture.save(buffer, "PNG")
    else:
        picture.save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def encode_mask(mask: NDArray[np.bool_] | NDArray[np.uint8]) -> bytes:
    """Encode a mask [H, W] as a PNG: of one bit, or of grey values where it is soft."""
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return buffer.getvalue()
