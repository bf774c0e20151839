"""Where a dataset lives: a local folder or a bucket (any fsspec URL), behind the few operations a build needs."""

import hashlib
import io
import logging
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar
from urllib.parse import quote

import fsspec
from fsspec.implementations.local import LocalFileSystem

from .errors import USER_INFO, FormatError, GenintError, UsageError, mask_credentials, shorten
from .shard import TEMPORARY, sync_folder

LOGGER = logging.getLogger("genint")
CHUNK = 1 << 20
# Schemes whose URLs name a bucket alone.
BUCKETS = frozenset({"s3", "s3a", "gs", "gcs"})
# Seconds between attempts to read from a bucket that answered before, on top of what its client tries by itself.
WAITS = (1, 4, 16)

# Families of errors of the clients behind fsspec's file systems, by module: those that pass by themselves, and all.
PASSING = {
    "httpx": ("TransportError",),
    "botocore.exceptions": ("ConnectionError", "HTTPClientError"),
    "aiohttp": ("ClientConnectionError", "ClientPayloadError"),
    "fsspec.exceptions": ("FSTimeoutError",),
}
FAMILIES = {
    "httpx": ("HTTPError",),
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "aiohttp": ("ClientError",),
    "fsspec.exceptions": ("FSTimeoutError",),
    "google.auth.exceptions": ("GoogleAuthError",),
    "gcsfs.retry": ("HttpError",),
    "azure.core.exceptions": ("AzureError",),
}

Result = TypeVar("Result")


