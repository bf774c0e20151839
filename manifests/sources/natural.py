"""Streams of pictures that exist already: natural ones, and those that something else made."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..errors import RecipeError
from ..inputs import Listing, imagenet_wnids
from .stream import Facts, InputKind, Name, Role, Sample, Stream


class PictureStream(Stream):
    """Images as they are, or resized and cropped; unreadable files leave a hole that is counted by reason."""

    images: Name = Field(
        description="Name of the input, bound by --input NAME=PATH: a folder with one folder per class, WebDataset "
        "tars (one, or a folder of them) with `.cls` or a `class_name` in `.json`, or a CSV with the columns file_name "
        "and class_name (or label), whose other columns join each sample's json."
    )
    labels: Literal["folders", "imagenet"] = Field(
        "folders",
        description="folders: position of the class folder among the sorted ones; imagenet: the wnid's of ILSVRC 2012.",
    )
    resize: int | None = Field(None, gt=0, description="Shorter side in pixels (bicubic, antialiased).")
    crop: int | None = Field(None, gt=0, description="Side of the centre crop in pixels.")
    max_failures: float = Field(0.001, ge=0, le=1, description="Largest share of lost samples that is no error.")

    def inputs(self) -> Mapping[str, InputKind]:
        return {self.images: "class folders"}

    def check(self, facts: Facts) -> None:
        known = set(self.class_names(facts))
        for _, name in self._folders(facts):
            if name not in known:
                raise RecipeError(
                    f"streams.{self.name}.labels = {self.labels!r}: folder {name!r} is not a wnid of ILSVRC 2012; "
                    'use labels = "folders" for other classes'
                )

    def class_names(self, facts: Facts) -> Sequence[str]:
        return imagenet_wnids() if self.labels == "imagenet" else facts.inputs[self.images].class_names

    def _folders(self, facts: Facts) -> Iterator[tuple[str, str]]:
        """Each folder that holds images, with its class name."""
        listing = facts.inputs[self.images]
        names = listing.class_names
        numbered = listing.tars and all(name == str(label) for label, name in enumerate(names))
        if self.labels == "imagenet" and numbered and len(names) <= len(imagenet_wnids()):
            # Tars of ILSVRC 2012 that hold nothing but `.cls` number its sorted wnids.
            names = imagenet_wnids()[: len(names)]
        for folder, name, members in zip(listing.folders, names, listing.class_ranges(), strict=True):
            if members:
                yield folder, name

    def count(self, facts: Facts) -> int:
        return len(facts.inputs[self.images].paths)

    def class_ranges(self, facts: Facts) -> Sequence[range]:
        return facts.inputs[self.images].class_ranges()

    def samples(self, facts: Facts, indices: NDArray[np.int64]) -> list[Sample]:
        listing = facts.inputs[self.images]
        labels = {name: label for label, name in enumerate(self.class_names(facts))}
        classes = {folder: (labels[name], name) for folder, name in self._folders(facts)}
        return [self._sample(listing, classes, int(index)) for index in indices]

    def _sample(self, listing: Listing, classes: dict[str, tuple[int, str]], index: int) -> Sample:
        path = listing.paths[index]
        label, name = classes[path.partition("/")[0]]
        described = json.loads(listing.described[index]) if listing.described else {}
        labels = described.pop("labels", None)
        return Sample(
            self.key(index),
            label,
            {
                "source": self.source,
                "stream": self.name,
                "input": self.images,
                "path": path,
                "sample_index": index,
                "class_label": label,
                "class_name": name,
                **({"described": described} if described else {}),
                **({"labels": labels} if labels else {}),
            },
        )


class NaturalStream(PictureStream):
    """Photographs and the like: the natural images of equation 1."""

    role: ClassVar[Role] = "natural"

    source: Literal["natural"]


class ImportedStream(PictureStream):
    """Images that another tool has made. What a tar's `.json` says of each joins its json as `described`."""

    source: Literal["imported"]
    role: Literal["generated", "transferred", "counterfactual"] = Field(
        description="What they are in training: the term of equation 1 that they belong to."
    )
