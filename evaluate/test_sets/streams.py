"""Streams of a finished genint dataset, found by its manifest."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from PIL import Image
from torch import Tensor

from ...manifests.errors import FormatError, UsageError, shorten
from ...manifests.fidelity import load_stream_scores
from ...manifests.json_files import parse_json
from ...manifests.manifest import load_manifest
from ...manifests.samples import StreamSamples
from ...manifests.storage import Storage
from ...train.checkpoint import Preprocessing
from .test_set import Clusters, Grouping, Marked, clusters_of_classes, group_images, number_distinct

# Key of the json in which a sample may say its group.
GROUPS: Final = "groups"
# And that of the labels of its mechanisms.
LABELS: Final = "labels"
# What images may have been made of together, by source: its name, and the keys of their json that tell it.
ORIGINS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "observational": ("latent", ("class_label", "latent_index")),
    "interventional": ("latent", ("class_label", "latent_index")),
    "counterfactual": ("mask", ("labels.shape", "latent_index.shape")),
    "transfer": ("photo", ("content",)),
    "stylized": ("photo", ("content",)),
    "recomposed": ("photo", ("object",)),
}


@dataclass(frozen=True)
class StreamSet:
    """One stream of a dataset; `samples` also holds what comes with its images, such as masks and nuisances.

    group_by: dotted key of the samples' json that tells an image's group; None: `groups`, where the first sample has
    it. label_key: of the json too, where the label is another than the class.
    """

    name: str
    class_names: tuple[str, ...]
    samples: StreamSamples = field(repr=False)
    notes: tuple[str, ...] = ()
    protocol: str = "the classifier's own resize and crop; label of the sample, matched with its classes by name"
    marked: Marked = "own"
    allowed: tuple[int, ...] | None = None
    groups: tuple[tuple[int, ...], ...] | None = None
    group_by: str | None = None
    label_key: str | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def labels(self, position: int) -> tuple[int, ...]:
        if self.label_key is not None:
            return (self._told_label(position, self.label_key),)
        return (class_label(self.samples, position, self.samples.read(position, ["cls"])),)

    def read(self, position: int) -> bytes:
        extension = self.samples.entry.image_extension
        try:
            return self.samples.read(position, [extension])[extension]
        except KeyError as error:
            raise FormatError(f"{self.samples.storage}: sample {self.key(position)} has no {extension}") from error

    def key(self, position: int) -> str:
        return self.samples.key(position)

    def digest(self) -> str:
        return self.samples.digest()

    def stamp(self) -> str:
        for shard in range(len(self.samples.records)):
            self.samples.check_shard(shard)
        return self.digest()

    def transform(self, preprocessing: Preprocessing) -> Callable[[Image.Image], Tensor]:
        return preprocessing.prepare

    def frame(self, picture: Image.Image) -> Image.Image:
        return picture

    def parameters(self, position: int) -> dict[str, Any]:
        """What a sample's json says. Raises FormatError where it has none."""
        return sample_parameters(self.samples, position, self.samples.read(position, ["json"]).get("json", b""))

    def mechanisms(self) -> tuple[str, ...]:
        """What samples have labels of in their json, such as shape, texture and background; none where they do not."""
        labels = self.parameters(0).get(LABELS)
        return tuple(labels) if isinstance(labels, dict) else ()

    def labelled_by(self, mechanism: str) -> "StreamSet":
        """The same samples, labelled by one of their mechanisms."""
        protocol = f"the classifier's own resize and crop; label of the {mechanism} in the sample's json"
        return replace(self, label_key=f"{LABELS}.{mechanism}", protocol=protocol)

    def _told_label(self, position: int, key: str) -> int:
        label = look_up(self.parameters(position), key)
        if type(label) is not int or not 0 <= label < len(self.class_names):
            raise FormatError(
                f"{self.samples.storage}: sample {self.key(position)}: {key}: {shorten(repr(label))}; expected a "
                f"number below {len(self.class_names)}"
            )
        return label

    def clusters(self) -> Clusters | None:
        """By latent, mask or photo where several images are made of one, and else by class."""
        source = self.samples.entry.source
        if source in ORIGINS:
            found = origins_of(source, map(self.parameters, range(len(self))))
            if found is not None:
                return found
        return clusters_of_classes([self.labels(position) for position in range(len(self))])

    def grouping(self) -> Grouping | None:
        first = self.parameters(0)
        key = self.group_by or GROUPS
        if look_up(first, key) is None:
            if self.group_by is None:
                return None
            raise UsageError(f"{self.name}: samples have no {shorten(key)!r} in their json; it has {', '.join(first)}")
        return group_images([self._group(position, key) for position in range(len(self))], f"{self.name}: {key}")

    def _group(self, position: int, key: str) -> str:
        value = look_up(self.parameters(position), key)
        if isinstance(value, str | int):
            return str(value)
        if isinstance(value, dict) and value and all(isinstance(part, str | int) for part in value.values()):
            return ", ".join(f"{name} = {part}" for name, part in sorted(value.items()))
        raise FormatError(
            f"{self.samples.storage}: sample {self.key(position)}: {shorten(key)}: {shorten(repr(value))}; expected a "
            "text or whole number, or an object of these"
        )


