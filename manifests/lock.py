"""One process at a time in a local folder."""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from .console import warn
from .errors import UsageError

# What file systems without locks answer (Lustre and NFS as they are often mounted).
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}

_held: dict[Path, tuple[int, str]] = {}  # lock file: process that holds it, and what it wrote there


@contextmanager
def only_process(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock file `path`; the kernel lets go when this process ends, however it ends.

    The lock is the process's alone: children do not inherit it, so that one that outlives its parent keeps nobody out.
    The file is empty when nobody holds it. Where the file system has no locks, it says so and goes on.
    Raises UsageError that begins with `busy` and names who has it since when.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path = path.resolve()
    owner, holder = _held.get(path, (0, ""))
    if owner == os.getpid():
        # A record lock does not keep its own process out, and closing a second descriptor would drop it.
        raise UsageError(f"{busy} ({holder})")
    with open(path, "a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                file.seek(0)
                holder = file.read(200).strip() or "a process that has not written its name yet"
                raise UsageError(f"{busy} ({holder})") from error
            if error.errno not in NO_LOCKS:
                raise
            warn(
                f"warning: {path}: no locks on this file system ({error.strerror}); see to it yourself that no second "
                "command writes here"
            )
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        holder = f"process {os.getpid()} on {socket.gethostname()}, since {since}"
        file.truncate(0)
        file.write(holder)
        file.flush()
        _held[path] = os.getpid(), holder
        try:
            yield
        finally:
            del _held[path]
            # The name of a machine does not belong into what is released.
            file.truncate(0)


def find_holder(path: Path) -> str | None:
    """Who holds the lock file `path`; None where nobody does, or where the file system has no locks."""
    if path.resolve() in _held:
        return _held[path.resolve()][1]
    try:
        with open(path) as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.EACCES):
                    return file.read(200).strip() or "a process that has not written its name yet"
    except FileNotFoundError:
        pass
    return None


@contextmanager
def one_after_another(path: Path) -> Iterator[None]:
    """Wait until no other process holds the lock file `path`, then hold it. Where there are no locks, nobody waits."""
    with open(path, "a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield
