"""Read every generated sample with a classifier, and keep how surely each is read as its label, shard by shard."""

import csv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from PIL import Image

from ...manifests.dataset import Dataset
from ...manifests.device import count_cores
from ...manifests.errors import FormatError, UsageError, shorten
from ...manifests.fidelity import (
    CLASSIFIER,
    TABLE,
    Classifier,
    Header,
    Score,
    format_scores,
    load_scorer,
    load_stream_scores,
    read_scores,
    scored_streams,
    scores_name,
)
from ...manifests.label_reader import LabelReader, open_checkpoint
from ...manifests.manifest import FIDELITY, MANIFEST, Record, load_manifest
from ...manifests.pictures import decode_picture
from ...manifests.recipe import Recipe
from ...manifests.samples import check_shard
from ...manifests.shard import make_index, read_sample
from ...manifests.storage import Storage
from ...manifests.world import CLASSES
from ..mini.reader import MINI_READER, load_reader
from .close import RecordStore

BATCH: Final = 256  # pictures that are read together
DECIMALS: Final = 6


@dataclass(frozen=True)
class Scored:
    """A shard of a dataset after which scoring has come so far, in samples."""

    stream: str
    done: int
    total: int


def open_reader(location: str, device: str) -> LabelReader:
    """The mini world's shipped reader by its name, or what `open_checkpoint` opens."""
    return load_reader(device=device) if location == MINI_READER else open_checkpoint(location, device)


def choose_reader(recipe: Recipe, storage: Storage, inputs: dict[str, str]) -> str | None:
    """Location of the classifier by which a dataset is scored whenever it is closed: its recipe's, or the one that has
    scored it before, where that is the shipped one. None where nobody scores it.

    inputs: what the user has given by name. Raises UsageError where the recipe's classifier is not among them.
    """
    if recipe.fidelity is not None:
        name = recipe.fidelity.checkpoint
        if not known_everywhere(name) and name not in inputs:
            raise UsageError(f"recipe {recipe.name!r} is scored by {name!r}: give it with --input {name}=FILE")
        return inputs.get(name, name)
    return MINI_READER if _earlier_scorer(storage) == MINI_READER else None


def _earlier_scorer(storage: Storage) -> str | None:
    """Who has scored a dataset, by its own file, or by the manifest where that is damaged; None where neither says."""
    with suppress(FormatError):
        if scorer := load_scorer(storage):
            return scorer.checkpoint
    if storage.exists(MANIFEST):
        with suppress(FormatError):
            fidelity = load_manifest(storage, altered=True).fidelity
            return fidelity.checkpoint if fidelity else None
    return None


def known_everywhere(location: str) -> bool:
    """Whether a classifier's location means the same on every machine."""
    return location == MINI_READER or location.startswith("torchvision:")


def default_reader(dataset: Dataset) -> str:
    """What reads a dataset where nobody says: the recipe's classifier, or the mini world's own.

    Raises UsageError for other classes, and where the recipe's is a file that has to be given.
    """
    table = dataset.recipe.fidelity
    if table is not None:
        if not known_everywhere(table.checkpoint):
            raise UsageError(f"{dataset.storage}: --checkpoint is missing: the file of {table.checkpoint!r}")
        return table.checkpoint
    names = {tuple(_classes(dataset, stream)) for stream in scored_streams(dataset.recipe)}
    if names - {CLASSES}:
        raise UsageError(f"{dataset.storage}: --checkpoint is missing: a file, or torchvision:ARCH such as resnet50")
    return MINI_READER


def check_reader(dataset: Dataset, reader: LabelReader) -> list[str]:
    """Names of the streams to score. Raises UsageError where there is none, or the classifier lacks a class of one."""
    streams = scored_streams(dataset.recipe)
    if not streams:
        raise UsageError(f"{dataset.storage}: has natural streams alone, whose labels are what they show")
    for stream in streams:
        unknown = [name for name in _classes(dataset, stream) if name not in reader.class_names]
        if unknown:
            known = ", ".join(reader.class_names[:3])
            raise UsageError(
                f"stream {stream}: {reader.name} knows no class {unknown[0]!r}, nor {len(unknown) - 1:,} others of the "
                f"stream's; it knows {len(reader.class_names):,}: {known}, ..."
            )
    return streams


