"""Where shards are made: in this process, or in one process a worker. (The Ray cluster is in ray_executor.py.)"""

import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from ...manifests.device import count_cores
from ...manifests.manifest import Record
from .worker import Task, Worker, WorkerSettings

# Two overlap encoding with rendering even on one core; beyond eight, what one thread does for each image is the limit.
LEAST_ENCODERS = 2
MOST_ENCODERS = 8


@dataclass(frozen=True)
class Place:
    """What a worker works on: a device of a machine, or a machine's processor. `node` is the cluster's name of it."""

    host: str
    device: str
    node: str = ""

    def __str__(self) -> str:
        return f"{self.device} of {self.host}"


class WorkerHandle(Protocol):
    """A worker that was asked for: one shard at a time, once it is ready.

    ready: ends when the worker has loaded and checked all that it needs, or with what kept it from starting.
    """

    ready: Future[None]

    @property
    def place(self) -> Place | None:
        """Where it is; None as long as nobody has given it a place."""

    def submit(self, task: Task) -> Future[Record]: ...

    def close(self) -> None:
        """Let a worker go, in whatever state it is."""

    def kill(self) -> None:
        """End a worker at once, whatever it is doing; its shard's future ends soon after. `close` comes next."""


class WorkerPool(Protocol):
    """Starts workers and knows the error of a lost one from the error of a bad shard.

    what: what a worker takes, in words: "GPU".
    """

    what: str

    @property
    def num_workers(self) -> int:
        """How many workers there should be at places that are not avoided."""

    def start_worker(self) -> WorkerHandle: ...

    @property
    def has_place(self) -> bool:
        """Whether there is a place that is not avoided."""

    def avoid(self, place: Place | None) -> None:
        """Start no more workers at a place; None: at any that there is."""

    def is_avoided(self, place: Place | None) -> bool: ...

    def is_loss(self, error: BaseException) -> bool: ...

    def kill(self) -> None:
        """End all workers at once, whatever they are doing."""

    def close(self) -> None:
        """Give back what the pool itself holds."""


class LocalPool:
    """Workers on this machine: `num_workers`, or one a core, or `per_device` a GPU.

    A lone one on the CPU is a thread of this process, others are processes: what has gone wrong on a GPU stays with a
    process until it ends.

    encoders: threads that encode, of each worker; None: as many as the cores allow.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        num_workers: int | None = None,
        per_device: int = 1,
        encoders: int | None = None,
    ) -> None:
        devices = list_devices(settings.device)
        total = num_workers or (count_cores() if settings.device == "cpu" else per_device * len(devices))
        self._settings = replace(settings, encoders=encoders or choose_encoders(count_cores() / total))
        # By device, in turns: workers may be more than devices, and a successor takes its predecessor's.
        self._wanted = Counter(devices[number % len(devices)] for number in range(total))
        self._started: Counter[str] = Counter()
        self._alone = total == 1 and settings.device == "cpu"
        self.what = "CPU" if settings.device == "cpu" else "GPU"

    @property
    def num_workers(self) -> int:
        return self._wanted.total()

    def start_worker(self) -> WorkerHandle:
        device = min(self._wanted, key=lambda device: self._started[device] - self._wanted[device])
        self._started[device] += 1
        settings, place = replace(self._settings, device=device), Place(socket.gethostname(), device)

        def give_back() -> None:
            self._started[device] -= 1

        return (_ThreadWorker if self._alone else _ProcessWorker)(settings, place, give_back)

    @property
    def has_place(self) -> bool:
        return bool(self._wanted)

    def avoid(self, place: Place | None) -> None:
        for device in [place.device] if place else list(self._wanted):
            del self._wanted[device]

    def is_avoided(self, place: Place | None) -> bool:
        return place is not None and place.device not in self._wanted

    def is_loss(self, error: BaseException) -> bool:
        return isinstance(error, BrokenExecutor)

    def kill(self) -> None:
        for process in multiprocessing.active_children():
            process.kill()

    def close(self) -> None:
        """Nothing outlives the workers."""


def list_devices(device: str) -> list[str]:
    """The devices of this machine that a request for `cpu`, `cuda` or `cuda:N` means."""
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())] if device == "cuda" else [device]


def choose_encoders(cores: float) -> int:
    """Encoding threads of a worker that has so many cores: one is left to the worker itself."""
    return min(MOST_ENCODERS, max(LEAST_ENCODERS, int(cores) - 1))


class _LocalWorker:
    """A worker behind an executor of one thread or process."""

    ready: Future[None]

    def __init__(self, executor: Executor, place: Place, give_back: Callable[[], None]) -> None:
        self._executor = executor
        self._give_back = give_back
        self.place = place

    def close(self) -> None:
        self._executor.shutdown()
        self._give_back()


class _ThreadWorker(_LocalWorker):
    def __init__(self, settings: WorkerSettings, place: Place, give_back: Callable[[], None]) -> None:
        super().__init__(ThreadPoolExecutor(1), place, give_back)
        self.ready = self._executor.submit(self._start, settings)

    def _start(self, settings: WorkerSettings) -> None:
        self._worker = Worker(settings)

    def submit(self, task: Task) -> Future[Record]:
        return self._executor.submit(lambda: self._worker.make_shard(task))

    def kill(self) -> None:
        raise AssertionError("a thread cannot be ended, and a lone worker has nobody to take its shard")


class _ProcessWorker(_LocalWorker):
    def __init__(self, settings: WorkerSettings, place: Place, give_back: Callable[[], None]) -> None:
        # Spawned, not forked: torch and CUDA do not survive a fork.
        context = multiprocessing.get_context("spawn")
        super().__init__(ProcessPoolExecutor(1, mp_context=context, initializer=_begin_process), place, give_back)
        self._process = self._executor.submit(os.getpid)
        self.ready = self._executor.submit(_start, settings)

    def submit(self, task: Task) -> Future[Record]:
        try:
            return self._executor.submit(_make_shard, task)
        except BrokenExecutor as error:  # ended while it was idle
            lost: Future[Record] = Future()
            lost.set_exception(error)
            return lost

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._process.result(), signal.SIGKILL)


# Of a worker's process.
_worker: Worker


def _begin_process() -> None:
    # Ctrl-C reaches the whole process group; the driver alone decides, so that running shards can finish.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A pool's process waits for work for ever, also for a driver that was killed.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _start(settings: WorkerSettings) -> None:
    global _worker
    _worker = Worker(settings)


def _make_shard(task: Task) -> Record:
    return _worker.make_shard(task)
