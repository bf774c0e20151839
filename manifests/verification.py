"""Re-check a finished dataset: every byte against its digest, every sample against the plan. Renders nothing."""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from .dataset import PLAN, Dataset
from .errors import FormatError
from .manifest import SUMS, Manifest, Record, digest_parameters, dump_json, read_records
from .shard import index_path, load_index, make_index, read_sample, sha256_of_file
from .sources.stream import Sample
from .storage import Storage

FLOAT_TOLERANCE = 1e-12


@dataclass(frozen=True)
class Checked:
    """One checked shard, and what is wrong with it (nothing, if empty)."""

    record: Record
    problems: list[str]


def verify_manifest(dataset: Dataset, manifest: Manifest) -> list[str]:
    """Problems of the dataset as a whole: what it was planned from, the sums file, the counts.

    Raises FormatError where a file is missing or so damaged that nothing can be planned.
    """
    storage = dataset.storage
    problems = []
    if dataset.entry.fingerprint != manifest.fingerprint:
        problems.append(f"{PLAN} is not the plan of the manifest")
    if dataset.recipe.digest() != manifest.recipe_sha256:
        problems.append("recipe.toml is not the recipe of the manifest")
    if not storage.exists(SUMS) or storage.sha256(SUMS) != manifest.sums_sha256:
        problems.append(f"{SUMS}: missing or altered")
    else:
        problems += [f"{name}: sha256 differs from {SUMS}" for name in _altered_files(storage)]
    for entry in manifest.streams:
        plan = dataset.plan(entry.name)
        if plan.num_shards != entry.shards:
            problems.append(f"stream {entry.name}: {entry.shards} shards, the recipe makes {plan.num_shards}")
        if entry.samples + sum(entry.failures.values()) != plan.count:
            problems.append(
                f"stream {entry.name}: {entry.samples} samples and {sum(entry.failures.values())} holes, "
                f"the recipe makes {plan.count}"
            )
    return problems


def _altered_files(storage: Storage) -> Iterator[str]:
    """Files that SHA256SUMS lists and that differ from it, shards and indexes left to their records."""
    with storage.open(SUMS) as sums:
        for line in sums:
            digest, name = line.decode().rstrip("\n").split("  ", 1)
            if not name.endswith((".tar", ".idx")) and (not storage.exists(name) or storage.sha256(name) != digest):
                yield name


def verify_shards(dataset: Dataset, manifest: Manifest) -> Iterator[Checked]:
    """Check every shard in turn. Raises FormatError where a manifest part is damaged."""
    for entry in manifest.streams:
        for record in read_records(dataset.storage, entry):
            yield Checked(record, verify_shard(dataset, record))


def verify_shard(dataset: Dataset, record: Record) -> list[str]:
    """Problems of one shard: size, digest, tar structure, index, labels, and parameters against the plan (level L1)."""
    storage = dataset.storage
    index_name = str(index_path(PurePosixPath(record.path)))
    for name, size in ((record.path, record.bytes), (index_name, record.index_bytes)):
        found = storage.size(name)
        if found != size:
            return [f"{name}: {'missing' if found is None else f'{found} bytes'}, expected {size}"]
    problems = []
    with storage.fetched(record.path) as path, storage.fetched(index_name) as index_file:
        if sha256_of_file(path) != record.sha256:
            return [f"{record.path}: sha256 differs from its record"]
        if sha256_of_file(index_file) != record.index_sha256:
            problems.append(f"{index_name}: sha256 differs from its record")
        try:
            index = make_index(path)
            if load_index(index_file) != index:
                problems.append(f"{index_name}: does not describe its tar")
        except FormatError as error:
            return [*problems, str(error)]
        plan = dataset.plan(record.stream)
        holes = {failure.key for failure in record.failures}
        planned = [sample for sample in plan.samples(record.shard_index) if sample.key not in holes]
        if list(index) != [sample.key for sample in planned]:
            return [*problems, f"{record.path}: keys differ from the plan"]
        file = os.open(path, os.O_RDONLY)
        try:
            contents = [read_sample(file, members) for members in index.values()]
        finally:
            os.close(file)
    for sample, content in zip(planned, contents, strict=True):
        absent = {"cls", "json", plan.stream.extension} - content.keys()
        if absent:
            return [*problems, f"{record.path}: {sample.key}: no member .{min(absent)}"]
    if digest_parameters([content["json"] for content in contents]) != record.parameters_sha256:
        problems.append(f"{record.path}: digest of the parameters differs from its record")
    for sample, content in zip(planned, contents, strict=True):
        if content["cls"] != str(sample.class_label).encode():
            problems.append(f"{record.path}: {sample.key}: label {content['cls']!r}, planned {sample.class_label}")
        problems += [f"{record.path}: {sample.key}: {line}" for line in compare_parameters(sample, content["json"])]
    return problems


def compare_parameters(sample: Sample, stored: bytes) -> list[str]:
    """Planned parameters that a sample's json contradicts: integers and strings exact, floats to 1e-12 (level L1).

    The json may hold more than the plan: what rendering found out, such as a final loss.
    """
    try:
        found = json.loads(stored)
    except ValueError as error:
        return [f"parameters are not JSON: {error}"]
    if not isinstance(found, dict):
        return [f"parameters are {stored[:40]!r}, not a table"]
    return [
        f"{key} = {found.get(key)!r}, planned {value!r}"
        for key, value in json.loads(dump_json(sample.parameters)).items()
        if not _same(found.get(key), value)
    ]


def _same(found: Any, planned: Any) -> bool:
    if isinstance(planned, float) and isinstance(found, int | float):
        return math.isclose(found, planned, rel_tol=FLOAT_TOLERANCE, abs_tol=FLOAT_TOLERANCE)
    if isinstance(planned, dict) and isinstance(found, dict):
        return planned.keys() == found.keys() and all(_same(found[key], planned[key]) for key in planned)
    return bool(found == planned)
