"""Batches of steps, read, decoded and augmented by worker processes."""

import signal
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..manifests.errors import FormatError, GenintError, UsageError
from ..manifests.pictures import damage_named, decode_picture
from ..manifests.randomness import random_words
from .augmentation import WORDS, Augmentation
from .checkpoint import Preprocessing
from .steps import StreamOrder, rank_slice
from .streams import Images, TrainStream


@dataclass(frozen=True)
class StepBatch:
    """This rank's part of one step: by stream, images uint8 [n, 3, size, size] and labels int64 [n]."""

    step: int
    images: dict[str, Tensor]
    labels: dict[str, Tensor]

    def pin_memory(self) -> "StepBatch":
        """The same in pinned memory, from which copies to a GPU run beside its work."""
        return StepBatch(self.step, _pin(self.images), _pin(self.labels))


class StepLoader:
    """Batches by step number, the same for any number of workers; over ranks, slices of the same global batch.

    `batch_sizes` are of the global batch, by stream. `window`: shards that are shuffled together, None for all.
    `verify`: read each shard whole when its first sample is needed, and compare it with its record.
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
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """Images uint8 [n, 3, crop, crop] and labels int64 [n], in order; all, or those at `positions`."""
    chosen = range(len(images)) if positions is None else positions
    batches = [chosen[start : start + batch_size] for start in range(0, len(chosen), batch_size)]
    yield from _load(_Prepared(images, preprocessing, batches), range(len(batches)), workers)


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
    ) -> None:
        self.name, self.images, self.order = name, images, order
        self._batch_size, self._part = batch_size, part
        self._augmentation = augmentation
        # One byte a shard, shared by all workers; two may check the same shard at once, which only takes time.
        self._verified = torch.full((len(order.shard_sizes),), not verify, dtype=torch.uint8).share_memory_()

    def positions(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Epochs and sample positions of this rank's samples."""
        first = step * self._batch_size
        return self.order.positions(first + self._part.start, first + self._part.stop)

    def load(self, step: int) -> tuple[Tensor, Tensor]:
        epochs, positions = self.positions(step)
        self._verify(positions)
        size = self._augmentation.size
        images = torch.empty((len(positions), 3, size, size), dtype=torch.uint8)
        labels = torch.empty(len(positions), dtype=torch.int64)
        for i, (epoch, position) in enumerate(zip(epochs.tolist(), positions.tolist(), strict=True)):
            content, labels[i] = self.images.read(position)
            words = random_words(self.order.seed, f"{self.name}: augmentation", epoch, position, count=WORDS)
            try:
                images[i] = self._augmentation(content, words)
            except FormatError as error:
                raise FormatError(f"stream {self.name}: {self.images.key(position)}: {error}") from error
        return images, labels

    def _verify(self, positions: NDArray[np.int64]) -> None:
        for shard in np.unique(self.order.shards(positions)).tolist():
            if not self._verified[shard]:
                self.images.check_shard(shard)
                self._verified[shard] = 1


class _Steps(Dataset[StepBatch | _Failure]):
    """Batches by step number."""

    def __init__(self, parts: Mapping[str, _StreamSteps]) -> None:
        self.parts = parts

    def __getitem__(self, step: int) -> StepBatch | _Failure:
        try:
            loaded = {name: part.load(step) for name, part in self.parts.items()}
        except (GenintError, OSError) as error:
            return _Failure(error)
        images, labels = ({name: pair[i] for name, pair in loaded.items()} for i in range(2))
        return StepBatch(step, images, labels)


class _Prepared(Dataset[tuple[Tensor, Tensor] | _Failure]):
    """Batches for evaluation, by number."""

    def __init__(self, images: Images, preprocessing: Preprocessing, batches: Sequence[Sequence[int]]) -> None:
        self._images, self._preprocessing, self._batches = images, preprocessing, batches

    def __getitem__(self, batch: int) -> tuple[Tensor, Tensor] | _Failure:
        try:
            pairs = [self._prepare(position) for position in self._batches[batch]]
        except (GenintError, OSError) as error:
            return _Failure(error)
        return torch.stack([image for image, _ in pairs]), torch.tensor([label for _, label in pairs])

    def _prepare(self, position: int) -> tuple[Tensor, int]:
        content, label = self._images.read(position)
        try:
            with damage_named():
                return self._preprocessing.prepare(decode_picture(content)), label
        except FormatError as error:
            raise FormatError(f"{self._images.key(position)}: {error}") from error


def _load(dataset: Dataset[Any], indices: range, workers: int, pin_memory: bool = False) -> Iterator[Any]:
    """Items of a dataset in order, by workers or here. Raises what a `_Failure` holds."""
    with _quiet():
        loader: DataLoader[Any] = DataLoader(
            dataset,
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
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                raise GenintError(f"a loader worker was killed (out of memory?): {error}") from error
            if isinstance(item, _Failure):
                raise item.error
            yield item
    finally:
        del items  # ends the workers


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