def read_as_labelled(one: StreamSet, threshold: float) -> StreamSet:
    """The images of a stream whose label a classifier reads with at least this probability; all of a natural stream.

    Raises UsageError where the stream has no scores, or no image is left.
    """
    if one.samples.entry.role == "natural":
        return one
    storage = one.samples.storage
    scores = load_stream_scores(storage, load_manifest(storage), one.samples.entry)
    kept = np.flatnonzero(scores >= threshold)
    if not len(kept):
        raise UsageError(f"--min-fidelity {threshold:g}: no image of {one.name} is read as its label so surely")
    left_out = f"{len(scores) - len(kept):,} of {len(scores):,} images left out, whose label is read with less than"
    return replace(one, samples=one.samples.only(kept), protocol=f"{one.protocol}; {left_out} {threshold:g}")


def class_label(samples: StreamSamples, position: int, members: Mapping[str, bytes]) -> int:
    """Label of a sample whose members were read. Raises FormatError where it has none of its stream's classes."""
    text, classes = members.get("cls", b""), len(samples.entry.class_names)
    # A label has at most six digits, as the pipeline writes them.
    label = int(text) if text.isdigit() and len(text) <= 6 else classes
    if label >= classes:
        raise FormatError(
            f"{samples.storage}: sample {samples.key(position)}: label {shorten(repr(text))}; expected a number below "
            f"{classes}"
        )
    return label


def sample_parameters(samples: StreamSamples, position: int, content: bytes) -> dict[str, Any]:
    """A sample's json, read. Raises FormatError that names the sample where it is no object."""
    where = f"{samples.storage}: sample {samples.key(position)}"
    parameters = parse_json(content, where)
    if not isinstance(parameters, dict):
        raise FormatError(f"{where}: parameters are {shorten(repr(parameters))}; expected an object")
    return parameters


def look_up(parameters: Mapping[str, Any], key: str) -> Any:
    """The value that a dotted key names, such as labels.shape; None where there is none."""
    value: Any = parameters
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def origins_of(source: str, parameters: Iterable[Mapping[str, Any]]) -> Clusters | None:
    """What samples of a source, by their json, were made of together; None where each was made by itself."""
    unit, keys = ORIGINS.get(source, ("", ()))
    found = Clusters(unit, number_distinct([_texts(each, keys) for each in parameters]))
    return found if unit and found.count < len(found.numbers) else None


def _texts(parameters: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    return json.dumps([look_up(parameters, key) for key in keys], sort_keys=True)


def open_streams(location: str, where: str) -> list[StreamSet]:
    """All natural streams of a dataset whose split is test, or the stream that `DATASET:STREAM` names, of any kind.

    Raises UsageError where there is none, FormatError where the dataset is not finished or a shard is missing.
    """
    url, _, stream = location.rpartition(":")
    # A colon may also belong to the location: s3://bucket/name.
    if not url or "/" in stream:
        url, stream = location, ""
    storage = Storage(url)
    manifest = load_manifest(storage)
    if stream in manifest.missing_streams:
        manifest.find_stream(stream, f"{where}: dataset {manifest.name!r}")  # says how it is made
    entries = [entry for entry in manifest.streams if entry.name == stream or not stream]
    if not stream:
        entries = [entry for entry in entries if entry.split == "test" and entry.role == "natural"]
    if not entries:
        known = ", ".join(f"{entry.name} ({entry.role}, {entry.split})" for entry in manifest.streams)
        wanted = f"stream {stream!r}" if stream else "natural stream whose split is test"
        raise UsageError(f"{where}: dataset {manifest.name!r} has no {wanted}; its streams: {known}")
    sets = []
    for entry in entries:
        samples = StreamSamples(storage, entry)
        samples.check_sizes()
        if not len(samples):
            raise UsageError(f"{where}: stream {entry.name!r} holds no sample")
        holes = sum(entry.failures.values())
        notes = (f"incomplete: {holes:,} samples are missing from the dataset: {entry.failures}",) if holes else ()
        sets.append(StreamSet(f"{manifest.name}/{entry.name}", tuple(entry.class_names), samples, notes))
    return sets
