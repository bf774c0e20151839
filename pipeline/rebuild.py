"""Make shards of a finished dataset again and compare: parameters (level L1) and bytes (level L2)."""

import io
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..manifests.dataset import PLAN, Dataset
from ..manifests.manifest import RECIPE, Manifest, Record, read_records
from ..manifests.randomness import Permutation
from ..manifests.shard import load_index, read_sample
from .worker import Task, Worker, WorkerSettings


@dataclass(frozen=True)
class Rebuilt:
    """One shard made again.

    largest_difference: over all pixel values, 0 to 255; None where keys or image sizes differ.
    """

    record: Record
    same_parameters: bool
    same_bytes: bool
    same_environment: bool
    largest_difference: int | None = 0


def rebuild_shards(
    dataset: Dataset, manifest: Manifest, count: int, device: str, weights: str | None
) -> Iterator[Rebuilt]:
    """Make `count` shards again, spread over all streams in a seeded order, and compare each with what is there."""
    shards = [(entry.name, index) for entry in manifest.streams for index in range(entry.shards)]
    order = Permutation(len(shards), dataset.recipe.seed, "shards to rebuild")(np.arange(min(count, len(shards))))
    wanted = {shards[int(i)] for i in order}
    with tempfile.TemporaryDirectory() as scratch:
        _copy_plan(dataset, Path(scratch))
        worker = Worker(WorkerSettings(scratch, device, weights, dataset.roots))
        for entry in manifest.streams:
            for record in read_records(dataset.storage, entry):
                if (record.stream, record.shard_index) not in wanted:
                    continue
                again = worker.make_shard(Task(record.stream, record.shard_index))
                same = again.sha256 == record.sha256
                yield Rebuilt(
                    record,
                    same_parameters=again.parameters_sha256 == record.parameters_sha256,
                    same_bytes=same,
                    same_environment=again.environment == record.environment,
                    largest_difference=0 if same else _largest_difference(dataset, record, Path(scratch, again.path)),
                )


def _copy_plan(dataset: Dataset, folder: Path) -> None:
    names = [PLAN, RECIPE, *filter(None, [dataset.entry.directions])]
    names += [f"inputs/{name}.tsv.gz" for name in dataset.entry.fingerprint.inputs]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(dataset.storage.read(name))


def _largest_difference(dataset: Dataset, record: Record, again: Path) -> int | None:
    extension = dataset.recipe.stream(record.stream).extension
    with dataset.storage.fetched(record.path) as path, open(path, "rb") as old, open(again, "rb") as new:
        with dataset.storage.fetched(record.path.removesuffix(".tar") + ".idx") as index_file:
            index = load_index(index_file)
        index_again = load_index(again)
        if index.keys() != index_again.keys():
            return None
        largest = 0
        for key in index:
            first, second = (
                np.asarray(Image.open(io.BytesIO(read_sample(file.fileno(), members)[extension])), np.int16)
                for file, members in ((old, index[key]), (new, index_again[key]))
            )
            if first.shape != second.shape:
                return None
            largest = max(largest, int(np.abs(first - second).max()))
    return largest
