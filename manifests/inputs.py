"""Outside inputs of a recipe: folders or tars of images, listed in a fixed order and known by the list's digest."""

import errno
import gzip
import hashlib
import os
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Self

from .errors import FormatError, UsageError
from .pictures import IMAGE_EXTENSIONS

# The first line of a list of tars; no relative path begins so.
TAR_HEADER = "/tars\t"


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
    says where each begins in its tar, and `names` what the class labels are called.
    """

    root: str
    folders: tuple[str, ...]
    paths: tuple[str, ...]
    sizes: tuple[int, ...]
    offsets: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    tars: tuple[Tar, ...] = ()

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
        """Read `to_bytes` back, for images below `root`. Raises FormatError where it is no list."""
        try:
            # Not splitlines: a name may hold one of Unicode's other line breaks.
            lines = gzip.decompress(content).decode().split("\n")[:-1]
            if lines and lines[0].startswith(TAR_HEADER):
                return cls._from_lines_of_tars(lines, root)
            rows = [line.rsplit("\t", 1) for line in lines]
            paths, sizes = tuple(path for path, _ in rows), tuple(int(size) for _, size in rows)
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
        """The bytes of one of the paths; fewer than `sizes` says where a tar has been cut since. Raises OSError."""
        if not self.offsets:
            return (Path(self.root) / path).read_bytes()
        position = bisect_left(self.paths, path)
        tar, extension, _ = path.partition("/")[2].partition(".tar/")
        with open(Path(self.root) / f"{tar}{extension[:-1]}", "rb") as file:
            file.seek(self.offsets[position])
            content = file.read(self.sizes[position])
        if len(content) != self.sizes[position]:
            raise OSError(errno.EIO, f"{len(content)} of {self.sizes[position]} bytes")
        return content

    def _text(self) -> str:
        if not self.tars:
            return "".join(f"{path}\t{size}\n" for path, size in zip(self.paths, self.sizes, strict=True))
        lines = [f"{TAR_HEADER}{len(self.tars)}\t{len(self.names)}", *(f"{tar.name}\t{tar.bytes}" for tar in self.tars)]
        lines += self.names
        lines += (f"{p}\t{size}\t{at}" for p, size, at in zip(self.paths, self.sizes, self.offsets, strict=True))
        return "".join(f"{line}\n" for line in lines)

    @classmethod
    def _from_lines_of_tars(cls, lines: list[str], root: str) -> Self:
        num_tars, num_names = map(int, lines[0].removeprefix(TAR_HEADER).split("\t"))
        tars = (line.rsplit("\t", 1) for line in lines[1 : 1 + num_tars])
        names = tuple(lines[1 + num_tars : 1 + num_tars + num_names])
        rows = [line.rsplit("\t", 2) for line in lines[1 + num_tars + num_names :]]
        width = len(str(num_names - 1))
        return cls(
            root,
            tuple(f"{label:0{width}d}" for label in range(num_names)),
            tuple(path for path, _, _ in rows),
            tuple(int(size) for _, size, _ in rows),
            tuple(int(offset) for _, _, offset in rows),
            names,
            tuple(Tar(name, int(size)) for name, size in tars),
        )


def list_pictures(root: str | os.PathLike[str], name: str) -> Listing:
    """List all images at or below a folder, links followed.

    Raises UsageError where there is no folder, no image, or what `list_images` refuses too.
    """
    top = _check_folder(root, name)
    with _readable(root, name):
        found = sorted(_images_below(top))
    if not found:
        raise UsageError(f"--input {name}={root}: no image in it")
    return _make_listing(top, root, name, found)


def list_images(root: str | os.PathLike[str], name: str) -> Listing:
    """List an ImageFolder-like input, links followed.

    Raises UsageError where there is no folder, no class folder, a class folder without images, one that may not be
    read, or a name that no list can hold.
    """
    top = _check_folder(root, name)
    with _readable(root, name):
        folders = [entry.name for entry in os.scandir(top) if entry.is_dir()]
        found = sorted(image for folder in folders for image in _images_below(top, folder))
    if not found:
        raise UsageError(f"--input {name}={root}: no image in it; expected one folder a class with images inside")
    listing = _make_listing(top, root, name, found)
    # Left out silently, an empty folder would shift the labels of those after it.
    empty = set(folders) - set(listing.folders)
    if empty:
        raise UsageError(f"--input {name}={root}: class folder {min(empty)!r} holds no image; remove it")
    return listing


def _check_folder(root: str | os.PathLike[str], name: str) -> Path:
    if not Path(root).is_dir():
        raise UsageError(f"--input {name}={root}: no such folder")
    return Path(root)


@contextmanager
def _readable(root: str | os.PathLike[str], name: str) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise UsageError(f"--input {name}={root}: {error.filename} may not be read") from error


def _make_listing(top: Path, root: str | os.PathLike[str], name: str, found: list[tuple[str, int]]) -> Listing:
    for path, _ in found:
        if "\n" in path or not _is_utf8(path):
            raise UsageError(f"--input {name}={root}: file name {path!r} is not one line of UTF-8; rename it")
    paths = tuple(path for path, _ in found)
    return Listing(str(top.resolve()), _class_folders(paths), paths, tuple(size for _, size in found))


def _class_folders(paths: Sequence[str]) -> tuple[str, ...]:
    folders = {path.partition("/")[0] if "/" in path else None for path in paths}
    return () if None in folders else tuple(sorted(folder for folder in folders if folder is not None))


def _images_below(top: Path, folder: str = "") -> Iterator[tuple[str, int]]:
    def fail(error: OSError) -> None:
        raise error

    for parent, _, names in os.walk(top / folder, onerror=fail, followlinks=True):
        for name in names:
            path = Path(parent, name)
            if path.suffix.lower() in IMAGE_EXTENSIONS:
                yield path.relative_to(top).as_posix(), _size(path)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0  # a link to nothing is listed too: it becomes a hole that is counted


def _is_utf8(name: str) -> bool:
    # Python reads other bytes of a file name as lone surrogates.
    return not any("\ud800" <= character <= "\udfff" for character in name)


def imagenet_wnids() -> tuple[str, ...]:
    """The 1,000 wnids of ILSVRC 2012 in label order (sorted)."""
    return tuple((files(__package__) / "data" / "imagenet_wnids.txt").read_text("ascii").split())
