"""The records of a stream: found, checked against its plan, and added up to what a manifest says of it."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from .errors import FormatError, shorten
from .manifest import PART_SIZE, Part, Record, StreamEntry, part_name, record_name, shard_name
from .shard import index_path
from .sources.stream import StreamPlan
from .storage import Storage


@dataclass
class StreamTotals:
    """Add the records of part after part; then `entry` is what the manifest must say."""

    plan: StreamPlan
    parts: list[Part] = field(default_factory=list)
    environments: set[str] = field(default_factory=set)
    failures: Counter[str] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)
    shard_samples: list[int] = field(default_factory=list)
    size: int = 0  # bytes of its shards
    seconds: float = 0.0
    retried: int = 0

    def add(self, records: list[Record], content: bytes) -> None:
        """Add the records of the next part, whose file has that content."""
        for record in records:
            self.environments.add(record.environment)
            self.failures.update(failure.reason for failure in record.failures)
            self.remarks.update(record.remarks)
            self.shard_samples.append(record.samples)
            self.size += record.bytes
            self.seconds += record.seconds
            self.retried += record.attempt > 1
        self.parts.append(
            Part(
                path=part_name(self.plan.stream.name, len(self.parts)),
                sha256=hashlib.sha256(content).hexdigest(),
                first_shard=records[0].shard_index,
                shards=len(records),
                samples=sum(record.samples for record in records),
            )
        )

    def entry(self) -> StreamEntry:
        """The manifest's entry of the stream."""
        stream = self.plan.stream
        return StreamEntry(
            name=stream.name,
            source=stream.source,
            role=stream.role,
            split=stream.split,
            image_extension=stream.extension,
            class_names=list(stream.class_names(self.plan.facts)),
            samples=sum(part.samples for part in self.parts),
            shards=self.plan.num_shards,
            bytes=self.size,
            failures=dict(self.failures),
            remarks=dict(self.remarks),
            parts=self.parts,
        )


def part_shards(plan: StreamPlan) -> list[range]:
    """The shards of each part of a stream."""
    return [range(start, min(start + PART_SIZE, plan.num_shards)) for start in range(0, plan.num_shards, PART_SIZE)]


def read_planned_part(storage: Storage, plan: StreamPlan, part_index: int) -> tuple[list[Record], bytes]:
    """The records of a part, one for each shard that the plan has in it, and the file's content.

    Raises FormatError where the file is missing or damaged, or a record is not of its shard.
    """
    path = part_name(plan.stream.name, part_index)
    try:
        content = storage.read(path)
    except FileNotFoundError as error:
        raise FormatError(f"{storage / path}: missing") from error
    records = [Record.from_json(line, storage / path) for line in content.splitlines()]
    shards = part_shards(plan)[part_index]
    if len(records) != len(shards):
        raise FormatError(f"{storage / path}: {len(records)} records, the recipe makes {len(shards)} shards there")
    for shard_index, record in zip(shards, records, strict=True):
        check_record(plan, shard_index, record, storage / path)
    return records, content


def load_record(storage: Storage, plan: StreamPlan, shard_index: int) -> Record:
    """The record of one shard, in a file of its own or in a part.

    Raises FormatError where there is none, or it is damaged or not of that shard.
    """
    name = record_name(plan.stream.name, shard_index)
    part, place = part_name(plan.stream.name, shard_index // PART_SIZE), shard_index % PART_SIZE
    if storage.exists(name):
        content = storage.read(name)
    elif storage.exists(part):
        name, lines = part, storage.read(part).splitlines()
        content = lines[place] if place < len(lines) else b""
    else:
        raise FormatError(f"{storage / name}: missing, and so is {part}: no record of that shard")
    record = Record.from_json(content, storage / name)
    check_record(plan, shard_index, record, storage / name)
    return record


def check_record(plan: StreamPlan, shard_index: int, record: Record, location: str) -> None:
    """Raise FormatError that begins with `location` where a record is not of that shard of the plan."""
    stream, size = plan.stream.name, plan.shard_size(shard_index)
    holes = len({failure.key for failure in record.failures})
    for found, expected in (
        (f"stream {record.stream}", f"stream {stream}"),
        (f"shard {record.shard_index}", f"shard {shard_index}"),
        (f"path {record.path}", f"path {shard_name(stream, shard_index)}"),
        (f"{record.samples} samples and {holes} holes", f"{size - holes} samples and {holes} holes"),
    ):
        if found != expected:
            where = f"{location}: record of {stream} shard {shard_index}"
            raise FormatError(f"{where}: {shorten(found)}, planned {expected}")


def sum_lines(record: Record) -> Iterator[tuple[str, str]]:
    """What SHA256SUMS says of a shard: digest and name, of the tar and of its index."""
    yield record.sha256, record.path
    yield record.index_sha256, str(index_path(PurePosixPath(record.path)))
