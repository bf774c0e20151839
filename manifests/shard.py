"""A shard: a plain USTAR tar in WebDataset layout, byte-reproducible, with an index of its members.

webdataset's own TarWriter stamps a float mtime (1 KiB more a member and other bytes in each run), so the writer is
ours; every reader of the format reads the result. The index has the text format of NVIDIA DALI's wds2idx ("v1.2"):
a line a sample, and in it extension, data offset, size and member name of each member.
"""

import hashlib
import os
import re
import tarfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from types import TracebackType
from typing import BinaryIO, Self, TypeVar

from .errors import FormatError
from .tar_members import BLOCK, Member, iterate_members, split_name

INDEX_VERSION = "v1.2"
# In the name of every file that is still being written.
TEMPORARY = ".tmp."
LEFTOVER = re.compile(r"\.tmp\.[0-9a-f]{32}$")
# Printable ASCII. A dot ends the key for every reader of the format; a blank would end a field of the index.
KEY = re.compile(r"[!-\-0-~]+")
# Lower case: webdataset folds the rest.
EXTENSION = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")


@dataclass(frozen=True)
class ShardSummary:
    """What was written: sizes and digests of the tar and of its index, and the keys at both ends ("" if empty)."""

    bytes: int
    sha256: str
    index_bytes: int
    index_sha256: str
    samples: int
    first_key: str
    last_key: str


Index = dict[str, dict[str, Member]]
"""Members of a shard by sample key and extension, in the order of the tar."""


class ShardWriter:
    """Write one shard, whole or not at all.

    `with ShardWriter(path) as shard: shard.add(key, members)`: the tar and its index are written beside `path`,
    synced, re-read and counted, and renamed only when the block ends without an exception.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index_path = index_path(path)
        token = uuid.uuid4().hex
        self._temporary = path.with_name(f"{path.name}{TEMPORARY}{token}")
        self._temporary_index = path.with_name(f"{self.index_path.name}{TEMPORARY}{token}")
        self._digest = hashlib.sha256()
        self._offset = 0
        self._index: Index = {}
        self.summary: ShardSummary | None = None

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = open(self._temporary, "wb")
        return self

    def add(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append the members of one sample (extension to content), sorted by extension."""
        if not KEY.fullmatch(key):
            raise ValueError(f"sample key {key!r}: must be printable ASCII without blank, dot or slash")
        if key in self._index:
            raise ValueError(f"sample key {key!r}: stands in {self.path.name} already")
        if not members:
            raise ValueError(f"sample {key!r}: has no members")
        placed: dict[str, Member] = {}
        for extension, content in sorted(members.items()):
            if not EXTENSION.fullmatch(extension):
                raise ValueError(f"sample {key!r}: extension {extension!r} must be lower-case ASCII such as mask.png")
            self._write(_header(f"{key}.{extension}", len(content)))
            placed[extension] = Member(self._offset, len(content))
            self._write(content)
            self._write(b"\0" * (-len(content) % BLOCK))
        self._index[key] = placed

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._publish()
        finally:
            for leftover in (self._temporary, self._temporary_index):
                leftover.unlink(missing_ok=True)
            # Last, because closing writes what is buffered, and fails where the disk is full.
            self._file.close()

    def _publish(self) -> None:
        # End of archive: two zero blocks, then zeros up to tar's customary record.
        self._write(b"\0" * (2 * BLOCK))
        self._write(b"\0" * (-self._offset % tarfile.RECORDSIZE))
        index = format_index(self._index)
        with open(self._temporary_index, "wb") as index_file:
            index_file.write(index)
            _sync(index_file)
        _sync(self._file)
        # Read back before it is published: what is on disk is what was meant, to the last byte.
        if sha256_of_file(self._temporary) != self._digest.hexdigest():
            raise FormatError(f"{self.path}: read back other bytes than were written")
        os.replace(self._temporary_index, self.index_path)
        os.replace(self._temporary, self.path)
        sync_folder(self.path.parent)
        keys = list(self._index)
        self.summary = ShardSummary(
            bytes=self._offset,
            sha256=self._digest.hexdigest(),
            index_bytes=len(index),
            index_sha256=hashlib.sha256(index).hexdigest(),
            samples=len(keys),
            first_key=keys[0] if keys else "",
            last_key=keys[-1] if keys else "",
        )

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._digest.update(content)
        self._offset += len(content)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _header(name: str, size: int) -> bytes:
    """The header block of a member, as tarfile writes it, at a fifth of the time."""
    if len(name) > 100 or size >= 8**11:
        info = tarfile.TarInfo(name)
        info.size = size
        return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
    header = bytearray(_HEADER_TEMPLATE)
    header[: len(name)] = name.encode("ascii")
    header[124:136] = b"%011o\0" % size
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * ord(" ") + sum(header[156:]))
    return bytes(header)


