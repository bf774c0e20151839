"""A run's folder: what the run is, its checkpoints, and how the same command goes on in it."""

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..manifests.errors import FormatError, UsageError, shorten
from ..manifests.lock import only_process
from ..manifests.shard import TEMPORARY, sweep
from .checkpoint import BEST, LAST, read_checkpoint, save_checkpoint
from .configuration import Configuration

CONFIGURATION = "configuration.toml"
# What decides the run: the configuration, and what identifies its inputs.
IDENTITY = "run.json"
# Its own digest, of all else in it.
DIGEST = "sha256"
METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
LOCK = "lock"
# Images that could not be read and were left out, one a line.
LEFT_OUT = "left-out.jsonl"


@dataclass(frozen=True)
class UnreadableImage:
    """An image that was left out: its stream, its position in it, what it is called, and why."""

    stream: str
    position: int
    key: str
    reason: str


@dataclass(frozen=True)
class RunFolder:
    """`run.json` says what the run is. Checkpoints are step-NNNNNNNN.pt; last.pt is the newest, best.pt the best."""

    path: Path

    def check(self) -> None:
        """Raise UsageError where the folder holds something else than a run."""
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"--out {self.path}: is a file")
        found = {entry.name for entry in self.path.iterdir()} if self.path.is_dir() else set()
        # Of a command that was killed, or that the disk failed, as it began.
        leftovers = {LOCK, *(name for name in found if TEMPORARY in name)}
        if IDENTITY not in found and found - leftovers:
            raise UsageError(f"--out {self.path}: holds something else than a run (no {IDENTITY}); name a new folder")

    def check_same(
        self,
        configuration: Configuration,
        identity: Mapping[str, Any],
        sealed: bool = True,
        unused: Iterable[str] = (),
    ) -> None:
        """Raise UsageError that names what changed since the run began. Its last stage may change its length, where
        its learning rate does not follow it.

        sealed: whether `run.json` has its own digest, which those of earlier versions lack. unused: streams that are
        there and take no part, of which earlier versions took note.
        """
        path = self.path / IDENTITY
        if not path.is_file():
            return
        try:
            before = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{path}: not JSON: {shorten(str(error))}") from error
        if not isinstance(before, dict):
            raise FormatError(f"{path}: a {type(before).__name__}, expected an object that says what the run is")
        if before.pop(DIGEST, None) != _digest(before) and sealed:
            raise FormatError(f"{path}: altered since the run wrote it; restore it from a copy, or name a new folder")
        last = configuration.stages[-1]
        lengths = {f"stages.{last.name}.epochs", f"stages.{last.name}.steps"}
        free = {f"stream {name}" for name in unused} | (lengths if last.schedule == "steps" else set())
        # A run of an earlier version has no entry of keys that are new since; it has gone by their defaults.
        before = {**{key: value for key, value in configuration.defaults().items() if key in identity}, **before}
        changed = [
            key
            for key in sorted((before.keys() | identity.keys()) - free)
            if not _same(before.get(key), identity.get(key))
        ]
        if changed:
            changes = "; ".join(f"{key}: {_short(before.get(key))} -> {_short(identity.get(key))}" for key in changed)
            data = any(key.startswith(("stream ", "validation ")) for key in changed)
            remedy = (
                "give the data as it was, or name a new folder"
                if data
                else f"to go on as it was, --preset {self.path / CONFIGURATION}; or name a new folder"
            )
            raise UsageError(f"--out {self.path}: a run with another configuration is there: {changes} ({remedy})")

    def create(self, configuration: Configuration, identity: Mapping[str, Any]) -> None:
        """Make the folder with what the run is, and sweep it. The run must be held."""
        self.path.mkdir(parents=True, exist_ok=True)
        sweep(self.path)
        sealed = {**identity, DIGEST: _digest(identity)}
        replace_text(self.path / IDENTITY, (json.dumps(sealed, indent=1, sort_keys=True) + "\n").encode())
        replace_text(self.path / CONFIGURATION, configuration.to_toml().encode())

    def held(self) -> AbstractContextManager[None]:
        """Keep other processes from going on with the run meanwhile. Raises UsageError where one does."""
        return only_process(self.path / LOCK, f"--out {self.path}: this run is under way")

    def load_last(self) -> dict[str, Any] | None:
        """The newest checkpoint; None where no step was saved yet."""
        return read_checkpoint(self.path / LAST) if (self.path / LAST).exists() else None

    def save(self, step: int, content: Mapping[str, Any], keep: int, best: bool) -> None:
        """Write the checkpoint of a step, and drop all but the newest `keep`."""
        path = self.path / f"step-{step:08d}.pt"
        save_checkpoint(path, content)
        if best:
            _link(path, self.path / BEST)
        # Last: what it says of the best is then true.
        _link(path, self.path / LAST)
        for old in self.checkpoints()[:-keep]:
            old.unlink()

    def checkpoints(self) -> list[Path]:
        """Numbered checkpoints, oldest first."""
        return sorted(path for path in self.path.glob("step-*.pt") if re.fullmatch(r"step-\d{8}\.pt", path.name))


