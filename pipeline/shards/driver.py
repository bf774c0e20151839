"""The driver: hand out shards until every one is committed.

Three rules keep one bad machine from spoiling a build. A shard is handed only to a worker that has said it is ready. A
worker is let go after any fault but one of the data (GenintError). A shard that has failed goes to another place than
before, as long as there is one, before it is given up; and a place where workers come to nothing gets no more of them.

Where workers have nothing else to do, they take a shard that takes much longer than it should elsewhere: the first to
finish wins, with the same bytes, and the other is ended.
"""

import concurrent.futures
import errno
import re
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...manifests.dataset import Dataset
from ...manifests.errors import GenintError, shorten
from ...manifests.manifest import Record, record_name, shard_name
from ...manifests.shard import index_path, sweep_files
from ...manifests.sources.stream import StreamPlan
from ..release.close import RecordStore
from .executor import Place, WorkerHandle, WorkerPool
from .progress import Costs, GrowingTars, TimeLeft, time_left
from .worker import Task

# A shard that fails so often, or takes its worker down so often, is given up.
MAX_FAULTS = 2
MAX_LOSSES = 3
# So many workers in a row that have made no shard, and their place is avoided.
MAX_FRUITLESS = 3
# Every further shard would fail alike.
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
# Seconds between looks at signals, and at what the pool has become.
LOOK_EVERY = 1.0
# Seconds after which workers that have not started are worth a word.
WAIT_NOTICE = 60.0

# A shard is late after so many times what its stream's shards take, and after so many seconds at least.
LATE_FACTOR = 3.0
LATE_LEAST = 60.0
# Seconds that a worker which was ended may take to be gone.
END_SECONDS = 10.0

# Of Ray's messages.
COLOURS = re.compile(r"\x1b\[[0-9;]*m")

Shard = tuple[str, int]


@dataclass(frozen=True)
class Progress:
    """A point in a build: how much is done, and what just happened."""

    done_samples: int  # those of shards that are being written among them, where they can be counted
    total_samples: int
    done_shards: int
    total_shards: int
    left: TimeLeft
    record: Record | None = None
    message: str = ""


class Tasks:
    """Shards to hand out: fresh ones, stream after stream, each stream once those that it reads are complete; and those
    to try again, at once where they have not failed yet, last where they have."""

    def __init__(self, dataset: Dataset, missing: Mapping[str, NDArray[np.int64]]) -> None:
        self._needs = {name: dataset.recipe.depends_on(name) for name in missing}
        self._fresh = {name: iter(shards) for name, shards in missing.items()}
        self._left = {name: len(shards) for name, shards in missing.items()}
        self._unfinished = dict(self._left)
        self._again: list[Task] = []
        self._failed_at: defaultdict[Shard, set[Place | None]] = defaultdict(set)

    @property
    def available(self) -> int:
        """How many could be handed out now."""
        return len(self._again) + sum(self._left[name] for name in self._open())

    def take(self, place: Place | None, places: Set[Place | None]) -> Task | None:
        """The next shard for a worker at `place`; `places` are those of all workers that are ready."""
        for task in self._again:
            if place not in self._failed_at[task.stream, task.shard_index]:
                self._again.remove(task)
                return task
        for name in self._open():
            if self._left[name]:
                self._left[name] -= 1
                return Task(name, int(next(self._fresh[name])))
        for task in self._again:
            if places <= self._failed_at[task.stream, task.shard_index]:
                self._again.remove(task)
                return task
        return None

    def finish(self, stream: str) -> None:
        self._unfinished[stream] -= 1

    def put_back(self, task: Task, place: Place | None) -> None:
        """A shard that failed at a place."""
        self._failed_at[task.stream, task.shard_index].add(place)
        self._again.append(replace(task, attempt=task.attempt + 1))

    def _open(self) -> Iterator[str]:
        """The streams whose shards may be made, in order, up to the first that has to wait."""
        for name, needs in self._needs.items():
            if any(self._unfinished.get(earlier) for earlier in needs):
                return
            yield name


@dataclass(eq=False)
class Hired:
    """A worker as the driver knows it; `shards` counts those that it has made."""

    handle: WorkerHandle
    since: float = field(default_factory=time.monotonic)
    busy_since: float = 0.0
    shards: int = 0
    noticed: bool = False

    @property
    def place(self) -> Place | None:
        return self.handle.place


