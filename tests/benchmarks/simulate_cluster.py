"""The driver on a simulated cluster: what a shard costs it, its memory, and whether any shard is lost or made twice.

    python tests/benchmarks/simulate_cluster.py --shards 1000000

Nothing is rendered and no process is started: workers of 64 nodes answer after a drawn time, die, join late and
straggle. The simulated answers come faster than the driver can take them, so that what is timed is the driver.
"""

import argparse
import heapq
import itertools
import os
import random
import resource
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from dataclasses import dataclass, field

from genint.manifests.manifest import Record
from genint.manifests.recipe import load_recipe
from genint.manifests.storage import Storage
from genint.pipeline.shards import driver
from genint.pipeline.shards.driver import Build
from genint.pipeline.shards.executor import Place
from genint.pipeline.shards.settle import gather, settle
from genint.pipeline.shards.worker import Task

WORKERS_PER_NODE = 8


class Clock:
    """Calls what is due, in a thread of its own."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self._changed = threading.Condition()
        threading.Thread(target=self._run, daemon=True).start()

    def call(self, after: float, action: Callable[[], None]) -> None:
        with self._changed:
            heapq.heappush(self._due, (time.monotonic() + after, next(self._number), action))
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._due or self._due[0][0] > time.monotonic():
                    self._changed.wait(self._due[0][0] - time.monotonic() if self._due else None)
                _, _, action = heapq.heappop(self._due)
            action()


@dataclass(eq=False)
class Cluster:
    """A pool of simulated workers; half of its nodes join while it works."""

    nodes: int
    seconds: float  # that a shard takes, in the median
    deaths: float  # share of shards that take their worker down
    stragglers: float  # share of shards that take a hundred times as long
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    clock: Clock = field(default_factory=Clock)
    made: Counter[tuple[str, int]] = field(default_factory=Counter)
    died: int = 0
    ended: int = 0
    what: str = "CPU"

    def __post_init__(self) -> None:
        self._born = time.monotonic()
        self._next = itertools.count()

    @property
    def num_workers(self) -> int:
        there = self.nodes // 2 if time.monotonic() < self._born + 5 else self.nodes
        return there * WORKERS_PER_NODE

    def start_worker(self) -> "SimulatedWorker":
        return SimulatedWorker(self, next(self._next))

    @property
    def has_place(self) -> bool:
        return True

    def avoid(self, place: Place | None) -> None:
        raise AssertionError(f"{place}: given up, though workers that died had made shards")

    def is_avoided(self, place: Place | None) -> bool:
        return False

    def is_loss(self, error: BaseException) -> bool:
        return isinstance(error, BrokenExecutor)

    def kill(self) -> None:
        """Nothing runs."""

    def close(self) -> None:
        """Nothing is held."""


class SimulatedWorker:
    def __init__(self, cluster: Cluster, number: int) -> None:
        self._cluster = cluster
        node = number % cluster.nodes
        self.place = Place(f"node-{node}", "CPU", str(node))
        self.ready: Future[None] = Future()
        cluster.clock.call(cluster.rng.uniform(0, 0.5), lambda: self.ready.set_result(None))

    def submit(self, task: Task) -> Future[Record]:
        cluster, future = self._cluster, Future[Record]()
        seconds = cluster.rng.lognormvariate(0, 0.3) * cluster.seconds
        draw = cluster.rng.random()

        def answer() -> None:
            if not future.set_running_or_notify_cancel():
                return  # ended meanwhile
            if draw < cluster.deaths:
                cluster.died += 1
                future.set_exception(BrokenExecutor("the node died"))
            else:
                cluster.made[task.stream, task.shard_index] += 1
                future.set_result(answer_of(task, seconds))

        slow = draw > 1 - cluster.stragglers
        cluster.clock.call(100 * seconds if slow else seconds, answer)
        self._future = future
        return future

    def kill(self) -> None:
        self._future.cancel()
        self._cluster.ended += 1

    def close(self) -> None:
        """Nothing is held."""


def answer_of(task: Task, seconds: float) -> Record:
    """As much of a record as the driver reads."""
    return Record.model_construct(
        stream=task.stream, shard_index=task.shard_index, samples=1, failures=[], seconds=seconds
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=100_000, help="a multiple of ten")
    parser.add_argument("--nodes", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=0.05, help="simulated, of a shard in the median")
    parser.add_argument("--deaths", type=float, default=0.001)
    parser.add_argument("--stragglers", type=float, default=0.0001)
    options = parser.parse_args()
    driver.LATE_LEAST = 10 * options.seconds
    only = [
        f"streams.observational.{key}" for key in (f"latents_per_class={options.shards // 10}", "samples_per_shard=1")
    ]
    recipe = load_recipe("mini", only)
    with tempfile.TemporaryDirectory() as folder:
        dataset = settle(gather(recipe), Storage(folder), "cpu")
        cluster = Cluster(options.nodes, options.seconds, options.deaths, options.stragglers)
        build = Build(dataset, cluster, ["observational"])
        before, at_start, said = memory(), 0.0, 0
        started, thread = time.monotonic(), time.thread_time()
        for number, progress in enumerate(build.run()):
            said += bool(progress.message)
            if number == 10_000:
                at_start = memory()
        seconds, spent = time.monotonic() - started, time.thread_time() - thread
    lost = options.shards - len(cluster.made)
    twice = sum(cluster.made.values()) - len(cluster.made)
    workers = options.nodes * WORKERS_PER_NODE
    print(
        f"{options.shards:,} shards by {workers} workers of {options.nodes} simulated nodes in {seconds:.0f} s: ",
        end="",
    )
    print(f"{spent / options.shards * 1e3:.3f} ms of the driver a shard; {lost} lost, {twice} made twice, ", end="")
    print(f"{cluster.died:,} workers died, {cluster.ended:,} were late and ended, {said:,} messages; ", end="")
    print(f"memory {before:.0f} MB before, ", end="")
    print(f"{at_start:.0f} MB after 10,000 steps, {memory():.0f} MB at the end; load average {os.getloadavg()[0]:.1f}")


def memory() -> float:
    """Most that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
