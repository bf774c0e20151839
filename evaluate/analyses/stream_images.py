"""The samples of a finished stream as arrays: pictures, labels, parameters, object masks and true nuisances."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ...manifests.dataset import Dataset
from ...manifests.errors import FormatError, UsageError, shorten
from ...manifests.manifest import load_manifest
from ...manifests.pictures import decode_picture
from ...manifests.samples import StreamSamples
from ...manifests.world import NUISANCES
from ...train.checkpoint import Preprocessing
from ..test_sets.streams import class_label, sample_parameters

MASK = "mask.png"


@dataclass(frozen=True)
class StreamSample:
    """One sample as it stands in its shard. `mask` is True on the object; None where the stream has no masks."""

    class_label: int
    picture: Image.Image  # RGB
    parameters: dict[str, Any]  # of the sample's json
    mask: Image.Image | None  # mode L, 255 on the object


@dataclass(frozen=True, eq=False)
class StreamImages:
    """Samples of one stream, prepared for a classifier and held in memory."""

    stream: str
    class_names: tuple[str, ...]
    images: Tensor  # [N, 3, crop, crop] uint8
    class_labels: NDArray[np.int64]  # [N]
    parameters: tuple[dict[str, Any], ...]
    masks: NDArray[np.bool_] | None  # [N, crop, crop], prepared as the images; None where the stream has none

    def __len__(self) -> int:
        return len(self.class_labels)

    @property
    def sample_indices(self) -> NDArray[np.int64]:
        """Position [N] of each sample in its stream's own numbering. Raises FormatError where one has none."""
        found = [parameters.get("sample_index") for parameters in self.parameters]
        wrong = next((index for index in found if type(index) is not int or not 0 <= index < 2**62), 0)
        if wrong != 0:
            raise FormatError(f"stream {self.stream!r}: sample index {shorten(repr(wrong))}; expected a number")
        return np.array(found, np.int64)

    def take(self, rows: NDArray[np.int64]) -> "StreamImages":
        """The samples `rows`, in that order."""
        return replace(
            self,
            images=self.images[torch.from_numpy(rows)],
            class_labels=self.class_labels[rows],
            parameters=tuple(self.parameters[i] for i in rows),
            masks=None if self.masks is None else self.masks[rows],
        )


def open_stream(dataset: Dataset, stream: str) -> StreamSamples:
    """Access to a stream of a finished dataset. Raises UsageError with the known names."""
    return StreamSamples(dataset.storage, load_manifest(dataset.storage).stream(stream))


def read_stream(samples: StreamSamples, positions: Sequence[int] | None = None) -> Iterator[StreamSample]:
    """Samples at `positions`, all by default, in that order."""
    extension = samples.entry.image_extension
    for position in range(len(samples)) if positions is None else positions:
        members = samples.read(position, [extension, "cls", "json", MASK])
        try:
            yield StreamSample(
                class_label(samples, position, members),
                decode_picture(members[extension], samples.key(position)),
                sample_parameters(samples, position, members["json"]),
                decode_picture(members[MASK], samples.key(position)).convert("L") if MASK in members else None,
            )
        except (KeyError, ValueError, OSError) as error:
            reason = f"no member {error}" if isinstance(error, KeyError) else error
            raise FormatError(f"{samples.storage}: sample {samples.key(position)}: {reason}") from error


def load_stream(
    samples: StreamSamples, preprocessing: Preprocessing, positions: Sequence[int] | None = None
) -> StreamImages:
    """Samples at `positions`, all by default, prepared and held in memory: 3 bytes a pixel."""
    read = [
        (sample.class_label, preprocessing.prepare(sample.picture), sample.parameters, sample.mask)
        for sample in read_stream(samples, positions)
    ]
    if not read:
        raise UsageError(f"{samples.storage}: stream {samples.entry.name!r}: no samples")
    labels, images, parameters, masks = zip(*read, strict=True)
    return StreamImages(
        samples.entry.name,
        tuple(samples.entry.class_names),
        torch.stack(images),
        np.array(labels, np.int64),
        parameters,
        None if None in masks else np.stack([prepare_mask(mask, preprocessing) for mask in masks]),
    )


def prepare_mask(mask: Image.Image, preprocessing: Preprocessing) -> NDArray[np.bool_]:
    """A mask through the geometry of its picture, [crop, crop]: True where at least half a pixel is object."""
    prepared: NDArray[np.bool_] = preprocessing.prepare(mask.convert("RGB"))[0].numpy() >= 128
    return prepared


def read_labels(samples: StreamSamples) -> NDArray[np.int64]:
    """Class label of every sample [N], without decoding any picture."""
    found = (class_label(samples, position, samples.read(position, ["cls"])) for position in range(len(samples)))
    return np.fromiter(found, np.int64, len(samples))


def true_nuisances(images: StreamImages) -> NDArray[np.float64]:
    """True nuisances [N, nuisances] of the mini world's real pictures, in the units and order of `NUISANCES`.

    Raises UsageError for other streams: what they show was never written down.
    """
    try:
        rows = [[float(parameters["nuisances"][n.name]) for n in NUISANCES] for parameters in images.parameters]
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"stream {images.stream!r}: samples have no true nuisances ({shorten(str(error))})") from error
    return np.array(rows, np.float64)


class OfClasses(Protocol):
    """What belongs to a stream: its name, and the names behind its class labels."""

    @property
    def stream(self) -> str: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...


def check_same_classes(*streams: OfClasses) -> None:
    """Raise UsageError that names two streams whose class labels mean different classes."""
    first, *others = streams
    for other in others:
        if other.class_names != first.class_names:
            raise UsageError(f"streams {first.stream!r} and {other.stream!r} are not of the same classes")
