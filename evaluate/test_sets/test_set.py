"""What a test set is to those who evaluate on it, and the sets whose images are files below a folder."""

import hashlib
import json
import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ...manifests.errors import FormatError, UsageError, shorten
from ...manifests.folders import read_file
from ...manifests.inputs import Listing
from ...train.checkpoint import Preprocessing

# official: a published benchmark as published. own: the user's. generated: a corrupted copy that we made, whose
# errors are never compared with published ones.
Marked = Literal["official", "own", "generated"]

# Images whose bytes enter a set's digest.
SAMPLED: Final = 32

# Drawing fewer classes again says little of what others would give.
FEWEST_CLASSES: Final = 20
# Of more groups than this, a report of each says nothing; a number that varies freely is no group.
MOST_GROUPS: Final = 1000
LONGEST_GROUP: Final = 100


@dataclass(frozen=True, eq=False)
class Clusters:
    """Which images of a set are no independent draws: `numbers` [N] are alike for those of one latent, photo or class,
    as `unit` says."""

    unit: str
    numbers: NDArray[np.int64]

    @property
    def count(self) -> int:
        return len(np.unique(self.numbers))


@dataclass(frozen=True, eq=False)
class Grouping:
    """The group of each image of a set: `numbers` [N] are places in `names`."""

    names: tuple[str, ...]
    numbers: NDArray[np.int64]

    def digest(self) -> str:
        """sha256 of which image is in which group."""
        return hashlib.sha256(json.dumps([self.names, self.numbers.tolist()]).encode()).hexdigest()


class TestSet(Protocol):
    """Labelled images in a fixed order, read one by one, with the rules of their benchmark."""

    @property
    def name(self) -> str: ...

    @property
    def protocol(self) -> str:
        """Transform and label rule, in words: printed next to every number, and part of what identifies it."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """What labels count through; wnids for ImageNet's."""
        ...

    @property
    def marked(self) -> Marked: ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of its numbers should be told; empty where all is as expected."""
        ...

    @property
    def allowed(self) -> tuple[int, ...] | None:
        """Classes among which predictions are made; None for all of them."""
        ...

    @property
    def groups(self) -> tuple[tuple[int, ...], ...] | None:
        """Where answers are groups of classes: the classes of each, whose mean probability is the group's. Labels are
        then numbers of groups. None where each class is an answer."""
        ...

    def __len__(self) -> int: ...

    def labels(self, position: int) -> tuple[int, ...]:
        """Labels of an image: a prediction of any of them is right."""
        ...

    def read(self, position: int) -> bytes:
        """The encoded image as published, borders included."""
        ...

    def key(self, position: int) -> str: ...

    def digest(self) -> str:
        """sha256 of what is in the set: its file names, sizes and labels, or its shards' digests."""
        ...

    def stamp(self) -> str:
        """What would be read now, in short: it differs where a file was written since, and shards are compared with
        their records. Kept predictions hold for it alone. Raises FormatError where a shard is not its record's."""
        ...

    def transform(self, preprocessing: Preprocessing) -> Callable[[Image.Image], Tensor]:
        """From an RGB picture to the uint8 [3, crop, crop] that a classifier of that preprocessing is given."""
        ...

    def frame(self, picture: Image.Image) -> Image.Image:
        """A picture made from an image of the set, as it may be written to a file: with the border it needs."""
        ...

    def clusters(self) -> Clusters | None:
        """What images were drawn together; None where each was drawn by itself, or nobody knows."""
        ...

    def grouping(self) -> Grouping | None:
        """Groups of images whose accuracies are told apart; None where the set has none. Raises UsageError or
        FormatError where it does not say an image's."""
        ...


