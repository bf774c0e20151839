"""How fast a build goes, and how long it still takes, from the records that it leaves: from any machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...manifests.errors import FormatError
from ...manifests.manifest import FOLDER_SIZE, RECORDS, Record, record_name
from ...manifests.records import load_record
from ...manifests.sources.stream import StreamPlan
from ...manifests.storage import Storage

# Of each stream so many are read, the newest: a few requests also where there are a million.
NEWEST = 32
# Nobody works on anything for so long: before that, the build had been stopped.
PAUSE = 300.0


@dataclass(frozen=True)
class Finished:
    """A shard that is done: when its record was written, seconds since 1970, and the record."""

    time: float
    record: Record


@dataclass(frozen=True)
class Progress:
    """How a build goes on.

    workers: how many shards were in work at once, on average, since the build was last continued. seconds_left: None
    where some stream has no finished shard yet, whose cost is therefore unknown. idle: seconds since the last shard.
    lost: samples that could not be made, in the shards that were looked at.
    """

    samples_per_second: float
    workers: float
    seconds_left: float | None
    idle: float
    lost: int


def find_newest(storage: Storage, plan: StreamPlan) -> list[Finished]:
    """The newest finished shards of a stream, oldest first, from files that are there singly.

    Raises FormatError where a record is damaged.
    """
    stream = plan.stream.name
    times: dict[str, float] = {}
    for start in range(0, plan.num_shards, FOLDER_SIZE):
        times |= storage.times(f"{RECORDS}/{stream}/{start // FOLDER_SIZE:04d}")
    known = sorted(
        (time, int(name[:7])) for name, time in times.items() if name[:7].isdigit() and name.endswith(".json")
    )
    found = []
    for time, shard in known[-NEWEST:]:
        try:
            found.append(Finished(time, load_record(storage, plan, shard)))
        except FormatError:
            if storage.exists(record_name(stream, shard)):
                raise
            # The build, which is at work, took it away after the folder was listed.
    return found


def measure_progress(
    finished: Mapping[str, Sequence[Finished]],
    plans: Mapping[str, StreamPlan],
    missing: Mapping[str, NDArray[np.int64]],
    now: float,
) -> Progress | None:
    """How a build goes on, from the newest finished shards of each stream; None where there are none."""
    everything = sorted((each for found in finished.values() for each in found), key=lambda each: each.time)
    if not everything:
        return None
    # From the newest back, as long as somebody was at work.
    start, recent = everything[-1].time, []
    for each in reversed(everything):
        if each.time < start - PAUSE:
            break
        recent.append(each)
        start = min(start, each.time - each.record.seconds)
    span = max(everything[-1].time - start, 1e-3)
    workers = max(sum(each.record.seconds for each in recent) / span, 1e-3)
    left: float | None = 0.0
    for name, shards in missing.items():
        samples = sum(plans[name].shard_size(int(shard)) for shard in shards)
        made = sum(each.record.samples for each in finished[name])
        if samples and not made:
            left = None
        elif samples and left is not None:
            left += samples * sum(each.record.seconds for each in finished[name]) / made
    return Progress(
        samples_per_second=sum(each.record.samples for each in recent) / span,
        workers=workers,
        seconds_left=None if left is None else left / workers,
        idle=max(now - everything[-1].time, 0.0),
        lost=sum(len(each.record.failures) for each in everything),
    )
