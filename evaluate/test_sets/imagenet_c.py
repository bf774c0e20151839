"""ImageNet-C (Hendrycks & Dietterich 2019) and corrupted copies of other sets: one set a corruption and severity."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

from PIL import Image
from pydantic import Field
from torch import Tensor

from ...manifests.errors import FormatError, UsageError
from ...manifests.inputs import imagenet_wnids, list_images
from ...manifests.json_files import parse_json
from ...manifests.manifest import dump_json
from ...manifests.sources.stream import Table
from ...train.checkpoint import Preprocessing
from ..metrics.corruption_error import CORRUPTIONS, EXTRA_CORRUPTIONS, SEVERITIES, TEST_CORRUPTIONS
from .test_set import (
    Clusters,
    FileSet,
    Grouping,
    Marked,
    check_counts,
    existing_folder,
    folder_labels,
)

# In a corrupted copy that we made, next to the corruptions' folders.
MARKER: Final = "corrupted.json"
OFFICIAL_CROP: Final = 224
IMAGES_PER_CLASS: Final = 50
MOST_CLASSES: Final = 1_000_000


@dataclass(frozen=True)
class CorruptionSet:
    """Images of one corruption and severity (1 to 5). Its folder is listed at the first look into it.

    crop: side of the centre crop that is all that is done to an image, which was resized before it was corrupted;
    None: the classifier's own resize and crop. `images` is how many there must be, `per_class` in each class.
    """

    name: str
    corruption: str
    severity: int
    root: str
    class_names: tuple[str, ...]
    images: int
    per_class: int | None
    crop: int | None
    marked: Marked
    where: str
    notes: tuple[str, ...] = ()
    allowed: tuple[int, ...] | None = None
    groups: tuple[tuple[int, ...], ...] | None = None

    @property
    def protocol(self) -> str:
        done = f"CenterCrop({self.crop}) only, no resize" if self.crop else "the classifier's own resize and crop"
        whose = "official images" if self.marked == "official" else "generated corruptions, not comparable with CE"
        return f"{done}; one label; {whose}"

    def __len__(self) -> int:
        return self.images

    def labels(self, position: int) -> tuple[int, ...]:
        return self._files.labels(position)

    def read(self, position: int) -> bytes:
        return self._files.read(position)

    def key(self, position: int) -> str:
        return self._files.key(position)

    def digest(self) -> str:
        return self._files.digest()

    def stamp(self) -> str:
        return self._files.stamp()

    def transform(self, preprocessing: Preprocessing) -> Callable[[Image.Image], Tensor]:
        if self.crop is None:
            return preprocessing.prepare
        # Resized once, before the corruption: to resize again changes results.
        return replace(preprocessing, resize=None, crop=self.crop).prepare

    def frame(self, picture: Image.Image) -> Image.Image:
        return picture

    def clusters(self) -> Clusters | None:
        return self._files.clusters()

    def grouping(self) -> Grouping | None:
        return None

    @cached_property
    def _files(self) -> FileSet:
        where = f"{self.where}: {self.corruption}/{self.severity}"
        listing = list_images(self.root, where)
        if self.per_class:
            check_counts(listing, self.class_names, self.per_class, where)
        labels = {name: label for label, name in enumerate(self.class_names)}
        unknown = [folder for folder in listing.folders if folder not in labels]
        if unknown or len(listing.paths) != self.images:
            found = f"class folder {unknown[0]!r}" if unknown else f"{len(listing.paths):,} images"
            raise UsageError(f"{where}: {found}; expected {self.images:,} images of {len(labels):,} classes")
        return FileSet(
            self.name, self.protocol, self.class_names, listing.root, listing.paths, listing.sizes,
            folder_labels(listing, labels), self.marked,
        )  # fmt: skip


def open_imagenet_c(location: str, where: str) -> list[CorruptionSet]:
    """ImageNet-C's 75 sets, or 95 with the four extra corruptions; or those of a corrupted copy that we made.

    Raises UsageError that names what lacks.
    """
    root = existing_folder(location, where)
    if is_corrupted_copy(root):
        return open_corrupted(location, where)
    present = [corruption for corruption in EXTRA_CORRUPTIONS if (root / corruption).is_dir()]
    if present and len(present) < len(EXTRA_CORRUPTIONS):
        lacking = [corruption for corruption in EXTRA_CORRUPTIONS if corruption not in present]
        raise UsageError(f"{where}: has the extra corruption {present[0]} but lacks {', '.join(lacking)}")
    return open_official("imagenet-c", root, (*TEST_CORRUPTIONS, *present), where)


def open_official(name: str, root: Path, corruptions: Iterable[str], where: str) -> list[CorruptionSet]:
    """Published sets of 50,000 images each, CORRUPTION/SEVERITY/WNID/*. Raises UsageError that names what lacks."""
    wnids = imagenet_wnids()
    return [
        CorruptionSet(
            name=f"{name}/{corruption}/{severity}",
            corruption=corruption,
            severity=severity,
            root=str(folder),
            class_names=wnids,
            images=len(wnids) * IMAGES_PER_CLASS,
            per_class=IMAGES_PER_CLASS,
            crop=OFFICIAL_CROP,
            marked="official",
            where=where,
        )
        for corruption, severity, folder in _folders(root, corruptions, SEVERITIES, where)
    ]


def open_corrupted(location: str, where: str) -> list[CorruptionSet]:
    """The sets of a finished corrupted copy, marked generated. Raises UsageError where it is none or not whole."""
    root = existing_folder(location, where)
    marker = read_marker(root, where)
    if not marker["finished"]:
        raise UsageError(f"{where}: this corrupted copy is not finished; run the command that makes it again")
    source = marker["source"]
    return [
        CorruptionSet(
            name=f"{source['name']} (generated)/{corruption}/{severity}",
            corruption=corruption,
            severity=severity,
            root=str(folder),
            class_names=tuple(source["class_names"]),
            images=source["images"],
            per_class=None,
            crop=marker["crop"],
            marked="generated",
            where=where,
        )
        for corruption, severity, folder in _folders(root, marker["corruptions"], marker["severities"], where)
    ]


def is_corrupted_copy(folder: str | Path) -> bool:
    """Whether a folder is a corrupted copy that we made, finished or not."""
    return (Path(folder) / MARKER).is_file()


class CopySource(Table):
    """The set that a corrupted copy was made of."""

    name: str
    digest: str
    class_names: list[str] = Field(min_length=1, max_length=MOST_CLASSES)
    images: int = Field(ge=1)


class CopyImplementation(Table):
    """Whose corruptions, of which version, and where frost comes from: "grown", or the digest of the photographs."""

    name: str
    version: int
    frost: str


class CopyMarker(Table):
    """What a corrupted copy says of itself, with the digest of the rest: an altered number is no fact any more."""

    generated: Literal[True]
    finished: bool
    source: CopySource
    corruptions: list[str] = Field(min_length=1)
    severities: list[int] = Field(min_length=1)
    seed: int = Field(ge=0)
    resize: int | None = Field(ge=1)
    crop: int | None = Field(ge=1)
    implementation: CopyImplementation
    versions: dict[str, str]
    sha256: str


def dump_marker(marker: Mapping[str, Any]) -> bytes:
    """A marker's file."""
    return (json.dumps({**marker, "sha256": _digest(marker)}, indent=1, sort_keys=True) + "\n").encode()


def _digest(marker: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in marker.items() if key != "sha256"}
    return hashlib.sha256(dump_json(rest)).hexdigest()


def read_marker(root: Path, where: str) -> dict[str, Any]:
    """What a corrupted copy says of itself. Raises UsageError where it says nothing, FormatError if damaged."""
    path = root / MARKER
    if not path.is_file():
        raise UsageError(f"{where}: no {MARKER}: not a corrupted copy that genint-evaluate corrupt made")
    content = path.read_bytes()
    tree = parse_json(content, path)
    if isinstance(tree, dict) and "generated" in tree and "implementation" not in tree:
        raise UsageError(f"{where}: made by an earlier version with other corruptions; delete it and make it again")
    marker = CopyMarker.from_json(content, str(path)).model_dump(exclude={"sha256"})
    if not set(marker["corruptions"]) <= set(CORRUPTIONS) or not set(marker["severities"]) <= set(SEVERITIES):
        raise FormatError(f"{path}: damaged: unknown corruptions or severities")
    if tree["sha256"] != _digest(tree):
        raise FormatError(f"{path}: damaged: altered since genint-evaluate corrupt wrote it; make the copy again")
    return marker


def _folders(
    root: Path, corruptions: Iterable[str], severities: Sequence[int], where: str
) -> list[tuple[str, int, Path]]:
    folders = [
        (corruption, severity, root / corruption / str(severity))
        for corruption in corruptions
        for severity in severities
    ]
    missing = [f"{corruption}/{severity}" for corruption, severity, folder in folders if not folder.is_dir()]
    if missing:
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        raise UsageError(f"{where}: lacks {', '.join(missing[:8])}{more}")
    return folders
