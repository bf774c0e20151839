"""What a run measures as it goes: `metrics.jsonl`, one line a log interval or validation, and TensorBoard's events."""

import hashlib
import json
import time
import uuid
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from ..manifests.errors import FormatError
from .checkpoint import LAST
from .run import METRICS, TENSORBOARD, replace_text


@dataclass
class Interval:
    """Sums since the last line of metrics."""

    steps: int = 0
    images: int = 0
    seconds: float = 0.0
    waited: float = 0.0  # seconds in which the loop had nothing to do but wait for data
    losses: dict[str, float] = field(default_factory=dict)

    def add(self, losses: Mapping[str, float], images: int, seconds: float, waited: float) -> None:
        self.steps += 1
        self.images += images
        self.seconds += seconds
        self.waited += waited
        for name, loss in losses.items():
            self.losses[name] = self.losses.get(name, 0.0) + loss

    def means(self) -> dict[str, float]:
        """Mean losses, images a second, and the share of time spent waiting for data."""
        losses = {name: total / self.steps for name, total in self.losses.items()}
        seconds = max(self.seconds, 1e-9)
        return losses | {"images_per_second": self.images / seconds, "data_wait": self.waited / seconds}


class Written(BaseModel):
    """How far a run's metrics were written when a checkpoint was: the file's length, and the digest of its bytes."""

    model_config = ConfigDict(strict=True)

    bytes: int = Field(0, ge=0)
    sha256: str = hashlib.sha256().hexdigest()


class Metrics:
    """Appends to a run's metrics. A run that goes on from a checkpoint first drops what was written after it.

    Raises FormatError where the lines before it are not those that the checkpoint was saved after. A file that is not
    there begins anew. before: none where the checkpoint is of an earlier version, which said nothing of them.
    """

    def __init__(self, folder: Path, step: int, before: Written | None) -> None:
        path = folder / METRICS
        there = path.exists()
        content = path.read_bytes() if there else b""
        kept = content[: before.bytes] if before else content
        self._digest = hashlib.sha256(kept)
        if there and before and (len(kept), self._digest.hexdigest()) != (before.bytes, before.sha256):
            raise FormatError(
                f"{path}: altered: its first {before.bytes:,} bytes are not what was written when {LAST} was saved; "
                "restore it from a copy, or remove it to go on without its lines"
            )
        self._bytes = len(kept)
        if content != kept:
            replace_text(path, kept)
        self._file = open(path, "ab")  # noqa: SIM115
        self._events = _Events(folder / TENSORBOARD, step)

    @property
    def written(self) -> Written:
        return Written(bytes=self._bytes, sha256=self._digest.hexdigest())

    def write(self, step: int, group: str, values: Mapping[str, Any]) -> None:
        """One line, on disk at once; numbers also go to TensorBoard as group/name."""
        line = f"{json.dumps({'step': step, **values})}\n".encode()
        self._file.write(line)
        self._file.flush()
        self._digest.update(line)
        self._bytes += len(line)
        self._events.write(step, {f"{group}/{n}": v for n, v in values.items() if isinstance(v, int | float)})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._events.close()


class _Events:
    """TensorBoard's file of events. Its own writer has a thread, and puts the machine's name into the file's."""

    def __init__(self, folder: Path, step: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tensorboard's own imports
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{uuid.uuid4().hex[:8]}"
        self._file = open(folder / name, "wb", buffering=0)  # noqa: SIM115
        self._records = RecordWriter(self._file)
        self._append(file_version="brain.Event:2")
        if step:
            # What an interrupted run had written of later steps is not shown.
            self._append(step=step + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers by their tags."""
        scalars = [self._summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._append(step=step, summary=self._summary(value=scalars))

    def _append(self, **content: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **content).SerializeToString())

    def close(self) -> None:
        self._file.close()
