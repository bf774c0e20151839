"""Where a dataset lives: a local folder or a bucket (any fsspec URL), behind the few operations a build needs."""

import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from .errors import FormatError, UsageError
from .shard import TEMPORARY, sync_folder

CHUNK = 1 << 20


class Storage:
    """A dataset's folder. All names are relative POSIX paths that stay inside it."""

    def __init__(self, url: str | os.PathLike[str]) -> None:
        self.url = os.fspath(url)
        # `pipe:` and its kin run a shell command for what looks like a file name.
        scheme, colon, rest = self.url.partition(":")
        if colon and scheme.isalnum() and len(scheme) > 1 and not rest.startswith(("//", "://")):
            raise UsageError(f"{self.url}: command URLs are refused; give a folder or a URL such as s3://bucket/name")
        try:
            # No cached listings: other workers add files that a cached listing would deny.
            self._fs, self._root = fsspec.url_to_fs(self.url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise UsageError(f"{self.url}: {error}") from error
        self.local = isinstance(self._fs, LocalFileSystem)

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> str:
        """The full location of `name`, for messages and commands."""
        return f"{self.url.rstrip('/')}/{name}"

    @property
    def absolute(self) -> str:
        """The same place for a process with another working folder."""
        return str(self._root) if self.local else self.url

    def local_path(self, name: str) -> Path:
        """The file of `name` in a local folder."""
        assert self.local, self.url
        return Path(self._locate(name))

    def exists(self, name: str) -> bool:
        return bool(self._fs.exists(self._locate(name)))

    def size(self, name: str) -> int | None:
        """Bytes of `name`; None where there is no such file."""
        try:
            return int(self._fs.size(self._locate(name)))
        except FileNotFoundError:
            return None

    def list(self, folder: str = "") -> list[str]:
        """Names directly inside `folder`, sorted; none where it does not exist."""
        try:
            found = self._fs.ls(self._locate(folder) if folder else self._root, detail=False, refresh=True)
        except FileNotFoundError:
            return []
        return sorted(PurePosixPath(path).name for path in found)

    def sizes(self, folder: str) -> dict[str, int | None]:
        """Names directly inside `folder` with their bytes, None for a folder; empty where it does not exist."""
        try:
            found = self._fs.ls(self._locate(folder) if folder else self._root, detail=True, refresh=True)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return {
            PurePosixPath(entry["name"]).name: None if entry["type"] == "directory" else int(entry["size"])
            for entry in found
        }

    def open(self, name: str) -> IO[bytes]:
        """Open `name` for reading."""
        file: IO[bytes] = self._fs.open(self._locate(name), "rb")
        return file

    def read(self, name: str) -> bytes:
        with self.open(name) as file:
            return file.read()

    def sha256(self, name: str) -> str:
        """Digest of `name`, read in pieces."""
        digest = hashlib.sha256()
        with self.open(name) as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    def write(self, name: str, content: bytes) -> None:
        """Put a small file in place, whole or not at all."""
        if not self.local:
            with self._sending(name):
                self._fs.pipe_file(self._locate(name), content)
            return
        with self.replacing(name) as temporary:
            temporary.write_bytes(content)

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """A local path to write to; it becomes `name` when the block ends without an exception.

        Local: written beside, synced, renamed. Remote: written to a local file and sent in one put, because an
        exception inside a remote `open(..., "wb")` publishes the truncated object.
        """
        if not self.local:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / PurePosixPath(name).name
                yield path
                self.put(path, name)
            return
        target = self.local_path(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{target.name}{TEMPORARY}{uuid.uuid4().hex}")
        try:
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
            sync_folder(target.parent)
        finally:
            temporary.unlink(missing_ok=True)

    @contextmanager
    def fetched(self, name: str) -> Iterator[Path]:
        """A local path to read `name` from: the file itself, or a copy that goes when the block ends."""
        if self.local:
            yield self.local_path(name)
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / PurePosixPath(name).name
            self._fs.get_file(self._locate(name), str(path))
            yield path

    def put(self, path: Path, name: str) -> None:
        """Send a finished local file to `name` in one put and check the size that arrived."""
        with self._sending(name):
            self._fs.put_file(str(path), self._locate(name))
        arrived = self.size(name)
        if arrived != path.stat().st_size:
            raise FormatError(f"{self / name}: {arrived} bytes arrived of {path.stat().st_size}")

    def remove(self, name: str) -> None:
        """Remove a file or a folder with what is in it, if it is there."""
        if self.exists(name):
            self._fs.rm(self._locate(name), recursive=True)

    def free_bytes(self) -> int | None:
        """Free space on a local disk; None for a bucket."""
        if not self.local:
            return None
        folder = Path(self._root)
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free

    @contextmanager
    def _sending(self, name: str) -> Iterator[None]:
        # A bucket that is not there, or not ours; objects themselves need no folder.
        try:
            yield
        except (FileNotFoundError, PermissionError) as error:
            raise UsageError(f"{self / name}: {error}") from error

    def _locate(self, name: str) -> str:
        parts = PurePosixPath(name).parts
        if not parts or ".." in parts or name.startswith("/") or "\\" in name or "\0" in name:
            raise FormatError(f"{self.url}: path {name!r} leaves the dataset folder")
        return f"{self._root.rstrip('/')}/{name}"
