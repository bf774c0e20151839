"""Close a dataset: compact the records, list the digests, write the card, and last of all the manifest."""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from ...manifests.dataset import PLAN, Dataset
from ...manifests.errors import FormatError, UsageError, shorten
from ...manifests.fidelity import TABLE, Collected, collect_scores, load_scorer, make_table, scores_sums
from ...manifests.manifest import (
    FOLDER_SIZE,
    MANIFEST,
    PART_SIZE,
    RECORDS,
    SIGNATURE,
    SUMS,
    Environment,
    Manifest,
    Record,
    StreamEntry,
    environment_name,
    load_manifest,
    part_name,
    read_records,
    record_name,
    shard_name,
)
from ...manifests.records import StreamTotals, check_record, part_shards, sum_lines
from ...manifests.samples import check_shard
from ...manifests.shard import format_index, index_path, make_index
from ...manifests.sources.stream import StreamPlan
from ...manifests.storage import Storage
from ...manifests.verification import other_files, verify_manifest, verify_shard
from .card import write_card


class RecordStore:
    """The records of a dataset under way: a file each, over the parts of an earlier manifest if there was one."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def missing_shards(self, stream: str, num_shards: int) -> NDArray[np.int64]:
        """Shards without a record or without a tar, ascending. Reads folder listings only."""
        recorded = np.zeros(num_shards, bool)
        for start in range(0, num_shards, PART_SIZE):
            # A part is written whole, so its presence is enough.
            if self._storage.exists(part_name(stream, start // PART_SIZE)):
                recorded[start : start + PART_SIZE] = True
        present = np.zeros(num_shards, bool)
        for start in range(0, num_shards, FOLDER_SIZE):
            folder = f"{start // FOLDER_SIZE:04d}"
            for array, names, pattern in (
                (recorded, self._storage.list(f"{RECORDS}/{stream}/{folder}"), r"(\d{7})\.json"),
                (present, self._storage.list(f"{stream}/{folder}"), r".*-(\d{7})\.tar"),
            ):
                for name in names:
                    match = re.fullmatch(pattern, name)
                    if match and int(match[1]) < num_shards:
                        array[int(match[1])] = True
        return np.flatnonzero(~(recorded & present))

    def reopen(self, streams: Collection[str] | None = None) -> None:
        """The dataset is not complete (any more): take the mark of completeness away before anything changes.

        streams: those that change; a manifest that has none of them stays.
        """
        if streams is not None and self._storage.exists(MANIFEST):
            with suppress(FormatError):  # a damaged one goes
                manifest = load_manifest(self._storage, altered=True)
                if {entry.name for entry in manifest.streams}.isdisjoint(streams):
                    return
        self._storage.remove(SIGNATURE)
        self._storage.remove(MANIFEST)

    def whole_streams(self, dataset: Dataset) -> list[str]:
        """Names of the streams of which no shard is missing."""
        plans = [dataset.plan(stream.name) for stream in dataset.recipe.streams]
        return [p.stream.name for p in plans if not len(self.missing_shards(p.stream.name, p.num_shards))]

    def records(self, plan: StreamPlan) -> Iterator[list[Record]]:
        """All records in shard order, in the lists that become parts. Memory does not grow with the dataset."""
        for part_index, shards in enumerate(part_shards(plan)):
            base = self._base(plan, part_index)
            yield [self._read(plan, shard_index, base) for shard_index in shards]

    def drop_unsound(
        self, plan: StreamPlan, dataset: Dataset, sound: Set[tuple[str, int]], refill: bool
    ) -> Iterator[tuple[tuple[str, int], str]]:
        """Check the shards that nobody has found sound yet: each against record and plan, byte by byte.

        An index is made again from its tar. What is not sound goes, record and shard, and is made again by the next
        round; yields each shard with what is wrong with it, "" for one that is sound. Raises FormatError where a part
        is damaged.

        refill: shards with holes are not sound.
        """
        name = plan.stream.name
        for part_index, shards in enumerate(part_shards(plan)):
            base = self._base(plan, part_index)
            for shard_index in shards:
                if (name, shard_index) in sound:
                    continue
                try:
                    record = self._read(plan, shard_index, base)
                    self._load_environment(record.environment)
                    _restore_index(self._storage, record)
                    problem = next(iter(verify_shard(dataset, record)), "")
                    if refill and record.failures:
                        problem = problem or f"{record.path}: {len(record.failures)} samples were lost"
                except FormatError as error:
                    problem = str(error)
                if problem:
                    self.reopen([name])
                    self._storage.remove(record_name(name, shard_index))
                    self._storage.remove(shard_name(name, shard_index))
                yield (name, shard_index), problem

    def environments(self, keys: Iterable[str]) -> dict[str, Environment]:
        """What the records mean by these environments. Raises FormatError where one is missing or altered."""
        return {key: self._load_environment(key) for key in sorted(keys)}

    def clear(self, stream: str) -> None:
        """Drop the record files of a stream whose parts are written."""
        self._storage.remove(f"{RECORDS}/{stream}")

    def _load_environment(self, key: str) -> Environment:
        path = environment_name(key)
        if not self._storage.exists(path):
            raise FormatError(f"{self._storage / path}: missing")
        environment = Environment.from_json(self._storage.read(path), self._storage / path)
        if environment.id != key:
            raise FormatError(f"{self._storage / path}: altered")
        return environment

    def _read(self, plan: StreamPlan, shard_index: int, base: Mapping[int, Record]) -> Record:
        path = record_name(plan.stream.name, shard_index)
        try:
            record = Record.from_json(self._storage.read(path), self._storage / path)
        except FileNotFoundError as error:
            if shard_index not in base:
                raise FormatError(f"{self._storage / path}: missing") from error
            record = base[shard_index]
        check_record(plan, shard_index, record, self._storage / path)
        return record

    def _base(self, plan: StreamPlan, part_index: int) -> dict[int, Record]:
        """Records of a part that an earlier release wrote."""
        path = part_name(plan.stream.name, part_index)
        if not self._storage.exists(path):
            return {}
        try:
            records = [Record.from_json(line, self._storage / path) for line in self._storage.read(path).splitlines()]
        except FormatError as error:
            raise FormatError(f"{error}; restore it from a copy, or remove it to have its shards made again") from error
        return {record.shard_index: record for record in records}


def drop_unsound(
    dataset: Dataset, streams: Sequence[str], sound: Set[tuple[str, int]], refill: bool = False
) -> Iterator[tuple[tuple[str, int], str]]:
    """`RecordStore.drop_unsound` of these streams; a finished dataset is one under way from the first that goes."""
    _restore_environments(dataset.storage)
    store = RecordStore(dataset.storage)
    for name in streams:
        yield from store.drop_unsound(dataset.plan(name), dataset, sound, refill)


def find_problems(dataset: Dataset) -> list[str]:
    """What a dataset that has a manifest lacks of being complete; bytes inside its shards are left to `verify`."""
    try:
        return [*verify_manifest(dataset, load_manifest(dataset.storage, altered=True))]
    except FormatError as error:
        return [str(error)]


def closed_streams(dataset: Dataset) -> list[str]:
    """Names of the streams of a dataset's manifest; none where there is no manifest that can be read."""
    try:
        return [entry.name for entry in load_manifest(dataset.storage, altered=True).streams]
    except FormatError:
        return []


