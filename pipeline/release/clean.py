"""Find what an interrupted build left in a dataset that nothing refers to."""

import re
from collections.abc import Iterator

from ...manifests.dataset import Dataset
from ...manifests.manifest import FIDELITY, FOLDER_SIZE, MANIFEST, PART_SIZE, RECORDS, load_manifest, part_name
from ...manifests.shard import LEFTOVER
from ...manifests.sources.stream import StreamPlan
from ...manifests.storage import Storage


def find_leftovers(dataset: Dataset) -> Iterator[tuple[str, int]]:
    """Name and bytes of each file that a killed build left: half-written files, shards without a record, and of a
    finished dataset the records that its manifest's parts hold and scores that it does not know. To be removed by who
    holds the dataset's lock."""
    storage = dataset.storage
    manifest = load_manifest(storage) if storage.exists(MANIFEST) else None
    finished = {entry.name for entry in manifest.streams} if manifest else set()
    yield from _half_written(storage, "")
    for stream in dataset.recipe.streams:
        plan = dataset.plan(stream.name)
        if stream.name in finished:
            yield from _below(storage, f"{RECORDS}/{stream.name}")
        else:
            yield from _uncommitted(storage, plan)
    if manifest and manifest.fidelity is None:
        yield from _below(storage, FIDELITY)
    if manifest and not manifest.missing_streams:
        known = {f"{key}.json" for key in manifest.environments}
        for name, size in storage.sizes(f"{RECORDS}/environments").items():
            if name not in known and size is not None and not LEFTOVER.search(name):
                yield f"{RECORDS}/environments/{name}", size


def _half_written(storage: Storage, folder: str) -> Iterator[tuple[str, int]]:
    for name, size in storage.sizes(folder).items():
        path = f"{folder}/{name}" if folder else name
        if size is None:
            yield from _half_written(storage, path)
        elif LEFTOVER.search(name):
            yield path, size


def _below(storage: Storage, folder: str) -> Iterator[tuple[str, int]]:
    for name, size in storage.sizes(folder).items():
        if size is None:
            yield from _below(storage, f"{folder}/{name}")
        elif not LEFTOVER.search(name):
            yield f"{folder}/{name}", size


def _uncommitted(storage: Storage, plan: StreamPlan) -> Iterator[tuple[str, int]]:
    """Tars and indexes that have no record, neither a file of its own nor a part that holds it."""
    name = plan.stream.name
    for start in range(0, plan.num_shards, FOLDER_SIZE):
        folder = f"{start // FOLDER_SIZE:04d}"
        recorded = {record.removesuffix(".json") for record in storage.list(f"{RECORDS}/{name}/{folder}")}
        for file, size in storage.sizes(f"{name}/{folder}").items():
            match = re.fullmatch(r".*-(\d{7})\.(tar|idx)", file)
            if match is None or size is None or match[1] in recorded:
                continue
            if not storage.exists(part_name(name, int(match[1]) // PART_SIZE)):
                yield f"{name}/{folder}/{file}", size