@dataclass(frozen=True)
class FileSet:
    """Images in files: `paths` below `root` with their sizes in bytes and labels, and the classifier's transform."""

    name: str
    protocol: str
    class_names: tuple[str, ...]
    root: str
    paths: tuple[str, ...]
    sizes: tuple[int, ...]
    path_labels: tuple[tuple[int, ...], ...]
    marked: Marked
    notes: tuple[str, ...] = ()
    allowed: tuple[int, ...] | None = None
    groups: tuple[tuple[int, ...], ...] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def labels(self, position: int) -> tuple[int, ...]:
        return self.path_labels[position]

    def read(self, position: int) -> bytes:
        return read_image(os.path.join(self.root, self.paths[position]))

    def key(self, position: int) -> str:
        return self.paths[position]

    def digest(self) -> str:
        return self._digest

    @cached_property
    def _digest(self) -> str:
        """sha256 of names, sizes and labels, and of the bytes of SAMPLED images: cheap for a million files, and changed
        by any that comes, goes or grows, and by another making of all of them."""
        digest = hashlib.sha256()
        for path, size, labels in zip(self.paths, self.sizes, self.path_labels, strict=True):
            digest.update(f"{path}\t{size}\t{','.join(map(str, labels))}\n".encode())
        for position in range(0, len(self), max(1, len(self) // SAMPLED)):
            digest.update(hashlib.sha256(self.read(position)).digest())
        return digest.hexdigest()

    def stamp(self) -> str:
        digest = hashlib.sha256(self.digest().encode())
        for path in self.paths:
            found = _stat(os.path.join(self.root, path))
            digest.update(f"{found.st_size}\t{found.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def transform(self, preprocessing: Preprocessing) -> Callable[[Image.Image], Tensor]:
        return preprocessing.prepare

    def frame(self, picture: Image.Image) -> Image.Image:
        return picture

    def clusters(self) -> Clusters | None:
        """By class folder; by label where images are in one folder and each has one label."""
        if all("/" in path for path in self.paths):
            return clusters_of_classes([path.partition("/")[0] for path in self.paths])
        if any(len(labels) != 1 for labels in self.path_labels):
            return None
        return clusters_of_classes(self.path_labels)

    def grouping(self) -> Grouping | None:
        return None


def group_images(groups: Sequence[str], where: str) -> Grouping:
    """Images by the name of their group. Raises UsageError where there are too many groups, or a name is no name."""
    names = sorted(set(groups))
    if len(names) > MOST_GROUPS:
        few = " and ".join(shorten(repr(name)) for name in names[:2])
        raise UsageError(f"{where}: {len(names):,} groups, such as {few}; expected at most {MOST_GROUPS:,}")
    wrong = next((name for name in names if not name.strip() or len(name) > LONGEST_GROUP), None)
    if wrong is not None:
        raise UsageError(
            f"{where}: {shorten(repr(wrong))}: expected the name of a group, of at most {LONGEST_GROUP} characters"
        )
    places = {name: place for place, name in enumerate(names)}
    return Grouping(tuple(names), np.array([places[group] for group in groups], np.int64))


def clusters_of_classes(classes: Sequence[Hashable]) -> Clusters | None:
    """Images by their class; None where there are too few classes to draw them again."""
    numbers = number_distinct(classes)
    found = Clusters("class", numbers)
    return found if found.count >= FEWEST_CLASSES else None


def number_distinct(values: Sequence[Hashable]) -> NDArray[np.int64]:
    """A number [N] for each value, the same for equal ones, in the order in which they come."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], np.int64)


def _stat(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except FileNotFoundError as error:
        raise FormatError(f"{path}: missing") from error


def read_image(path: str) -> bytes:
    """The bytes of an image file. Raises FormatError that names it where it is gone, or no file."""
    try:
        return read_file(path)
    except FileNotFoundError as error:
        raise FormatError(f"{path}: missing") from error


def check_counts(listing: Listing, expected: Sequence[str], images: int | None, where: str) -> None:
    """Raise UsageError unless the folders are those `expected`, `images` in each (None: any number); it names the first
    that differs."""
    missing = sorted(set(expected) - set(listing.folders))
    unknown = sorted(set(listing.folders) - set(expected))
    if missing or unknown:
        found = [f"lacks class folders {_some(missing)}"] if missing else []
        found += [f"has {_some(unknown)}, which are none of its classes"] if unknown else []
        each = f" of {images} images" if images else ""
        raise UsageError(f"{where}: {' and '.join(found)}; expected {len(expected):,} class folders{each}")
    for folder, positions in zip(listing.folders, listing.class_ranges(), strict=True):
        if images is not None and len(positions) != images:
            raise UsageError(f"{where}: {len(positions)} images in class folder {folder}; expected {images}")


def incompleteness(found: int, published: int) -> str:
    """What a protocol says where a set has another number of images than was published; empty where it is whole."""
    return "" if found == published else f"; incomplete: {found:,} images, published are {published:,}"


def folder_labels(listing: Listing, labels: dict[str, int]) -> tuple[tuple[int, ...], ...]:
    """Labels of a listing's images by the folder they are in."""
    return tuple((labels[path.partition("/")[0]],) for path in listing.paths)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


def existing_folder(text: str, where: str) -> Path:
    """The folder of that name. Raises UsageError."""
    path = Path(text)
    if not path.is_dir():
        raise UsageError(f"{where}: no such folder")
    return path
