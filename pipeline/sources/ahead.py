"""Work ahead of whoever consumes it, in order."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Items that a thread hands over together, at most, and seconds that it gathers them: handing over costs as much as an
# image's bookkeeping, but a slow image waits for no other.
TOGETHER = 32
GATHER = 0.02


def map_ahead(
    pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """Results of `function` in the order of `items`, of which up to `ahead` are under way in the pool."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        # All that is done at once: one out for each one in wakes a thread for every item, at twice the processor time.
        while waiting and (len(waiting) > ahead or waiting[0].done()):
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def run_ahead(items: Iterator[Item], enter: Callable[[], None]) -> Iterator[Item]:
    """Items of an iterator that runs in a thread of its own, a few ahead of their consumer; `enter` readies the thread.

    What the iterator raises is raised here, at its place.
    """
    with ThreadPoolExecutor(1, initializer=enter) as thread:
        following = thread.submit(_take, items)
        while batch := following.result():
            following = thread.submit(_take, items)
            yield from batch


def _take(items: Iterator[Item]) -> list[Item]:
    """The next items; none after the last."""
    taken: list[Item] = []
    end = time.monotonic() + GATHER
    for item in items:
        taken.append(item)
        if len(taken) == TOGETHER or time.monotonic() > end:
            break
    return taken
