"""The driver on workers that break: no machine's fault costs a shard that another machine can make."""

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from genint.manifests.dataset import Dataset
from genint.manifests.errors import FormatError, GenintError
from genint.manifests.manifest import Record, shard_name
from genint.manifests.recipe import load_recipe
from genint.manifests.shard import ShardWriter, sha256_of_file
from genint.manifests.storage import Storage
from genint.pipeline.shards import driver, executor
from genint.pipeline.shards.driver import Build
from genint.pipeline.shards.executor import LocalPool, Place
from genint.pipeline.shards.settle import gather, settle
from genint.pipeline.shards.worker import Task, WorkerSettings

SHARDS = 10
GOOD, BAD = Place("good", "GPU 0"), Place("bad", "GPU 0")
STICKY = RuntimeError("CUDA error: an illegal memory access was encountered")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Path) -> Dataset:
    """Settled, with every shard to make; nothing here writes one."""
    return settle(gather(load_recipe(str(tiny_recipe))), Storage(tmp_path_factory.mktemp("settled")), "cpu")


class ThreadWorker:
    """A worker that does what a test says, in a thread; without a place, it never starts."""

    def __init__(self, pool: "ThreadPool", place: Place | None) -> None:
        self.place = place
        self._pool = pool
        self._thread = ThreadPoolExecutor(1)
        self.ready: Future[None] = self._thread.submit(pool.start, place) if place else Future()
        if place is None and pool.unplaced_losses:
            pool.unplaced_losses -= 1
            self.ready.set_exception(BrokenExecutor("never ran"))

    def submit(self, task: Task) -> Future[Record]:
        return self._thread.submit(self._make, task)

    def _make(self, task: Task) -> Record:
        assert self.place is not None
        self._pool.tried.append((task.stream, task.shard_index, self.place))
        self._pool.make(self.place, task)
        return Record.model_construct(stream=task.stream, shard_index=task.shard_index, seconds=2.0, samples=4)

    def kill(self) -> None:
        self._pool.ended.append(self.place)
        self._pool.ending.set()

    def close(self) -> None:
        self._thread.shutdown()
        self._pool.free.append(self._pool.joining.pop() if self._pool.joining else self.place)


@dataclass
class ThreadPool:
    """A worker a place. `start` and `make` raise what goes wrong there."""

    free: list[Place | None]
    make: Callable[[Place, Task], None] = lambda place, task: None
    start: Callable[[Place], None] = lambda place: None
    what: str = "GPU"
    starts: list[Place | None] = field(default_factory=list)
    tried: list[tuple[str, int, Place]] = field(default_factory=list)
    killed: bool = False
    unplaced_losses: int = 0  # of workers without a place, so many are lost at once
    ended: list[Place | None] = field(default_factory=list)  # places of workers that were killed
    ending: threading.Event = field(default_factory=threading.Event)
    joining: list[Place] = field(default_factory=list)  # places that take those of workers that are let go
    _avoided: set[Place | None] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._all = list(self.free)

    @property
    def num_workers(self) -> int:
        return sum(place not in self._avoided for place in self._all)

    def start_worker(self) -> ThreadWorker:
        place = next(place for place in self.free if place not in self._avoided)
        self.free.remove(place)
        self.starts.append(place)
        return ThreadWorker(self, place)

    @property
    def has_place(self) -> bool:
        return self.num_workers > 0

    def avoid(self, place: Place | None) -> None:
        self._avoided.add(place)

    def is_avoided(self, place: Place | None) -> bool:
        return place in self._avoided

    def is_loss(self, error: BaseException) -> bool:
        return isinstance(error, BrokenExecutor)

    def kill(self) -> None:
        self.killed = True

    def close(self) -> None:
        """Nothing is held."""


def run(dataset: Dataset, pool: ThreadPool) -> tuple[Build, list[str]]:
    """A whole build, and what it said."""
    build = Build(dataset, pool, [stream.name for stream in dataset.recipe.streams])
    said = [progress.message for progress in build.run() if progress.message]
    return build, said


def fails_at(bad: Place, error: Exception) -> Callable[[Place, Task], None]:
    """Work of healthy places takes a moment; the bad one fails at once, and so is free again before all others."""

    def make(place: Place, task: Task) -> None:
        if place == bad:
            raise error
        threading.Event().wait(0.02)

    return make


