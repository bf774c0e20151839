"""Read the pictures that samples refer to: of earlier streams, or of outside inputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...manifests.pictures import PictureError
from ..images.pictures import read_listed
from .rendering import RenderContext

MASK = "mask.png"


@dataclass(frozen=True)
class Referred:
    """An encoded picture, what to call it, and its object's mask where its stream has masks."""

    name: str
    image: bytes
    mask: bytes | None = None


def read_referred(context: RenderContext, reference: Mapping[str, Any], with_mask: bool = False) -> Referred:
    """The picture of a reference. Raises PictureError where it cannot be read, GenintError where its input is not on
    this machine."""
    if "input" in reference:
        path = reference["path"]
        return Referred(path, read_listed(context.facts.inputs[reference["input"]], reference["input"], path))
    reader = context.reader(reference["stream"])
    found = reader.read(reference["sample_index"], (MASK,) if with_mask else ())
    if found is None:
        raise PictureError("its source is a hole", "lost when its own stream was built", reference["key"])
    return Referred(reference["key"], found[reader.extension], found.get(MASK))
