"""The leading images of each class of a stream, as a test set of its own."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from ...train.checkpoint import Preprocessing
from .streams import StreamSet
from .test_set import Clusters, Grouping, Marked


@dataclass(frozen=True)
class StreamSubset:
    """Some positions of a stream; everything else is the stream's."""

    whole: StreamSet
    positions: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.whole.name

    @property
    def protocol(self) -> str:
        return f"{self.whole.protocol}; the first {len(self.positions):,} of {len(self.whole):,} images, class by class"

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.whole.class_names

    @property
    def marked(self) -> Marked:
        return self.whole.marked

    @property
    def notes(self) -> tuple[str, ...]:
        return self.whole.notes

    @property
    def allowed(self) -> tuple[int, ...] | None:
        return self.whole.allowed

    @property
    def groups(self) -> tuple[tuple[int, ...], ...] | None:
        return self.whole.groups

    def __len__(self) -> int:
        return len(self.positions)

    def labels(self, position: int) -> tuple[int, ...]:
        return self.whole.labels(self.positions[position])

    def read(self, position: int) -> bytes:
        return self.whole.read(self.positions[position])

    def key(self, position: int) -> str:
        return self.whole.key(self.positions[position])

    def digest(self) -> str:
        places = ",".join(map(str, self.positions))
        return hashlib.sha256(f"{self.whole.digest()}\t{places}".encode()).hexdigest()

    def stamp(self) -> str:
        return self.whole.stamp()

    def transform(self, preprocessing: Preprocessing) -> Callable[[Image.Image], Tensor]:
        return self.whole.transform(preprocessing)

    def frame(self, picture: Image.Image) -> Image.Image:
        return self.whole.frame(picture)

    def clusters(self) -> Clusters | None:
        found = self.whole.clusters()
        return found and Clusters(found.unit, found.numbers[list(self.positions)])

    def grouping(self) -> Grouping | None:
        return None


def first_of_each_class(whole: StreamSet, count: int) -> StreamSubset:
    """The first `count` images of each class, in the stream's order."""
    seen: Counter[tuple[int, ...]] = Counter()
    positions = []
    for position in range(len(whole)):
        labels = whole.labels(position)
        seen[labels] += 1
        if seen[labels] <= count:
            positions.append(position)
    return StreamSubset(whole, tuple(positions))