def score(dataset: Dataset, reader: LabelReader) -> Iterator[Scored]:
    """Score whatever this classifier has not read yet; the dataset is closed afterwards by who asks for it.

    Scores of another classifier go first. The same call goes on. Raises FormatError where a shard is not what its
    record says, or a sample is no picture.
    """
    storage, store = dataset.storage, RecordStore(dataset.storage)
    streams = check_reader(dataset, reader)
    classifier = Classifier(checkpoint=reader.name, sha256=reader.sha256)
    content = classifier.model_dump_json().encode() + b"\n"
    if not storage.exists(CLASSIFIER) or storage.read(CLASSIFIER) != content:
        with suppress(FormatError):  # scores say themselves whose they are
            if load_scorer(storage) not in (None, classifier):
                storage.remove(FIDELITY)
        storage.write(CLASSIFIER, content)
    plans = [dataset.plan(stream) for stream in streams]
    total, done = sum(plan.count for plan in plans), 0
    with ThreadPoolExecutor(count_cores()) as pool:
        for plan in plans:
            names = list(plan.stream.class_names(plan.facts))
            for record in (record for records in store.records(plan) for record in records):
                if not _is_scored(storage, record, reader.sha256):
                    scores = _score_shard(storage, record, plan.stream.extension, names, reader, pool)
                    header = Header(checkpoint=reader.sha256, shard=record.sha256)
                    name = scores_name(record.stream, record.shard_index)
                    storage.write(name, format_scores(header, scores))
                done += plan.shard_size(record.shard_index)
                yield Scored(record.stream, done, total)


def describe_scores(storage: Storage) -> Iterator[str]:
    """Of each scored stream of a finished dataset how many samples are read as their label, and how surely."""
    for row in tabulate_scores(storage):
        yield (
            f"{row['stream']:20} {row['samples']:>9,} samples, {100 * row['read_as_label']:.1f} % read as their label; "
            f"score: median {row['median']:.3f}, 5 % below {row['quantile_05']:.3f}"
        )


def tabulate_scores(storage: Storage) -> Iterator[dict[str, Any]]:
    """The same for programs: stream, samples, the share read as its label, median and 5 % quantile of the scores."""
    manifest = load_manifest(storage)
    read: dict[str, float] = {}
    for row in csv.DictReader(storage.read(TABLE).decode().splitlines()):
        read[row["stream"]] = read.get(row["stream"], 0.0) + float(row["read_as_label"]) * int(row["samples"])
    for scored in manifest.fidelity.streams if manifest.fidelity else []:
        scores = load_stream_scores(storage, manifest, manifest.stream(scored.name))
        if len(scores):
            share, (low, median) = read[scored.name] / len(scores), np.quantile(scores, (0.05, 0.5))
            yield {
                "stream": scored.name,
                "samples": len(scores),
                "read_as_label": share,
                "median": float(median),
                "quantile_05": float(low),
            }


def _classes(dataset: Dataset, stream: str) -> list[str]:
    plan = dataset.plan(stream)
    return list(plan.stream.class_names(plan.facts))


def _is_scored(storage: Storage, record: Record, checkpoint: str) -> bool:
    try:
        read_scores(storage, record, checkpoint)
    except FormatError:
        return False  # it is scored again
    return True


def _score_shard(
    storage: Storage, record: Record, extension: str, names: list[str], reader: LabelReader, pool: ThreadPoolExecutor
) -> list[Score]:
    check_shard(storage, record)
    place = {name: column for column, name in enumerate(reader.class_names)}
    columns = [place[name] for name in names]
    scores: list[Score] = []

    def decode(sample: tuple[str, dict[str, bytes]]) -> Image.Image:
        key, members = sample
        return decode_picture(members[extension], f"{storage / record.path}: {key}")

    with storage.fetched(record.path) as path, open(path, "rb") as file:
        contents = [(key, read_sample(file.fileno(), members)) for key, members in make_index(path).items()]
    for start in range(0, len(contents), BATCH):
        batch = contents[start : start + BATCH]
        found = reader.read(list(pool.map(decode, batch)))
        for (key, members), row in zip(batch, found, strict=True):
            label = int(members["cls"])
            if not 0 <= label < len(columns):
                raise FormatError(f"{storage / record.path}: {shorten(key)}: label {label} of {len(columns)} classes")
            own = min(1.0, max(0.0, round(float(row[columns[label]]), DECIMALS)))
            scores.append(Score(key=key, score=own, read=reader.class_names[int(row.argmax())]))
    return scores