@pytest.mark.parametrize("error", [STICKY, OSError(5, "Input/output error"), BrokenExecutor("killed")])
def test_a_broken_worker_costs_no_shard_and_its_place_is_left_after_three(dataset: Dataset, error: Exception) -> None:
    pool = ThreadPool([BAD, GOOD], fails_at(BAD, error))
    build, said = run(dataset, pool)
    assert (len(build.made), build.faults) == (SHARDS, {})
    assert pool.starts.count(BAD) == driver.MAX_FRUITLESS
    assert [line for line in said if line.startswith("GPU 0 of bad: 3 workers in a row made no shard")]


def test_a_shard_goes_to_another_place_before_it_is_given_up(dataset: Dataset) -> None:
    pool = ThreadPool([BAD, GOOD], fails_at(BAD, STICKY))
    run(dataset, pool)
    failed = [(stream, index) for stream, index, place in pool.tried if place == BAD]
    assert len(set(failed)) == len(failed) == driver.MAX_FRUITLESS


def test_a_worker_that_cannot_start_is_given_no_shard(dataset: Dataset) -> None:
    def start(place: Place) -> None:
        if place == BAD:
            raise ImportError("libcudnn.so.9: cannot open shared object file")

    pool = ThreadPool([BAD, GOOD], fails_at(BAD, STICKY), start)
    build, said = run(dataset, pool)
    assert (len(build.made), build.faults) == (SHARDS, {})
    assert {place for _, _, place in pool.tried} == {GOOD}
    assert (
        said[0] == "a worker on GPU 0 of bad cannot start: ImportError: libcudnn.so.9: cannot open shared object file"
    )


def test_what_genint_refuses_at_a_place_is_not_tried_there_again_and_ends_the_build_where_it_is_the_last(
    dataset: Dataset,
) -> None:
    def start(place: Place) -> None:
        raise FormatError(f"weights on {place.host} are others")

    pool = ThreadPool([BAD, GOOD], start=start)
    with pytest.raises(GenintError, match=r"^a worker cannot start: weights on (good|bad) are others$"):
        run(dataset, pool)
    assert sorted(map(str, pool.starts)) == sorted(map(str, [BAD, GOOD]))


def test_a_lone_worker_that_cannot_start_is_one_line_after_three_attempts(dataset: Dataset) -> None:
    def start(place: Place) -> None:
        raise RuntimeError("the NVIDIA driver on your system is too old")

    pool = ThreadPool([BAD], start=start)
    with pytest.raises(GenintError, match="a worker cannot start: RuntimeError: the NVIDIA driver"):
        run(dataset, pool)
    assert len(pool.starts) == driver.MAX_FRUITLESS


def test_a_worker_that_never_gets_a_place_holds_up_nobody_and_is_mentioned(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "WAIT_NOTICE", 0.0)
    build, said = run(dataset, ThreadPool([GOOD, None], fails_at(BAD, STICKY)))
    assert len(build.made) == SHARDS
    assert [line for line in said if line.startswith("no free GPU for 1 of 2 workers")]


def test_workers_lost_together_before_they_had_a_place_count_once(dataset: Dataset) -> None:
    pool = ThreadPool([None, None, None], unplaced_losses=3, joining=[GOOD])
    build, _ = run(dataset, pool)
    assert (len(build.made), build.faults) == (SHARDS, {})


def test_workers_that_never_come_to_a_place_end_the_build_after_three_attempts(dataset: Dataset) -> None:
    pool = ThreadPool([None], unplaced_losses=9)
    with pytest.raises(GenintError, match="a worker cannot start: BrokenExecutor: never ran"):
        run(dataset, pool)
    assert len(pool.starts) == driver.MAX_FRUITLESS


def test_a_worker_is_replaced_after_a_fault_and_its_place_kept_where_the_next_one_works(dataset: Dataset) -> None:
    failed: list[int] = []

    def make(place: Place, task: Task) -> None:
        if task.stream == "natural" and task.shard_index == 1 and not failed:
            failed.append(1)
            raise STICKY

    pool = ThreadPool([GOOD], make)
    build, said = run(dataset, pool)
    assert (len(build.made), build.faults) == (SHARDS, {})
    assert len(pool.starts) == 2
    assert said == [
        f"natural shard 1, attempt 1, on GPU 0 of good: RuntimeError: {STICKY}; will be tried again"
    ]  # fmt: skip


def test_a_shard_that_fails_everywhere_is_given_up_and_spares_the_others(dataset: Dataset) -> None:
    def make(place: Place, task: Task) -> None:
        if (task.stream, task.shard_index) == ("observational", 1):
            raise STICKY

    build, _ = run(dataset, ThreadPool([GOOD, BAD], make))
    assert len(build.made) == SHARDS - 1
    assert build.faults == {("observational", 1): f"RuntimeError: {STICKY}"}


