"""Images of one stream of a finished genint dataset."""

import copy
import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..manifests.errors import FormatError, shorten
from ..manifests.fidelity import load_stream_scores
from ..manifests.manifest import Manifest, StreamEntry, dump_json
from ..manifests.samples import StreamSamples
from ..manifests.storage import Storage

# Name of a head: a key of a counterfactual's `labels`.
Head = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
# One class label, or one for each head.
Label = int | tuple[int, ...]
# Of a head whose label a sample does not say: torch's cross-entropy ignores it.
UNKNOWN: Final = -100
# What is the object's in a sample that does not tell mechanisms apart, as a recomposed one.
OF_THE_OBJECT: Final = ("shape", "texture")
# Sources whose images are no other in a recipe of another seed, and keys of a stream that change none of them.
OF_NO_SEED: Final = ("natural", "mini-world")
IMMATERIAL: Final = ("name", "split", "samples_per_shard", "max_failures")


class StreamImages:
    """Images of a stream, checked against its records. Of a stream `with_heads` a label is one for each head."""

    def __init__(self, storage: Storage, manifest: Manifest, entry: StreamEntry) -> None:
        self.class_names = tuple(entry.class_names)
        # Tars that were repacked without class names have their labels for names.
        self.names_classes = any(name != str(label) for label, name in enumerate(self.class_names))
        self.samples = StreamSamples(storage, entry, check=False)  # the loader says when
        self.shard_sizes = self.samples.shard_sizes
        self._extension = entry.image_extension
        self._manifest = manifest
        self._heads: tuple[str, ...] = ()
        self.content = _content(manifest, entry)
        self._fingerprint = {
            "kind": "genint",
            "dataset": manifest.name,
            "stream": entry.name,
            "fingerprint": hashlib.sha256(dump_json(manifest.fingerprint.model_dump())).hexdigest(),
            # Of the shards alone: a dataset's card and scores may change while a run is under way.
            "shards_sha256": self.samples.digest(),
        }

    def __len__(self) -> int:
        return len(self.samples)

    def with_heads(self, heads: Sequence[str]) -> Self:
        """The same images, each with the label of its mechanism for every head."""
        images = copy.copy(self)
        images._heads = tuple(heads)
        return images

    def read(self, position: int) -> tuple[bytes, Label]:
        members = self.samples.read(position, ("cls", self._extension, *(["json"] if self._heads else [])))
        try:
            content, label = members[self._extension], int(members["cls"])
            labels = _labels(members["json"], label) if self._heads else {}
        except KeyError as error:
            raise FormatError(f"{self.key(position)}: has no .{error.args[0]}") from error
        except ValueError as error:
            raise FormatError(f"{self.key(position)}: labels cannot be read: {shorten(str(error))}") from error
        for found in (label, *labels.values()):
            if not (isinstance(found, int) and 0 <= found < len(self.class_names)):
                raise FormatError(
                    f"{self.key(position)}: label {shorten(found)}, the stream has {len(self.class_names)} classes"
                )
        return content, tuple(labels.get(head, UNKNOWN) for head in self._heads) if self._heads else label

    def label_scores(self) -> NDArray[np.float64]:
        """How surely each image is read as its label, [N], in [0, 1].

        Raises UsageError where nobody has read the stream, FormatError where its scores are damaged.
        """
        return load_stream_scores(self.samples.storage, self._manifest, self.samples.entry)

    def labels(self) -> NDArray[np.int64]:
        """Reads them all, one by one."""
        found = (self.samples.read(position, ("cls",)) for position in range(len(self)))
        return np.array([int(members.get("cls", b"-1")) for members in found], np.int64)

    def key(self, position: int) -> str:
        shard, _ = self.samples.locate(position)
        return f"{self.samples.storage / self.samples.records[shard].path}: sample {self.samples.key(position)}"

    def check(self) -> None:
        self.samples.check_sizes()

    def check_shard(self, shard: int) -> None:
        self.samples.check_shard(shard)

    def fingerprint(self) -> dict[str, Any]:
        return self._fingerprint


def _content(manifest: Manifest, entry: StreamEntry) -> str | None:
    """What natural images are the same in datasets of other names and seeds by: all that they are made of."""
    if entry.source not in OF_NO_SEED:
        return None
    prefix = f"streams.{entry.name}."
    keys = {key.removeprefix(prefix): v for key, v in manifest.fingerprint.recipe.items() if key.startswith(prefix)}
    keys = {key: value for key, value in keys.items() if key not in IMMATERIAL}
    if entry.source == "natural":
        images = manifest.fingerprint.inputs.get(str(keys.get("images")))
        keys["images"] = images.sha256 if images else None
    return hashlib.sha256(dump_json(keys)).hexdigest()


def _labels(content: bytes, label: int) -> dict[str, Any]:
    """Labels of a sample's mechanisms, by name. Raises ValueError where they are none."""
    try:
        parameters = json.loads(content)
    except RecursionError as error:
        raise ValueError("json of too many levels") from error
    labels = parameters.get("labels") if isinstance(parameters, dict) else None
    if labels is None:
        return dict.fromkeys(OF_THE_OBJECT, label)
    if not isinstance(labels, dict):
        raise ValueError(f"labels = {shorten(labels)}: expected a table of mechanisms")
    return labels
