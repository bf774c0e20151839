"""Outside inputs of a recipe: folders of class folders, listed in a fixed order and known by the list's digest."""

import gzip
import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Self

from .errors import FormatError, UsageError

IMAGE_EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"})


@dataclass(frozen=True)
class Listing:
    """Images below `root`: sorted relative paths, their sizes in bytes, and the class folders they are in."""

    root: str
    folders: tuple[str, ...]
    paths: tuple[str, ...]
    sizes: tuple[int, ...]

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
            rows = [line.rsplit("\t", 1) for line in gzip.decompress(content).decode().splitlines()]
            paths, sizes = tuple(path for path, _ in rows), tuple(int(size) for _, size in rows)
        except (OSError, EOFError, ValueError) as error:
            raise FormatError(f"input list below {root}: {error}") from error
        return cls(root, tuple(sorted({path.partition("/")[0] for path in paths})), paths, sizes)

    def _text(self) -> str:
        return "".join(f"{path}\t{size}\n" for path, size in zip(self.paths, self.sizes, strict=True))


def list_images(root: str | os.PathLike[str], name: str) -> Listing:
    """List an ImageFolder-like input. Raises UsageError where there is no folder, no class folder or no image."""
    top = Path(root)
    if not top.is_dir():
        raise UsageError(f"--input {name}={root}: no such folder")
    found: list[tuple[str, int]] = []
    for entry in os.scandir(top):
        for parent, _, names in os.walk(entry.path) if entry.is_dir() else ():
            for file in names:
                path = Path(parent, file)
                if path.suffix.lower() in IMAGE_EXTENSIONS:
                    found.append((path.relative_to(top).as_posix(), path.stat().st_size))
    if not found:
        raise UsageError(f"--input {name}={root}: no image in it; expected one folder a class with images inside")
    found.sort()
    folders = tuple(sorted({path.partition("/")[0] for path, _ in found}))
    return Listing(str(top.resolve()), folders, tuple(path for path, _ in found), tuple(size for _, size in found))


def imagenet_wnids() -> tuple[str, ...]:
    """The 1,000 wnids of ILSVRC 2012 in label order (sorted)."""
    return tuple((files(__package__) / "data" / "imagenet_wnids.txt").read_text("ascii").split())
