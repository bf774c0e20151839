"""What a run measures as it goes: `metrics.jsonl`, one line a log interval or validation, and TensorBoard's events."""

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .run import METRICS, TENSORBOARD


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
    """Appends to a run's metrics. A run that goes on at `step` first drops what was written of later steps."""

    def __init__(self, folder: Path, step: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tensorboard's own imports
            from torch.utils.tensorboard import SummaryWriter

        path = folder / METRICS
        drop_later_lines(path, step)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        self._events = SummaryWriter(str(folder / TENSORBOARD), purge_step=step + 1 if step else None)

    def write(self, step: int, group: str, values: Mapping[str, Any]) -> None:
        """One line, on disk at once; numbers also go to TensorBoard as group/name."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            if isinstance(value, int | float):
                self._events.add_scalar(f"{group}/{name}", value, step)
        self._events.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._events.close()


def drop_later_lines(path: Path, step: int) -> None:
    """Keep the lines of steps up to `step`; one that was cut short by the end of a process goes too."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text("utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:
            continue
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text("".join(kept), "utf-8")
    os.replace(temporary, path)
