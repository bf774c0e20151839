"""A run's folder: what the run is, its checkpoints, and how the same command goes on in it."""

import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..manifests.errors import FormatError, UsageError
from ..manifests.lock import only_process
from .checkpoint import BEST, LAST, read_checkpoint, save_checkpoint
from .configuration import Configuration

CONFIGURATION = "configuration.toml"
# What decides the run: the configuration, and what identifies its inputs.
IDENTITY = "run.json"
METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
LOCK = "lock"


@dataclass(frozen=True)
class RunFolder:
    """`run.json` says what the run is. Checkpoints are step-NNNNNNNN.pt; last.pt is the newest, best.pt the best."""

    path: Path

    def check(self) -> None:
        """Raise UsageError where the folder holds something else than a run."""
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"--out {self.path}: is a file")
        found = {entry.name for entry in self.path.iterdir()} if self.path.is_dir() else set()
        if IDENTITY not in found and found - {LOCK}:
            raise UsageError(f"--out {self.path}: holds something else than a run (no {IDENTITY}); name a new folder")

    def check_same(self, configuration: Configuration, identity: Mapping[str, Any]) -> None:
        """Raise UsageError that names what changed since the run began. Its last stage may change its length."""
        path = self.path / IDENTITY
        if not path.is_file():
            return
        try:
            before = json.loads(path.read_text())
        except ValueError as error:
            raise FormatError(f"{path}: not JSON: {error}") from error
        last = configuration.stages[-1].name
        free = {f"stages.{last}.epochs", f"stages.{last}.steps"}
        changes = [
            f"{key}: {_short(before.get(key))} -> {_short(identity.get(key))}"
            for key in sorted((before.keys() | identity.keys()) - free)
            if before.get(key) != identity.get(key)
        ]
        if changes:
            raise UsageError(f"--out {self.path}: a run with another configuration is there: {'; '.join(changes)}")

    def create(self, configuration: Configuration, identity: Mapping[str, Any]) -> None:
        """Make the folder with what the run is."""
        self.path.mkdir(parents=True, exist_ok=True)
        _write(self.path / IDENTITY, json.dumps(identity, indent=1, sort_keys=True) + "\n")
        _write(self.path / CONFIGURATION, configuration.to_toml())

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
        _link(path, self.path / LAST)
        if best:
            _link(path, self.path / BEST)
        for old in self.checkpoints()[:-keep]:
            old.unlink()

    def checkpoints(self) -> list[Path]:
        """Numbered checkpoints, oldest first."""
        return sorted(path for path in self.path.glob("step-*.pt") if re.fullmatch(r"step-\d{8}\.pt", path.name))


def _short(value: Any) -> str:
    text = "absent" if value is None else json.dumps(value, sort_keys=True)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.tmp.{uuid.uuid4().hex}")
    temporary.write_text(text, "utf-8")
    os.replace(temporary, path)


def _link(path: Path, name: Path) -> None:
    """A second name for a checkpoint: a hard link, or a copy where the file system has none."""
    temporary = name.with_name(f"{name.name}.tmp.{uuid.uuid4().hex}")
    try:
        os.link(path, temporary)
    except OSError:
        shutil.copyfile(path, temporary)
    os.replace(temporary, name)
