"""Streams of a finished genint dataset, found by its manifest."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from PIL import Image
from torch import Tensor

from ...manifests.errors import FormatError, UsageError, shorten
from ...manifests.manifest import load_manifest
from ...manifests.samples import StreamSamples
from ...manifests.storage import Storage
from ...train.checkpoint import Preprocessing
from .test_set import Marked


@dataclass(frozen=True)
class StreamSet:
    """One stream of a dataset; `samples` also holds what comes with its images, such as masks and nuisances."""

    name: str
    class_names: tuple[str, ...]
    samples: StreamSamples = field(repr=False)
    notes: tuple[str, ...] = ()
    protocol: str = "the classifier's own resize and crop; label of the sample, matched with its classes by name"
    marked: Marked = "own"
    allowed: tuple[int, ...] | None = None
    groups: tuple[tuple[int, ...], ...] | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def labels(self, position: int) -> tuple[int, ...]:
        return (class_label(self.samples, position, self.samples.read(position, ["cls"])),)

    def read(self, position: int) -> bytes:
        extension = self.samples.entry.image_extension
        try:
            return self.samples.read(position, [extension])[extension]
        except KeyError as error:
            raise FormatError(f"{self.samples.storage}: sample {self.key(position)} has no {extension}") from error

    def key(self, position: int) -> str:
        return self.samples.key(position)

    def digest(self) -> str:
        # Of the shards, not of their records: those also hold times.
        shards = "".join(f"{record.path}\t{record.sha256}\n" for record in self.samples.records)
        return hashlib.sha256(shards.encode()).hexdigest()

    def stamp(self) -> str:
        for shard in range(len(self.samples.records)):
            self.samples.check_shard(shard)
        return self.digest()

    def transform(self, preprocessing: Preprocessing) -> Callable[[Image.Image], Tensor]:
        return preprocessing.prepare

    def frame(self, picture: Image.Image) -> Image.Image:
        return picture


def class_label(samples: StreamSamples, position: int, members: Mapping[str, bytes]) -> int:
    """Label of a sample whose members were read. Raises FormatError where it has none of its stream's classes."""
    text, classes = members.get("cls", b""), len(samples.entry.class_names)
    # A label has at most six digits, as the pipeline writes them.
    label = int(text) if text.isdigit() and len(text) <= 6 else classes
    if label >= classes:
        raise FormatError(
            f"{samples.storage}: sample {samples.key(position)}: label {shorten(repr(text))}; expected a number below "
            f"{classes}"
        )
    return label


def open_streams(location: str, where: str) -> list[StreamSet]:
    """All natural streams of a dataset whose split is test, or the stream that `DATASET:STREAM` names, of any kind.

    Raises UsageError where there is none, FormatError where the dataset is not finished or a shard is missing.
    """
    url, _, stream = location.rpartition(":")
    # A colon may also belong to the location: s3://bucket/name.
    if not url or "/" in stream:
        url, stream = location, ""
    storage = Storage(url)
    manifest = load_manifest(storage)
    entries = [entry for entry in manifest.streams if entry.name == stream or not stream]
    if not stream:
        entries = [entry for entry in entries if entry.split == "test" and entry.role == "natural"]
    if not entries:
        known = ", ".join(f"{entry.name} ({entry.role}, {entry.split})" for entry in manifest.streams)
        wanted = f"stream {stream!r}" if stream else "natural stream whose split is test"
        raise UsageError(f"{where}: dataset {manifest.name!r} has no {wanted}; its streams: {known}")
    sets = []
    for entry in entries:
        samples = StreamSamples(storage, entry)
        samples.check_sizes()
        if not len(samples):
            raise UsageError(f"{where}: stream {entry.name!r} holds no sample")
        holes = sum(entry.failures.values())
        notes = (f"{holes:,} samples are missing from the dataset: {entry.failures}",) if holes else ()
        sets.append(StreamSet(f"{manifest.name}/{entry.name}", tuple(entry.class_names), samples, notes))
    return sets
