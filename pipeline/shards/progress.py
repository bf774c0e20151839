"""How far a build is: samples of shards that are being written, and the time that is left by what samples cost."""

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...manifests.console import format_seconds
from ...manifests.manifest import RECORDS, Record, shard_name
from ...manifests.shard import TEMPORARY
from ...manifests.storage import Storage
from ...manifests.tar_members import BLOCK, parse_header

# What a build says of itself while it works, for `status`; gone when it has ended well.
PROGRESS = f"{RECORDS}/progress.json"
# Seconds between two of these.
WRITE_EVERY = {True: 5.0, False: 30.0}  # in a local folder, in a bucket


# Of a tar: where to read on, samples, the last one's key.
_Seen = tuple[int, int, bytes]


# Of streams whose cost is not known; more are counted.
MOST_NAMED = 3


class GrowingTars:
    """Samples in tars that are being written, counted by their headers. In a bucket none can be seen."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._seen: dict[Path, _Seen] = {}

    def count(self, shards: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """Samples that the unfinished tars of these shards hold by now. What is known of others is forgotten."""
        before, self._seen = self._seen, {}
        return {shard: self._count(*shard, before) for shard in shards}

    def _count(self, stream: str, shard_index: int, before: Mapping[Path, _Seen]) -> int:
        if not self._storage.local:
            return 0
        path = self._storage.local_path(shard_name(stream, shard_index))
        found = path.parent.glob(f"{path.name}{TEMPORARY}*")
        return max((self._read(tar, before.get(tar, (0, 0, b""))) for tar in found), default=0)

    def _read(self, path: Path, seen: _Seen) -> int:
        offset, samples, key = seen
        try:
            with open(path, "rb") as file:
                while len(block := os.pread(file.fileno(), BLOCK, offset)) == BLOCK:
                    header = parse_header(block)
                    found = header.name.partition(b".")[0]
                    samples, key = samples + (found != key), found
                    offset += BLOCK + -(-header.size // BLOCK) * BLOCK
        except (OSError, ValueError):  # it has just been finished, or is at its end
            pass
        self._seen[path] = offset, samples, key
        return samples


@dataclass
class Costs:
    """Worker seconds of a sample of each stream, from shards that are made, or are far enough."""

    _seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    _samples: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, record: Record) -> None:
        self._seconds[record.stream] += record.seconds
        self._samples[record.stream] += record.samples + len(record.failures)

    def seconds(self, stream: str, under_way: Iterable[tuple[float, int]] = ()) -> float | None:
        """Of one sample; None where none is made yet. under_way: age and samples of each shard that is being made."""
        seconds, samples = self._seconds[stream], self._samples[stream]
        if not samples:
            for age, count in under_way:
                if count:
                    seconds, samples = seconds + age, samples + count
        return seconds / samples if samples else None


@dataclass(frozen=True)
class TimeLeft:
    """Seconds that the streams of known cost take, and the streams whose cost nobody knows yet."""

    seconds: float
    not_measured: tuple[str, ...]

    def __str__(self) -> str:
        names = ", ".join(self.not_measured)
        if len(self.not_measured) > MOST_NAMED:
            names = f"{len(self.not_measured)} streams"
        others = f"{names} not measured yet" if names else ""
        known = f"about {format_seconds(self.seconds)} left" if self.seconds or not others else ""
        return f"{known} and {others}" if known and others else known or others


def time_left(remaining: Mapping[str, int], costs: Mapping[str, float | None], workers: int) -> TimeLeft:
    """How long so many samples of each stream take so many workers."""
    waiting = {stream: count for stream, count in remaining.items() if count > 0}
    seconds = sum(count * (costs.get(stream) or 0.0) for stream, count in waiting.items())
    unknown = tuple(stream for stream in waiting if costs.get(stream) is None)
    return TimeLeft(seconds / max(workers, 1), unknown)


class ProgressFile:
    """Tells other processes how a build is coming on."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._last = -float("inf")
        self._tree: Mapping[str, Any] = {}

    def write(self, tree: Mapping[str, Any], now: bool = False) -> None:
        """Write it, unless it was written a moment ago."""
        self._tree = tree
        if now or time.monotonic() - self._last >= WRITE_EVERY[self._storage.local]:
            self._last = time.monotonic()
            stamped = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **tree}
            self._storage.write(PROGRESS, json.dumps(stamped, indent=1).encode() + b"\n")

    def end(self, reason: str) -> None:
        """Add why the build has ended before it was done, if that can be written: the disk may be full."""
        with suppress(OSError):
            self.write({**self._tree, "ended": reason}, now=True)

    def remove(self) -> None:
        self._storage.remove(PROGRESS)


def read_progress(storage: Storage) -> dict[str, Any] | None:
    """What the last build said of itself; None where there is nothing that can be read."""
    try:
        found = json.loads(storage.read(PROGRESS))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
