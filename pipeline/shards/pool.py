"""Where shards are made, as the command line says it. Light: what does the work is imported when it starts."""

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...manifests.console import say, this_command
from ...manifests.errors import UsageError

if TYPE_CHECKING:
    from .executor import WorkerPool
    from .worker import WorkerSettings


@dataclass(frozen=True)
class Pool:
    """Where shards are made. Raises UsageError where the options contradict one another."""

    executor: str
    workers: int | None
    per_device: int
    encoders: int | None
    address: str | None
    device: str

    def __post_init__(self) -> None:
        if self.executor == "ray":
            from .ray_executor import check_options

            check_options(self.device, self.address)
        elif self.address:
            raise UsageError(f"--address {self.address}: only with --executor ray")

    def own_device(self) -> str:
        """This machine's device, which only settles the directions where a cluster does the work."""
        from .environment import check_device

        return check_device(self.device if self.executor == "local" else "auto")

    def worker_device(self) -> str:
        return self.own_device() if self.executor == "local" else self.device

    def start(self, settings: "WorkerSettings") -> "WorkerPool":
        if self.executor == "ray":
            from .ray_executor import RayPool

            pool = RayPool(settings, self.workers, self.address, _end_at_once, self.per_device, self.encoders)
            if settings.device == "auto":
                say(f"--device auto: {pool.what}s of the cluster")
            return pool
        from .executor import LocalPool

        return LocalPool(settings, self.workers, self.per_device, self.encoders)


def _end_at_once(message: str) -> None:
    """End from a thread while the main one may hang; what is on disk is whole at any time."""
    print(f"error: {message}; to resume: {this_command()}", file=sys.stderr, flush=True)
    os._exit(1)