def require_whole(dataset: Dataset) -> None:
    """Raise FormatError where a dataset is damaged, UsageError where streams of its recipe are not made yet."""
    for problem in find_problems(dataset)[:1]:
        raise FormatError(f"{dataset.storage}: {problem}; genint-pipeline repair {dataset.storage} mends it")
    missing = load_manifest(dataset.storage).missing_streams
    if missing:
        raise UsageError(
            f"{dataset.storage}: streams that are not made yet: {', '.join(missing)}; the command that built the "
            "others makes them, without --stream"
        )


def reopen(storage: Storage) -> None:
    """Make a finished dataset one under way, so that what it lacks is made."""
    _restore_environments(storage)
    RecordStore(storage).reopen()


def _restore_environments(storage: Storage) -> None:
    """Write the environments of a manifest as files of their own, as records need them, where there is a manifest."""
    with suppress(FormatError):  # files that are there have to do
        for environment in load_manifest(storage, altered=True).environments.values():
            name, content = environment_name(environment.id), environment.to_json()
            if not storage.exists(name) or storage.read(name) != content:
                storage.write(name, content)


def release(dataset: Dataset, lost_workers: int = 0, streams: Sequence[str] | None = None) -> Manifest:
    """Write everything that closes a dataset whose shards are all there; the manifest comes last.

    streams: those that are there, where others of the recipe are not made yet. Raises FormatError where a shard is not
    what its record says; that shard is made again by the next build.
    """
    storage, recipe, entry = dataset.storage, dataset.recipe, dataset.entry
    names = [stream.name for stream in recipe.streams if streams is None or stream.name in streams]
    store = RecordStore(storage)
    with storage.replacing(SUMS) as sums_path:
        with open(sums_path, "w") as sums:
            plans = (dataset.plan(name) for name in names)
            closed = [_close_stream(store, storage, plan, sums.write) for plan in plans]
            entries = [total.entry() for total in closed]
            scores = _close_scores(dataset, entries)
            write_card(dataset, entries, scores)
            fidelity = scores.fidelity if scores else None
            for name in other_files(dataset, names, fidelity):
                sums.write(f"{storage.sha256(name)}  {name}\n")
            for digest, name in scores_sums(storage, fidelity):
                sums.write(f"{digest}  {name}\n")
        sums_sha256 = hashlib.sha256(sums_path.read_bytes()).hexdigest()

    manifest = Manifest(
        name=recipe.name,
        version=recipe.data_version,
        fingerprint=entry.fingerprint,
        recipe_sha256=recipe.digest(),
        sums_sha256=sums_sha256,
        plan_sha256=storage.sha256(PLAN),
        generator=entry.generator,
        directions=entry.directions,
        environments=store.environments(set().union(*(total.environments for total in closed))),
        streams=entries,
        fidelity=fidelity,
        missing_streams=[stream.name for stream in recipe.streams if stream.name not in names],
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        shard_seconds=round(sum(total.seconds for total in closed), 1),
        retried_shards=sum(total.retried for total in closed),
        lost_workers=lost_workers,
    )
    # Written last: a manifest on disk means that every shard is complete.
    storage.write(MANIFEST, manifest.to_json())
    for name in names:
        store.clear(name)
    return manifest


