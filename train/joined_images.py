"""Streams of one name that several datasets have, as one stream."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..manifests.errors import UsageError
from .mapped_images import ImagesWithout, MappedImages
from .stream_images import Label, StreamImages
from .streams import Images, TrainStream

LOGGER = logging.getLogger("genint")


class JoinedImages:
    """Images of several parts that have the same classes, one part's shards after the other's."""

    def __init__(self, parts: Sequence[Images]) -> None:
        self.parts = list(parts)
        self.class_names = parts[0].class_names
        self.names_classes = parts[0].names_classes
        self.shard_sizes = [size for part in parts for size in part.shard_sizes]
        self._ends = list(accumulate(len(part) for part in parts))
        self._shard_ends = list(accumulate(len(part.shard_sizes) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, position: int) -> tuple[bytes, Label]:
        part, place = self._locate(position, self._ends)
        return part.read(place)

    def key(self, position: int) -> str:
        part, place = self._locate(position, self._ends)
        return part.key(place)

    def labels(self) -> NDArray[np.int64]:
        return np.concatenate([part.labels() for part in self.parts])

    def check(self) -> None:
        for part in self.parts:
            part.check()

    def check_shard(self, shard: int) -> None:
        part, place = self._locate(shard, self._shard_ends)
        part.check_shard(place)

    def fingerprint(self) -> dict[str, Any]:
        return {"kind": "joined", "parts": [part.fingerprint() for part in self.parts]}

    def _locate(self, position: int, ends: Sequence[int]) -> tuple[Images, int]:
        part = int(np.searchsorted(ends, position, side="right"))
        return self.parts[part], position - (ends[part - 1] if part else 0)


def count_left_out(images: Images) -> Counter[str]:
    """Images that take no part, by why."""
    if isinstance(images, JoinedImages):
        return sum((count_left_out(part) for part in images.parts), Counter())
    if isinstance(images, ImagesWithout):
        return Counter({images.reason: images.left_out}) + count_left_out(images.images)
    return count_left_out(images.images) if isinstance(images, MappedImages) else Counter()


def join_streams(streams: Sequence[TrainStream]) -> list[TrainStream]:
    """Streams of one name and term become one, where the first of them stands; what is there twice is taken once.

    Raises UsageError where the classes of two differ, with both.
    """
    groups: dict[tuple[str, str], list[TrainStream]] = {}
    for stream in streams:
        group = groups.setdefault((stream.name, stream.term), [])
        if any(_same(stream.images, other.images) for other in group):
            LOGGER.warning("note: stream %s: two datasets have the same images; they are taken once", stream.name)
        else:
            group.append(stream)
    return [_join(group) for group in groups.values()]


def _join(group: Sequence[TrainStream]) -> TrainStream:
    first = group[0].images
    for images in (stream.images for stream in group[1:]):
        if images.class_names != first.class_names:
            classes = zip(first.class_names, images.class_names, strict=False)
            place = next((i for i, (ours, theirs) in enumerate(classes) if ours != theirs), None)
            found = (
                f"{len(first.class_names)} and {len(images.class_names)} classes"
                if place is None
                else f"class {place} is {first.class_names[place]!r} and {images.class_names[place]!r}"
            )
            raise UsageError(
                f"two datasets have a stream {group[0].name!r} of other classes: {found}; name the classes of the run "
                "with --classes, or map them with --class-map FILE"
            )
    return group[0] if len(group) == 1 else replace(group[0], images=JoinedImages([s.images for s in group]))


def _same(ours: Images, theirs: Images) -> bool:
    if ours.fingerprint() == theirs.fingerprint():
        return True
    if not (isinstance(ours, StreamImages) and isinstance(theirs, StreamImages)):
        return False
    return ours.content is not None and ours.content == theirs.content
