"""MNIST as an outside input: the four idx files as others offer them, read as files that may be anything."""

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from .errors import FormatError, UsageError
from .inputs import Listing

NUM_CLASSES = 10
SIDE = 28
PARTS = ("train", "t10k")
IDX_UBYTE = 0x08
# Of one file. MNIST's largest is 47 MB; a small gzip may unpack to anything.
MAX_IDX_BYTES = 1 << 30


@dataclass(frozen=True)
class Digit:
    """One picture of the input, as its path says: class label, part ("train" or "t10k"), and number in that part."""

    class_label: int
    part: str
    number: int

    @classmethod
    def of(cls, path: str) -> "Digit":
        label, _, name = path.partition("/")
        part, number, _ = name.split("-")
        return cls(int(label), part, int(number))


def list_digits(root: str, name: str) -> Listing:
    """List the pictures of a folder with MNIST's four files, gzipped or not, by class.

    A path is `<class label>/<part>-<number>-<CRC-32 of its pixels>`: the list changes with any pixel. Raises UsageError
    that names the input for whatever is missing or no MNIST.
    """
    try:
        found = [line for part in PARTS for line in _list_part(Path(root), part)]
    except FormatError as error:
        raise UsageError(f"--input {name}={root}: {error}") from error
    paths = tuple(sorted(found))
    folders = tuple(str(label) for label in range(NUM_CLASSES))
    return Listing(str(Path(root).resolve()), folders, paths, (SIDE * SIDE,) * len(paths))


def load_digits(root: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pictures [N, 28, 28] and class labels [N] of a part. Raises FormatError where they are something else."""
    images = read_idx(find_idx(root, f"{part}-images-idx3-ubyte"))
    labels = read_idx(find_idx(root, f"{part}-labels-idx1-ubyte"))
    if images.shape[1:] != (SIDE, SIDE):
        raise FormatError(f"{part}-images-idx3-ubyte: an array {list(images.shape)}; expected [N, {SIDE}, {SIDE}]")
    if labels.shape != images.shape[:1]:
        raise FormatError(f"{part}-labels-idx1-ubyte: {list(labels.shape)} labels for {len(images)} pictures")
    if (labels >= NUM_CLASSES).any():
        raise FormatError(f"{part}-labels-idx1-ubyte: label {labels.max()}; expected 0 to {NUM_CLASSES - 1}")
    return images, labels


def find_idx(root: Path, name: str) -> Path:
    """The file of that name, or gzipped. Raises FormatError where there is neither."""
    for path in (root / name, root / f"{name}.gz"):
        if path.is_file():
            return path
    names = ", ".join(f"{part}-{what}" for part in PARTS for what in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    raise FormatError(f"no {name} or {name}.gz in it; expected MNIST's four files: {names}")


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array of an idx file of bytes, gzipped if its name says so. Raises FormatError that names the file."""
    try:
        with cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else open(path, "rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:3] != bytes((0, 0, IDX_UBYTE)) or not head[3]:
                raise FormatError(f"{path.name}: begins with {head.hex(' ')!r}; expected an idx file of bytes")
            sides = file.read(4 * head[3])
            if len(sides) != 4 * head[3]:
                raise FormatError(f"{path.name}: cut short in its header")
            shape = [int.from_bytes(sides[i : i + 4], "big") for i in range(0, len(sides), 4)]
            # Python's integers: a product of hostile sides must not wrap.
            size = 1
            for side in shape:
                size *= side
            if size > MAX_IDX_BYTES:
                raise FormatError(f"{path.name}: says {size:,} bytes; expected at most {MAX_IDX_BYTES:,}")
            content = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise FormatError(f"{path.name}: cannot be read: {error}") from error
    if len(content) != size:
        found = "more" if len(content) > size else f"{len(content):,}"
        raise FormatError(f"{path.name}: its header says {size:,} bytes, it has {found}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def digit_path(label: int, part: str, number: int, image: NDArray[np.uint8]) -> str:
    """The path of a picture in the input's list."""
    return f"{label}/{part}-{number:05d}-{zlib.crc32(image.tobytes()):08x}"


def _list_part(root: Path, part: str) -> Iterator[str]:
    images, labels = load_digits(root, part)
    for number, (label, image) in enumerate(zip(labels.tolist(), images, strict=True)):
        yield digit_path(label, part, number, image)