def _close_stream(
    store: RecordStore, storage: Storage, plan: StreamPlan, write_sum: Callable[[str], object]
) -> StreamTotals:
    """Compact a stream's records into parts and list the digests of its shards, a part at a time."""
    total = StreamTotals(plan)
    for part_index, records in enumerate(store.records(plan)):
        for record in records:
            _check_sizes(storage, record)
            for digest, name in sum_lines(record):
                write_sum(f"{digest}  {name}\n")
        content = b"".join(record.model_dump_json().encode() + b"\n" for record in records)
        storage.write(part_name(plan.stream.name, part_index), content)
        total.add(records, content)
    return total


def _close_scores(dataset: Dataset, entries: list[StreamEntry]) -> Collected | None:
    """Write the digests of the samples' scores, and what each class is read as; None where a shard has no scores."""
    try:
        classifier = load_scorer(dataset.storage)
        if classifier is None:
            return None
        collected = collect_scores(dataset, classifier)
    except FormatError:
        return None  # whoever closes the dataset says so; the scores that are there stay
    for path, content in collected.parts.items():
        dataset.storage.write(path, content)
    dataset.storage.write(TABLE, make_table(collected, {entry.name: entry.class_names for entry in entries}))
    return collected


def _check_sizes(storage: Storage, record: Record) -> None:
    for (_, name), expected in zip(sum_lines(record), (record.bytes, record.index_bytes), strict=True):
        found = storage.size(name)
        if found != expected:
            raise FormatError(
                f"{storage / name}: {'missing' if found is None else f'{found} bytes'}, its record says {expected}; "
                "run the same command again to make it anew"
            )


def _restore_index(storage: Storage, record: Record) -> None:
    """Write the index of a shard again where it is not as recorded and the shard's tar gives it."""
    name = str(index_path(PurePosixPath(record.path)))
    if storage.exists(name) and storage.sha256(name) == record.index_sha256:
        return
    check_shard(storage, record)
    with storage.fetched(record.path) as path:
        content = format_index(make_index(path))
    if hashlib.sha256(content).hexdigest() == record.index_sha256:
        storage.write(name, content)


def training_step(dataset: str, streams: Iterable[StreamEntry]) -> list[list[str]]:
    """The command that trains on a dataset, if it has natural images to train on."""
    if any(stream.role == "natural" and stream.split == "train" for stream in streams):
        return [["genint-train", "--shards", dataset, "--out", f"runs/{Path(dataset).name}"]]
    return []


# Samples that a message names of those that were lost.
NAMED_LOSSES = 3


@dataclass(frozen=True)
class Excess:
    """A stream of a finished dataset that lost more samples than its recipe allows."""

    stream: str
    lost: int
    count: int
    allowed: float
    described: str

    def __str__(self) -> str:
        return (
            f"stream {self.stream}: {self.lost} of {self.count} samples lost ({self.described}), more than "
            f"max_failures = {self.allowed}"
        )

    @property
    def flag(self) -> str:
        """The flag that accepts the loss."""
        return f"--max-failures {self.stream}={self._share}"

    @property
    def _share(self) -> float:
        """What `max_failures` would have to be, in three digits after the point, or as many as it takes."""
        exact = self.lost / self.count
        scale = 10.0 ** max(3, math.ceil(-math.log10(exact)) + 1)
        return max(exact, math.ceil(exact * scale) / scale)


def excess_failures(dataset: Dataset) -> list[Excess]:
    """What a finished dataset has lost beyond what its recipe allows."""
    found = []
    for entry in load_manifest(dataset.storage).streams:
        lost, allowed = sum(entry.failures.values()), dataset.recipe.stream(entry.name).max_failures
        if not lost or lost / (entry.samples + lost) <= allowed:
            continue
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(entry.failures.items()))
        failures = (failure for record in read_records(dataset.storage, entry) for failure in record.failures)
        # A file may be lost in several samples.
        details = Counter(failure.detail for failure in failures if failure.detail)
        named = list(islice(details, NAMED_LOSSES))
        others = lost - sum(details[detail] for detail in named)
        more = [f"{others} more"] if named and others else []
        where = f"; {', '.join([*map(shorten, named), *more])}" if named else ""
        found.append(Excess(entry.name, lost, entry.samples + lost, allowed, reasons + where))
    return found
