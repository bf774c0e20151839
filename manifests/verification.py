"""Re-check a finished dataset: its manifest against what recipe, plan and records say, every byte against its digest,
every sample against the plan. Renders nothing."""

import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any

from .dataset import PLAN, Dataset, input_name
from .errors import FormatError, shorten
from .fidelity import fidelity_files, scores_sums, verify_scores
from .manifest import (
    CARD,
    CROISSANT,
    FIDELITY,
    FOLDER_SIZE,
    MANIFEST,
    PREVIEWS,
    RECIPE,
    RECORDS,
    SUMS,
    Fidelity,
    Manifest,
    Record,
    StreamEntry,
    digest_parameters,
    dump_json,
    environment_name,
    is_intact,
    part_name,
    preview_name,
)
from .records import StreamTotals, part_shards, read_planned_part, sum_lines
from .shard import TEMPORARY, index_path, load_index, make_index, read_sample, sha256_of_file
from .sources.stream import Sample
from .storage import Storage
from .wds_info import info_name, make_info

FLOAT_TOLERANCE = 1e-12
# What differs may only describe: a recipe that decides other pixels is refused before.
OTHER_WORDS = f"{RECIPE} is not the recipe of the manifest"


@dataclass(frozen=True)
class Checked:
    """One checked shard, and what is wrong with it (nothing, if empty)."""

    record: Record
    problems: list[str]


def verify_manifest(dataset: Dataset, manifest: Manifest) -> Iterator[str]:
    """Problems of the dataset as a whole: everything but what is inside the shards.

    Manifest and sums must say what plan, recipe and records make of them; every file must be there in its size, and in
    the dataset's folders no other. Raises FormatError where a file is missing or so damaged that nothing can be
    planned.
    """
    storage, recipe = dataset.storage, dataset.recipe
    has_sums = storage.exists(SUMS)
    if not has_sums or storage.sha256(SUMS) != manifest.sums_sha256:
        yield f"{SUMS}: missing or altered"
    if has_sums:
        yield from _altered_files(storage)
    yield from _compare_plan(dataset, manifest)
    names = [stream.name for stream in recipe.streams if stream.name not in manifest.missing_streams]
    found = [entry.name for entry in manifest.streams]
    if found != names or not {stream.name for stream in recipe.streams}.issuperset(manifest.missing_streams):
        yield f"{MANIFEST}: streams {shorten(', '.join(found))}; the recipe makes {', '.join(names)}"
    entries = {entry.name: entry for entry in manifest.streams}
    totals = []
    with storage.open(SUMS) if has_sums else io.BytesIO() as file:
        sums = _Sums(file)
        for name in names:
            total, present = StreamTotals(dataset.plan(name)), _Presence(storage)
            for part_index in range(len(part_shards(total.plan))):
                records, content = read_planned_part(storage, total.plan, part_index)
                total.add(records, content)
                for record in records:
                    yield from sums.compare(sum_lines(record))
                    yield from present.compare(record)
            yield from present.unknown()
            if name in entries:
                yield from _compare_entry(entries[name], total)
            yield from _compare_info(storage, total)
            totals.append(total)
        others = other_files(dataset, names, manifest.fidelity, has_card=manifest.version is not None)
        yield from sums.compare((storage.sha256(name) if storage.exists(name) else "", name) for name in others)
        yield from verify_scores(dataset, manifest)
        yield from sums.compare(scores_sums(storage, manifest.fidelity))
        if has_sums:
            yield from sums.rest()
    yield from _compare_totals(manifest, totals)
    yield from _unknown_files(dataset, manifest.fidelity)


def _altered_files(storage: Storage) -> Iterator[str]:
    """Files that SHA256SUMS lists and that differ from it, shards and indexes left to their records."""
    with storage.open(SUMS) as sums:
        for number, line in enumerate(sums, 1):
            digest, separator, name = line.decode("utf-8", "replace").rstrip("\n").partition("  ")
            if not separator:
                yield f"{SUMS}: line {number} is no digest and name"
            elif not name.endswith((".tar", ".idx")) and (not storage.exists(name) or storage.sha256(name) != digest):
                yield f"{name}: sha256 differs from {SUMS}"


