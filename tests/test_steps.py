"""The order of samples: each once an epoch, the same from wherever it is looked at."""

import pickle
import tracemalloc
from itertools import chain

import numpy as np
import pytest
from genint.train.steps import StreamOrder, rank_slice

SIZES = (3, 5, 2, 7, 1, 4)


@pytest.mark.parametrize("window", [None, 1, 2, 4, 6, 100])
def test_every_sample_occurs_once_an_epoch(window: int | None) -> None:
    order = StreamOrder(SIZES, 7, "natural", window)
    orders = []
    for epoch in range(5):
        epochs, positions = order.positions(epoch * 22, (epoch + 1) * 22)
        assert (epochs == epoch).all()
        assert sorted(positions) == list(range(22))
        orders.append(tuple(positions))
    assert len(set(orders)) == 5


@pytest.mark.parametrize("window", [None, 1, 3])
def test_a_range_is_the_same_whole_or_in_parts_and_across_epochs(window: int | None) -> None:
    whole = StreamOrder(SIZES, 7, "natural", window).positions(0, 100)
    for cut in (1, 21, 22, 23, 60):
        fresh = StreamOrder(SIZES, 7, "natural", window)
        parts = [fresh.positions(cut, 100), fresh.positions(0, cut)][::-1]
        for i in range(2):
            assert np.array_equal(np.concatenate([part[i] for part in parts]), whole[i])


def test_a_window_keeps_its_shards_together() -> None:
    order = StreamOrder((10,) * 12, 1, "natural", 3)
    shards = order.shards(order.positions(0, 120)[1]).reshape(4, 30)
    assert sorted(len(set(row)) for row in shards.tolist()) == [3] * 4
    assert sorted(set(shards.ravel())) == list(range(12))
    # Within a window, samples of its shards are mixed.
    assert all(len(set(row[:10])) > 1 for row in shards.tolist())


def test_a_window_of_one_shard_reads_shard_after_shard() -> None:
    order = StreamOrder(SIZES, 1, "natural", 1)
    shards = order.shards(order.positions(0, 22)[1])
    assert np.count_nonzero(np.diff(shards)) == len(SIZES) - 1


def test_an_order_travels_to_other_processes() -> None:
    order = StreamOrder(SIZES, 1, "natural", 2)
    before = order.positions(3, 50)[1]
    assert np.array_equal(pickle.loads(pickle.dumps(order)).positions(3, 50)[1], before)  # noqa: S301


def test_orders_differ_by_seed_and_by_stream() -> None:
    orders = {tuple(StreamOrder((50,), seed, name).positions(0, 50)[1]) for seed in (1, 2) for name in ("a", "b")}
    assert len(orders) == 4


def test_places_of_an_epoch_are_uniform() -> None:
    order = StreamOrder((25,) * 4, 3, "natural", 2)
    places = np.array([np.flatnonzero(order.positions(e * 100, e * 100 + 100)[1] == 17)[0] for e in range(400)])
    # The mean of 400 uniform draws from 0..99 has a standard deviation of 1.44.
    assert abs(places.mean() - 49.5) < 6
    assert len(set(places // 10)) == 10


@pytest.mark.parametrize("batch", [1, 7, 8, 116, 256])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_ranks_divide_a_batch_in_order(batch: int, world: int) -> None:
    parts = [list(range(batch)[rank_slice(batch, rank, world)]) for rank in range(world)]
    assert list(chain(*parts)) == list(range(batch))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("window", [None, 1, 100])
def test_a_batch_of_ten_million_samples_is_planned_without_the_others(window: int | None) -> None:
    order = StreamOrder((1000,) * 10_000, 1, "natural", window)
    order.positions(0, 256)
    tracemalloc.start()
    for step in range(1, 30):
        order.positions(step * 256, step * 256 + 256)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Measured: 124 kB. A bit of each would be ten times as much.
    assert peak < 10_000_000 / 8
