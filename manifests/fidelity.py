"""How surely a classifier reads each generated sample as its label: a file of scores a shard, beside the tars.

The first line of a file says whose scores of which bytes they are, so that those of other bytes are never taken.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from .dataset import Dataset
from .errors import FormatError, UsageError, shorten
from .manifest import (
    FIDELITY,
    FOLDER_SIZE,
    Digest,
    Fidelity,
    Manifest,
    Record,
    ScoredStream,
    ScoresPart,
    StreamEntry,
    dump_json,
    read_pinned,
    read_records,
)
from .recipe import Recipe
from .records import part_shards, read_planned_part
from .shard import TEMPORARY
from .sources.stream import Table
from .storage import Storage

CLASSIFIER = f"{FIDELITY}/classifier.json"
# What every stream and class is read as, for spreadsheets; the card shows the most doubtful.
TABLE = f"{FIDELITY}/classes.csv"


class Classifier(Table):
    """Who reads the samples of a dataset."""

    checkpoint: str
    sha256: Digest


class Header(Table):
    """The first line of a file of scores: sha256 of the classifier's weights, and of the shard that it has read."""

    checkpoint: Digest
    shard: Digest


class Score(Table):
    """One sample: the probability of its label, and the class that is read."""

    key: str
    score: float = Field(ge=0, le=1)
    read: str


class ScoresDigest(Table):
    """A line of a part: one file of scores."""

    path: str
    sha256: Digest
    samples: int


@dataclass
class Collected:
    """All scores of a dataset: what its manifest says of them, the files that hold their digests, and the scores.

    by_class: of each stream, by class label, scores [n] and which samples are read as their label [n].
    """

    fidelity: Fidelity
    parts: dict[str, bytes] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    by_class: dict[str, dict[int, tuple[NDArray[np.float64], NDArray[np.bool_]]]] = field(default_factory=dict)


def scored_streams(recipe: Recipe) -> list[str]:
    """Names of the streams whose labels could be wrong: all but natural ones."""
    return [stream.name for stream in recipe.streams if stream.role != "natural"]


def scores_name(stream: str, shard_index: int) -> str:
    """Path of a shard's scores in its dataset."""
    return f"{FIDELITY}/{stream}/{shard_index // FOLDER_SIZE:04d}/{stream}-{shard_index:07d}.jsonl"


def digests_name(stream: str, part_index: int) -> str:
    """Path of the digests of 10,000 files of scores."""
    return f"{FIDELITY}/{stream}.{part_index:05d}.jsonl"


def fidelity_files(fidelity: Fidelity | None) -> list[str]:
    """What scores add to a dataset besides a file a shard."""
    if fidelity is None:
        return []
    return [CLASSIFIER, TABLE, *(part.path for stream in fidelity.streams for part in stream.parts)]


def format_scores(header: Header, scores: Sequence[Score]) -> bytes:
    """The content of a file of scores."""
    return b"".join(dump_json(line.model_dump()) + b"\n" for line in (header, *scores))


def read_scores(storage: Storage, record: Record, checkpoint: Digest) -> tuple[list[Score], bytes]:
    """The scores of a shard in its order, and the file's content.

    Raises FormatError where the file is missing or damaged, or its scores are another classifier's or of other bytes.
    """
    name = scores_name(record.stream, record.shard_index)
    try:
        content = storage.read(name)
    except FileNotFoundError as error:
        raise FormatError(f"{storage / name}: missing") from error
    first, *lines = content.splitlines() or [b""]
    try:
        header = Header.model_validate_json(first)
        scores = [Score.model_validate_json(line) for line in lines]
    except ValidationError as error:
        raise FormatError(f"{storage / name}: damaged: {shorten(error.errors()[0]['msg'])}") from error
    if (header.checkpoint, header.shard) != (checkpoint, record.sha256):
        raise FormatError(f"{storage / name}: scores of another classifier or of another shard")
    ends = (scores[0].key, scores[-1].key) if scores else ("", "")
    if (len(scores), *ends) != (record.samples, record.first_key, record.last_key):
        raise FormatError(f"{storage / name}: not the scores of the samples of {record.path}")
    return scores, content


def load_scorer(storage: Storage) -> Classifier | None:
    """Who has read the dataset's samples, or is about to; None where nobody has."""
    if not storage.exists(CLASSIFIER):
        return None
    return Classifier.from_json(storage.read(CLASSIFIER), storage / CLASSIFIER)