class LeftOutImages:
    """A run's list of the images that it leaves out. Other images stand in for them, so that the run stays the same."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LEFT_OUT
        self._known: dict[str, set[int]] = {}
        content = self.path.read_bytes() if self.path.exists() else b""
        *lines, cut = content.split(b"\n")
        if cut:  # by the end of a process
            replace_text(self.path, content.removesuffix(cut))
        for number, line in enumerate(lines, 1):
            try:
                entry = UnreadableImage(**json.loads(line))
                self._known.setdefault(str(entry.stream), set()).add(int(entry.position))
            except (ValueError, TypeError, RecursionError) as error:
                raise FormatError(f"{self.path}: line {number} is no entry of the list of images left out") from error

    def positions(self, stream: str) -> frozenset[int]:
        return frozenset(self._known.get(stream, ()))

    def add(self, images: Iterable[UnreadableImage]) -> list[UnreadableImage]:
        """Append what is new to the list; returns that. Every rank appends its own, whole lines at a time."""
        new = []
        for image in images:
            known = self._known.setdefault(image.stream, set())
            if image.position not in known:
                known.add(image.position)
                new.append(image)
        if new:
            with open(self.path, "ab") as file:
                lines = [json.dumps({**asdict(image), "key": without_place(image.key)}) for image in new]
                file.write("".join(f"{line}\n" for line in lines).encode())
        return new


def _same(before: Any, now: Any) -> bool:
    """Whether a value is as it was. Runs of before named a stream by all of its dataset's sums, words included."""
    if isinstance(before, dict) and "sums_sha256" in before and isinstance(now, dict):
        before = {key: value for key, value in before.items() if key != "sums_sha256"}
        now = {key: value for key, value in now.items() if key != "shards_sha256"}
    return bool(before == now)


def _digest(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _short(value: Any) -> str:
    text = "absent" if value is None else json.dumps(value, sort_keys=True)
    return text if len(text) <= 60 else f"{text[:57]}..."


def without_place(key: str) -> str:
    """The name of a sample without the folders that it lies in but the last, which are nobody's business."""
    return "/".join(key.split("/")[-2:])


def replace_text(path: Path, content: bytes) -> None:
    """Write a small file, whole or not at all."""
    temporary = path.with_name(f"{path.name}.tmp.{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _link(path: Path, name: Path) -> None:
    """A second name for a checkpoint: a hard link, or a copy where the file system has none."""
    temporary = name.with_name(f"{name.name}.tmp.{uuid.uuid4().hex}")
    try:
        os.link(path, temporary)
    except OSError:
        shutil.copyfile(path, temporary)
    os.replace(temporary, name)
