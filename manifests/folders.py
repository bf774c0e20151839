"""Walk a folder that others made: pictures and tars below it, each folder once, and what was left out counted."""

import errno
import logging
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .errors import UsageError, shorten
from .pictures import IMAGE_EXTENSIONS

LOGGER = logging.getLogger("genint")
# What unpacking a macOS archive leaves behind.
RESOURCE_FORKS = "__MACOSX"
# Extensions that are named where files are left out; the others are counted together.
NAMED_EXTENSIONS = 5
SPECIAL = {
    stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip


@dataclass
class Found:
    """What lies below a folder: relative POSIX paths, unsorted. Names that begin with a dot, and `__MACOSX`, are left
    out and counted, as are files that are neither picture nor tar."""

    folders: list[str] = field(default_factory=list)  # directly below it
    pictures: list[tuple[str, int]] = field(default_factory=list)  # with sizes in bytes; 0 for a link to nothing
    tars: list[tuple[str, int]] = field(default_factory=list)
    hidden_folders: int = 0
    hidden_files: int = 0
    others: Counter[str] = field(default_factory=Counter)  # by extension

    def describe_left_out(self) -> str:
        """What was left out, in words; empty where nothing was."""
        parts = [
            _count(self.hidden_folders, "hidden folder"),
            _count(self.hidden_files, "file whose name begins with a dot", "files whose names begin with a dot"),
        ]
        named = self.others.most_common(NAMED_EXTENSIONS)
        parts += [_count(count, f"{extension[:20]} file" if extension else "file without extension",
                         f"{extension[:20]} files" if extension else "files without extension")
                  for extension, count in named]  # fmt: skip
        parts.append(_count(self.others.total() - sum(count for _, count in named), "other file"))
        return ", ".join(filter(None, parts))


def find_files(top: Path, where: str) -> Found:
    """Walk all of a folder, links followed.

    Raises UsageError that begins with `where` for a folder that is reached twice, as by a link to one above it, for
    what is called a picture or tar and is no file, and for what may not be read.
    """
    found = Found()
    try:
        for folder, entry in _walk(top, where, found):
            path = f"{folder}{entry.name}"
            extension = os.path.splitext(entry.name)[1].lower()
            if extension not in IMAGE_EXTENSIONS and extension != ".tar":
                found.others[extension] += 1
            else:
                (found.tars if extension == ".tar" else found.pictures).append((path, _size(entry, path, where)))
    except PermissionError as error:
        raise UsageError(f"{where}: {error.filename} may not be read") from error
    return found


def refuse_mixture(found: Found, where: str) -> None:
    """Raise UsageError where there are tars and pictures: which of them are meant?"""
    if found.tars and found.pictures:
        raise UsageError(
            f"{where}: holds tars and pictures, such as {min(found.tars)[0]!r} and {min(found.pictures)[0]!r}; give a "
            "folder of one kind, or move the other away"
        )


def note_left_out(left_out: str, where: str) -> None:
    """Say in one line what of a folder is not taken."""
    if left_out:
        LOGGER.warning("note: %s: left out: %s", shorten(where), shorten(left_out, 400))


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file. Raises OSError, also for a pipe or a device, which could be read for ever."""
    # Without waiting for someone who writes into a pipe.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a file", os.fspath(path))
        return file.read()


def _walk(top: Path, where: str, found: Found) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Each entry that is no folder, with its folder (ending in a slash, or empty), in the order of names."""
    status = top.stat()
    reached = {(status.st_dev, status.st_ino): "the folder itself"}
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        with os.scandir(top / folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
        for entry in entries:
            is_folder = _is_folder(entry)
            if entry.name.startswith(".") or entry.name == RESOURCE_FORKS:
                found.hidden_folders += is_folder
                found.hidden_files += not is_folder
            elif is_folder:
                path = f"{folder}{entry.name}"
                status = entry.stat()
                before = reached.setdefault((status.st_dev, status.st_ino), repr(path))
                if before != repr(path):
                    raise UsageError(
                        f"{where}: folder {path!r} is the same as {before}, by a link: its pictures would count twice; "
                        "remove the link"
                    )
                if not folder:
                    found.folders.append(path)
                waiting.append(f"{path}/")
            else:
                yield folder, entry


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself
            return False
        raise


def _size(entry: os.DirEntry[str], path: str, where: str) -> int:
    try:
        status = entry.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return 0  # a link to nothing is listed too: it becomes a hole that is counted
        raise
    if not stat.S_ISREG(status.st_mode):
        what = SPECIAL.get(stat.S_IFMT(status.st_mode), "no file")
        raise UsageError(f"{where}: {path!r} is {what}; expected files alone; remove it")
    return status.st_size


def _count(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}" if count else ""
