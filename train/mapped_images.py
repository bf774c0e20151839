"""Images under the classes of a run: those of a stream by other names, and those of its classes alone."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .stream_images import UNKNOWN, Label
from .streams import Images

# Why images are left out, as a run's fingerprint has it.
HELD_OUT = "held out"
OTHER_CLASSES = "of other classes"


class ImagesWithout:
    """Images less those at some positions, shard by shard as they were; `reason` says why."""

    def __init__(self, images: Images, without: NDArray[np.int64], reason: str) -> None:
        self.images = images
        self.left_out, self.reason = len(without), reason
        self._which = hashlib.sha256(without.astype(np.int64).tobytes()).hexdigest()
        self.class_names = images.class_names
        self.names_classes = images.names_classes
        self._positions = np.setdiff1d(np.arange(len(images)), without, assume_unique=True)
        ends = np.cumsum(np.asarray(images.shard_sizes, np.int64))
        taken = np.bincount(np.searchsorted(ends, without, side="right"), minlength=len(ends))
        sizes = np.asarray(images.shard_sizes, np.int64) - taken
        # Shards that were held out whole are left out: a shard's place among the others must still be known.
        self._shards = np.flatnonzero(sizes).tolist()
        self.shard_sizes = sizes[self._shards].tolist()

    def __len__(self) -> int:
        return len(self._positions)

    def read(self, position: int) -> tuple[bytes, Label]:
        return self.images.read(int(self._positions[position]))

    def key(self, position: int) -> str:
        return self.images.key(int(self._positions[position]))

    def labels(self) -> NDArray[np.int64]:
        return self.images.labels()[self._positions]

    def check(self) -> None:
        self.images.check()

    def check_shard(self, shard: int) -> None:
        self.images.check_shard(self._shards[shard])

    def fingerprint(self) -> dict[str, Any]:
        # A seed decides which images are held out, and the configuration has it.
        which = {} if self.reason == HELD_OUT else {"which": self._which}
        return {**self.images.fingerprint(), self.reason: self.left_out, **which}


class MappedImages:
    """Images whose class `c` is class `mapping[c]` of the run. One whose class is None has no part in it."""

    names_classes = True

    def __init__(self, images: Images, mapping: Sequence[int | None], class_names: tuple[str, ...]) -> None:
        self.class_names = class_names
        self._mapping = list(mapping)
        self.images = images
        if None in mapping:
            others = np.array([label is None for label in mapping])
            self.images = ImagesWithout(images, np.flatnonzero(others[images.labels()]), OTHER_CLASSES)
        self.shard_sizes = self.images.shard_sizes

    def __len__(self) -> int:
        return len(self.images)

    def read(self, position: int) -> tuple[bytes, Label]:
        content, label = self.images.read(position)
        if isinstance(label, int):
            return content, self._map(label)
        # Of a counterfactual, a mechanism may be of a class that has no part in the run.
        return content, tuple(self._map(one) if one != UNKNOWN else UNKNOWN for one in label)

    def key(self, position: int) -> str:
        return self.images.key(position)

    def labels(self) -> NDArray[np.int64]:
        return np.array([self._map(label) for label in range(len(self._mapping))], np.int64)[self.images.labels()]

    def check(self) -> None:
        self.images.check()

    def check_shard(self, shard: int) -> None:
        self.images.check_shard(shard)

    def fingerprint(self) -> dict[str, Any]:
        mapping = hashlib.sha256(repr((self._mapping, self.class_names)).encode()).hexdigest()
        return {**self.images.fingerprint(), "classes": mapping}

    def _map(self, label: int) -> int:
        mapped = self._mapping[label]
        return UNKNOWN if mapped is None else mapped
