"""Streams of labelled images and where they come from: genint datasets, folders of classes, anybody's tars."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ..manifests.errors import UsageError
from ..manifests.folders import find_files, refuse_mixture
from ..manifests.inputs import check_folder, imagenet_wnids
from ..manifests.manifest import MANIFEST, RECORDS, Manifest, StreamEntry, load_manifest
from ..manifests.storage import Storage
from .folder_images import FolderImages
from .stream_images import Label, StreamImages
from .tar_images import TarImages

Term = Literal["natural", "int", "transfer", "counterfactual"]
Split = Literal["train", "validation", "test"]

TERM_OF_ROLE: dict[str, Term] = {
    "natural": "natural",
    "generated": "int",
    "transferred": "transfer",
    "counterfactual": "counterfactual",
}
_REMEDY = "say which classes are the same with --class-map FILE, or take those of one name with --classes A,B"
NUMBER_RANGE = re.compile(r"\{([0-9]{1,18})\.\.([0-9]{1,18})\}")


class Images(Protocol):
    """Labelled images by position. Shards are the units of the windowed shuffle and of verification."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def names_classes(self) -> bool:
        """Whether class names mean anything; else they are the labels in decimal digits, and fit any other names."""
        ...

    @property
    def shard_sizes(self) -> Sequence[int]: ...

    def __len__(self) -> int: ...

    def read(self, position: int) -> tuple[bytes, Label]:
        """An encoded image and its class label, or one for each head. Raises FormatError that names where it lies."""
        ...

    def labels(self) -> NDArray[np.int64]:
        """Class labels [N] of all images. May have to read each of them."""
        ...

    def key(self, position: int) -> str:
        """What to call a sample in messages: the file it lies in, and its key."""
        ...

    def check(self) -> None:
        """Raise FormatError for what is cheap to find before training: a shard that is missing or of another size."""
        ...

    def check_shard(self, shard: int) -> None:
        """Raise FormatError where a shard's content is not what was recorded of it, if anything was. Reads it all."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """What identifies the data, as JSON, for checkpoints."""
        ...


@dataclass(frozen=True)
class TrainStream:
    """A stream of a training run; `term` is its term of equation 1, `source` what a dataset says of its kind, if it
    knows: of imported images it knows the role alone."""

    name: str
    term: Term
    images: Images
    source: str | None = None


def open_shards(url: str, streams: Sequence[str] | None = None) -> list[TrainStream]:
    """Streams of a finished dataset: those named, or all of split "train". Raises UsageError or FormatError."""
    storage, manifest = _open_dataset(url)
    if streams is None:
        entries = [entry for entry in manifest.streams if entry.split == "train"]
        if not entries:
            raise UsageError(f"{url}: no stream of split train; name those to train on: {_names(manifest)}")
    else:
        entries = [manifest.find_stream(name, url) for name in dict.fromkeys(streams)]
    return [
        TrainStream(
            entry.name,
            TERM_OF_ROLE[entry.role],
            _open_stream(storage, manifest, entry),
            None if entry.source == "imported" else entry.source,
        )
        for entry in entries
    ]


def open_images(location: str, split: Split = "train") -> Images:
    """Images of a folder of class folders, of tars, or of a stream of a genint dataset. Raises UsageError or
    FormatError.

    Tars in WebDataset layout are a folder of them, one file, or a pattern such as DIR/train-{0000..0146}.tar. A stream
    is DATASET:STREAM, or DATASET for its natural stream of `split`.
    """
    dataset, separator, name = location.rpartition(":")
    if separator and dataset and "/" not in name and not Path(location).exists():
        storage, manifest = _open_dataset(dataset)
        return _open_stream(storage, manifest, manifest.find_stream(name, dataset))
    if "://" in location:
        return _open_natural(location, split)
    folder = Path(location)
    if location.endswith(".tar") and not folder.is_dir():
        return _open_tars(location, _expand(location))
    check_folder(folder, location)
    if (folder / MANIFEST).is_file() or (folder / RECORDS).is_dir():
        return _open_natural(location, split)
    found = find_files(folder, location)
    refuse_mixture(found, location)
    if not found.tars:
        return FolderImages(location, found)
    return _open_tars(location, (folder / tar for tar, _ in sorted(found.tars)))


def unique_names(streams: Sequence[TrainStream]) -> list[TrainStream]:
    """The same streams; the second of a name (of another term) becomes `name-2`, and so on."""
    taken: set[str] = set()
    renamed = []
    for stream in streams:
        name, count = stream.name, 1
        while name in taken:
            count += 1
            name = f"{stream.name}-{count}"
        taken.add(name)
        renamed.append(replace(stream, name=name))
    return renamed


def check_classes(streams: Sequence[TrainStream]) -> tuple[str, ...]:
    """The class names that all streams share. Raises UsageError where they differ.

    Tars have labels alone: they fit any stream that has as many classes; 1,000 classes without a name are ImageNet's.
    """
    named = [stream for stream in streams if stream.images.names_classes]
    most = max(streams, key=lambda stream: len(stream.images.class_names))
    if named:
        expected, origin = named[0].images.class_names, named[0].name
    else:
        count = len(most.images.class_names)
        expected, origin = imagenet_wnids() if count == 1000 else most.images.class_names, most.name
    for stream in streams:
        names = stream.images.class_names
        if len(names) > len(expected) or (len(names) != len(expected) and stream in named):
            raise UsageError(
                f"stream {stream.name}: {len(names)} classes, stream {origin} has {len(expected)}; {_REMEDY}"
            )
        if stream in named and names != expected:
            place = next(i for i, pair in enumerate(zip(names, expected, strict=True)) if pair[0] != pair[1])
            raise UsageError(
                f"stream {stream.name}: class {place} is {names[place]!r}, in stream {origin} it is "
                f"{expected[place]!r}; {_REMEDY}"
            )
    return expected


def _open_dataset(url: str) -> tuple[Storage, Manifest]:
    storage = Storage(url)
    if storage.local and not Path(storage.absolute).is_dir():
        raise UsageError(f"{url}: no such folder")
    if not storage.exists(MANIFEST):
        if storage.list(RECORDS):
            raise UsageError(
                f"{url}: still building (no {MANIFEST} yet): see `genint-pipeline status {url}`; "
                "`genint-pipeline build-shards` with the same arguments finishes it"
            )
        raise UsageError(f"{url}: not a genint dataset: no {MANIFEST} in it")
    return storage, load_manifest(storage)


def _open_stream(storage: Storage, manifest: Manifest, entry: StreamEntry) -> StreamImages:
    if not entry.samples:
        raise UsageError(f"{storage}: stream {entry.name!r} is empty")
    return StreamImages(storage, manifest, entry)


def _open_natural(url: str, split: Split) -> StreamImages:
    storage, manifest = _open_dataset(url)
    entries = [entry for entry in manifest.streams if entry.role == "natural" and entry.split == split]
    if len(entries) != 1:
        found = f"{len(entries)} natural streams" if entries else "no natural stream"
        raise UsageError(f"{url}: {found} of split {split}; name one as {url}:STREAM of {_names(manifest)}")
    return _open_stream(storage, manifest, entries[0])


def _open_tars(location: str, paths: Iterable[Path]) -> TarImages:
    present = []
    for path in paths:  # one by one: a pattern may stand for more names than there are files
        if not path.is_file():
            raise UsageError(f"{path}: no such file" + (f" (of {location})" if str(path) != location else ""))
        present.append(path)
    images = TarImages(present)
    if not len(images):
        raise UsageError(f"{location}: no sample in {len(present)} tars")
    return images


def _expand(pattern: str) -> Iterator[Path]:
    """Paths of a pattern: {000..146} counts, with the zeros that its first number is written with."""
    match = NUMBER_RANGE.search(pattern)
    if not match:
        yield Path(pattern)
        return
    first, last = match.groups()
    if int(first) > int(last):
        raise UsageError(f"{pattern}: {match[0]} counts from {first} down to {last}; expected first..last")
    for number in range(int(first), int(last) + 1):
        yield from _expand(f"{pattern[: match.start()]}{number:0{len(first)}d}{pattern[match.end() :]}")


def _names(manifest: Manifest) -> str:
    return ", ".join(entry.name for entry in manifest.streams)
