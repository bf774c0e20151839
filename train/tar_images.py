"""Images of tars in WebDataset layout, whoever wrote them."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..manifests.errors import FormatError
from ..manifests.shard import read_sample
from ..manifests.tar_inputs import group_members, read_label
from ..manifests.tar_members import Member

THREADS = 16


@dataclass(frozen=True)
class TarTable:
    """Where the images of a tar lie, and their labels: [N] each."""

    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    labels: NDArray[np.int64]
    bytes: int


class TarImages:
    """Images (`.jpg`, `.png`, ...) and labels (`.cls`, a decimal number) of tars.

    All headers are read here, once a process, and nothing is kept on disk. An index beside a tar is left alone: to know
    that it is of this tar takes as long as to read the headers. Tars do not name classes: `class_names` are the decimal
    labels.
    """

    names_classes = False

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

    def labels(self) -> NDArray[np.int64]:
        return np.concatenate([table.labels for table in self._tables])

    def key(self, position: int) -> str:
        tar, place = self._locate(position)
        return f"{self._paths[tar]}: sample {group_members(self._paths[tar])[place].key}"

    def check(self) -> None:
        for path, table in zip(self._paths, self._tables, strict=True):
            if not path.is_file() or path.stat().st_size != table.bytes:
                raise FormatError(f"{path}: changed since its headers were read")

    def check_shard(self, shard: int) -> None:
        """Nothing is recorded of foreign tars."""

    def fingerprint(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for path, table in zip(self._paths, self._tables, strict=True):
            digest.update(f"{path.name}\t{table.bytes}\n".encode())
            for numbers in (table.offsets, table.sizes, table.labels):
                digest.update(numbers.astype("<i8").tobytes())
        return {"kind": "tars", "files": len(self._paths), "sha256": digest.hexdigest()}

    def _locate(self, position: int) -> tuple[int, int]:
        tar = int(np.searchsorted(self._ends, position, side="right"))
        return tar, int(position - self._ends[tar] + self.shard_sizes[tar])


def read_table(path: Path) -> TarTable:
    """Images and labels of a tar. Raises FormatError that names it, and the sample where one is at fault."""
    images: list[Member] = []
    labels: list[int] = []
    with open(path, "rb") as file:
        for sample in group_members(path):
            label = read_label(file.fileno(), sample.members.get("cls"), f"{path}: sample {sample.key!r}")
            if label is None:
                found = ", ".join(sample.members)
                raise FormatError(f"{path}: sample {sample.key!r} has no .cls with its label; found {found}")
            images.append(sample.image)
            labels.append(label)
        size = os.fstat(file.fileno()).st_size
    offsets, sizes = [member.offset for member in images], [member.size for member in images]
    return TarTable(np.array(offsets, np.int64), np.array(sizes, np.int64), np.array(labels, np.int64), size)
