"""How far a dataset is, whoever builds it: read from its records, and changing nothing."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...manifests.console import format_seconds
from ...manifests.dataset import Dataset
from ...manifests.lock import find_holder
from ...manifests.manifest import MANIFEST, Manifest, load_manifest
from ...manifests.sources.stream import StreamPlan
from ..release.close import RecordStore, excess_failures
from ..release.progress import Progress, find_newest, measure_progress
from .progress import read_progress
from .settle import LOCK

State = Literal["complete", "partial", "too much lost", "shards missing", "building", "stopped"]


@dataclass(frozen=True)
class StreamStatus:
    """One stream: its shards, those that are missing, its samples, and those that were lost, if a manifest says it."""

    name: str
    shards: int
    missing: int
    samples: int
    lost: int | None


@dataclass(frozen=True)
class Status:
    """A dataset's state, what it means in a few lines, and its streams.

    builder: the process that builds it now; None where nobody does, or in a bucket. progress: how the build goes on by
    the records that it leaves. build: what it last said of itself: samples (of unfinished shards, too), rate, time
    left, retries, shards that failed with why, lost samples and workers.
    """

    dataset: str
    state: State
    complete: bool
    message: str
    streams: list[StreamStatus]
    builder: str | None
    progress: Progress | None
    build: dict[str, Any] | None


def read_status(dataset: Dataset) -> Status:
    """Raises FormatError where there is a manifest that is damaged."""
    storage = dataset.storage
    store = RecordStore(storage)
    manifest = load_manifest(storage) if storage.exists(MANIFEST) else None
    lost = {entry.name: sum(entry.failures.values()) for entry in manifest.streams} if manifest else {}
    plans = {stream.name: dataset.plan(stream.name) for stream in dataset.recipe.streams}
    missing = {name: store.missing_shards(name, plan.num_shards) for name, plan in plans.items()}
    streams = [
        StreamStatus(name, plan.num_shards, len(missing[name]), plan.count, lost.get(name))
        for name, plan in plans.items()
    ]
    builder = find_holder(storage.local_path(LOCK)) if storage.local else None
    said = read_progress(storage)
    progress: Progress | None = None
    # A part that is finished says nothing of a build of the rest.
    if manifest is None or builder or (manifest.missing_streams and said):
        progress = _measure(dataset, plans, missing)
        state: State = "building" if builder else "stopped"
        message = "\n".join(_describe(builder, storage.local, progress, said))
    else:
        state, message = _judge(dataset, manifest, streams)
    return Status(str(storage), state, state == "complete", message, streams, builder, progress, said)


def _measure(
    dataset: Dataset, plans: Mapping[str, StreamPlan], missing: Mapping[str, NDArray[np.int64]]
) -> Progress | None:
    newest = {name: find_newest(dataset.storage, plan) for name, plan in plans.items()}
    return measure_progress(newest, plans, missing, time.time())


def _judge(dataset: Dataset, manifest: Manifest, streams: list[StreamStatus]) -> tuple[State, str]:
    missing = sum(stream.missing for stream in streams if stream.name not in manifest.missing_streams)
    if missing:
        return "shards missing", (
            f"not complete: its manifest is written, but {missing:,} shards are missing; genint-pipeline repair "
            f"{dataset.storage} makes them again"
        )
    excess = excess_failures(dataset)
    if excess:
        flags = " ".join(one.flag for one in excess)
        return "too much lost", (
            f"not complete: {'; '.join(map(str, excess))}. The rest is whole and can be read; build-shards with "
            f"{flags} accepts the loss"
        )
    if manifest.missing_streams:
        names = ", ".join(manifest.missing_streams)
        return "partial", f"partial: {names} not made yet; the others can be read, and their manifest is written"
    return "complete", "complete: its manifest is written"


def _describe(
    builder: str | None, local: bool, progress: Progress | None, said: dict[str, Any] | None
) -> Iterator[str]:
    """Lines on a build that goes on, or that has left no manifest."""
    if builder:
        yield f"under way: {builder}"
    else:
        yield "stopped: no build runs here; the same command continues it" if local else "no manifest yet"
    if builder and said:
        yield from _quote(said)
        return
    faults = said.get("faults") if said else None
    if isinstance(faults, dict) and faults:
        shard, reason = next(iter(faults.items()))
        yield f"{len(faults)} shards failed, first {shard}: {reason}"
    elif said and said.get("ended"):
        yield f"it ended: {said['ended']}"
    if progress is None:
        yield "no shard has been finished since it began"
        return
    left = "time left unknown: a stream has no finished shard yet"
    if progress.seconds_left is not None:
        left = f"{format_seconds(progress.seconds_left)} left"
    yield f"{progress.samples_per_second:,.1f} samples/s by {progress.workers:,.1f} workers, {left}"
    lost = f"; {progress.lost:,} samples lost" if progress.lost else ""
    yield f"last shard {format_seconds(progress.idle)} ago{lost}"


def _quote(said: dict[str, Any]) -> Iterator[str]:
    """What a build says of itself, in a line; nothing of what it does not say."""
    numbers = {key: value for key, value in said.items() if isinstance(value, int | float)}
    parts = []
    if {"done_samples", "total_samples"} <= numbers.keys():
        parts.append(f"{numbers['done_samples']:,} of {numbers['total_samples']:,} samples")
    if "samples_per_second" in numbers:
        parts.append(f"{numbers['samples_per_second']:,.1f} samples/s")
    parts += [str(said["left"])] if said.get("left") else []
    words = (("retries", "retries"), ("lost_samples", "samples lost"), ("lost_workers", "workers lost"))
    parts += [f"{numbers[key]:,} {word}" for key, word in words if numbers.get(key)]
    if isinstance(said.get("faults"), dict) and said["faults"]:
        parts.append(f"{len(said['faults'])} shards failed")
    if parts:
        yield ", ".join(parts)