def _compare_plan(dataset: Dataset, manifest: Manifest) -> Iterator[str]:
    """The manifest's own fields against plan and recipe."""
    entry, recipe = dataset.entry, dataset.recipe
    if not is_intact(dataset.storage.read(MANIFEST)):
        yield f"{MANIFEST}: altered since it was written"
    elif manifest.sha256 is None or manifest.plan_sha256 is None:
        yield f"{MANIFEST}: without the digests that this version writes; the command that built the dataset adds them"
    elif dataset.storage.sha256(PLAN) != manifest.plan_sha256:
        yield f"{PLAN}: altered since the dataset was finished"
    if (entry.fingerprint, entry.generator, entry.directions) != (
        manifest.fingerprint, manifest.generator, manifest.directions
    ):  # fmt: skip
        yield f"{PLAN} is not the plan of the manifest"
    if recipe.digest() != manifest.recipe_sha256:
        yield OTHER_WORDS
    if recipe.name != manifest.name:
        yield f"{MANIFEST}: name {shorten(manifest.name)!r}, the recipe says {recipe.name!r}"
    if bool(entry.class_names) != (entry.generator is not None):
        yield f"{PLAN}: class names without a generator, or none with one"
    for name, known in entry.fingerprint.inputs.items():
        listing = dataset.facts.inputs.get(name)
        if listing is not None and len(listing.paths) != known.files:
            yield f"{PLAN}: {known.files} files in {input_name(name)}, it lists {len(listing.paths)}"
    for key, environment in manifest.environments.items():
        name = environment_name(key)
        if environment.id != key:
            yield f"{MANIFEST}: environment {shorten(key)}: altered"
        elif dataset.storage.exists(name) and dataset.storage.read(name) != environment.to_json():
            yield f"{name}: not the environment of the manifest"


def _compare_entry(entry: StreamEntry, total: StreamTotals) -> Iterator[str]:
    """A stream's entry against what its plan and records make of it."""
    expected = total.entry()
    holes = sum(entry.failures.values())
    if entry.shards != expected.shards:
        yield f"stream {entry.name}: {entry.shards} shards, the recipe makes {expected.shards}"
    if entry.samples + holes != total.plan.count:
        yield f"stream {entry.name}: {entry.samples} samples and {holes} holes, the recipe makes {total.plan.count}"
    for part, planned in zip(entry.parts, expected.parts, strict=False):
        if part.sha256 != planned.sha256:
            yield f"{planned.path}: sha256 differs from the manifest's"
    for key, value in expected:
        found = getattr(entry, key)
        if found != value:
            yield f"{MANIFEST}: stream {entry.name}: {key} = {shorten(found)}, expected {shorten(value)}"


def _compare_info(storage: Storage, total: StreamTotals) -> Iterator[str]:
    """What other readers are told of a stream's shards, where they are told, against its records."""
    stream = total.plan.stream
    name = info_name(stream.name)
    if storage.exists(name) and storage.read(name) != make_info(stream.name, stream.split, total.shard_samples):
        yield f"{name}: not what the records say"


def _compare_totals(manifest: Manifest, totals: list[StreamTotals]) -> Iterator[str]:
    used = set().union(*(total.environments for total in totals))
    for key, found, expected in (
        ("environments", sorted(manifest.environments), sorted(used)),
        ("retried_shards", manifest.retried_shards, sum(total.retried for total in totals)),
        ("shard_seconds", manifest.shard_seconds, round(sum(total.seconds for total in totals), 1)),
    ):
        if found != expected:
            yield f"{MANIFEST}: {key} = {shorten(found)}, the records say {shorten(expected)}"


