"""Turn pixels into the bytes of an image file, and mark those that a network made."""

import io
import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from ...manifests.recipe import Recipe
from ...manifests.sources.stream import Stream

# IPTC's Digital Source Type in an XMP packet: what laws and platforms read generated pictures by. Without times, so
# that a stream's is always the same.
XMP = """<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF \
xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" \
xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" \
Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/{kind}"/></rdf:RDF></x:xmpmeta>\
<?xpacket end="r"?>"""
JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"
PNG_XMP = "XML:com.adobe.xmp"


def make_mark(recipe: Recipe, stream: Stream) -> str:
    """The packet that a stream's pictures carry; "" where its recipe wants none, or no network had a part in them."""
    return XMP.format(kind=stream.digital_source_type) if recipe.marks and stream.digital_source_type else ""


def encode_image(image: NDArray[np.uint8] | Image.Image, stream: Stream, mark: str = "") -> bytes:
    """Encode an image [H, W, 3] uint8 as the stream asks: JPEG 4:4:4, or lossless PNG or WebP, with a mark in XMP."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    if stream.image_format == "jpeg":
        packet = JPEG_XMP + mark.encode()
        segment = b"\xff\xe1" + struct.pack(">H", 2 + len(packet)) + packet if mark else b""
        picture.save(buffer, "JPEG", quality=stream.jpeg_quality, subsampling="4:4:4", extra=segment)
    elif stream.image_format == "png":
        chunks = PngImagePlugin.PngInfo()
        if mark:
            chunks.add_itxt(PNG_XMP, mark)
        picture.save(buffer, "PNG", pnginfo=chunks)
    else:
        picture.save(buffer, "WEBP", lossless=True, xmp=mark.encode())
    return buffer.getvalue()


def encode_mask(mask: NDArray[np.bool_] | NDArray[np.uint8]) -> bytes:
    """Encode a mask [H, W] as a PNG: of one bit, or of grey values where it is soft."""
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return buffer.getvalue()
