"""What a run measures as it goes: `metrics.jsonl`, one line a log interval or validation, and TensorBoard's events."""

import json
import time
import uuid
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..manifests.errors import FormatError
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


class Metrics:
    """Appends to a run's metrics. A run that goes on at `step` first drops what was written of later steps.

    `validated`: whether the validation of that step was done; else it is dropped too, and comes again.
    """

    def __init__(self, folder: Path, step: int, validated: bool = True) -> None:
        path = folder / METRICS
        drop_later_lines(path, step, validated)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        self._events = _Events(folder / TENSORBOARD, step)

    def write(self, step: int, group: str, values: Mapping[str, Any]) -> None:
        """One line, on disk at once; numbers also go to TensorBoard as group/name."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
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


def drop_later_lines(path: Path, step: int, validated: bool = True) -> None:
    """Keep the lines of steps up to `step`; one that was cut short by the end of a process goes too.

    Raises FormatError that names another line which is no line of metrics.
    """
    if not path.exists():
        return
    *lines, cut = path.read_bytes().split(b"\n")
    kept = []
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
            of_step = int(values["step"])
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            raise FormatError(f"{path}: line {number} is no line of metrics; remove it, and the run goes on") from error
        if of_step < step or (of_step == step and (validated or "validation_top1" not in values)):
            kept.append(line + b"\n")
    if cut or len(kept) < len(lines):
        replace_text(path, b"".join(kept))
