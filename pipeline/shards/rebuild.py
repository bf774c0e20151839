"""Make shards of a finished dataset again and compare: parameters (level L1) and bytes (level L2)."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...manifests.dataset import PLAN, Dataset
from ...manifests.manifest import RECIPE, Manifest, Record, read_records
from ...manifests.pictures import decode_picture
from ...manifests.randomness import Permutation
from ...manifests.shard import load_index, make_index, read_sample
from ...manifests.verification import compare_parameters
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

    @property
    def is_reproduced(self) -> bool:
        """Whether it is what was to be expected: other bytes need another environment."""
        return self.same_parameters and (self.same_bytes or not self.same_environment)


def rebuild_shards(
    dataset: Dataset,
    manifest: Manifest,
    count: int | None,
    device: str,
    weights: str | None,
    allowed_code: str | None = None,
) -> Iterator[Rebuilt]:
    """Make `count` shards again, spread over all streams in a seeded order, and compare each with what is there.

    count: None for all of them. allowed_code: what the user lets run of the code that the recipe may name.
    """
    shards = [(entry.name, index) for entry in manifest.streams for index in range(entry.shards)]
    order = Permutation(len(shards), dataset.recipe.seed, "shards to rebuild")(np.arange(len(shards))[:count])
    wanted = {shards[int(i)] for i in order}
    with tempfile.TemporaryDirectory() as scratch:
        _copy_plan(dataset, Path(scratch))
        settings = WorkerSettings(
            scratch, dataset.entry.digest, device, weights, allowed_code, dataset.roots, dataset.storage.absolute
        )
        worker = Worker(settings)
        for entry in manifest.streams:
            for record in read_records(dataset.storage, entry):
                if (record.stream, record.shard_index) not in wanted:
                    continue
                again = worker.make_shard(Task(record.stream, record.shard_index))
                same = again.sha256 == record.sha256
                same_environment = again.environment == record.environment
                same_parameters = again.parameters_sha256 == record.parameters_sha256
                if not same_parameters and not same_environment:
                    # What rendering found out, such as a final loss, is the device's own.
                    same_parameters = _agrees_with_plan(dataset, record)
                yield Rebuilt(
                    record,
                    same_parameters=same_parameters,
                    same_bytes=same,
                    same_environment=same_environment,
                    largest_difference=0 if same else _largest_difference(dataset, record, Path(scratch, again.path)),
                )


def _copy_plan(dataset: Dataset, folder: Path) -> None:
    names = [PLAN, RECIPE, *filter(None, [dataset.entry.directions])]
    names += [f"inputs/{name}.tsv.gz" for name in dataset.recipe.listed_inputs()]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(dataset.storage.read(name))


def _agrees_with_plan(dataset: Dataset, record: Record) -> bool:
    planned = {sample.key: sample for sample in dataset.plan(record.stream).samples(record.shard_index)}
    with dataset.storage.fetched(record.path) as path, open(path, "rb") as file:
        contents = {key: read_sample(file.fileno(), members) for key, members in make_index(path).items()}
    return all(not compare_parameters(planned[key], content["json"]) for key, content in contents.items())


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
                np.asarray(decode_picture(read_sample(file.fileno(), members)[extension], key), np.int16)
                for file, members in ((old, index[key]), (new, index_again[key]))
            )
            if first.shape != second.shape:
                return None
            largest = max(largest, int(np.abs(first - second).max()))
    return largest
