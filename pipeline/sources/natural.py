"""Repack pictures that exist already."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...manifests.errors import FormatError
from ...manifests.inputs import Listing
from ...manifests.json_files import parse_json
from ...manifests.pictures import PictureError, damage_named
from ...manifests.sources.natural import ImportedStream, NaturalStream, PictureStream
from ...manifests.sources.stream import Sample
from ...manifests.tar_inputs import MAX_JSON_BYTES, group_members
from ...manifests.tar_members import Member
from ..images.encode import encode_image
from ..images.pictures import decode_stored, fit_picture, read_listed
from .rendering import RenderContext, Rendered


def repack_natural(
    context: RenderContext, stream: NaturalStream | ImportedStream, samples: Sequence[Sample]
) -> Iterator[Rendered]:
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


def repack_image(content: bytes, stream: PictureStream) -> bytes:
    """Image bytes upright, RGB, resized and cropped as the stream asks; untouched where nothing has to change.

    Raises PictureError.
    """
    decoded = decode_stored(content)
    keeps_size = stream.resize is None and stream.crop is None
    if keeps_size and decoded.as_stored and decoded.file_format == stream.image_format:
        return content
    return encode_image(fit_picture(decoded.image, stream.resize, stream.crop), stream)


def import_images(context: RenderContext, stream: ImportedStream, samples: Sequence[Sample]) -> Iterator[Rendered]:
    """The same for images that another tool has made, with what the `.json` beside each in its tar says of it."""
    listing = context.facts.inputs[stream.images]
    for result in repack_natural(context, stream, samples):
        if not listing.tars or result.failure:
            yield result
            continue
        path = result.sample.parameters["path"]
        try:
            described = _read_description(context, stream.images, listing, path)
        except (FormatError, OSError) as error:
            yield Rendered(result.sample, failure="unreadable description", detail=f"{path}: {error}")
        else:
            yield replace(result, parameters=described)


def _read_description(context: RenderContext, name: str, listing: Listing, path: str) -> Mapping[str, Any]:
    tar, extension, image = path.partition("/")[2].partition(".tar/")
    place = Path(listing.root) / f"{tar}{extension[:-1]}"
    key = f"descriptions of {name}: {place}"
    if key not in context.kept:
        groups = group_members(place)
        context.kept[key] = {group.name: group.members["json"] for group in groups if "json" in group.members}
    member: Member | None = context.kept[key].get(image)
    if member is None:
        return {}
    if member.size > MAX_JSON_BYTES:
        raise FormatError(f".json of {member.size:,} bytes; expected at most {MAX_JSON_BYTES:,}")
    with open(place, "rb") as file:
        described = parse_json(os.pread(file.fileno(), member.size, member.offset), ".json")
    if not isinstance(described, dict):
        raise FormatError(".json: expected an object")
    labels = described.pop("labels", None)
    return {"described": described, **({"labels": labels} if labels is not None else {})}
