"""Batches of steps, read, decoded and augmented by worker processes."""

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ..manifests.errors import FormatError, UsageError
from ..manifests.pictures import damage_named, decode_picture
from ..manifests.randomness import random_words
from .augmentation import WORDS, Augmentation
from .checkpoint import Preprocessing
from .profile import LOADING
from .run import UnreadableImage
from .steps import StreamOrder, rank_slice
from .stream_images import Label
from .streams import Images, TrainStream
from .workers import load_items

# Threads of a process that compare shards with their records.
CHECKERS = 4
# Of neighbours that may stand in for an unreadable image: more in a row are no accident.
MOST_IN_A_ROW = 20

LeftOut = Callable[[Sequence[UnreadableImage]], None]


class UnreadableImageError(FormatError):
    """An image that is damaged, and named."""


@dataclass(frozen=True)
class StepBatch:
    """This rank's part of one step: by stream, images uint8 [n, 3, size, size] and labels int64 [n], or [n, heads].

    `left_out`: images that could not be read; the next ones of their streams stand in for them. `seconds`: what making
    the batch took whoever made it, by what was done: check, read, decode (with augmentation).
    """

    step: int
    images: dict[str, Tensor]
    labels: dict[str, Tensor]
    left_out: tuple[UnreadableImage, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    def pin_memory(self) -> "StepBatch":
        """The same in pinned memory, from which copies to a GPU run beside its work."""
        return replace(self, images=_pin(self.images), labels=_pin(self.labels))

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
        yield from load_items(self._steps, range(start, stop), self._workers, self._pin_memory)

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
    for batch in load_items(prepared, range(len(batches)), workers):
        if left_out is not None and batch.left_out:
            left_out(batch.left_out)
        yield batch.images, batch.labels


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
        self._sound: set[int] = set()
        self.seconds = dict.fromkeys(LOADING, 0.0)  # of all that was done here

    def positions(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Epochs and sample positions of this rank's samples."""
        first = step * self._batch_size
        return self.order.positions(first + self._part.start, first + self._part.stop)

    def load(self, step: int) -> tuple[Tensor, Tensor, list[UnreadableImage]]:
        epochs, positions = self.positions(step)
        self._check(positions)
        size = self._augmentation.size
        images = torch.empty((len(positions), 3, size, size), dtype=torch.uint8)
        labels: list[Label] = []
        found: list[UnreadableImage] = []
        for i, (epoch, position) in enumerate(zip(epochs.tolist(), positions.tolist(), strict=True)):
            images[i], label = self._read(epoch, position, found)
            labels.append(label)
        return images, torch.tensor(labels, dtype=torch.int64), found

    def _read(self, epoch: int, position: int, found: list[UnreadableImage]) -> tuple[Tensor, Label]:
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
            with self._timed("read"):
                content, label = self.images.read(candidate)
            try:
                with self._timed("decode"):
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
        if not self._verify:
            return
        with self._timed("check"):
            self._check_shards(positions)

    def _check_shards(self, positions: NDArray[np.int64]) -> None:
        new = [shard for shard in np.unique(self.order.shards(positions)).tolist() if shard not in self._sound]
        if len(new) > 1:
            # The first batches of a shuffled stream meet nearly all of its shards.
            with ThreadPoolExecutor(CHECKERS) as pool:
                list(pool.map(self.images.check_shard, new))
        elif new:
            self.images.check_shard(new[0])
        self._sound.update(new)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - start


class _Steps(Dataset[StepBatch]):
    """Batches by step number."""

    def __init__(self, parts: Mapping[str, _StreamSteps]) -> None:
        self.parts = parts

    def __getitem__(self, step: int) -> StepBatch:
        before = self._seconds()
        loaded = {name: part.load(step) for name, part in self.parts.items()}
        return StepBatch(
            step,
            {name: images for name, (images, _, _) in loaded.items()},
            {name: labels for name, (_, labels, _) in loaded.items()},
            tuple(image for _, _, found in loaded.values() for image in found),
            {name: seconds - before[name] for name, seconds in self._seconds().items()},
        )

    def _seconds(self) -> dict[str, float]:
        return {name: sum(part.seconds[name] for part in self.parts.values()) for name in LOADING}


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
        pairs: list[tuple[Tensor, Label]] = []
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


def _pin(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.pin_memory() for name, tensor in tensors.items()}
