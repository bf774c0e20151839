"""Work ahead comes in order, a bounded way ahead, and ends with its consumer."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import pytest
from genint.manifests.dataset import load_dataset
from genint.manifests.manifest import Record, shard_name
from genint.manifests.samples import read_recorded_index
from genint.manifests.shard import Index, load_index, read_sample
from genint.manifests.storage import Storage
from genint.pipeline.sources import ahead, stream_reader
from genint.pipeline.sources.ahead import map_ahead, run_ahead
from genint.pipeline.sources.stream_reader import StreamReader


def nothing() -> None:
    """A thread needs no more."""


def test_results_come_in_order_however_long_each_takes() -> None:
    def slow(number: int) -> int:
        time.sleep(0.01 * (number % 3 == 0))
        return number**2

    with ThreadPoolExecutor(4) as pool:
        assert list(map_ahead(pool, slow, range(30), 8)) == [number**2 for number in range(30)]


def test_no_more_is_taken_than_is_asked_for_and_a_bounded_number_ahead() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    release = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        results = map_ahead(pool, lambda number: release.wait() and number, items(), 5)
        threading.Timer(0.05, release.set).start()
        assert next(results) == 0
        assert len(taken) == 6


def test_an_iterator_runs_in_a_thread_that_was_made_ready_and_not_in_the_consumers() -> None:
    ready = threading.local()

    def enter() -> None:
        ready.yes = True

    def items() -> Iterator[tuple[int, bool]]:
        for number in range(3 * ahead.TOGETHER):
            yield number, getattr(ready, "yes", False) and threading.current_thread() is not threading.main_thread()

    assert list(run_ahead(items(), enter)) == [(number, True) for number in range(3 * ahead.TOGETHER)]


def test_what_an_iterator_raises_is_raised_at_its_place() -> None:
    def items() -> Iterator[int]:
        yield from range(ahead.TOGETHER)
        raise OSError("gone")

    results = run_ahead(items(), nothing)
    assert list(islice(results, ahead.TOGETHER)) == list(range(ahead.TOGETHER))
    with pytest.raises(OSError, match="gone"):
        next(results)


def test_the_next_items_are_made_while_the_last_are_used() -> None:
    made = threading.Event()

    def items() -> Iterator[int]:
        yield from range(ahead.TOGETHER)
        made.set()
        yield ahead.TOGETHER

    results = run_ahead(items(), nothing)
    next(results)
    assert made.wait(10)


def test_a_consumer_that_stops_ends_the_thread() -> None:
    before = threading.active_count()
    results = run_ahead(iter(range(1000)), nothing)
    next(results)
    results.close()  # type: ignore[attr-defined]  # a generator
    assert threading.active_count() == before


def test_a_reader_opens_each_shard_once_for_all_threads_and_finds_every_sample(
    reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []

    def read_index(storage: Storage, record: Record) -> Index:
        opened.append(record.shard_index)
        return read_recorded_index(storage, record)

    monkeypatch.setattr(stream_reader, "read_recorded_index", read_index)
    dataset = load_dataset(str(reference))
    plan = dataset.plan("natural")
    reader = StreamReader(dataset.storage, plan)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(reader.read, range(plan.count)))
    assert sorted(opened) == list(range(plan.num_shards))
    for shard_index in range(plan.num_shards):
        tar = reference / shard_name("natural", shard_index)
        index = load_index(tar)
        with open(tar, "rb") as file:
            for sample in plan.samples(shard_index):
                assert found[sample.index] == {"png": read_sample(file.fileno(), index[sample.key])["png"]}
