"""Images of tars in WebDataset layout, whoever wrote them."""

import hashlib
import os
import re
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..manifests.errors import FormatError
from ..manifests.pictures import IMAGE_EXTENSIONS
from ..manifests.shard import BLOCK, Index, Member, index_path, load_index, read_sample

THREADS = 16
# Key and extension of a member, as webdataset splits them: at the first dot of the file's name.
MEMBER = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")


@dataclass(frozen=True)
class TarTable:
    """Where the images of a tar lie, and their labels: [N] each."""

    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    labels: NDArray[np.int64]
    bytes: int


class TarImages:
    """Images (`.jpg`, `.png`, ...) and labels (`.cls`, a decimal number) of tars.

    All headers are read here, once a process, and nothing is kept on disk; a tar with an `.idx` of wds2idx beside it
    is read from that. Tars do not name classes: `class_names` are the decimal labels.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = list(paths)
        with ThreadPoolExecutor(min(THREADS, len(self._paths))) as pool:
            self._tables = list(pool.map(read_table, self._paths))
        self.shard_sizes = [len(table.labels) for table in self._tables]
        self._ends = np.cumsum(self.shard_sizes)
        highest = max((int(table.labels.max()) for table in self._tables if len(table.labels)), default=-1)
        self.class_names = tuple(map(str, range(highest + 1)))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, position: int) -> tuple[bytes, int]:
        tar, place = self._locate(position)
        table = self._tables[tar]
        member = Member(int(table.offsets[place]), int(table.sizes[place]))
        try:
            file = os.open(self._paths[tar], os.O_RDONLY)
            try:
                return read_sample(file, {"image": member})["image"], int(table.labels[place])
            finally:
                os.close(file)
        except FileNotFoundError as error:
            raise FormatError(f"{self._paths[tar]}: missing") from error
        except FormatError as error:
            raise FormatError(f"{self._paths[tar]}: {error}") from error

    def key(self, position: int) -> str:
        tar, place = self._locate(position)
        return f"{self._paths[tar]}: sample {list(read_index(self._paths[tar]))[place]}"

    def check(self) -> None:
        for path, table in zip(self._paths, self._tables, strict=True):
            if not path.is_file() or path.stat().st_size != table.bytes:
                raise FormatError(f"{path}: changed since its headers were read")

    def check_shard(self, shard: int) -> None:
        """Nothing is recorded of foreign tars."""

    def fingerprint(self) -> dict[str, Any]:
        lines = "".join(f"{path.name}\t{t.bytes}\n" for path, t in zip(self._paths, self._tables, strict=True))
        return {"kind": "tars", "files": len(self._paths), "sha256": hashlib.sha256(lines.encode()).hexdigest()}

    def _locate(self, position: int) -> tuple[int, int]:
        tar = int(np.searchsorted(self._ends, position, side="right"))
        return tar, int(position - self._ends[tar] + self.shard_sizes[tar])


def read_table(path: Path) -> TarTable:
    """Images and labels of a tar. Raises FormatError that names it, and the sample where one is at fault."""
    index = read_index(path)
    images: list[Member] = []
    labels: list[int] = []
    with open(path, "rb") as file:
        for key, members in index.items():
            pictures = [name for name in members if f".{name.rpartition('.')[2]}" in IMAGE_EXTENSIONS]
            if not pictures or "cls" not in members:
                lacking = ".cls with its label" if pictures else "image"
                raise FormatError(f"{path}: sample {key}: has no {lacking}; found {sorted(members)}")
            text = read_sample(file.fileno(), {"cls": members["cls"]})["cls"]
            if not text.strip().isdigit():
                raise FormatError(f"{path}: sample {key}: label {text[:20]!r} is no number of a class")
            # `jpg` rather than `mask.png`
            images.append(members[min(pictures, key=lambda name: name.count("."))])
            labels.append(int(text))
    offsets, sizes = [member.offset for member in images], [member.size for member in images]
    return TarTable(np.array(offsets, np.int64), np.array(sizes, np.int64), np.array(labels, np.int64), _size(path))


def read_index(path: Path) -> Index:
    """Members by key and extension, from the index beside a tar if there is one, or else from the tar's headers."""
    index = load_index(path) if index_path(path).is_file() else {}
    if not index or "" in index:  # wds2idx writes `./a.jpg` as it stands, whose key is then the empty one
        return _read_headers(path)
    end = max((member.offset + member.size for members in index.values() for member in members.values()), default=0)
    with open(path, "rb") as file:
        _check_end(path, file.fileno(), -(-end // BLOCK) * BLOCK)
    return index


def _read_headers(path: Path) -> Index:
    index: Index = {}
    try:
        with tarfile.open(path, "r:", errorlevel=2) as archive, open(path, "rb") as file:
            for member in archive:
                match = MEMBER.fullmatch(member.name)
                if member.isfile() and match:
                    index.setdefault(match[1], {})[match[2].lower()] = Member(member.offset_data, member.size)
            _check_end(path, file.fileno(), archive.offset)
    except tarfile.TarError as error:
        raise FormatError(f"{path}: not a complete tar: {error}") from error
    return index


def _check_end(path: Path, file: int, end: int) -> None:
    # A tar cut at a block boundary reads short without an error in most tools.
    if os.pread(file, 2 * BLOCK, end) != b"\0" * (2 * BLOCK):
        raise FormatError(f"{path}: no end-of-archive mark at {end} of {_size(path)} bytes; the file is cut short")


def _size(path: Path) -> int:
    return path.stat().st_size