class _Sums:
    """SHA256SUMS, line by line against what it must list, in that order."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._lost = 0

    def compare(self, expected: Iterable[tuple[str, str]]) -> Iterator[str]:
        """Problems of the next lines: digest and name of each."""
        for digest, name in expected:
            line = self._file.readline().decode("utf-8", "replace")
            if not line:
                self._lost += 1
            elif line != f"{digest}  {name}\n":
                yield f"{name}: sha256 differs from {SUMS}"

    def rest(self) -> Iterator[str]:
        """Problems of what is left, or was not there."""
        if self._lost:
            yield f"{SUMS}: {self._lost:,} lines are missing"
        if self._file.read(1):
            yield f"{SUMS}: lists more than there is"


class _Presence:
    """The files of a stream's folders against its records, folder after folder."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._folder = ""
        self._found: dict[str, int | None] = {}

    def compare(self, record: Record) -> Iterator[str]:
        """Shard and index: there, and of the size that the record says. Also what the folder before it held besides."""
        folder = str(PurePosixPath(record.path).parent)
        if folder != self._folder:
            yield from self.unknown()
            self._folder, self._found = folder, self._storage.sizes(folder)
        for (_, name), expected in zip(sum_lines(record), (record.bytes, record.index_bytes), strict=True):
            size = self._found.pop(PurePosixPath(name).name, None)
            if size != expected:
                yield f"{name}: {'missing' if size is None else f'{size} bytes'}, expected {expected}"

    def unknown(self) -> Iterator[str]:
        """Files of the last folder that no record knows; readers that go by patterns would read them."""
        for name in sorted(self._found):
            if TEMPORARY not in name:
                yield f"{self._folder}/{name}: no record knows it"


def other_files(
    dataset: Dataset, streams: Sequence[str], fidelity: Fidelity | None, has_card: bool = True
) -> list[str]:
    """What SHA256SUMS lists after the shards of these streams, in its order; the files of scores follow.

    has_card: not in datasets of before version 0.2, whose cards held the time of the build.
    """
    directions = [dataset.entry.directions] if dataset.entry.directions else []
    files = [*directions, *(input_name(name) for name in dataset.recipe.listed_inputs()), RECIPE]
    if not has_card:
        return files
    words = [PLAN, *map(info_name, streams), *map(preview_name, streams), CARD, CROISSANT]
    return [*files, *words, *fidelity_files(fidelity)]


def _unknown_files(dataset: Dataset, fidelity: Fidelity | None) -> Iterator[str]:
    """Names in the dataset's folders that it does not have. Beside them, only tars and other folders are strange."""
    plans = [dataset.plan(stream.name) for stream in dataset.recipe.streams]
    parts = [part_name(plan.stream.name, i) for plan in plans for i in range(len(part_shards(plan)))]
    known: dict[str, set[str]] = {"manifest": set(), "directions": set(), "inputs": set()}
    streams = [plan.stream.name for plan in plans]
    for folder, _, name in (path.partition("/") for path in (*parts, *other_files(dataset, streams, fidelity))):
        if folder in known:
            known[folder].add(name)
    for plan in plans:
        known[plan.stream.name] = {f"{number:04d}" for number in range(-(-plan.num_shards // FOLDER_SIZE))}
        known[plan.stream.name].add(PurePosixPath(info_name(plan.stream.name)).name)
    for folder, names in known.items():
        for name in sorted(dataset.storage.sizes(folder).keys() - names):
            if TEMPORARY not in name:
                yield f"{folder}/{name}: not of this dataset"
    for name, size in sorted(dataset.storage.sizes("").items()):
        strange = name not in {*known, RECORDS, PREVIEWS, FIDELITY} if size is None else name.endswith((".tar", ".idx"))
        if strange and not name.startswith("."):
            yield f"{name}: not of this dataset"


def verify_shards(dataset: Dataset, streams: Sequence[str]) -> Iterator[Checked]:
    """Check every shard of these streams, in turn. Raises FormatError where a manifest part is damaged."""
    for name in streams:
        plan = dataset.plan(name)
        for part_index in range(len(part_shards(plan))):
            for record in read_planned_part(dataset.storage, plan, part_index)[0]:
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
        ends = (planned[0].key, planned[-1].key) if planned else ("", "")
        if (record.samples, record.first_key, record.last_key) != (len(planned), *ends):
            problems.append(f"{record.path}: its record says other keys or another number of samples")
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
    except (ValueError, RecursionError) as error:
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
