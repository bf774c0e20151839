"""Outside inputs of a recipe: folders or tars of images, listed in a fixed order and known by the list's digest."""

import errno
import gzip
import hashlib
import io
import json
import os
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from itertools import chain, islice
from pathlib import Path
from typing import Protocol, Self

from .errors import FormatError, UsageError
from .folders import Found, find_files, note_left_out, read_file
from .tar_members import BLOCK, is_header_of

# The first line of a list of tars, and of what a table lists; no relative path begins so.
TAR_HEADER = "/tars\t"
TABLE_HEADER = "/table\t"
# Of a list: twice the longest path that Linux opens.
MAX_LINE = 1 << 13
# A class label is a number of at most six digits.
MAX_CLASSES = 1_000_000
# Folders that hold class folders, in every data set that has them.
SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})


@dataclass(frozen=True)
class Tar:
    """A tar of an input: where it lies below the input's root, and its size."""

    name: str
    bytes: int


@dataclass(frozen=True)
class Listing:
    """Images below `root`: sorted relative paths, their sizes in bytes, and the class folders they are in.

    folders: none where an image is in no folder; the images are then of one unnamed class.

    Images in tars have paths `<class label>/<tar>/<member>`, or `./<tar>/<member>` where they have no labels; `offsets`
    says where each begins in its tar, and `names` what the class labels are called. Those that a table lists have paths
    `<class label>/<path>`; `described` says as JSON what else the table does of each.
    """

    root: str
    folders: tuple[str, ...]
    paths: tuple[str, ...]
    sizes: tuple[int, ...]
    offsets: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    tars: tuple[Tar, ...] = ()
    described: tuple[str, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class, in the order of `folders`."""
        return self.names or self.folders

    @cached_property
    def digest(self) -> str:
        """Digest of names and sizes: cheap for a million files, and changed by any file that comes, goes or grows."""
        return hashlib.sha256(self._text().encode()).hexdigest()

    def to_bytes(self) -> bytes:
        """The list as gzipped lines `path<TAB>bytes`; the root, a place on one machine, is left out."""
        return gzip.compress(self._text().encode(), mtime=0)

    @classmethod
    def from_bytes(cls, content: bytes, root: str) -> Self:
        """Read `to_bytes` back, for images below `root`. Raises FormatError where it is no list.

        A line at a time: names that must rise, and lines that must end, bound what a few bytes can unpack to.
        """
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
                lines = iter(lambda: _decode_line(file.readline(MAX_LINE)), "")
                first = next(lines, "")
                if first.startswith(TAR_HEADER):
                    return cls._from_lines_of_tars(first, lines, root)
                if first.startswith(TABLE_HEADER):
                    return cls._from_lines_of_table(first, lines, root)
                rows = list(_rising(line.rsplit("\t", 1) for line in chain([first] if first else [], lines)))
            paths, sizes = tuple(path for path, _ in rows), tuple(_natural(size) for _, size in rows)
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise FormatError(f"not a list of input files: {error}") from error
        return cls(root, _class_folders(paths), paths, sizes)

    def class_ranges(self) -> list[range]:
        """Positions of each class's images."""
        if not self.folders:
            return [range(len(self.paths))]
        # Paths that begin alike stand together; "0" is the character after "/".
        return [range(bisect_left(self.paths, f"{f}/"), bisect_left(self.paths, f"{f}0")) for f in self.folders]

    def read(self, path: str) -> bytes:
        """The bytes of one of the paths. Raises OSError, also where file or tar are not as they were listed."""
        position = bisect_left(self.paths, path)
        size = self.sizes[position]
        if not self.offsets:
            content = read_file(Path(self.root) / (path.partition("/")[2] if self.described else path))
            if len(content) != size:
                raise OSError(errno.EIO, "the file has changed since it was listed")
            return content
        tar, extension, member = path.partition("/")[2].partition(".tar/")
        with open(Path(self.root) / f"{tar}{extension[:-1]}", "rb") as file:
            file.seek(self.offsets[position] - BLOCK)
            header, content = file.read(BLOCK), file.read(size)
        if not is_header_of(header, member, size) or len(content) != size:
            raise OSError(errno.EIO, "the tar has changed since it was listed")
        return content

    def _text(self) -> str:
        if self.described:
            rows = zip(self.paths, self.sizes, self.described, strict=True)
            lines = [
                f"{TABLE_HEADER}{len(self.names)}",
                *self.names,
                *(f"{p}\t{size}\t{text}" for p, size, text in rows),
            ]
            return "".join(f"{line}\n" for line in lines)
        if not self.tars:
            return "".join(f"{path}\t{size}\n" for path, size in zip(self.paths, self.sizes, strict=True))
        lines = [f"{TAR_HEADER}{len(self.tars)}\t{len(self.names)}", *(f"{tar.name}\t{tar.bytes}" for tar in self.tars)]
        lines += self.names
        lines += (f"{p}\t{size}\t{at}" for p, size, at in zip(self.paths, self.sizes, self.offsets, strict=True))
        return "".join(f"{line}\n" for line in lines)

    @classmethod
    def _from_lines_of_table(cls, first: str, lines: Iterator[str], root: str) -> Self:
        num_names = _natural(first.removeprefix(TABLE_HEADER))
        if num_names > MAX_CLASSES:
            raise ValueError(f"{num_names} classes; at most {MAX_CLASSES}")
        names = tuple(islice(lines, num_names))
        if any("\t" in name for name in names):
            raise ValueError(f"fewer than {num_names} names of classes")
        rows = list(_rising(line.split("\t", 2) for line in lines))
        width = len(str(num_names - 1))
        for row in rows:
            if len(row) != 3 or not isinstance(json.loads(row[2]), dict):
                raise ValueError(f"{row[0][:80]!r}: no size and description")
        return cls(
            root,
            tuple(f"{label:0{width}d}" for label in range(num_names)),
            tuple(path for path, _, _ in rows),
            tuple(_natural(size) for _, size, _ in rows),
            names=names,
            described=tuple(text for _, _, text in rows),
        )

    @classmethod
    def _from_lines_of_tars(cls, first: str, lines: Iterator[str], root: str) -> Self:
        num_tars, num_names = map(_natural, first.removeprefix(TAR_HEADER).split("\t"))
        if num_names > MAX_CLASSES:
            raise ValueError(f"{num_names} classes; at most {MAX_CLASSES}")
        tars = list(_rising(line.rsplit("\t", 1) for line in islice(lines, num_tars)))
        names = tuple(islice(lines, num_names))
        rows = list(_rising(line.rsplit("\t", 2) for line in lines))
        width = len(str(num_names - 1))
        return cls(
            root,
            tuple(f"{label:0{width}d}" for label in range(num_names)),
            tuple(path for path, _, _ in rows),
            tuple(_natural(size) for _, size, _ in rows),
            tuple(_natural(offset) for _, _, offset in rows),
            names,
            tuple(Tar(name, _natural(size)) for name, size in tars),
        )


def list_pictures(root: str | os.PathLike[str], where: str, found: Found | None = None) -> Listing:
    """List all images at or below a folder, links followed; `found` is what lies there, if that is known already.

    Raises UsageError that begins with `where`: where there is no folder, no image, or what `list_images` refuses too.
    """
    top = check_folder(root, where)
    found = found or find_files(top, where)
    if not found.pictures:
        raise UsageError(f"{where}: no image in it{_but(found)}")
    note_left_out(found.describe_left_out(), where)
    return _make_listing(top, where, sorted(found.pictures))


def list_images(root: str | os.PathLike[str], where: str, found: Found | None = None) -> Listing:
    """List an ImageFolder-like input, links followed; `found` is what lies there, if that is known already.

    Raises UsageError that begins with `where`: where there is no folder, no class folder, a class folder without
    images, one that may not be read or is reached twice, splits in place of classes, or a name that no list can hold.
    """
    top = check_folder(root, where)
    found = found or find_files(top, where)
    pictures = sorted(picture for picture in found.pictures if "/" in picture[0])
    if not pictures:
        raise UsageError(f"{where}: no image in it; expected one folder a class with images inside{_but(found)}")
    listing = _make_listing(top, where, pictures)
    # Left out silently, an empty folder would shift the labels of those after it.
    empty = set(found.folders) - set(listing.folders)
    if empty:
        raise UsageError(f"{where}: class folder {min(empty)!r} holds no image; remove it")
    if SPLITS.issuperset(map(str.lower, listing.folders)) and any(path.count("/") > 1 for path in listing.paths):
        names = ", ".join(listing.folders)
        raise UsageError(f"{where}: {names}: splits, not classes; did you mean {top / listing.folders[0]}?")
    loose = len(found.pictures) - len(pictures)
    outside = f"{loose:,} outside of class folders" if loose else ""
    note_left_out(", ".join(filter(None, (outside, found.describe_left_out()))), where)
    return listing


def check_folder(root: str | os.PathLike[str], where: str) -> Path:
    """The folder `root`. Raises UsageError that begins with `where` where there is none."""
    if not Path(root).is_dir():
        raise UsageError(f"{where}: no such folder")
    return Path(root)


class Classed(Protocol):
    """A picture with what is said of its class: a number, a name, both or nothing. place: what to call it."""

    @property
    def place(self) -> str: ...

    @property
    def label(self) -> int | None: ...

    @property
    def class_name(self) -> str | None: ...


def number_classes(
    samples: Sequence[Classed], labelled: bool, known: tuple[str, ...] = ()
) -> tuple[list[int], tuple[str, ...]]:
    """Class number of each sample, and the name of each number: its own digits where nothing names it.

    Where there are no numbers, the sorted class names are counted. labelled: whether every sample must have a class.
    Raises FormatError that names the sample.
    """
    if all(sample.label is not None for sample in samples):
        labels = [sample.label for sample in samples if sample.label is not None]
        names = dict(enumerate(known))
        for sample, label in zip(samples, labels, strict=True):
            if sample.class_name is not None and names.setdefault(label, sample.class_name) != sample.class_name:
                raise FormatError(
                    f"{sample.place}: class {label} is {sample.class_name!r} here, {names[label]!r} before"
                )
        return labels, tuple(names.get(label, str(label)) for label in range(max([*labels, *names]) + 1))
    if all(sample.class_name is not None for sample in samples):
        sorted_names = tuple(sorted({sample.class_name for sample in samples if sample.class_name is not None}))
        numbers: dict[str | None, int] = {name: number for number, name in enumerate(sorted_names)}
        return [numbers[sample.class_name] for sample in samples], sorted_names
    if labelled:
        lacking = next((s for s in samples if s.label is None and s.class_name is None), samples[0])
        raise FormatError(f"{lacking.place}: no class; expected a number (.cls, label) or a name (class_name)")
    return [0] * len(samples), ()


def _but(found: Found) -> str:
    left_out = found.describe_left_out()
    return f" (left out: {left_out})" if left_out else ""


def _make_listing(top: Path, where: str, found: list[tuple[str, int]]) -> Listing:
    for path, _ in found:
        if "\n" in path or not is_utf8(path):
            raise UsageError(f"{where}: file name {path!r} is not one line of UTF-8; rename it")
    paths = tuple(path for path, _ in found)
    return Listing(str(top.resolve()), _class_folders(paths), paths, tuple(size for _, size in found))


def _class_folders(paths: Sequence[str]) -> tuple[str, ...]:
    folders = {path.partition("/")[0] if "/" in path else None for path in paths}
    return () if None in folders else tuple(sorted(folder for folder in folders if folder is not None))


def _decode_line(line: bytes) -> str:
    """A line without its end; empty at the end of the file."""
    if line and not line.endswith(b"\n"):
        raise ValueError(f"a line without an end, or of more than {MAX_LINE:,} bytes")
    if line == b"\n":
        raise ValueError("an empty line")
    return line[:-1].decode()


def _rising(rows: Iterable[list[str]]) -> Iterator[list[str]]:
    before = ""
    for row in rows:
        if row[0] <= before:
            raise ValueError(f"{row[0][:80]!r} stands after {before[:80]!r}")
        before = row[0]
        yield row


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise ValueError(f"{text[:40]!r} is no number of bytes")
    return int(text)


def is_utf8(name: str) -> bool:
    # Python reads other bytes of a file name as lone surrogates.
    return not any("\ud800" <= character <= "\udfff" for character in name)


def imagenet_wnids() -> tuple[str, ...]:
    """The 1,000 wnids of ILSVRC 2012 in label order (sorted)."""
    return tuple((files(__package__) / "data" / "imagenet_wnids.txt").read_text("ascii").split())