# Mode 644, owner 0, mtime 0: nothing of the machine or the moment.
_HEADER_TEMPLATE = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


AnyPath = TypeVar("AnyPath", bound=PurePath)


def index_path(path: AnyPath) -> AnyPath:
    """The index beside a shard: `name.tar` has `name.idx`."""
    return path.with_suffix(".idx")


def sha256_of_file(path: Path) -> str:
    """Digest of a local file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sweep(folder: Path) -> None:
    """Remove what writers that were killed left in a local folder and below. Only for who holds the folder's lock."""
    for parent, _, names in os.walk(folder):
        for name in names:
            if LEFTOVER.search(name):
                Path(parent, name).unlink(missing_ok=True)


def sweep_files(*paths: Path) -> None:
    """Remove what writers of these files that were killed have left beside them. Only where none is at work on them."""
    for path in paths:
        for leftover in path.parent.glob(f"{path.name}{TEMPORARY}*"):
            leftover.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_index(path: Path) -> Index:
    """The index of a tar that came without one, by reading its headers. Raises FormatError where it is no shard."""
    index: Index = {}
    for name, member in iterate_members(path):
        key, extension = split_name(name) or (None, "")
        if key is None:
            raise FormatError(f"{path}: member {name!r} belongs to no sample")
        index.setdefault(key, {})[extension] = member
    return index


def load_index(path: Path) -> Index:
    """Read the index beside the shard `path`. Raises FormatError where it is not one."""
    location = index_path(path)
    try:
        return read_index(location.read_text("ascii"))
    except (ValueError, IndexError) as error:
        raise FormatError(f"{location}: not a {INDEX_VERSION} index: {error}") from error


def read_index(text: str) -> Index:
    """Parse the text of an index file. Raises ValueError or IndexError where it is none."""
    header, *lines = text.splitlines()
    version, count = header.split()
    if version != INDEX_VERSION or int(count) != len(lines):
        raise ValueError(f"header {header!r} over {len(lines)} lines")
    index: Index = {}
    for line in lines:
        fields = line.split(" ")
        key, _ = split_name(fields[3]) or (None, "")
        if key is None or key in index:
            raise ValueError(f"sample {fields[3][:80]!r} stands there twice, or is none")
        index[key] = {
            fields[i]: Member(_position(fields[i + 1]), _position(fields[i + 2])) for i in range(0, len(fields), 4)
        }
    return index


def _position(text: str) -> int:
    if not text.isdigit() or len(text) > 18:  # more than any file holds, and than numpy counts
        raise ValueError(f"{text[:40]!r} is no offset or size")
    return int(text)


def format_index(index: Index) -> bytes:
    """The content of an index file."""
    lines = [f"{INDEX_VERSION} {len(index)}"]
    for key, members in index.items():
        lines.append(" ".join(f"{ext} {member.offset} {member.size} {key}.{ext}" for ext, member in members.items()))
    return "".join(f"{line}\n" for line in lines).encode()


def read_sample(file: int, members: Mapping[str, Member]) -> dict[str, bytes]:
    """Read a sample's members from an open file descriptor by position. Raises FormatError on a short read."""
    content = {extension: os.pread(file, member.size, member.offset) for extension, member in members.items()}
    for extension, member in members.items():
        if len(content[extension]) != member.size:
            raise FormatError(
                f"member .{extension}: {len(content[extension])} of {member.size} bytes at offset {member.offset}"
            )
    return content