@dataclass
class Build:
    """One run of the driver over a settled dataset; `run` is an iterator, the caller shows, counts or stops."""

    dataset: Dataset
    pool: WorkerPool
    streams: Sequence[str]
    stopping: bool = False
    lost_workers: int = 0
    lost_samples: int = 0
    retries: int = 0
    faults: dict[Shard, str] = field(default_factory=dict)
    made: set[Shard] = field(default_factory=set)
    _started: float = field(default_factory=time.monotonic)
    _before: int = 0  # samples that were there when it began
    _costs: Costs = field(default_factory=Costs)
    _starting: list[Hired] = field(default_factory=list)
    _idle: deque[Hired] = field(default_factory=deque)
    _running: dict[Future[Record], tuple[Task, Hired]] = field(default_factory=dict)
    _doubled: set[Shard] = field(default_factory=set)  # late ones that a second worker has been given
    _ended: dict[Future[Record], tuple[Task, Hired]] = field(default_factory=dict)  # at work on what another has made
    _fruitless: Counter[Place | None] = field(default_factory=Counter)
    _unplaced: float = 0.0  # when workers without a place were last lost
    _reason: str = ""  # why a place is avoided

    def rate(self, progress: Progress) -> float:
        """Samples a second of this run so far."""
        return round((progress.done_samples - self._before) / max(time.monotonic() - self._started, 1e-3), 2)

    def stop(self) -> None:
        """Let running shards finish and start no more. Safe in a signal handler."""
        self.stopping = True

    def run(self) -> Iterator[Progress]:
        """Make every missing shard. Raises GenintError when the disk is full, or when no place is left to work at.

        Afterwards `made` holds the shards of this run, and `faults` those that were given up, each with its last error.
        """
        plans = {name: self.dataset.plan(name) for name in self.streams}
        store = RecordStore(self.dataset.storage)
        missing = {name: store.missing_shards(name, plan.num_shards) for name, plan in plans.items()}
        store.reopen([name for name, shards in missing.items() if len(shards)])
        total = sum(plan.count for plan in plans.values()), sum(plan.num_shards for plan in plans.values())
        remaining = {
            name: sum(plans[name].shard_size(int(index)) for index in shards) for name, shards in missing.items()
        }
        done = [total[0] - sum(remaining.values()), total[1] - sum(map(len, missing.values()))]
        self._before, self._started = done[0], time.monotonic()
        tars = GrowingTars(self.dataset.storage)
        tasks = Tasks(self.dataset, missing)
        losses: Counter[Shard] = Counter()
        failures: Counter[Shard] = Counter()

        counts: dict[Shard, int] = {}  # samples of shards under way
        # By stream, how long and how far each is.
        ages: dict[str, list[tuple[float, int]]] = {name: [] for name in plans}
        looked = -float("inf")

        def look() -> None:
            """See how far the shards under way are: now and then, for it reads a file of each."""
            nonlocal looked
            running = {(task.stream, task.shard_index): worker for task, worker in self._running.values()}
            for shards in ages.values():
                shards.clear()
            for shard, count in tars.count(running).items():
                counts[shard] = min(count, plans[shard[0]].shard_size(shard[1]))
                ages[shard[0]].append((time.monotonic() - running[shard].busy_since, counts[shard]))
            looked = time.monotonic()

        def progress(message: str = "", record: Record | None = None) -> Progress:
            if time.monotonic() - looked >= LOOK_EVERY:
                look()
            under_way = Counter[str]()
            for (name, _), count in counts.items():
                under_way[name] += count
            left = time_left(
                {name: remaining[name] - under_way[name] for name in plans},
                {name: self._costs.seconds(name, ages[name]) for name in plans},
                min(self.pool.num_workers, max(1, total[1] - done[1])),
            )
            return Progress(done[0] + under_way.total(), total[0], done[1], total[1], left, record, message)

        yield progress()
        try:
            while True:
                # Hand out.
                if not self.stopping:
                    self._start_workers(tasks.available)
                    self._hand_out(tasks)
                    for message in self._double_late(plans):
                        yield progress(message)
                if not self._running and (self.stopping or not tasks.available):
                    return
                placed = self._running or any(worker.place for worker in self._starting)
                if self._reason and not placed and not self.pool.has_place:
                    raise GenintError(self._reason)
                # Collect.
                futures: list[Future[Any]] = [*(hired.handle.ready for hired in self._starting), *self._running]
                concurrent.futures.wait(futures, LOOK_EVERY, concurrent.futures.FIRST_COMPLETED)
                for message in self._welcome():
                    yield progress(message)
                yield progress()
                for future in [future for future in self._running if future.done()]:
                    if future not in self._running:
                        continue  # ended a moment ago: another has made its shard
                    task, worker = self._running.pop(future)
                    shard = task.stream, task.shard_index
                    counts.pop(shard, None)
                    error = future.exception()
                    others = self._others(shard)
                    if error is None:
                        self._keep(worker)
                        self._end(others)
                        self.made.add(shard)
                        tasks.finish(task.stream)
                        size = plans[task.stream].shard_size(task.shard_index)
                        done = [done[0] + size, done[1] + 1]
                        remaining[task.stream] -= size
                        self._costs.add(future.result())
                        self.lost_samples += len(future.result().failures)
                        yield progress(record=future.result())
                        continue
                    cause, reason = root_cause(error), describe_error(error)
                    if getattr(cause, "errno", None) in DISK_ERRORS:
                        self._idle.append(worker)
                        raise GenintError(f"{self.dataset.storage}: {reason}; finished shards are kept") from error
                    if self.pool.is_loss(error):
                        self.lost_workers += 1
                        losses[shard] += 1
                    else:
                        failures[shard] += 1
                    given_up = failures[shard] >= MAX_FAULTS or losses[shard] >= MAX_LOSSES
                    if others:
                        fate = "another worker is at it"
                    elif given_up:
                        self.faults[shard] = reason
                        fate = "given up"
                    else:
                        self.retries += 1
                        tasks.put_back(task, worker.place)
                        fate = "will be tried again"
                    yield progress(
                        f"{task.stream} shard {task.shard_index}, attempt {task.attempt}, on {worker.place}: {reason}; "
                        f"{fate}"
                    )
                    if isinstance(cause, GenintError):
                        self._idle.append(worker)  # the data's fault, not its own
                    elif self._let_go(worker, MAX_FRUITLESS, f"no worker can make a shard: {reason}"):
                        yield progress(f"{worker.place}: {MAX_FRUITLESS} workers in a row made no shard; no more there")
        finally:
            self._bury(END_SECONDS)
            if self._running or (self.stopping and self._starting):
                self.pool.kill()
            for worker in (*self._idle, *self._starting):
                worker.handle.close()

    def _start_workers(self, available: int) -> None:
        """Ask for as many workers as there is work for, at most the pool's number."""
        hired = [*self._starting, *self._idle, *(worker for _, worker in self._running.values())]
        count = sum(not self.pool.is_avoided(worker.place) for worker in hired)
        waiting = len(self._starting) + len(self._idle)
        for _ in range(min(self.pool.num_workers - count, available - waiting)):
            self._starting.append(Hired(self.pool.start_worker()))

    def _hand_out(self, tasks: Tasks) -> None:
        places = {worker.place for worker in (*self._idle, *(worker for _, worker in self._running.values()))}
        for _ in range(len(self._idle)):
            worker = self._idle.popleft()
            task = tasks.take(worker.place, places)
            if task is None:
                self._idle.append(worker)
            else:
                worker.busy_since = time.monotonic()
                self._running[worker.handle.submit(task)] = (task, worker)

    def _double_late(self, plans: Mapping[str, StreamPlan]) -> Iterator[str]:
        """Give shards that are late to workers that nothing else is left for; yields a line for each."""
        for task, slow in list(self._running.values()) if self._idle else []:
            shard = task.stream, task.shard_index
            cost, size = self._costs.seconds(task.stream), plans[task.stream].shard_size(task.shard_index)
            seconds = time.monotonic() - slow.busy_since
            if shard in self._doubled or cost is None or seconds < max(LATE_LEAST, LATE_FACTOR * cost * size):
                continue
            # Elsewhere, if there is an elsewhere.
            worker = next((idle for idle in self._idle if idle.place != slow.place), self._idle[0])
            self._idle.remove(worker)
            self._doubled.add(shard)
            worker.busy_since = time.monotonic()
            self._running[worker.handle.submit(task)] = (task, worker)
            yield (
                f"{task.stream} shard {task.shard_index} has taken {seconds:.0f} s on {slow.place}, of "
                f"{cost * size:.0f} s that it should; given to {worker.place} too"
            )
            if not self._idle:
                return

    def _others(self, shard: Shard) -> list[Future[Record]]:
        """What else is running of a shard."""
        if shard not in self._doubled:
            return []
        return [future for future, (task, _) in self._running.items() if (task.stream, task.shard_index) == shard]

    def _end(self, futures: Sequence[Future[Record]]) -> None:
        """End the workers of shards that others have made."""
        for future in futures:
            task, worker = self._running.pop(future)
            worker.handle.kill()
            self._ended[future] = task, worker
        self._bury(0.0)

    def _bury(self, seconds: float) -> None:
        """Let workers go that were ended, and remove what they were writing; waits for those that are still there."""
        concurrent.futures.wait(self._ended, seconds)
        for future in [future for future in self._ended if future.done() or seconds]:
            task, worker = self._ended.pop(future)
            worker.handle.close()
            if self.dataset.storage.local:
                shard = task.stream, task.shard_index
                tar, record = (self.dataset.storage.local_path(name(*shard)) for name in (shard_name, record_name))
                sweep_files(tar, index_path(tar), record)

    def _welcome(self) -> Iterator[str]:
        """Take in the workers that have started; yields what is to be said of those that have not."""
        for worker in [worker for worker in self._starting if worker.handle.ready.done()]:
            self._starting.remove(worker)
            error = worker.handle.ready.exception()
            if error is None:
                self._idle.append(worker)
                self._fruitless.pop(None, None)
                continue
            reason = describe_error(error)
            # What genint itself refuses will be refused again.
            attempts = 1 if isinstance(root_cause(error), GenintError) else MAX_FRUITLESS
            end = self._let_go(worker, attempts, f"a worker cannot start: {reason}")
            # Where nobody else is at work, another attempt or the end of the build tells.
            others = self._starting or self._idle or self._running
            if others and (end or self._fruitless[worker.place] == 1):
                where = f"on {worker.place}" if worker.place else "without a place yet"
                yield f"a worker {where} cannot start: {reason}{'; no other is started there' if end else ''}"
        late = [worker for worker in self._starting if time.monotonic() - worker.since > WAIT_NOTICE]
        if not all(worker.noticed for worker in late):
            for worker in late:
                worker.noticed = True
            unplaced = sum(worker.place is None for worker in late)
            if unplaced:
                asked = len(self._starting) + len(self._idle) + len(self._running)
                yield (
                    f"no free {self.pool.what} for {unplaced} of {asked} workers: other jobs have it, or a node is "
                    "missing; they wait, and the others work on"
                )
            for place in {worker.place for worker in late} - {None}:
                yield f"a worker on {place} has not started for {WAIT_NOTICE:.0f} s"

    def _keep(self, worker: Hired) -> None:
        """A worker that has made a shard."""
        self._idle.append(worker)
        worker.shards += 1
        if worker.shards == 1:
            self._fruitless.pop(worker.place, None)

    def _let_go(self, worker: Hired, attempts: int, reason: str) -> bool:
        """Close a worker. Returns whether its place is avoided from now on, since so many attempts came to nothing."""
        worker.handle.close()
        place = worker.place
        if worker.shards or self.pool.is_avoided(place):
            return False
        if place is None:
            # A node that dies takes all that were on their way to it: they count once, and their successors next.
            if worker.since < self._unplaced:
                return False
            self._unplaced = time.monotonic()
        self._fruitless[place] += 1
        if self._fruitless[place] < attempts:
            return False
        self.pool.avoid(place)
        self._reason = reason
        return True


def root_cause(error: BaseException) -> BaseException:
    """The exception as it was raised in the worker (Ray wraps it)."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error


def describe_error(error: BaseException) -> str:
    """An error in one line: the sentence for the user, or kind and reason."""
    cause = root_cause(error)
    lines = [line.strip() for line in COLOURS.sub("", str(cause)).strip().splitlines() if line.strip()] or [""]
    if isinstance(cause, GenintError):
        return shorten(lines[0], 400)
    text = lines[0]
    if type(cause).__module__.startswith("ray.") and len(lines) > 1:
        text += f" {lines[-1]}"  # what has happened stands at the end
        if "started running" in text:
            text += "; has the cluster another token than this machine? See RAY_AUTH_MODE, RAY_AUTH_TOKEN, ~/.ray"
    return shorten(f"{type(cause).__name__}: {text}" if text else type(cause).__name__, 400)
