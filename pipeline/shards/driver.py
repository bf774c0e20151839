"""The driver: hand out shards until every one is committed."""

import concurrent.futures
import errno
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from ...manifests.dataset import Dataset
from ...manifests.errors import GenintError, shorten
from ...manifests.manifest import Record
from ..release.close import RecordStore
from .executor import WorkerHandle, WorkerPool, WorkerStartError
from .worker import Task

# A shard that fails so often, or takes its worker down so often, is given up.
MAX_FAULTS = 2
MAX_LOSSES = 3
# Every further shard would fail alike.
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


@dataclass(frozen=True)
class Progress:
    """A point in a build: how much is done, and what just happened."""

    done_samples: int
    total_samples: int
    done_shards: int
    total_shards: int
    record: Record | None = None
    message: str = ""


@dataclass
class Build:
    """One run of the driver over a settled dataset; `run` is an iterator, the caller shows, counts or stops."""

    dataset: Dataset
    pool: WorkerPool
    streams: Sequence[str]
    stopping: bool = False
    lost_workers: int = 0
    faults: dict[tuple[str, int], str] = field(default_factory=dict)
    made: set[tuple[str, int]] = field(default_factory=set)
    _idle: deque[WorkerHandle] = field(default_factory=deque)
    _running: dict[Future[Record], tuple[Task, WorkerHandle]] = field(default_factory=dict)
    _started: int = 0

    def stop(self) -> None:
        """Let running shards finish and start no more. Safe in a signal handler."""
        self.stopping = True

    def run(self) -> Iterator[Progress]:
        """Make every missing shard. Raises GenintError when the disk is full, no worker starts or the cluster is lost.

        Afterwards `made` holds the shards of this run, and `faults` those that were given up, each with its last error.
        """
        plans = {name: self.dataset.plan(name) for name in self.streams}
        store = RecordStore(self.dataset.storage)
        missing = {name: store.missing_shards(name, plan.num_shards) for name, plan in plans.items()}
        remaining = {name: len(shards) for name, shards in missing.items()}
        if any(remaining.values()):
            store.reopen()
        samples = {name: sum(plan.shard_size(int(i)) for i in missing[name]) for name, plan in plans.items()}
        total = sum(plan.count for plan in plans.values()), sum(plan.num_shards for plan in plans.values())
        done = [total[0] - sum(samples.values()), total[1] - sum(remaining.values())]

        fresh = deque((name, iter(missing[name])) for name in self.streams)
        retries: deque[Task] = deque()
        losses: Counter[tuple[str, int]] = Counter()
        failures: Counter[tuple[str, int]] = Counter()

        def next_task() -> Task | None:
            if retries:
                return retries.popleft()
            while fresh:
                name, shards = fresh[0]
                if any(remaining[earlier] for earlier in self.dataset.recipe.depends_on(name) if earlier in remaining):
                    return None
                for shard_index in shards:
                    return Task(name, int(shard_index))
                fresh.popleft()
            return None

        yield Progress(done[0], total[0], done[1], total[1])
        try:
            while True:
                # Hand out.
                while not self.stopping and (self._idle or self._started < self.pool.num_workers):
                    task = next_task()
                    if task is None:
                        break
                    self._hand_out(task)
                if not self._running:
                    return
                # Collect.
                finished, _ = concurrent.futures.wait(self._running, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in finished:
                    task, worker = self._running.pop(future)
                    shard = task.stream, task.shard_index
                    again = Task(task.stream, task.shard_index, task.attempt + 1)
                    error = future.exception()
                    if error is None:
                        self._idle.append(worker)
                        self.made.add(shard)
                        remaining[task.stream] -= 1
                        done = [done[0] + plans[task.stream].shard_size(task.shard_index), done[1] + 1]
                        yield Progress(done[0], total[0], done[1], total[1], future.result())
                        continue
                    message = describe_error(error)
                    if isinstance(root_cause(error), WorkerStartError):
                        raise GenintError(f"a worker cannot start: {root_cause(error)}") from error
                    if self.pool.is_loss(error):
                        worker.close()
                        self._started -= 1
                        self.lost_workers += 1
                        losses[shard] += 1
                        given_up = losses[shard] >= MAX_LOSSES
                    else:
                        self._idle.append(worker)
                        if getattr(root_cause(error), "errno", None) in DISK_ERRORS:
                            raise GenintError(f"{self.dataset.storage}: {message}; finished shards are kept") from error
                        failures[shard] += 1
                        given_up = failures[shard] >= MAX_FAULTS
                    if given_up:
                        self.faults[shard] = message
                    else:
                        retries.append(again)
                    yield Progress(
                        done[0], total[0], done[1], total[1],
                        message=f"{task.stream} shard {task.shard_index}, attempt {task.attempt}: {message}; "
                        + ("given up" if given_up else "will be tried again"),
                    )  # fmt: skip
        finally:
            if self._running:
                self.pool.kill()
            for worker in self._idle:
                worker.close()

    def _hand_out(self, task: Task) -> None:
        if not self._idle:
            self._idle.append(self.pool.start_worker())
            self._started += 1
        worker = self._idle.popleft()
        self._running[worker.submit(task)] = (task, worker)


def root_cause(error: BaseException) -> BaseException:
    """The exception as it was raised in the worker (Ray wraps it)."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error


def describe_error(error: BaseException) -> str:
    """An error in one line."""
    cause = root_cause(error)
    lines = [line.strip() for line in str(cause).strip().splitlines()] or [""]
    text = lines[0]
    if type(cause).__module__.startswith("ray.") and len(lines) > 1:
        text += f" {lines[-1]}"  # what has happened stands at the end
        if "started running" in text:
            text += "; has the cluster another token than this machine? See RAY_AUTH_MODE, RAY_AUTH_TOKEN, ~/.ray"
    return shorten(f"{type(cause).__name__}: {text}" if text else type(cause).__name__, 400)
