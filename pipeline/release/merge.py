"""Put the streams of several datasets into one: shards and records as they are, under a recipe that makes them all."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import TypeVar

from ...manifests.dataset import PLAN, Dataset, PlanEntry, input_name
from ...manifests.errors import FormatError, UsageError, shorten
from ...manifests.fidelity import CLASSIFIER, scores_name
from ...manifests.manifest import (
    MANIFEST,
    RECIPE,
    Fingerprint,
    Record,
    environment_name,
    load_manifest,
    read_records,
    record_name,
)
from ...manifests.origins import join_licenses
from ...manifests.recipe import Recipe, read_recipe
from ...manifests.records import sum_lines
from ...manifests.shard import index_path, sha256_of_file
from ...manifests.storage import Storage
from .close import release, require_whole
from .preview import draw_previews

Value = TypeVar("Value")


def plan_merge(datasets: Sequence[Dataset], name: str, storage: Storage) -> Dataset:
    """The dataset that several finished ones make together, to be written to `storage`.

    Raises UsageError where no recipe could have made them all: other seeds, weights or classes, streams of one name.
    """
    for dataset in datasets:
        require_whole(dataset)
    entries = [dataset.entry for dataset in datasets]
    recipe = _merge_recipes([dataset.recipe for dataset in datasets], name)
    classes = [{tuple(entry.class_names) for entry in load_manifest(dataset.storage).streams} for dataset in datasets]
    most = max(classes, key=len)
    for dataset, own in zip(datasets, classes, strict=True):
        for names in own - most:
            where = datasets[classes.index(most)].storage
            raise UsageError(f"{dataset.storage} has classes that {where} has not: {shorten(', '.join(names))}")
    inputs = {key: value for entry in entries for key, value in entry.fingerprint.inputs.items()}
    for entry in entries:
        for key, known in entry.fingerprint.inputs.items():
            _agree(f"input {key}", [known, inputs[key]])
    cgns = {key: value for entry in entries for key, value in entry.cgns.items()}
    rendered = [entry for entry in entries if entry.generator is not None]
    directed = [entry for entry in entries if entry.directions is not None]
    entry = PlanEntry(
        fingerprint=Fingerprint(
            recipe=recipe.deciding(),
            code_sha256=_agree("generator code", [e.fingerprint.code_sha256 for e in rendered]),
            weights_sha256=_agree("generator weights", [e.fingerprint.weights_sha256 for e in rendered]),
            config_sha256=_agree("generator config", [e.fingerprint.config_sha256 for e in rendered]),
            directions_sha256=_agree("directions", [e.fingerprint.directions_sha256 for e in directed]),
            inputs=inputs,
        ),
        generator=_agree("generator", [e.generator for e in rendered]),
        class_names=_agree("class names", [e.class_names for e in rendered]) or [],
        directions=_agree("directions", [e.directions for e in directed]),
        cgns=cgns,
    )
    if storage.exists(MANIFEST):
        raise UsageError(f"{storage}: a finished dataset; choose another --out")
    if storage.exists(PLAN) and PlanEntry.from_json(storage.read(PLAN), storage / PLAN) != entry:
        raise UsageError(f"{storage}: begun with other datasets; choose another --out")
    return Dataset(storage, recipe, entry, {key: root for dataset in datasets for key, root in dataset.roots.items()})


def merge(datasets: Sequence[Dataset], merged: Dataset) -> Iterator[Record]:
    """Copy what the merged dataset is made of, each shard compared with its record, and close it.

    Yields the record of each shard. Raises FormatError where a shard is not what its record says.
    """
    storage = merged.storage
    storage.write(RECIPE, merged.recipe.to_toml().encode())
    storage.write(PLAN, merged.entry.model_dump_json().encode())
    scored = _one_scorer(datasets)
    for dataset in datasets:
        manifest = load_manifest(dataset.storage)
        for environment in manifest.environments.values():
            storage.write(environment_name(environment.id), environment.to_json())
        names = [input_name(name) for name in dataset.recipe.listed_inputs()]
        for name in filter(None, [manifest.directions, *names]):
            storage.write(name, dataset.storage.read(name))
        for stream in manifest.streams:
            for record in read_records(dataset.storage, stream):
                _copy_shard(dataset.storage, record, storage)
                scores = scores_name(record.stream, record.shard_index)
                if scored and dataset.storage.exists(scores):
                    storage.write(scores, dataset.storage.read(scores))
                yield record
        if scored and dataset.storage.exists(CLASSIFIER):
            storage.write(CLASSIFIER, dataset.storage.read(CLASSIFIER))
    for path, sheet in draw_previews(merged, [stream.name for stream in merged.recipe.streams]).items():
        storage.write(path, sheet)
    release(merged)


def _one_scorer(datasets: Sequence[Dataset]) -> bool:
    """Whether one classifier has read the samples of all: else they are joined without scores."""
    found = [load_manifest(dataset.storage).fidelity for dataset in datasets]
    return len({(fidelity.checkpoint, fidelity.checkpoint_sha256) for fidelity in found if fidelity}) == 1


def _copy_shard(source: Storage, record: Record, target: Storage) -> None:
    committed = record_name(record.stream, record.shard_index)
    if target.exists(committed) and target.size(record.path) == record.bytes:
        return
    # The index first, as a build does: a tar without its record is made again.
    for name in (str(index_path(PurePosixPath(record.path))), record.path):
        with source.fetched(name) as path, target.replacing(name) as copy:
            shutil.copyfile(path, copy)
            if (sha256_of_file(copy), name) not in sum_lines(record):
                raise FormatError(f"{source / name}: sha256 differs from its record's; repair {source} first")
    target.write(committed, record.model_dump_json().encode())


def _merge_recipes(recipes: Sequence[Recipe], name: str) -> Recipe:
    def shared(key: str, used: Callable[[Recipe], bool] = lambda recipe: True) -> object:
        """A key's value in the recipes that make use of it."""
        return _agree(key, [getattr(recipe, key) for recipe in recipes if used(recipe)])

    streams = [stream for recipe in recipes for stream in recipe.streams]
    names = [stream.name for stream in streams]
    # What a stream reads where its own recipe has no stream of that name would be another's stream here.
    outside = {n for r in recipes for s in r.streams for n in s.reads() if n not in [s.name for s in r.streams]}
    clashes = sorted({name for name in names if names.count(name) > 1 or name in outside})
    if clashes:
        raise UsageError(
            f"two of them have a stream or an input {clashes[0]!r}; genint-train takes several datasets: --shards A "
            "--shards B"
        )
    origins = {key: origin for recipe in recipes for key, origin in (recipe.origins or {}).items()}
    licenses = [recipe.license for recipe in recipes]
    recipe = recipes[0].model_copy(
        update={
            "name": name,
            "version": None,
            "card": None,
            "seed": shared("seed"),
            "marks": shared("marks"),
            "fidelity": recipes[0].fidelity if len({str(recipe.fidelity) for recipe in recipes}) == 1 else None,
            "generator": shared("generator", lambda recipe: any(s.uses_generator for s in recipe.streams)),
            "directions": shared("directions", lambda recipe: any(s.uses_directions for s in recipe.streams))
            or recipes[0].directions,
            "streams": streams,
            "notes": "\n\n".join(filter(None, (recipe.notes.strip() for recipe in recipes))),
            "license": join_licenses(licenses),
            "origins": origins or None,
        }
    )
    return read_recipe(recipe.to_toml(), name)


def _agree(what: str, values: Sequence[Value]) -> Value | None:
    """The one value that all have; None where there is none. Raises UsageError where they differ."""
    for value in values:
        if value != values[0]:
            raise UsageError(
                f"they differ in {what} ({shorten(str(values[0]))}, {shorten(str(value))}), of which a dataset has "
                "one; genint-train takes several datasets: --shards A --shards B"
            )
    return values[0] if values else None
