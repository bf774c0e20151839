"""Random access to the samples of a finished stream, in a folder or in a bucket."""

import copy
import hashlib
import mmap
import os
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Self

import numpy as np
from numpy.typing import NDArray

from .errors import FormatError
from .manifest import Record, StreamEntry, read_records
from .shard import Index, index_path, read_index, read_sample
from .storage import Storage
from .tar_members import BLOCK, Member

# Far below the 1,024 open files that systems allow a process by default.
OPEN_SHARDS = 128
# Keys are for messages, and for those who go through a stream in order.
CACHED_KEYS = 4
# What is known of a shard's bytes. Who waits for another process to find out does so for PATIENCE seconds: that one may
# have been killed.
UNKNOWN, UNDER_WAY, SOUND = range(3)
PATIENCE = 60.0
LOOK_EVERY = 0.01


@dataclass(frozen=True)
class MemberTable:
    """Where the members of a shard's samples lie: per sample and extension, offset in blocks and size in bytes [N, E].

    Members that a sample lacks have offset 0, which is a header's. 8 bytes a member: indexes of ten million samples
    stay in memory, so that a full shuffle reads each of them once.
    """

    extensions: tuple[str, ...]
    blocks: NDArray[np.uint32]
    sizes: NDArray[np.uint32]

    @classmethod
    def from_index(cls, index: Index) -> "MemberTable":
        extensions = tuple(sorted({extension for members in index.values() for extension in members}))
        table = np.zeros((2, len(index), len(extensions)), np.uint32)
        absent = Member(0, 0)
        for column, extension in enumerate(extensions):
            members = [members.get(extension, absent) for members in index.values()]
            table[0, :, column] = [member.offset // BLOCK for member in members]
            table[1, :, column] = [member.size for member in members]
        return cls(extensions, table[0], table[1])

    def members(self, sample: int) -> dict[str, Member]:
        """Members of a sample by extension."""
        blocks, sizes = self.blocks[sample].tolist(), self.sizes[sample].tolist()
        return {
            extension: Member(block * BLOCK, size)
            for extension, block, size in zip(self.extensions, blocks, sizes, strict=True)
            if block
        }


def check_shard(storage: Storage, record: Record) -> None:
    """Raise FormatError where a shard is missing or its sha256 is not its record's. Reads all of it."""
    try:
        digest = storage.sha256(record.path)
    except FileNotFoundError as error:
        raise FormatError(f"{storage / record.path}: missing") from error
    if digest != record.sha256:
        raise FormatError(f"{storage / record.path}: sha256 differs from its record's")


def read_recorded_index(storage: Storage, record: Record) -> Index:
    """The index of a shard. Raises FormatError where it is missing or not what the record says."""
    name = str(index_path(PurePosixPath(record.path)))
    try:
        content = storage.read(name)
    except FileNotFoundError as error:
        raise FormatError(f"{storage / name}: missing") from error
    if hashlib.sha256(content).hexdigest() != record.index_sha256:
        raise FormatError(f"{storage / name}: sha256 differs from its record's")
    try:
        index = read_index(content.decode("ascii"))
    except (ValueError, IndexError) as error:
        raise FormatError(f"{storage / name}: not an index: {error}") from error
    if len(index) != record.samples:
        raise FormatError(f"{storage / name}: {len(index)} samples, its record says {record.samples}")
    return index


class StreamSamples:
    """Samples of one stream by position: shard after shard, in the order in which they stand in them.

    Holes are not counted. The records are read here, indexes and shards at the first sample that lies in them. Objects
    travel to workers, forked or started anew, as they are.

    check: compare each shard with its record before its first sample is read, once for this process and those forked
    from it; else only `check_shard` does.
    """

    def __init__(self, storage: Storage, entry: StreamEntry, check: bool = True) -> None:
        self.storage = storage
        self.entry = entry
        self._check = check
        self.records: Sequence[Record] = [record for record in read_records(storage, entry) if record.samples]
        self.shard_sizes = [record.samples for record in self.records]
        self._ends = list(accumulate(self.shard_sizes))
        self._chosen: NDArray[np.int64] | None = None
        self._process = os.getpid()
        self._open_caches()

    def __len__(self) -> int:
        if self._chosen is not None:
            return len(self._chosen)
        return self._ends[-1] if self._ends else 0

    def only(self, positions: NDArray[np.int64]) -> Self:
        """The samples at these positions alone [N], in that order; `records` and `shard_sizes` stay the stream's."""
        chosen = copy.copy(self)
        chosen._chosen = positions if self._chosen is None else self._chosen[positions]
        chosen._open_caches()
        return chosen

    def digest(self) -> str:
        """sha256 of the stream's shards by their names and digests, not of their records, which also hold times; and of
        which samples are chosen."""
        shards = "".join(f"{record.path}\t{record.sha256}\n" for record in self.records)
        chosen = b"" if self._chosen is None else self._chosen.astype(np.int64).tobytes()
        return hashlib.sha256(shards.encode() + chosen).hexdigest()

    def locate(self, position: int) -> tuple[int, int]:
        """Place of a sample in `records`, and its place in that shard."""
        if not 0 <= position < len(self):
            raise IndexError(f"position {position} of {len(self)} samples")
        if self._chosen is not None:
            position = int(self._chosen[position])
        shard = bisect_right(self._ends, position)
        return shard, position - self._ends[shard] + self.shard_sizes[shard]

    def key(self, position: int) -> str:
        shard, place = self.locate(position)
        return self._keys(shard)[place]

    def read(self, position: int, extensions: Sequence[str] | None = None) -> dict[str, bytes]:
        """Members of a sample by extension, all or those named; one that it lacks is left out.

        Raises FormatError with the shard's location where it is missing, cut short or not what its record says.
        """
        self._reopen_after_fork()
        shard, place = self.locate(position)
        if self._check:
            self.check_shard(shard)
        members = self._table(shard).members(place)
        wanted = {name: members[name] for name in extensions if name in members} if extensions else members
        name = self.records[shard].path
        try:
            if self.storage.local:
                return read_sample(self._descriptor(shard).number, wanted)
            return {extension: self._fetch(name, member) for extension, member in wanted.items()}
        except FileNotFoundError as error:
            raise FormatError(f"{self.storage / name}: missing") from error
        except FormatError as error:
            raise FormatError(f"{self.storage / name}: sample {self.key(position)}: {error}") from error

    def check_sizes(self) -> None:
        """Raise FormatError that names the first shard that is missing or of another size than its record."""
        for record in self.records:
            size = self.storage.size(record.path)
            if size != record.bytes:
                found = "missing" if size is None else f"{size} bytes, its record says {record.bytes}"
                raise FormatError(f"{self.storage / record.path}: {found}")

    def check_shard(self, shard: int) -> None:
        """Raise FormatError where a shard is not what its record says. Reads all of it, at the first call.

        One that another process is at is waited for.
        """
        end = time.monotonic() + PATIENCE
        while self._checked[shard] == UNDER_WAY and time.monotonic() < end:
            time.sleep(LOOK_EVERY)
        if self._checked[shard] == SOUND:
            return
        # Two that come here at once both read it, which only takes time.
        self._checked[shard] = UNDER_WAY
        try:
            self._reopen_after_fork()
            check_shard(self.storage, self.records[shard])
        except BaseException:
            self._checked[shard] = UNKNOWN
            raise
        self._checked[shard] = SOUND

    def share_checks(self, path: Path) -> None:
        """Know what other processes with the same stream and path have found sound, and tell them."""
        size = max(1, len(self.records))
        with open(path, "a+b") as file:
            file.truncate(size)
            self._checked = mmap.mmap(file.fileno(), size)

    def _fetch(self, name: str, member: Member) -> bytes:
        content = self.storage.read_range(name, member.offset, member.size)
        if len(content) != member.size:
            raise FormatError(f"{len(content)} of {member.size} bytes at offset {member.offset}")
        return content

    def _read_index(self, shard: int) -> Index:
        return read_recorded_index(self.storage, self.records[shard])

    def _reopen_after_fork(self) -> None:
        # Clients of buckets refuse to work in a forked process; files read by position do not mind.
        if self._process != os.getpid() and not self.storage.local:
            self.storage = Storage(self.storage.url)
        self._process = os.getpid()

    def _open_caches(self) -> None:
        # A byte a shard, in memory that forked workers share.
        self._checked = mmap.mmap(-1, max(1, len(self.records)))
        self._table: Callable[[int], MemberTable] = cache(lambda shard: MemberTable.from_index(self._read_index(shard)))
        self._keys: Callable[[int], list[str]] = lru_cache(CACHED_KEYS)(lambda shard: list(self._read_index(shard)))
        self._descriptor: Callable[[int], _Descriptor] = lru_cache(OPEN_SHARDS)(
            lambda shard: _Descriptor(self.storage.local_path(self.records[shard].path))
        )

    def __getstate__(self) -> dict[str, object]:
        caches = ("_checked", "_table", "_keys", "_descriptor")
        return {name: value for name, value in vars(self).items() if name not in caches}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._open_caches()


class _Descriptor:
    """An open file that closes when nothing refers to it any more, as when a cache drops it."""

    def __init__(self, path: os.PathLike[str]) -> None:
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)
