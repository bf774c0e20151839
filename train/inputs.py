"""What a run reads: its training streams, and the natural images it is validated on."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..manifests.errors import UsageError
from ..manifests.manifest import load_manifest
from ..manifests.randomness import Permutation
from ..manifests.recipe import suggest
from ..manifests.storage import Storage
from .class_map import map_classes
from .configuration import Configuration
from .joined_images import join_streams
from .mapped_images import HELD_OUT, ImagesWithout
from .stream_images import StreamImages
from .streams import Images, TrainStream, check_classes, open_images, open_shards, unique_names

LOGGER = logging.getLogger("genint")
# Name of the stream that --imagenet gives.
IMAGENET = "imagenet"
# Why images are left out, as a run's fingerprint has it.
DOUBTFUL = "below min_fidelity"
# Before the names of validation images, where they stand beside training streams.
VALIDATION = "validation "
# Name of the images that --validation gives: their place is nobody's business, and may change.
GIVEN = "given"


@dataclass(frozen=True)
class ValidationImages:
    """Natural images that a run does not train on; `positions` None: all of them."""

    name: str
    images: Images
    positions: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.images) if self.positions is None else len(self.positions)


@dataclass(frozen=True)
class Inputs:
    """All that a run reads."""

    streams: list[TrainStream]
    class_names: tuple[str, ...]
    validation: list[ValidationImages]

    def only(self, names: Collection[str]) -> tuple["Inputs", list[str]]:
        """The same with the training streams of these names alone, and the names of the others: what takes no part
        need not be whole, and may change."""
        others = [stream.name for stream in self.streams if stream.name not in names]
        return replace(self, streams=[stream for stream in self.streams if stream.name in names]), others

    def check(self) -> None:
        """Raise FormatError for what is cheap to find before training starts."""
        for images in [stream.images for stream in self.streams] + [part.images for part in self.validation]:
            images.check()

    def share_checks(self, folder: Path) -> None:
        """Let the processes that are given this folder compare each shard with its record once, not each of them."""
        named = [(stream.name, stream.images) for stream in self.streams]
        named += [(f"validation {part.name}", part.images) for part in self.validation]
        for name, images in named:
            while isinstance(images, ImagesWithout):
                images = images.images
            if isinstance(images, StreamImages):
                images.samples.share_checks(folder / name.replace("/", " "))

    def fingerprints(self) -> dict[str, Any]:
        """What identifies the data, by what it is read as."""
        streams = {f"stream {stream.name}": stream.images.fingerprint() for stream in self.streams}
        return streams | {f"validation {part.name}": part.images.fingerprint() for part in self.validation}


def open_streams(
    shards: Sequence[str],
    imagenet: str | None = None,
    names: Sequence[str] | None = None,
    origin: str = "of --streams",
) -> list[TrainStream]:
    """Open the streams of these names, or all of split "train". A name stands for the streams of all datasets that
    have it. What `imagenet` gives takes part in any case.

    `origin` says in messages who named them. Raises UsageError.
    """
    if not shards and not imagenet:
        raise UsageError("nothing to train on: give --shards DIR, --imagenet DIR or both")
    streams = [TrainStream(IMAGENET, "natural", open_images(imagenet))] if imagenet else []
    streams += _open_datasets(shards, names, [stream.name for stream in streams], origin)
    return streams


def open_inputs(
    configuration: Configuration,
    shards: Sequence[str],
    imagenet: str | None = None,
    validation: str | None = None,
    opened: Sequence[TrainStream] | None = None,
) -> Inputs:
    """Open the streams that the configuration names (or all of split "train"), and the validation images.

    `opened`: these streams, where they are open already. Validation images are at `validation`, or a held-out share of
    the natural images where the configuration says so, or by default the datasets' natural streams of split
    "validation"; "none" means none. Raises UsageError.
    """
    if opened is None:
        origin = f"of preset {configuration.preset}, or --streams"
        opened = open_streams(shards, imagenet, configuration.streams, origin)
    for url in shards:
        missing = load_manifest(Storage(url)).missing_streams
        if missing:
            LOGGER.warning("note: %s: streams that are not made yet: %s", url, ", ".join(missing))
    streams = [_faithful(_with_heads(stream, configuration), configuration) for stream in opened]
    held_out: list[ValidationImages] = []
    if configuration.validation_share is None and validation != "none":
        held_out = _open_validation(shards, validation)
    streams, held_out = _settle_classes(streams, held_out, configuration)
    streams = unique_names(join_streams(streams))
    if configuration.validation_share is not None:
        streams, held_out = hold_out(streams, configuration.validation_share, configuration.seed)
    validated = [TrainStream(f"{VALIDATION}{part.name}", "natural", part.images) for part in held_out]
    return Inputs(streams, check_classes([*streams, *validated]), held_out)


def _open_validation(shards: Sequence[str], validation: str | None) -> list[ValidationImages]:
    """What --validation gives, or the natural streams of split "validation" of all datasets, each once."""
    if validation is not None:
        return [ValidationImages(GIVEN, open_images(validation, "validation"))]
    return [part for url in shards for part in _validation_streams(url)]


def _settle_classes(
    streams: Sequence[TrainStream], held_out: Sequence[ValidationImages], configuration: Configuration
) -> tuple[list[TrainStream], list[ValidationImages]]:
    """Training streams and validation images under the classes that the run asks for, if it asks for any."""
    validated = [TrainStream(f"{VALIDATION}{part.name}", "natural", part.images) for part in held_out]
    everything = [*streams, *validated]
    if configuration.classes is not None or configuration.class_map:
        natural = [stream.name for stream in streams if stream.term == "natural"]
        everything = map_classes(everything, configuration.class_map, configuration.classes, natural)
    parts = [
        ValidationImages(stream.name.removeprefix(VALIDATION), stream.images)
        for stream in join_streams(everything[len(streams) :])
    ]
    return everything[: len(streams)], parts


def _open_datasets(
    shards: Sequence[str], names: Sequence[str] | None, others: Sequence[str], origin: str
) -> list[TrainStream]:
    """Training streams of all datasets, or those of the names that one of them has."""
    if names is None:
        return [stream for url in shards for stream in open_shards(url)]
    wanted = [name for name in names if name not in others]
    if wanted and not shards:
        raise UsageError(
            f"streams {', '.join(wanted)} ({origin}): no dataset has them; give it with --shards DIR, or --streams "
            f"{IMAGENET} to train on --imagenet alone"
        )
    if len(shards) == 1:
        return open_shards(shards[0], wanted) if wanted else []
    for url in shards:
        open_shards(url)  # says what is wrong with a dataset
    known = {url: [entry.name for entry in load_manifest(Storage(url)).streams] for url in shards}
    everything = [name for url in shards for name in known[url]]
    for name in wanted:
        if name not in everything:
            raise UsageError(f"no stream {name!r} ({origin}) in {', '.join(shards)}{suggest(name, everything)}")
    chosen = {url: [name for name in wanted if name in known[url]] for url in shards}
    return [stream for url in shards if chosen[url] for stream in open_shards(url, chosen[url])]


def _with_heads(stream: TrainStream, configuration: Configuration) -> TrainStream:
    """A stream of counterfactuals with a label for each head, if the run has heads; other streams as they are."""
    if not configuration.heads or stream.term != "counterfactual" or not isinstance(stream.images, StreamImages):
        return stream
    return replace(stream, images=stream.images.with_heads(list(configuration.heads)))


def _faithful(stream: TrainStream, configuration: Configuration) -> TrainStream:
    """A stream without the images that a classifier reads too doubtfully as their label; natural ones as they are, and
    those that take no part."""
    threshold = configuration.min_fidelity
    if threshold is None or stream.term == "natural" or not isinstance(stream.images, StreamImages):
        return stream
    if not any(stage.takes(stream.term, stream.source) for stage in configuration.stages):
        return stream
    doubtful = np.flatnonzero(stream.images.label_scores() < threshold)
    if len(doubtful) == len(stream.images):
        raise UsageError(
            f"--min-fidelity {threshold:g}: no image of stream {stream.name!r} is read as its label so surely"
        )
    return replace(stream, images=ImagesWithout(stream.images, doubtful, DOUBTFUL)) if len(doubtful) else stream


def _validation_streams(url: str) -> list[ValidationImages]:
    entries = load_manifest(Storage(url)).streams
    names = [entry.name for entry in entries if entry.role == "natural" and entry.split == "validation"]
    return [ValidationImages(stream.name, stream.images) for stream in open_shards(url, names)] if names else []


def hold_out(
    streams: Sequence[TrainStream], share: float, seed: int
) -> tuple[list[TrainStream], list[ValidationImages]]:
    """Take a share of the natural images, drawn by seed, out of training. Raises UsageError where there are none.

    Transferred images keep their content: those made from held-out images stay in training.
    """
    kept: list[TrainStream] = []
    held_out = []
    for stream in streams:
        if stream.term != "natural":
            kept.append(stream)
            continue
        count = max(1, round(share * len(stream.images)))
        drawn = Permutation(len(stream.images), seed, f"validation share of {stream.name}")(np.arange(count))
        kept.append(replace(stream, images=ImagesWithout(stream.images, np.sort(drawn), HELD_OUT)))
        held_out.append(ValidationImages(f"held out of {stream.name}", stream.images, np.sort(drawn).tolist()))
    if not held_out:
        raise UsageError("--validation: a held-out share needs natural images")
    return kept, held_out
