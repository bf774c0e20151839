"""Streams of natural images repacked from a folder of class folders (ImageFolder layout)."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..errors import RecipeError
from ..inputs import Listing, imagenet_wnids
from .stream import Facts, InputKind, Name, Role, Sample, Stream


class NaturalStream(Stream):
    """Images as they are, or resized and cropped; unreadable files leave a hole that is counted by reason."""

    role: ClassVar[Role] = "natural"

    source: Literal["natural"]
    images: Name = Field(description="Name of the input, bound by --input NAME=DIR.")
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
        for folder in facts.inputs[self.images].folders:
            if folder not in known:
                raise RecipeError(
                    f"streams.{self.name}.labels = {self.labels!r}: folder {folder!r} is not a wnid of ILSVRC 2012; "
                    'use labels = "folders" for other classes'
                )

    def class_names(self, facts: Facts) -> Sequence[str]:
        return imagenet_wnids() if self.labels == "imagenet" else facts.inputs[self.images].folders

    def count(self, facts: Facts) -> int:
        return len(facts.inputs[self.images].paths)

    def class_ranges(self, facts: Facts) -> Sequence[range]:
        return facts.inputs[self.images].class_ranges()

    def samples(self, facts: Facts, indices: NDArray[np.int64]) -> list[Sample]:
        listing = facts.inputs[self.images]
        names = self.class_names(facts)
        labels = {name: label for label, name in enumerate(names)}
        return [self._sample(listing, labels, int(index)) for index in indices]

    def _sample(self, listing: Listing, labels: dict[str, int], index: int) -> Sample:
        path = listing.paths[index]
        folder = path.partition("/")[0]
        return Sample(
            self.key(index),
            labels[folder],
            {
                "source": self.source,
                "stream": self.name,
                "input": self.images,
                "path": path,
                "sample_index": index,
                "class_label": labels[folder],
                "class_name": folder,
            },
        )
