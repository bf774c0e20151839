"""Which samples are in which step: a pure function of (seed, step), whatever ranks and workers there are.

Step t takes places [t * B, (t + 1) * B) of each stream's endless sequence of epochs, B being the stream's own batch
size. The state of a training run's data is therefore one integer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..manifests.randomness import Permutation

# A run is in one epoch, or in two where a batch straddles them.
CACHED_EPOCHS = 2
# Windows smaller than a batch: it meets several, and its successor many of them again.
CACHED_WINDOWS = 1024


@dataclass(frozen=True)
class StreamOrder:
    """The order of a stream's samples, epoch after epoch; each sample once an epoch.

    An epoch permutes the shards, cuts that order into windows of `window` shards (None: all, a full shuffle), and
    permutes the samples of each window. Memory is in proportion to the shards, not to the samples.
    """

    shard_sizes: Sequence[int] = field(repr=False)
    seed: int
    name: str
    window: int | None = None

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Position of each shard's first sample, and at the end the number of samples: [shards + 1]."""
        return np.concatenate([[0], np.cumsum(np.asarray(self.shard_sizes, np.int64))]).astype(np.int64)

    @property
    def num_samples(self) -> int:
        return int(self.starts[-1])

    def positions(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Epochs [N] and sample positions [N] of the places start..stop; the range may span epochs."""
        places = np.arange(start, stop, dtype=np.int64)
        epochs = places // self.num_samples
        places -= epochs * self.num_samples
        positions = np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            chosen = epochs == epoch
            positions[chosen] = self._epoch_positions(epoch, places[chosen])
        return epochs, positions

    def shards(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Shard [N] in which each of the sample positions [N] lies."""
        return np.searchsorted(self.starts, positions, side="right") - 1

    def _epoch_positions(self, epoch: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sample positions [N] at `places` [N] of one epoch."""
        if self.window is None or self.window >= len(self.shard_sizes):
            return self._permutation(self.num_samples, f"epoch {epoch}")(places)
        shards, starts = self._shard_order(epoch)
        bounds = np.append(starts[: -1 : self.window], starts[-1])
        windows = np.searchsorted(bounds, places, side="right") - 1
        shuffled = np.empty_like(places)
        for window in np.unique(windows).tolist():
            chosen = windows == window
            first = int(bounds[window])
            order = self._permutation(int(bounds[window + 1]) - first, f"epoch {epoch}, window {window}")
            shuffled[chosen] = first + order(places[chosen] - first)
        slots = np.searchsorted(starts, shuffled, side="right") - 1
        return self.starts[shards[slots]] + shuffled - starts[slots]

    @cached_property
    def _permutation(self) -> Callable[[int, str], Permutation]:
        return lru_cache(CACHED_WINDOWS)(lambda size, part: Permutation(size, self.seed, f"{self.name}: {part}"))

    @cached_property
    def _shard_order(self) -> Callable[[int], tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Shards of an epoch in their order [S], and the places at which they start, with the end [S + 1]."""

        @lru_cache(CACHED_EPOCHS)
        def order(epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
            count = len(self.shard_sizes)
            shards = self._permutation(count, f"shards of epoch {epoch}")(np.arange(count, dtype=np.int64))
            sizes = np.diff(self.starts)[shards]
            return shards, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

        return order

    def __getstate__(self) -> dict[str, Any]:
        # Caches stay behind: an order travels to workers as its four fields.
        return {name: vars(self)[name] for name in ("shard_sizes", "seed", "name", "window")}


def rank_slice(batch_size: int, rank: int, world_size: int) -> slice:
    """The part of a global batch that a rank takes; parts differ by one sample at most, in order of rank."""
    return slice(batch_size * rank // world_size, batch_size * (rank + 1) // world_size)