def test_a_fault_of_the_data_does_not_cost_the_worker(dataset: Dataset) -> None:
    def make(place: Place, task: Task) -> None:
        if task.stream == "natural":
            raise FormatError("natural/0000/natural-0000000.tar: sha256 differs")

    pool = ThreadPool([GOOD], make)
    build, _ = run(dataset, pool)
    assert len(pool.starts) == 1
    assert len(build.faults) == 3
    assert len(build.made) == SHARDS - 3


def test_a_full_disk_ends_the_build_and_the_workers(dataset: Dataset) -> None:
    pool = ThreadPool([GOOD], fails_at(GOOD, OSError(28, "No space left on device")))
    with pytest.raises(GenintError, match="No space left on device; finished shards are kept"):
        run(dataset, pool)
    assert pool.free == [GOOD]


def test_no_more_workers_are_started_than_there_are_shards(dataset: Dataset) -> None:
    pool = ThreadPool([Place("good", f"GPU {number}") for number in range(20)])
    run(dataset, pool)
    assert len(pool.starts) <= SHARDS


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A machine of so many GPUs, with workers that only note their device."""

    class Noted(executor._LocalWorker):
        def __init__(self, settings: WorkerSettings, place: Place, give_back: Callable[[], None]) -> None:
            super().__init__(ThreadPoolExecutor(1), place, give_back)
            assert settings.device == place.device

    monkeypatch.setattr(executor, "_ProcessWorker", Noted)
    return lambda count: monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def start_all(pool: LocalPool) -> Iterator[executor.WorkerHandle]:
    return (pool.start_worker() for _ in range(pool.num_workers))


@pytest.mark.parametrize(
    ("count", "workers", "per_device", "devices"),
    [
        (1, 4, 1, ["cuda:0"] * 4),
        (2, 3, 1, ["cuda:0", "cuda:0", "cuda:1"]),
        (2, None, 1, ["cuda:0", "cuda:1"]),
        (2, None, 2, ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]),
        (8, 2, 1, ["cuda:0", "cuda:1"]),
    ],
)
def test_workers_are_on_gpus_that_are_there(gpus, count, workers, per_device, devices) -> None:
    gpus(count)
    pool = LocalPool(WorkerSettings("", "", "cuda"), workers, per_device)
    assert sorted(worker.place.device for worker in start_all(pool)) == devices


def test_a_successor_takes_the_gpu_of_the_worker_that_was_lost(gpus) -> None:
    gpus(8)
    pool = LocalPool(WorkerSettings("", "", "cuda"))
    workers = {worker.place.device: worker for worker in start_all(pool)}
    workers["cuda:5"].close()
    assert pool.start_worker().place.device == "cuda:5"


def test_a_gpu_to_avoid_gets_no_worker_and_the_others_keep_theirs(gpus) -> None:
    gpus(2)
    pool = LocalPool(WorkerSettings("", "", "cuda"), 4)
    places = [worker.place for worker in start_all(pool)]
    bad = next(place for place in places if place.device == "cuda:1")
    pool.avoid(bad)
    assert pool.is_avoided(bad)
    assert (pool.num_workers, pool.has_place) == (2, True)
    pool.avoid(next(place for place in places if place.device == "cuda:0"))
    assert (pool.num_workers, pool.has_place) == (0, False)


@pytest.mark.parametrize(
    ("cores", "workers", "asked", "encoders"),
    [(16, 1, None, 8), (16, 4, None, 3), (2, 2, None, 2), (1, 1, None, 2), (2, 2, 5, 5)],
)
def test_encoders_are_as_many_as_the_cores_allow_or_as_asked(
    monkeypatch, gpus, cores, workers, asked, encoders
) -> None:
    gpus(8)
    monkeypatch.setattr(executor, "count_cores", lambda: cores)
    pool = LocalPool(WorkerSettings("", "", "cuda"), workers, encoders=asked)
    assert pool._settings.encoders == encoders


def test_a_build_tells_how_it_comes_on_while_a_shard_is_made(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(driver, "LOOK_EVERY", 0.01)
    going_on = threading.Event()

    def make(place: Place, task: Task) -> None:
        if not going_on.is_set():  # the first shard: a half of it is written, and then nothing happens for a while
            with ShardWriter(dataset.storage.local_path(shard_name(task.stream, task.shard_index))) as shard:
                for i in range(5):
                    shard.add(f"{task.stream}-{i}", {"cls": b"0", "png": bytes(20_000)})
                shard.add("buffered", {"cls": b"0"})
                going_on.wait(60)
                raise BrokenExecutor("its files go with it")

    seen = []
    for progress in Build(dataset, ThreadPool([GOOD], make), ["natural", "observational"]).run():
        seen.append(progress)
        if progress.done_samples >= 5:
            going_on.set()
    first = next(progress for progress in seen if progress.done_samples >= 5)
    assert (first.done_shards, first.done_samples) == (0, 5)
    assert first.left.not_measured == ("observational",) and first.left.seconds > 0
    assert "about" in str(first.left) and str(first.left).endswith(" left and observational not measured yet")
    # What a sample costs is learnt from shards that are made: 2 s for 4 samples. The lost shard's 20 come last.
    last = next(progress for progress in seen if progress.done_shards == 5)
    assert (last.left.seconds, last.left.not_measured) == (10.0, ())
    assert seen[-1].done_samples == 90


def test_tars_are_looked_at_by_the_clock_not_for_every_shard(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    monkeypatch.setattr(driver.GrowingTars, "count", lambda tars, shards: looks.append(len(shards)) or {})
    monkeypatch.setattr(driver, "LOOK_EVERY", 1000.0)
    build, _ = run(dataset, ThreadPool([GOOD]))
    assert len(build.made) == SHARDS
    assert len(looks) == 1


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every shard that is under way is late as soon as another of its stream is made."""
    monkeypatch.setattr(driver, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(driver, "LATE_LEAST", 0.0)
    monkeypatch.setattr(driver, "LATE_FACTOR", 0.0)


@pytest.mark.usefixtures("impatient")
def test_a_late_shard_is_given_to_an_idle_worker_too_and_the_first_to_finish_wins(dataset: Dataset) -> None:
    begun = threading.Event()

    def make(place: Place, task: Task) -> None:
        if place == BAD:
            begun.set()
            assert pool.ending.wait(60)  # it hangs until it is ended
            raise BrokenExecutor("killed")
        assert begun.wait(60)

    pool = ThreadPool([GOOD, BAD], make)
    build, said = run(dataset, pool)
    assert len(build.made) == SHARDS and not build.faults
    ((stream, index, _),) = [tried for tried in pool.tried if tried[2] == BAD]
    assert Counter(tried[:2] for tried in pool.tried) == Counter(build.made) + Counter([(stream, index)])
    assert pool.ended == [BAD] and build.lost_workers == 0
    (line,) = said
    assert line.startswith(f"{stream} shard {index} has taken ") and line.endswith(f"given to {GOOD} too")


@pytest.mark.usefixtures("impatient")
def test_a_late_shard_that_fails_elsewhere_is_left_to_who_had_it_first(dataset: Dataset) -> None:
    begun, said = threading.Event(), threading.Event()

    def make(place: Place, task: Task) -> None:
        if place == BAD:
            begun.set()
            assert said.wait(60)
            return
        assert begun.wait(60)
        if (task.stream, task.shard_index, BAD) in pool.tried:
            raise FormatError("a photograph that cannot be read here")

    pool = ThreadPool([GOOD, BAD], make)
    build = Build(dataset, pool, [stream.name for stream in dataset.recipe.streams])
    for progress in build.run():
        if progress.message.endswith("a photograph that cannot be read here; another worker is at it"):
            said.set()
    assert said.is_set()
    assert len(build.made) == SHARDS and not build.faults and not pool.ended


@pytest.mark.usefixtures("impatient")
def test_a_process_that_stands_still_costs_no_shard_and_leaves_nothing(tiny_recipe: Path, tmp_path: Path) -> None:
    recipe = load_recipe(str(tiny_recipe), ["streams.natural.samples_per_shard=1"])
    dataset = settle(gather(recipe), Storage(tmp_path), "cpu")
    build = Build(dataset, LocalPool(WorkerSettings(str(tmp_path), dataset.entry.digest, "cpu"), 2), ["natural"])
    stopped: list[int] = []
    for _ in build.run():
        # Once it is known what a shard takes: whether the other worker is there by then or comes later.
        if build.made and build._running and not stopped:
            (_, worker), *_ = build._running.values()
            stopped.append(worker.handle._process.result())
            os.kill(stopped[0], signal.SIGSTOP)
    assert stopped and not build.faults
    records = [Record.from_json(path.read_bytes(), path) for path in tmp_path.glob("records/natural/*/*.json")]
    assert len(records) == len(build.made) == dataset.plan("natural").num_shards
    assert all(sha256_of_file(tmp_path / record.path) == record.sha256 for record in records)
    assert not list(tmp_path.rglob("*.tmp.*"))
