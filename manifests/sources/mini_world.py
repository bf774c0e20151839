"""Streams of the mini world's real pictures, with their true nuisances."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..errors import RecipeError
from ..world import CLASSES, NUISANCES, SLICES, draw_nuisances
from .stream import Facts, Role, Sample, Stream


class MiniWorldStream(Stream):
    """Pictures of one slice of the shipped objects, composed under a confounding strength of one's choice."""

    role: ClassVar[Role] = "natural"
    grows_by: ClassVar[str] = "num_samples"
    has_masks: ClassVar[bool] = True
    shipped_pictures: ClassVar[str] = "fashion-mnist"

    source: Literal["mini-world"]
    objects: Literal["train", "validation", "test"] = Field(description="Slice of the shipped objects.")
    background_confounding: float = Field(0.8, ge=0, le=1, description="a of colours, texture and light.")
    pose_confounding: float = Field(0.8, ge=0, le=1, description="a of scale, rotation and position.")
    num_samples: int | None = Field(None, gt=0, description="Leading objects to use; all of the slice by default.")

    def check(self, facts: Facts) -> None:
        if (self.num_samples or 0) > SLICES[self.objects]:
            raise RecipeError(
                f"streams.{self.name}.num_samples = {self.num_samples}: slice {self.objects!r} has "
                f"{SLICES[self.objects]} objects"
            )

    def class_names(self, facts: Facts) -> Sequence[str]:
        return CLASSES

    def count(self, facts: Facts) -> int:
        return self.num_samples or SLICES[self.objects]

    def class_ranges(self, facts: Facts) -> Sequence[range]:
        # Objects of a slice are interleaved by class: object i is of class i mod 10.
        count = self.count(facts)
        return [range(label, count, len(CLASSES)) for label in range(min(count, len(CLASSES)))]

    def samples(self, facts: Facts, indices: NDArray[np.int64]) -> list[Sample]:
        labels = indices % len(CLASSES)
        nuisances = draw_nuisances(labels, indices, self.objects, self.background_confounding, self.pose_confounding)
        return [
            Sample(
                self.key(int(index)),
                int(label),
                {
                    "source": self.source,
                    "stream": self.name,
                    "objects": self.objects,
                    "sample_index": int(index),
                    "class_label": int(label),
                    "class_name": CLASSES[label],
                    # Nine decimals, so that the text does not depend on a platform's last bits of log and sqrt.
                    "nuisances": {n.name: round(float(v), 9) for n, v in zip(NUISANCES, row, strict=True)},
                },
            )
            for index, label, row in zip(indices, labels, nuisances, strict=True)
        ]