def collect_scores(dataset: Dataset, classifier: Classifier) -> Collected:
    """The scores of all generated samples. Raises FormatError that names the first shard without.

    Memory: 9 bytes a sample, and a part of records.
    """
    names = scored_streams(dataset.recipe)
    collected = Collected(Fidelity(checkpoint=classifier.checkpoint, checkpoint_sha256=classifier.sha256, streams=[]))
    streams = []
    for name in names:
        plan = dataset.plan(name)
        classes = {text: label for label, text in enumerate(plan.stream.class_names(plan.facts))}
        parts, labels, values, hits = [], [], [], []
        for part_index in range(len(part_shards(plan))):
            lines = []
            for record in read_planned_part(dataset.storage, plan, part_index)[0]:
                scores, content = read_scores(dataset.storage, record, classifier.sha256)
                path, digest = scores_name(name, record.shard_index), hashlib.sha256(content).hexdigest()
                line = ScoresDigest(path=path, sha256=digest, samples=len(scores))
                lines.append(dump_json(line.model_dump()) + b"\n")
                collected.files.append(path)
                planned = {sample.key: sample.class_label for sample in plan.samples(record.shard_index)}
                for score in scores:
                    if score.key not in planned:
                        raise FormatError(f"{dataset.storage / path}: {shorten(score.key)}: no sample of this shard")
                    labels.append(planned[score.key])
                    values.append(score.score)
                    hits.append(classes.get(score.read) == planned[score.key])
            path, content = digests_name(name, part_index), b"".join(lines)
            collected.parts[path] = content
            parts.append(ScoresPart(path=path, sha256=hashlib.sha256(content).hexdigest()))
        streams.append(ScoredStream(name=name, samples=len(values), parts=parts))
        of, score_array, hit_array = np.array(labels, np.int64), np.array(values), np.array(hits, bool)
        collected.by_class[name] = {
            int(label): (score_array[of == label], hit_array[of == label]) for label in np.unique(of)
        }
    collected.fidelity = collected.fidelity.model_copy(update={"streams": streams})
    return collected


def scores_sums(storage: Storage, fidelity: Fidelity | None) -> Iterator[tuple[Digest, str]]:
    """What SHA256SUMS says of files of scores, last of all: digest and name, as the manifest's parts have them."""
    for stream in fidelity.streams if fidelity else []:
        for part in stream.parts:
            for line in read_digests(storage, part):
                yield line.sha256, line.path


def read_digests(storage: Storage, part: ScoresPart) -> list[ScoresDigest]:
    """The lines of a part. Raises FormatError where it is missing or not what the manifest says."""
    lines = read_pinned(storage, part.path, part.sha256).splitlines()
    return [ScoresDigest.from_json(line, storage / part.path) for line in lines]


def verify_scores(dataset: Dataset, manifest: Manifest) -> Iterator[str]:
    """Problems of a manifest's scores: against their shards, their digests, and what else lies beside them."""
    fidelity, storage = manifest.fidelity, dataset.storage
    if fidelity is None:
        return
    try:
        classifier = load_scorer(storage)
        if classifier is None:
            yield f"{CLASSIFIER}: missing"
            return
        collected = collect_scores(dataset, classifier)
    except FormatError as error:
        yield str(error)
        return
    if collected.fidelity != fidelity:
        yield "manifest.json: fidelity: not what the scores say"
    for path, content in collected.parts.items():
        if not storage.exists(path) or storage.read(path) != content:
            yield f"{path}: missing, or not the digests of its scores"
    known = {*fidelity_files(fidelity), *collected.files}
    for path in _files_below(storage, FIDELITY):
        if path not in known:
            yield f"{path}: not of this dataset"


def _files_below(storage: Storage, folder: str) -> Iterator[str]:
    for name, size in sorted(storage.sizes(folder).items()):
        if size is None:
            yield from _files_below(storage, f"{folder}/{name}")
        elif TEMPORARY not in name:
            yield f"{folder}/{name}"


def load_stream_scores(storage: Storage, manifest: Manifest, entry: StreamEntry) -> NDArray[np.float64]:
    """The score of each sample of a stream [N], in the order in which `StreamSamples` counts them.

    Raises UsageError where the stream was not scored, FormatError where scores are not those that the manifest pins.
    """
    scored = manifest.fidelity.stream(entry.name) if manifest.fidelity else None
    if manifest.fidelity is None or scored is None:
        raise UsageError(
            f"{storage}: stream {entry.name!r} has no scores of label fidelity; genint-pipeline score {storage} gives "
            "them"
        )
    digests = [digest for part in scored.parts for digest in read_digests(storage, part)]
    if len(digests) != entry.shards:
        raise FormatError(f"{storage}: scores of {len(digests)} shards of {entry.name}, which has {entry.shards}")
    values: list[float] = []
    for record, digest in zip(read_records(storage, entry), digests, strict=True):
        scores, content = read_scores(storage, record, manifest.fidelity.checkpoint_sha256)
        if hashlib.sha256(content).hexdigest() != digest.sha256:
            raise FormatError(f"{storage / digest.path}: sha256 differs from the one that the manifest pins")
        values += [score.score for score in scores]
    return np.array(values)


def make_table(collected: Collected, class_names: dict[str, Sequence[str]]) -> bytes:
    """Of each stream and class as CSV: samples, share read as the label, quantiles of the score."""
    rows = ["stream,class,samples,read_as_label,p05,p25,p50,p75,p95"]
    for stream, classes in collected.by_class.items():
        for label, (scores, hits) in classes.items():
            quantiles = ",".join(f"{value:.4f}" for value in np.quantile(scores, (0.05, 0.25, 0.5, 0.75, 0.95)))
            name = str(class_names[stream][label]).replace('"', '""')
            rows.append(f'{stream},"{name}",{len(scores)},{hits.mean():.4f},{quantiles}')
    return ("\n".join(rows) + "\n").encode()
