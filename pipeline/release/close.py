"""Close a dataset: compact the records, list the digests, write the card, and last of all the manifest."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from ...manifests.dataset import Dataset, input_name
from ...manifests.errors import FormatError, shorten
from ...manifests.manifest import (
    FOLDER_SIZE,
    MANIFEST,
    PART_SIZE,
    RECIPE,
    RECORDS,
    SUMS,
    Environment,
    Manifest,
    Part,
    Record,
    StreamEntry,
    load_manifest,
    part_name,
    read_records,
    record_name,
)
from ...manifests.shard import TEMPORARY, index_path
from ...manifests.sources.stream import StreamPlan
from ...manifests.storage import Storage
from .card import write_card


class RecordStore:
    """The records of a dataset under way: a file each, over the parts of an earlier manifest if there was one."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def missing_shards(self, stream: str, num_shards: int) -> NDArray[np.int64]:
        """Shards without a record or without a tar, ascending. Reads folder listings only."""
        recorded = np.zeros(num_shards, bool)
        for start in range(0, num_shards, PART_SIZE):
            # A part is written whole, so its presence is enough.
            if self._storage.exists(part_name(stream, start // PART_SIZE)):
                recorded[start : start + PART_SIZE] = True
        present = np.zeros(num_shards, bool)
        for start in range(0, num_shards, FOLDER_SIZE):
            folder = f"{start // FOLDER_SIZE:04d}"
            for array, names, pattern in (
                (recorded, self._storage.list(f"{RECORDS}/{stream}/{folder}"), r"(\d{7})\.json"),
                (present, self._storage.list(f"{stream}/{folder}"), r".*-(\d{7})\.tar"),
            ):
                for name in names:
                    match = re.fullmatch(pattern, name)
                    if match and int(match[1]) < num_shards:
                        array[int(match[1])] = True
        return np.flatnonzero(~(recorded & present))

    def sweep(self, stream: str, num_shards: int) -> None:
        """Remove what writers that were killed left beside the shards. Only for the holder of the driver's lock."""
        if not self._storage.local:
            return  # a put into a bucket leaves nothing half done
        for start in range(0, num_shards, FOLDER_SIZE):
            folder = f"{stream}/{start // FOLDER_SIZE:04d}"
            for name in self._storage.list(folder):
                if TEMPORARY in name:
                    self._storage.remove(f"{folder}/{name}")

    def reopen(self) -> None:
        """The dataset is not complete (any more): take the mark of completeness away before anything changes."""
        self._storage.remove(MANIFEST)

    def records(self, stream: str, num_shards: int) -> Iterator[list[Record]]:
        """All records in shard order, in the lists that become parts. Memory does not grow with the dataset."""
        for start in range(0, num_shards, PART_SIZE):
            base = self._base(stream, start // PART_SIZE)
            fresh: set[str] = set()
            for folder in range(start // FOLDER_SIZE, -(-(start + PART_SIZE) // FOLDER_SIZE)):
                fresh |= {f"{folder:04d}/{name}" for name in self._storage.list(f"{RECORDS}/{stream}/{folder:04d}")}
            part = []
            for index in range(start, min(start + PART_SIZE, num_shards)):
                name = record_name(stream, index)
                if name.removeprefix(f"{RECORDS}/{stream}/") in fresh:
                    part.append(Record.model_validate_json(self._storage.read(name)))
                else:
                    part.append(base[index])
            yield part

    def clear(self, stream: str) -> None:
        """Drop the record files of a stream whose parts are written."""
        self._storage.remove(f"{RECORDS}/{stream}")

    def _base(self, stream: str, part_index: int) -> dict[int, Record]:
        name = part_name(stream, part_index)
        if not self._storage.exists(name):
            return {}
        records = (Record.model_validate_json(line) for line in self._storage.read(name).splitlines())
        return {record.shard_index: record for record in records}


def release(dataset: Dataset, lost_workers: int = 0) -> Manifest:
    """Write everything that closes a dataset whose shards are all there; the manifest comes last.

    Raises FormatError where a shard is not what its record says; that shard is made again by the next build.
    """
    storage, recipe, entry = dataset.storage, dataset.recipe, dataset.entry
    store = RecordStore(storage)
    with storage.replacing(SUMS) as sums_path:
        with open(sums_path, "w") as sums:
            plans = (dataset.plan(stream.name) for stream in recipe.streams)
            closed = [_close_stream(store, storage, plan, sums.write) for plan in plans]
            extra = [entry.directions] if entry.directions else []
            for name in [*extra, *(input_name(n) for n in recipe.listed_inputs()), RECIPE]:
                sums.write(f"{storage.sha256(name)}  {name}\n")
        sums_sha256 = hashlib.sha256(sums_path.read_bytes()).hexdigest()

    manifest = Manifest(
        name=recipe.name,
        fingerprint=entry.fingerprint,
        recipe_sha256=recipe.digest(),
        sums_sha256=sums_sha256,
        generator=entry.generator,
        directions=entry.directions,
        environments={
            key: Environment.model_validate_json(storage.read(f"{RECORDS}/environments/{key}.json"))
            for key in sorted(set().union(*(stream.environments for stream in closed)))
        },
        streams=[stream.entry for stream in closed],
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        shard_seconds=round(sum(stream.seconds for stream in closed), 1),
        retried_shards=sum(stream.retried_shards for stream in closed),
        lost_workers=lost_workers,
    )
    write_card(dataset, manifest)
    # Written last: a manifest on disk means that every shard is complete.
    storage.write(MANIFEST, manifest.model_dump_json(indent=1).encode() + b"\n")
    for stream in recipe.streams:
        store.clear(stream.name)
    return manifest


@dataclass(frozen=True)
class _ClosedStream:
    entry: StreamEntry
    environments: set[str]
    seconds: float
    retried_shards: int


def _close_stream(
    store: RecordStore, storage: Storage, plan: StreamPlan, write_sum: Callable[[str], object]
) -> _ClosedStream:
    """Compact a stream's records into parts and list the digests of its shards, a part at a time."""
    stream = plan.stream
    parts: list[Part] = []
    environments: set[str] = set()
    reasons: Counter[str] = Counter()
    remarks: Counter[str] = Counter()
    size, seconds, retried = 0, 0.0, 0
    for part_index, records in enumerate(store.records(stream.name, plan.num_shards)):
        for record in records:
            _check_sizes(storage, record)
            index = index_path(PurePosixPath(record.path))
            write_sum(f"{record.sha256}  {record.path}\n{record.index_sha256}  {index}\n")
            environments.add(record.environment)
            reasons.update(failure.reason for failure in record.failures)
            remarks.update(record.remarks)
            size, seconds, retried = size + record.bytes, seconds + record.seconds, retried + (record.attempt > 1)
        content = b"".join(record.model_dump_json().encode() + b"\n" for record in records)
        name = part_name(stream.name, part_index)
        storage.write(name, content)
        parts.append(
            Part(
                path=name,
                sha256=hashlib.sha256(content).hexdigest(),
                first_shard=records[0].shard_index,
                shards=len(records),
                samples=sum(record.samples for record in records),
            )
        )
    entry = StreamEntry(
        name=stream.name,
        source=stream.source,
        role=stream.role,
        split=stream.split,
        image_extension=stream.extension,
        class_names=list(stream.class_names(plan.facts)),
        samples=sum(part.samples for part in parts),
        shards=plan.num_shards,
        bytes=size,
        failures=dict(reasons),
        remarks=dict(remarks),
        parts=parts,
    )
    return _ClosedStream(entry, environments, seconds, retried)


def _check_sizes(storage: Storage, record: Record) -> None:
    index = str(index_path(PurePosixPath(record.path)))
    for name, expected in ((record.path, record.bytes), (index, record.index_bytes)):
        found = storage.size(name)
        if found != expected:
            storage.remove(record_name(record.stream, record.shard_index))
            storage.remove(record.path)
            raise FormatError(
                f"{storage / name}: {'missing' if found is None else f'{found} bytes'}, its record says {expected}; "
                "run the same command again to make it anew"
            )


def excess_failures(dataset: Dataset) -> list[str]:
    """Streams of a finished dataset that lost more samples than their recipe allows, each as one line."""
    manifest = load_manifest(dataset.storage)
    lines = []
    for stream, entry in zip(dataset.recipe.streams, manifest.streams, strict=True):
        lost = sum(entry.failures.values())
        if lost > stream.max_failures * (entry.samples + lost):
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(entry.failures.items()))
            failures = (failure for record in read_records(dataset.storage, entry) for failure in record.failures)
            first = next((f", first {shorten(failure.detail)}" for failure in failures if failure.detail), "")
            lines.append(
                f"stream {stream.name}: {lost} of {entry.samples + lost} samples lost ({reasons}{first}), "
                f"more than max_failures = {stream.max_failures}"
            )
    return lines
