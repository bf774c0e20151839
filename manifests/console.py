"""What every command shows: while it works, a live bar on a terminal or plain lines; when it fails, one line."""

import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn, Self

from .errors import GenintError, UsageError, mask_credentials, shorten

PLAIN_EVERY = 10.0  # seconds between plain lines
LONGEST_MESSAGE = 1900  # characters


@contextmanager
def exit_codes() -> Iterator[None]:
    """End the process as every command does: 1 failed work, 2 bad usage, 130 interrupted; one line, no traceback."""
    interrupted = False
    _settle_home()

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    # Not where a parent has it ignored, or a caller has a handler of its own.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        # Modules that are interrupted while they are imported turn it into an ImportError.
        if interrupted or isinstance(error, KeyboardInterrupt):
            # At once: a worker's thread would hold the process until its work is done. What is on disk is whole anyway.
            sys.stdout.flush()
            os._exit(130)
        if isinstance(error, GenintError):
            _end(str(error), 2 if isinstance(error, UsageError) else 1)
        if isinstance(error, OSError):  # a full disk, a folder that cannot be written, a bucket (which names no file)
            _end(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
        if isinstance(error, MemoryError):
            _end(f"out of memory{f': {error}' if str(error) else ''}", 1)
        raise
    finally:
        if signal.getsignal(signal.SIGINT) is on_interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def command_arguments() -> list[str]:
    """The command's arguments, with `~` expanded as shells do, and where they do not: after `=`, as in --out=~/run."""
    return ["=".join(os.path.expanduser(part) for part in argument.split("=")) for argument in sys.argv[1:]]


_unsaid: list[str] = []


def say_start(place: object, resumes: bool = True) -> None:
    """Say where a long command writes, and what becomes of that where it is interrupted.

    It is said with the first progress, or at the end: a mistake that is found before stands alone.
    """
    after = "the same command goes on" if resumes else "the same command starts again"
    _unsaid[:] = [_shown(f"writes to {place}; if it is interrupted, {after}")]


def say_next(*steps: Sequence[object] | str) -> None:
    """Say what to look at, or which commands to give, after one has ended well."""
    while _unsaid:
        print(_unsaid.pop(), file=sys.stderr)
    for step in steps:
        _say(f"next: {step if isinstance(step, str) else shlex.join(map(str, step))}")


def _say(line: str) -> None:
    # Not on stdout: what a command gives there is for others to read.
    print(_shown(line), file=sys.stderr)


def _shown(line: str) -> str:
    return shorten(mask_credentials(line), LONGEST_MESSAGE)


def _settle_home() -> None:
    """Give a user without a home, as `docker run --user` makes them, one that is not there: libraries that look for it
    while they are imported go on."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/nonexistent"


def _end(message: str, code: int) -> NoReturn:
    print(f"error: {shorten(mask_credentials(message), LONGEST_MESSAGE)}", file=sys.stderr)
    sys.exit(code)


class ProgressDisplay:
    """Shows `done` of `total` with rate and time left. Work done by an earlier run does not count into the rate."""

    def __init__(self, label: str, unit: str) -> None:
        # Rich takes a while to import, and `--help` shows no progress.
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._label, self._unit = label, unit
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"), TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[note]}"),
            console=self._console, transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task(label, total=None, rate="", note="")
        self._start = self._last = time.monotonic()
        self._first: int | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def update(self, done: int, total: int, note: str = "") -> None:
        """Show a new state; `note` says more about it in a few words."""
        while _unsaid:
            self.print(_unsaid.pop())
        now = time.monotonic()
        if self._first is None:
            self._first = done
        rate = (done - self._first) / max(now - self._start, 1e-9)
        speed = f"{rate:,.1f} {self._unit}/s" if rate else ""
        if self._console.is_terminal:
            self._bar.update(self._task, completed=done, total=total, rate=speed, note=note)
        elif done == total or now - self._last >= PLAIN_EVERY or done == self._first:
            self._last = now
            left = f", {format_seconds((total - done) / rate)} left" if rate and done < total else ""
            text = f"{self._label}: {done:,}/{total:,} {self._unit}"
            print(", ".join(filter(None, (text, speed))) + left + (f" ({note})" if note else ""), file=sys.stderr)

    def print(self, line: str) -> None:
        """A line that stays, above the bar."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def format_seconds(seconds: float) -> str:
    """A duration as people say it: 42 s, 7.5 min, 3.2 h, 12.0 days."""
    for limit, divisor, unit in ((100, 1, "s"), (6000, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit}" if divisor == 1 else f"{seconds / divisor:.1f} {unit}"
    return f"{seconds / 86_400:.1f} days"


def format_bytes(count: float) -> str:
    """A size in decimal units: 3.4 MB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError
