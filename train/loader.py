"""Batches of steps, read, decoded and augmented by worker processes."""

import os
import signal
import threading
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Listener
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ..manifests.console import format_bytes
from ..manifests.errors import FormatError, GenintError, UsageError
from ..manifests.pictures import damage_named, decode_picture
from ..manifests.randomness import random_words
from .augmentation import WORDS, Augmentation
from .checkpoint import Preprocessing
from .run import UnreadableImage
from .steps import StreamOrder, rank_slice
from .streams import Images, TrainStream

# Of neighbours that may stand in for an unreadable image: more in a row are no accident.
MOST_IN_A_ROW = 20

LeftOut = Callable[[Sequence[UnreadableImage]], None]


class UnreadableImageError(FormatError):
    """An image that is damaged, and named."""


@dataclass(frozen=True)
class StepBatch:
    """This rank's part of one step: by stream, images uint8 [n, 3, size, size] and labels int64 [n].

    `left_out`: images that could not be read; the next ones of their streams stand in for them.
    """

    step: int
    images: dict[str, Tensor]
    labels: dict[str, Tensor]
    left_out: tuple[UnreadableImage, ...] = ()

    def pin_memory(self) -> "StepBatch":
        """The same in pinned memory, from which copies to a GPU run beside its work."""
        return StepBatch(self.step, _pin(self.images), _pin(self.labels), self.left_out)

    def tensors(self) -> list[Tensor]:
        return [*self.images.values(), *self.labels.values()]


class StepLoader:
    """Batches by step number, the same for any number of workers; over ranks, slices of the same global batch.

    `batch_sizes` are of the global batch, by stream. `window`: shards that are shuffled together, None for all.
    `verify`: read each shard whole when its first sample is needed, and compare it with its record.
    `left_out`: by stream, positions of images that the next ones stand in for; with `skip` unreadable ones join them.
    Raises UsageError where a batch is larger than its stream, or smaller than the number of ranks.
    """

    def __init__(
        self,
        streams: Sequence[TrainStream],
        batch_sizes: Mapping[str, int],
        augmentations: Mapping[str, Augmentation],
        seed: int,
        window: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        verify: bool = True,
        pin_memory: bool = False,
        skip: bool = False,
        left_out: Mapping[str, frozenset[int]] = {},
    ) -> None:
        for stream in streams:
            batch, count = batch_sizes[stream.name], len(stream.images)
            if batch > count:
                raise UsageError(f"stream {stream.name}: a batch of {batch} is larger than its {count} samples")
            if batch < world_size:
                raise UsageError(f"stream {stream.name}: a batch of {batch} leaves some of {world_size} ranks without")
        self._steps = _Steps(
            {
                stream.name: _StreamSteps(
                    stream.name,
                    stream.images,
                    StreamOrder(tuple(stream.images.shard_sizes), seed, stream.name, window),
                    batch_sizes[stream.name],
                    rank_slice(batch_sizes[stream.name], rank, world_size),
                    augmentations[stream.name],
                    verify,
                    skip,
                    left_out.get(stream.name, frozenset()),
                )
                for stream in streams
            }
        )
        self._workers = workers
        self._pin_memory = pin_memory

    def steps(self, start: int, stop: int) -> Generator[StepBatch, None, None]:
        """Batches of the steps start..stop, in order. Raises what reading raised, in a worker or here."""
        yield from _load(self._steps, range(start, stop), self._workers, self._pin_memory)

    def step_keys(self, step: int, stream: str) -> list[str]:
        """Names of this rank's samples of a stream in a step, for messages."""
        part = self._steps.parts[stream]
        _, positions = part.positions(step)
        return [part.images.key(position) for position in positions.tolist()]


def evaluation_batches(
    images: Images,
    preprocessing: Preprocessing,
    batch_size: int,
    workers: int = 0,
    positions: Sequence[int] | None = None,
    verify: bool = True,
    left_out: LeftOut | None = None,
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """Images uint8 [n, 3, crop, crop] and labels int64 [n], in order; all, or those at `positions`.

    `verify`: compare each shard with its record before its first sample is read. `left_out` is told what could not be
    read, and batches are then smaller; without it an unreadable image is an error.
    """
    chosen = range(len(images)) if positions is None else positions
    batches = [chosen[start : start + batch_size] for start in range(0, len(chosen), batch_size)]
    prepared = _Prepared(images, preprocessing, batches, verify, left_out is not None)
    for batch in _load(prepared, range(len(batches)), workers):
        if left_out is not None and batch.left_out:
            left_out(batch.left_out)
        yield batch.images, batch.labels


@dataclass(frozen=True, eq=False)
class _Failure:
    """What a worker could not do. Returned, because the DataLoader wraps what is raised in its own traceback."""

    error: GenintError | OSError


class _StreamSteps:
    """One stream's part in each step."""

    def __init__(
        self,
        name: str,
        images: Images,
        order: StreamOrder,
        batch_size: int,
        part: slice,
        augmentation: Augmentation,
        verify: bool,
        skip: bool,
        left_out: frozenset[int],
    ) -> None:
        self.name, self.images, self.order = name, images, order
        self._batch_size, self._part = batch_size, part
        self._augmentation = augmentation
        self._verify, self._skip = verify, skip
        self._left_out = set(left_out)

    def positions(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Epochs and sample positions of this rank's samples."""
        first = step * self._batch_size
        return self.order.positions(first + self._part.start, first + self._part.stop)

    def load(self, step: int) -> tuple[Tensor, Tensor, list[UnreadableImage]]:
        epochs, positions = self.positions(step)
        self._check(positions)
        size = self._augmentation.size
        images = torch.empty((len(positions), 3, size, size), dtype=torch.uint8)
        labels = torch.empty(len(positions), dtype=torch.int64)
        found: list[UnreadableImage] = []
        for i, (epoch, position) in enumerate(zip(epochs.tolist(), positions.tolist(), strict=True)):
            images[i], labels[i] = self._read(epoch, position, found)
        return images, labels, found

    def _read(self, epoch: int, position: int, found: list[UnreadableImage]) -> tuple[Tensor, int]:
        """An augmented image and its label; the next readable one where the image is left out, now or before.

        Which one that is depends on the data alone, so that it is the same whenever and by whomever it is found.
        """
        words = random_words(self.order.seed, f"{self.name}: augmentation", epoch, position, count=WORDS)
        for offset in range(MOST_IN_A_ROW + 1):
            candidate = (position + offset) % len(self.images)
            if candidate in self._left_out:
                continue
            if offset:
                self._check(np.array([candidate]))
            content, label = self.images.read(candidate)
            try:
                return self._augmentation(content, words), label
            except FormatError as error:
                if not self._skip:
                    raise UnreadableImageError(f"stream {self.name}: {self.images.key(candidate)}: {error}") from error
                self._left_out.add(candidate)
                found.append(UnreadableImage(self.name, candidate, self.images.key(candidate), str(error)))
        raise FormatError(
            f"stream {self.name}: {self.images.key(position)} and the next {MOST_IN_A_ROW} images cannot be read"
        )

    def _check(self, positions: NDArray[np.int64]) -> None:
        if self._verify:
            for shard in np.unique(self.order.shards(positions)).tolist():
                self.images.check_shard(shard)


class _Steps(Dataset[StepBatch]):
    """Batches by step number."""

    def __init__(self, parts: Mapping[str, _StreamSteps]) -> None:
        self.parts = parts

    def __getitem__(self, step: int) -> StepBatch:
        loaded = {name: part.load(step) for name, part in self.parts.items()}
        return StepBatch(
            step,
            {name: images for name, (images, _, _) in loaded.items()},
            {name: labels for name, (_, labels, _) in loaded.items()},
            tuple(image for _, _, found in loaded.values() for image in found),
        )


@dataclass(frozen=True)
class _EvaluationBatch:
    """Prepared images and their labels, and what could not be read."""

    images: Tensor
    labels: Tensor
    left_out: tuple[UnreadableImage, ...]

    def tensors(self) -> list[Tensor]:
        return [self.images, self.labels]


class _Prepared(Dataset[_EvaluationBatch]):
    """Batches for evaluation, by number."""

    def __init__(
        self, images: Images, preprocessing: Preprocessing, batches: Sequence[Sequence[int]], verify: bool, skip: bool
    ) -> None:
        self._images, self._preprocessing, self._batches = images, preprocessing, batches
        self._ends = np.cumsum(np.asarray(images.shard_sizes, np.int64))
        self._verify, self._skip = verify, skip

    def __getitem__(self, batch: int) -> _EvaluationBatch:
        positions = self._batches[batch]
        if self._verify:
            for shard in np.unique(np.searchsorted(self._ends, positions, side="right")).tolist():
                self._images.check_shard(shard)
        pairs: list[tuple[Tensor, int]] = []
        found: list[UnreadableImage] = []
        for position in positions:
            content, label = self._images.read(position)
            try:
                with damage_named():
                    pairs.append((self._preprocessing.prepare(decode_picture(content)), label))
            except FormatError as error:
                key = self._images.key(position)
                if not self._skip:
                    raise UnreadableImageError(f"{key}: {error}") from error
                found.append(UnreadableImage("validation", position, key, str(error)))
        side = self._preprocessing.crop
        images = (
            torch.stack([image for image, _ in pairs]) if pairs else torch.empty((0, 3, side, side), dtype=torch.uint8)
        )
        return _EvaluationBatch(images, torch.tensor([label for _, label in pairs], dtype=torch.int64), tuple(found))


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


def _load(dataset: Dataset[Any], indices: range, workers: int, pin_memory: bool = False) -> Iterator[Any]:
    """Items of a dataset in order, by workers or here. Raises what a `_Failure` holds."""
    if workers:
        _check_sockets()
    with _quiet(), _child_signals_kept():
        loader: DataLoader[Any] = DataLoader(
            _Handed(dataset),
            batch_size=None,
            sampler=indices,
            num_workers=workers,
            worker_init_fn=_start_worker,
            collate_fn=_as_it_is,
            pin_memory=pin_memory,
            # A generator of its own: seeding workers would else draw from the one that the model draws from.
            generator=torch.Generator(),
        )
        items = iter(loader)
    try:
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
        del items  # ends the workers


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


def _pin(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.pin_memory() for name, tensor in tensors.items()}
