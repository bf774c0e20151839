"""Read a stream's outside pictures: upright, RGB, of the size asked for, or lost for a reason that can be counted."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ...manifests.errors import GenintError
from ...manifests.inputs import Listing
from ...manifests.pictures import PictureError, damage_named, open_picture, resized_size, to_rgb


@dataclass(frozen=True)
class Decoded:
    """A picture upright in RGB; `as_stored` if that is what its file holds, in `file_format`."""

    image: Image.Image
    file_format: str
    as_stored: bool


def read_listed(listing: Listing, name: str, path: str) -> bytes:
    """The bytes of a file of input `name`.

    Raises PictureError where it cannot be read, GenintError where the whole input is gone: that is no reason to write
    shards of holes.
    """
    root = Path(listing.root)
    try:
        return listing.read(path)
    except OSError as error:
        if not root.is_dir():
            raise GenintError(f"input {name}: no folder {root} on this machine") from error
        raise PictureError("unreadable file", error.strerror or str(error), path) from error


def decode_stored(content: bytes, name: str = "") -> Decoded:
    """Decode an image file. Raises PictureError that names it."""
    with damage_named(name):
        opened = open_picture(content)
        file_format = (opened.format or "").lower()  # none of a picture that was turned
        return Decoded(to_rgb(opened), file_format, bool(file_format) and opened.mode == "RGB")


def fit_picture(image: Image.Image, resize: int | None, crop: int | None) -> Image.Image:
    """Resize to a shorter side (bicubic, antialiased), then cut the centre square. None leaves a step out.

    Raises PictureError where the image is too small for the crop, or would become too large.
    """
    if resize is not None:
        image = image.resize(resized_size(*image.size, resize), Image.Resampling.BICUBIC)
    if crop is not None:
        if min(image.size) < crop:
            raise PictureError("image too small", f"{image.width} x {image.height} pixels, crop of {crop}")
        left, top = (image.width - crop) // 2, (image.height - crop) // 2
        image = image.crop((left, top, left + crop, top + crop))
    return image


def fit_thumbnail(image: Image.Image, longest: int, crop: int) -> Image.Image:
    """Shrink to a longer side (Lanczos), never magnify, then cut the centre square: black where a side is shorter.

    It is what the released GenInt code does to contents and styles before it transfers.
    """
    image = image.copy()
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    left, top = (image.width - crop) / 2, (image.height - crop) / 2
    return image.crop((round(left), round(top), round(left) + crop, round(top) + crop))
