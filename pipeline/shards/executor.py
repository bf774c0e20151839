"""Where shards are made: in this process, or in one process a worker. (The Ray cluster is in ray_executor.py.)"""

import itertools
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Protocol

import torch

from ...manifests.errors import GenintError
from ...manifests.manifest import Record
from .worker import Task, Worker, WorkerSettings


def count_devices(device: str) -> int:
    """Workers for a device on this machine: one a GPU, or one a CPU core that this process may use."""
    if device == "cuda":
        return torch.cuda.device_count()
    return 1 if device.startswith("cuda") else len(os.sched_getaffinity(0))


class WorkerHandle(Protocol):
    """A started worker: one shard at a time."""

    def submit(self, task: Task) -> Future[Record]: ...

    def close(self) -> None:
        """Let an idle or a lost worker go."""


class WorkerPool(Protocol):
    """Starts workers and knows the error of a lost one from the error of a bad shard."""

    num_workers: int

    def start_worker(self) -> WorkerHandle: ...

    def is_loss(self, error: BaseException) -> bool: ...

    def kill(self) -> None:
        """End all workers at once, whatever they are doing."""

    def close(self) -> None:
        """Give back what the pool itself holds."""


class LocalPool:
    """Workers on this machine: a thread of this process where there is one, else a process each."""

    def __init__(self, settings: WorkerSettings, num_workers: int) -> None:
        self.num_workers = num_workers
        self._settings = settings
        self._numbers = itertools.count()

    def start_worker(self) -> WorkerHandle:
        if self.num_workers == 1:
            _start(self._settings)
            return _LocalWorker(ThreadPoolExecutor(1))
        settings = self._settings
        if settings.device == "cuda":
            # The numbers of lost workers come round again.
            settings = replace(settings, device=f"cuda:{next(self._numbers) % self.num_workers}")
        # Spawned, not forked: torch and CUDA do not survive a fork.
        context = multiprocessing.get_context("spawn")
        start = partial(_start_process, settings)
        return _LocalWorker(ProcessPoolExecutor(1, mp_context=context, initializer=start))

    def is_loss(self, error: BaseException) -> bool:
        return isinstance(error, BrokenExecutor) and self.num_workers > 1

    def kill(self) -> None:
        for process in multiprocessing.active_children():
            process.kill()

    def close(self) -> None:
        """Nothing outlives the workers."""


class _LocalWorker:
    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def submit(self, task: Task) -> Future[Record]:
        return self._executor.submit(_make_shard, task)

    def close(self) -> None:
        self._executor.shutdown()


class WorkerStartError(GenintError):
    """What kept a worker from starting; it would keep every other one."""


_settings: WorkerSettings
_worker: Worker | None = None


def _start(settings: WorkerSettings) -> None:
    # The worker itself waits for its first shard: what an initializer raises ends in tracebacks and a broken pool.
    global _settings, _worker
    _settings, _worker = settings, None


def _start_process(settings: WorkerSettings) -> None:
    # Ctrl-C reaches the whole process group; the driver alone decides, so that running shards can finish.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A pool's process waits for work for ever, also for a driver that was killed.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _start(settings)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _make_shard(task: Task) -> Record:
    global _worker
    if _worker is None:
        try:
            _worker = Worker(_settings)
        except (GenintError, OSError, RuntimeError) as error:
            raise WorkerStartError(str(error)) from error
    return _worker.make_shard(task)
