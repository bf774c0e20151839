"""`DATASET:STREAM` as commands are given it, and the images behind it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from ...manifests.dataset import load_dataset
from ...manifests.errors import UsageError
from ...manifests.manifest import load_manifest
from ...manifests.randomness import draw_without_replacement, random_words
from ...train.checkpoint import Preprocessing
from ..report.results import shown_locations, without_common_folder
from .stream_images import StreamImages, load_stream, open_stream, read_stream

# The mini world's images as they are; any other size is resized to what ResNet-18 is used to.
SMALL = 64


def parse_stream(text: str) -> tuple[str, str]:
    """`DATASET:STREAM` to its parts. Raises UsageError."""
    location, _, stream = text.rpartition(":")
    if not location or "/" in stream or not stream:
        raise UsageError(f"{text}: expected DATASET:STREAM")
    return location, stream


def shown_stream(text: str) -> str:
    """`DATASET:STREAM` as a report names it."""
    location, stream = parse_stream(text)
    return f"{shown_locations([location])[0]}:{stream}"


def load_images(text: str, preprocessing: Preprocessing, limit: int | None = None, seed: int = 0) -> StreamImages:
    """Images of `DATASET:STREAM`, or `limit` of them drawn at random."""
    location, stream = parse_stream(text)
    samples = open_stream(load_dataset(location), stream)
    count = len(samples)
    if limit is None or limit >= count:
        return load_stream(samples, preprocessing)
    drawn = draw_without_replacement(count, random_words(seed, f"images of {stream}", count=limit))
    return load_stream(samples, preprocessing, np.sort(drawn).tolist())


def load_distributions(texts: Sequence[str], preprocessing: Preprocessing, limit: int) -> Iterator[StreamImages]:
    """Images of every `DATASET:STREAM`, all different. Where streams of several datasets share a name, each goes by
    what tells the datasets apart: `t1-k20-s2:interventional`."""
    repeated = [text for text in texts if texts.count(text) > 1]
    if repeated:
        raise UsageError(f"{repeated[0]}: given twice")
    names = [parse_stream(text)[1] for text in texts]
    for text, name in zip(texts, names, strict=True):
        images = load_images(text, preprocessing, limit)
        alike = [other for other, its_name in zip(texts, names, strict=True) if its_name == name]
        if len(alike) > 1:
            told_apart = shown_locations(without_common_folder(alike))
            images = replace(images, stream=told_apart[alike.index(text)])
        yield images


def stream_preprocessing(texts: Sequence[str]) -> Preprocessing:
    """How networks trained here see streams: small images as they are, others as ImageNet's."""
    sides = {_image_side(*parse_stream(text)) for text in texts}
    if len(sides) > 1:
        raise UsageError(f"streams of different image sizes {sorted(sides)}: {', '.join(texts)}")
    side = sides.pop()
    return Preprocessing(None, side) if side <= SMALL else Preprocessing()


def _image_side(location: str, stream: str) -> int:
    sample = next(iter(read_stream(open_stream(load_dataset(location), stream), [0])))
    return min(sample.picture.size)


def is_natural(location: str, stream: str) -> bool:
    return load_manifest(load_dataset(location).storage).stream(stream).role == "natural"
