"""What every command shows: while it works, a live bar on a terminal or plain lines; when it fails, one line."""

import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn, Self, TextIO

from .errors import GenintError, UsageError, mask_credentials, shorten

PLAIN_EVERY = 10.0  # seconds between plain lines
# How much is shown: errors and warnings; lines and progress too; and each piece of work that is done.
QUIET, NORMAL, VERBOSE = 0, 1, 2
LONGEST_MESSAGE = 1900  # characters
LOGGER = logging.getLogger("genint")


@dataclass
class Output:
    """What the running command shows, and where it logs."""

    verbosity: int = NORMAL
    file: TextIO | None = None

    def write(self, line: str) -> None:
        if self.file:
            now = datetime.now(UTC).isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")
            self.file.write(f"{now} UTC  {mask_credentials(line)}\n")

    def close(self) -> None:
        if self.file:
            self.file.close()


# Of this process: its stderr is one, too.
_output = Output()


class _Spoken(logging.Handler):
    """What modules below say by `logging` is a line for people like any other."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage(), QUIET if record.levelno >= logging.WARNING else VERBOSE)


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
    spoken = _Spoken()
    LOGGER.addHandler(spoken)
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
        LOGGER.removeHandler(spoken)
        set_output()
        if signal.getsignal(signal.SIGINT) is on_interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def command_arguments() -> list[str]:
    """The command's arguments, with `~` expanded as shells do, and where they do not: after `=`, as in --out=~/run."""
    return ["=".join(os.path.expanduser(part) for part in argument.split("=")) for argument in sys.argv[1:]]


_unsaid: list[str] = []


def say_start(place: object, resumes: bool = True, with_progress: bool = False) -> None:
    """Say where a long command writes, and what becomes of that where it is interrupted.

    with_progress: not before the first progress, where a mistake may still be found; without any it is not said.
    """
    after = "the same command goes on" if resumes else "the same command starts again"
    _unsaid[:] = [f"writes to {place}; if it is interrupted, {after}"]
    if not with_progress:
        say(_unsaid.pop())


def say_next(*steps: Sequence[object] | str) -> None:
    """Say what to look at, or which commands to give, after one has ended well."""
    _unsaid.clear()
    for step in steps:
        say(f"next: {step if isinstance(step, str) else shlex.join(map(str, step))}")


def say(line: str, at: int = NORMAL) -> None:
    """A line for people, from verbosity `at` on, and in the log. Not on stdout: that is for others to read."""
    text = shorten(mask_credentials(line), LONGEST_MESSAGE)
    if _output.verbosity >= at:
        sys.stdout.flush()  # what was said there came before, also where both go into one file
        print(text, file=sys.stderr)
    if at <= max(_output.verbosity, NORMAL):
        _output.write(text)


def warn(line: str) -> None:
    """A line that is shown whatever the verbosity."""
    say(line, QUIET)


def set_output(log: Path | None = None, verbose: bool = False, quiet: bool = False) -> None:
    """How much a command shows, and a file that its lines are appended to, with the time of each.

    Raises UsageError where the file cannot be written.
    """
    global _output
    if verbose and quiet:
        raise UsageError("--verbose and --quiet: give one of them")
    try:
        # Names of files may hold bytes that are no text.
        file = open(log, "a", 1, "utf-8", "backslashreplace") if log else None  # noqa: SIM115 - open as long as it is
    except OSError as error:
        raise UsageError(f"--log {log}: {error.strerror}") from error
    _output.close()
    _output = Output(QUIET if quiet else VERBOSE if verbose else NORMAL, file)
    if file:
        _output.write(f"$ {this_command()}")


def this_command() -> str:
    """The command that runs, as it is to be given again."""
    return mask_credentials(shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]]))


def _settle_home() -> None:
    """Give a user without a home, as `docker run --user` makes them, one that is not there: libraries that look for it
    while they are imported go on."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/nonexistent"


def _end(message: str, code: int) -> NoReturn:
    warn(f"error: {message}")
    sys.exit(code)


class ProgressDisplay:
    """Shows `done` of `total` with rate and time left. Work done by an earlier run does not count into the rate.

    A bar on a terminal, lines elsewhere and in the log: the first, the last, and one at least every PLAIN_EVERY seconds
    as long as `update` is called.
    """

    def __init__(self, label: str, unit: str) -> None:
        # Rich takes a while to import, and `--help` shows no progress.
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._label, self._unit = label, unit
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"), TextColumn("{task.fields[left]}"), TextColumn("{task.fields[note]}"),
            console=self._console, transient=True, disable=_output.verbosity < NORMAL,
        )  # fmt: skip
        self._task = self._bar.add_task(label, total=None, rate="", left="", note="")
        self._start = self._last = time.monotonic()
        self._first: int | None = None
        self._begun = False

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def update(self, done: int, total: int, note: str = "", left: str | None = None) -> None:
        """Show a new state. note: more about it in a few words. left: the time that is left, by default what the rate
        so far says."""
        while _unsaid:
            self.print(shorten(mask_credentials(_unsaid.pop()), LONGEST_MESSAGE))
        now = time.monotonic()
        if self._first is None:
            self._first = done
        rate = (done - self._first) / max(now - self._start, 1e-9)
        speed = f"{rate:,.1f} {self._unit}/s" if rate else ""
        if left is None:
            left = f"{format_seconds((total - done) / rate)} left" if rate and done < total else ""
        self._bar.update(self._task, completed=done, total=total, rate=speed, left=left, note=note)
        if done == total or now - self._last >= PLAIN_EVERY or not self._begun:
            self._last, self._begun = now, True
            text = f"{self._label}: {done:,}/{total:,} {self._unit}"
            line = ", ".join(filter(None, (text, speed, left))) + (f" ({note})" if note else "")
            _output.write(line)
            if not self._console.is_terminal and _output.verbosity >= NORMAL:
                print(line, file=sys.stderr)

    def print(self, line: str, at: int = NORMAL) -> None:
        """A line that stays, above the bar, from verbosity `at` on."""
        if _output.verbosity >= at:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)
        if at <= max(_output.verbosity, NORMAL):
            _output.write(line)


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
