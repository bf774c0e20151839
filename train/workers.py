"""Worker processes that make batches, and what can keep them from it."""

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Listener
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ..manifests.console import format_bytes
from ..manifests.errors import GenintError


class Batch(Protocol):
    """What a worker makes: its tensors are handed over in shared memory."""

    def tensors(self) -> Sequence[Tensor]: ...


Item = TypeVar("Item", bound=Batch)


@dataclass(frozen=True, eq=False)
class _Failure:
    """What a worker could not do. Returned, because the DataLoader wraps what is raised in its own traceback."""

    error: GenintError | OSError


class _Handed(Dataset[Any]):
    """Items of a dataset, or what kept a worker from them. In a worker they are put into shared memory here, where a
    lack of it can be told: the queue's own thread would lose the item, and the run would wait for it."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset = dataset

    def __getitem__(self, index: int) -> Any:
        try:
            item = self._dataset[index]
        except (GenintError, OSError) as error:
            return _Failure(error)
        if get_worker_info() is None:
            return item
        tensors = item.tensors()
        try:
            for tensor in tensors:
                tensor.share_memory_()
        except RuntimeError as error:
            size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            return _Failure(
                GenintError(
                    f"a loader worker finds no shared memory for a batch of {format_bytes(size)} ({_shared_memory()}): "
                    f"{str(error).splitlines()[0][:200]}; give more (docker run --shm-size 2g), or use --workers 0"
                )
            )
        return item


def _shared_memory() -> str:
    try:
        found = os.statvfs("/dev/shm")
    except OSError:
        return "no /dev/shm"
    free, size = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    return f"/dev/shm: {format_bytes(free)} of {format_bytes(size)} free"


def load_items(
    dataset: Dataset[Item], indices: range, workers: int, pin_memory: bool = False, prefetch: int = 2
) -> Iterator[Item]:
    """Items of a dataset in order, made by workers, which hold `prefetch` ready each, or here.

    Raises what making one raised (GenintError or OSError), and GenintError where workers cannot hand theirs over.
    """
    if workers:
        _check_sockets()
    others = set(multiprocessing.active_children())
    items: Any = None
    try:
        with _quiet(), _child_signals_kept(), _start_named(), _without_stop_signals():
            loader: DataLoader[Any] = DataLoader(
                _Handed(dataset),
                batch_size=None,
                sampler=indices,
                num_workers=workers,
                worker_init_fn=_start_worker,
                collate_fn=_as_it_is,
                pin_memory=pin_memory,
                prefetch_factor=prefetch if workers else None,
                # A generator of its own: seeding workers would else draw from the one that the model draws from.
                generator=torch.Generator(),
            )
            items = iter(loader)
        while True:
            try:
                item = next(items)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:
                # What reading raised comes as a failure; the other errors are of the way to a worker that is gone.
                if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                    raise
                raise GenintError(f"a loader worker was killed (out of memory?): {str(error)[:200]}") from error
            if isinstance(item, _Failure):
                raise item.error
            yield item
    finally:
        with _without_stop_signals():
            started = set(multiprocessing.active_children()) - others
            items = None  # ends the workers
            for worker in started:
                # One that waits for a file that never comes: it ignores the signals that torch ends it with.
                if worker.is_alive():
                    worker.kill()
                    worker.join()


@contextmanager
def _without_stop_signals() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back for a moment. A handler that raises would leave workers that nobody ends, and those
    that are forked meanwhile would have it too.

    Handlers, not a mask: another thread that has none takes a signal, and Python handles it in the main thread at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: held.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for held_number in held:
            signal.raise_signal(held_number)


def _check_sockets() -> None:
    """Raise GenintError where workers could hand nothing over: batches go by a socket in the temporary folder."""
    try:
        Listener(family="AF_UNIX").close()
    except OSError as error:
        raise GenintError(
            f"loader workers need a socket in the temporary folder: {error}; set TMPDIR to a shorter path, or use "
            "--workers 0"
        ) from error


@contextmanager
def _start_named() -> Iterator[None]:
    """What keeps workers from starting, as GenintError: no room for semaphores, too many processes or open files."""
    try:
        yield
    except OSError as error:
        raise GenintError(
            f"loader workers cannot start: {error.strerror or error} ({_shared_memory()}); use --workers 0"
        ) from error


@contextmanager
def _child_signals_kept() -> Iterator[None]:
    """Leave SIGCHLD as it is: torch's handler raises wherever the main thread is, in the middle of an update too. The
    loss of a worker is seen at the next batch anyway, within seconds."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        torchs = getattr(before, "__module__", "").startswith("torch.")  # of a loader elsewhere in this process
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None or torchs else before)


def _start_worker(worker: int) -> None:
    """In a worker: leave it to the main process to stop at a signal, which a terminal or scheduler sends to all."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # How many workers is the user's choice.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        # Python 3.12 on: torch's threads are idle and workers do not use them.
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork")
        yield


def _as_it_is(item: Any) -> Any:
    return item