class Storage:
    """A dataset's folder. All names are relative POSIX paths that stay inside it."""

    def __init__(self, url: str | os.PathLike[str]) -> None:
        self.url = os.fspath(url)
        # `pipe:` and its kin run a shell command for what looks like a file name.
        scheme, colon, rest = self.url.partition(":")
        if colon and scheme.isalnum() and len(scheme) > 1 and not rest.startswith(("//", "://")):
            raise UsageError(f"{self}: command URLs are refused; give a folder or a URL such as s3://bucket/name")
        if scheme in BUCKETS and USER_INFO.search(self.url):
            raise UsageError(
                f"{self}: credentials do not belong into the URL of a bucket; set them as its client expects them, "
                "such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment"
            )
        try:
            # No cached listings: other workers add files that a cached listing would deny.
            self._fs, self._root = fsspec.url_to_fs(self.url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise UsageError(f"{self}: {self._without_credentials(error)}") from error
        self.local = isinstance(self._fs, LocalFileSystem)
        self._answered = False

    def __str__(self) -> str:
        """The location, for messages: without credentials."""
        return mask_credentials(self.url)

    def __truediv__(self, name: str) -> str:
        """The full location of `name`, for messages and commands."""
        base, question, query = str(self).partition("?")
        return f"{base.rstrip('/')}/{name}{question}{query}"

    @property
    def absolute(self) -> str:
        """The same place for a process with another working folder."""
        return str(self._root) if self.local else self.url

    def local_path(self, name: str) -> Path:
        """The file of `name` in a local folder."""
        assert self.local, self.url
        return Path(self._locate(name))

    def exists(self, name: str) -> bool:
        if self.local:
            return os.path.exists(self._locate(name))
        try:
            self._ask(name, lambda: self._fs.info(self._locate(name)))
        except FileNotFoundError:
            return False
        return True

    def size(self, name: str) -> int | None:
        """Bytes of `name`; None where there is no such file, or a server does not say."""
        try:
            size = self._ask(name, lambda: self._fs.info(self._locate(name)))["size"]
        except FileNotFoundError:
            return None
        return None if size is None else int(size)

    def list(self, folder: str = "") -> list[str]:
        """Names directly inside `folder`, sorted; none where it does not exist."""
        return sorted(PurePosixPath(entry["name"]).name for entry in self._entries(folder))

    def sizes(self, folder: str) -> dict[str, int | None]:
        """Names directly inside `folder` with their bytes, None for a folder; empty where it does not exist."""
        return {
            PurePosixPath(entry["name"]).name: None if entry["type"] == "directory" else int(entry["size"])
            for entry in self._entries(folder)
        }

    def times(self, folder: str) -> dict[str, float]:
        """Names directly inside `folder` with the time of their last change, seconds since 1970, where it is known."""
        found = {}
        for entry in self._entries(folder):
            # As each kind of store calls it: a local disk, S3, memory.
            changed = next((entry[key] for key in ("mtime", "LastModified", "created") if key in entry), None)
            if changed is not None:
                seconds = changed.timestamp() if isinstance(changed, datetime) else float(changed)
                found[PurePosixPath(entry["name"]).name] = seconds
        return found

    def open(self, name: str) -> IO[bytes]:
        """Open `name` for reading; what lies in a bucket is fetched whole."""
        if self.local:
            return open(self.local_path(name), "rb")
        return io.BytesIO(self.read(name))

    def read(self, name: str) -> bytes:
        return bytes(self._ask(name, lambda: self._fs.cat_file(self._locate(name))))

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        """Bytes of `name` from `offset`; fewer than `size` where it ends before."""
        # By keyword: file systems differ in what stands second.
        part = {"start": offset, "end": offset + size}
        return bytes(self._ask(name, lambda: self._fs.cat_file(self._locate(name), **part)))

    def sha256(self, name: str) -> str:
        """Digest of `name`, read in pieces."""

        def digest() -> str:
            found = hashlib.sha256()
            with self._fs.open(self._locate(name), "rb") as file:
                while chunk := file.read(CHUNK):
                    found.update(chunk)
            return found.hexdigest()

        return self._ask(name, digest)

    def write(self, name: str, content: bytes) -> None:
        """Put a small file in place, whole or not at all."""
        if not self.local:
            self._send(name, lambda: self._fs.pipe_file(self._locate(name), content))
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
            self._ask(name, lambda: self._fs.get_file(self._locate(name), str(path)))
            yield path

    def put(self, path: Path, name: str) -> None:
        """Send a finished local file to `name` in one put and check the size that arrived."""
        self._send(name, lambda: self._fs.put_file(str(path), self._locate(name)))
        arrived = self.size(name)
        if arrived != path.stat().st_size:
            raise FormatError(f"{self / name}: {arrived} bytes arrived of {path.stat().st_size}")

    def remove(self, name: str) -> None:
        """Remove a file or a folder with what is in it, if it is there."""
        if self.exists(name):
            self._ask(name, lambda: self._fs.rm(self._locate(name), recursive=True))

    def free_bytes(self) -> int | None:
        """Free space on a local disk; None for a bucket."""
        if not self.local:
            return None
        folder = Path(self._root)
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free

    def _send(self, name: str, action: Callable[[], object]) -> None:
        try:
            self._ask(name, action)
        except FileNotFoundError as error:  # a bucket that is not there; objects themselves need no folder
            raise UsageError(f"{self / name}: {self._without_credentials(error)}") from error

    def _entries(self, folder: str) -> Sequence[Mapping[str, Any]]:
        place = self._locate(folder) if folder else self._root
        try:
            return list(self._ask(folder, lambda: self._fs.ls(place, detail=True, refresh=True)))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _ask(self, name: str, action: Callable[[], Result]) -> Result:
        """What an action on `name` returns. A bucket that answered before and does not now is asked again.

        Raises FileNotFoundError where there is no such file, GenintError in one line for whatever else a bucket's
        client raises; a local folder raises its own errors.
        """
        if self.local:
            return action()
        place = self / name if name else str(self)
        waits = iter(WAITS if self._answered else ())
        while True:
            failure: BaseException
            try:
                result = action()
            except (FileNotFoundError, NotADirectoryError) as error:
                # Over HTTP a server that cannot be reached has no file either: the cause says more.
                if not isinstance(error.__cause__, _families(FAMILIES)) or _status(error.__cause__) in (404, 410):
                    self._answered = True
                    raise
                failure = error.__cause__
            except Exception as error:
                if not isinstance(error, (OSError, *_families(FAMILIES))):
                    raise
                failure = error
            else:
                self._answered = True
                return result
            text = self._without_credentials(failure)
            passing = isinstance(failure, (ConnectionError, TimeoutError, *_families(PASSING)))
            wait = next(waits, None) if passing else None
            if wait is None:
                kind = UsageError if isinstance(failure, PermissionError) or _has_no_bucket(failure) else GenintError
                raise kind(f"{place}: {text}") from failure
            LOGGER.warning("%s: %s; trying again in %d s", place, text, wait)
            time.sleep(wait)

    def _without_credentials(self, error: BaseException) -> str:
        text = str(error) or type(error).__name__
        user, at, _ = self.url.partition("://")[2].rpartition("@")
        for shown in (user, quote(user, safe=""), quote(user)) if at else ():
            text = text.replace(shown, "***")
        return shorten(mask_credentials(text), 400)

    def _locate(self, name: str) -> str:
        parts = PurePosixPath(name).parts
        if not parts or ".." in parts or name.startswith("/") or "\\" in name or "\0" in name:
            raise FormatError(f"{self}: path {name!r} leaves the dataset folder")
        return f"{self._root.rstrip('/')}/{name}"


def _families(names: Mapping[str, Sequence[str]]) -> tuple[type[Exception], ...]:
    """Those of the families whose client is loaded: what is not loaded has raised nothing."""
    loaded = [(sys.modules[module], kinds) for module, kinds in names.items() if module in sys.modules]
    return tuple(getattr(module, kind) for module, kinds in loaded for kind in kinds)


def _has_no_bucket(error: BaseException) -> bool:
    response = getattr(error, "response", None)
    return isinstance(response, dict) and response.get("Error", {}).get("Code") == "NoSuchBucket"


def _status(error: BaseException | None) -> object:
    return getattr(error, "status", None)
