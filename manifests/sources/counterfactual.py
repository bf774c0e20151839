"""Counterfactuals of a CGN: shape, texture and background of independently drawn classes (Sauer & Geiger 2021)."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, field_validator, model_validator

from ..errors import RecipeError
from ..randomness import integers_below, normal, random_rows, truncated_normal
from .generated import PACKAGE_BOUND
from .stream import CgnFacts, Facts, InputKind, Name, Rehearsal, Role, Sample, Stream, Table, locate_in_classes

MECHANISMS = ("shape", "texture", "background")
SWAPPED = MECHANISMS[1:]

# Third counter word: what draws are for. Own latents have their mechanism's, from 1.
SHARED, DRAWS = 0, 4
# Of a bank, in a worker's memory: two bytes for each of a mask's one and two textures' three channels.
BYTES_PER_PIXEL = 2 * 7
MAX_BANK_BYTES = 4 << 30
# Composing and writing a sample from a bank, over rendering its three parts: measured on the MNIST form.
COMPOSING_SHARE = 0.1

# Classes of ImageNet whose mechanisms the authors found to work best (official repository, imagenet/generate_data.py).
BEST_CLASSES = {
    "shape": (
        9, 18, 22, 35, 56, 63, 96, 97, 119, 207, 225, 260, 275, 323, 330, 350, 370, 403, 411, 414, 427, 438, 439, 441,
        460, 484, 493, 518, 532, 540, 550, 559, 561, 570, 604, 647, 688, 713, 724, 749, 751, 756, 759, 779, 780, 802,
        814, 833, 841, 849, 850, 859, 869, 872, 873, 874, 876, 880, 881, 883, 894, 897, 898, 900, 907, 930, 933, 945,
        947, 949, 950, 953, 963, 966, 967, 980,
    ),
    "texture": (
        12, 15, 18, 25, 54, 66, 72, 130, 145, 207, 251, 267, 271, 275, 293, 323, 385, 388, 407, 409, 427, 438, 439,
        441, 454, 461, 468, 482, 483, 486, 490, 492, 509, 530, 555, 607, 608, 629, 649, 652, 681, 688, 719, 720, 728,
        737, 741, 751, 756, 779, 800, 810, 850, 852, 854, 869, 881, 907, 911, 930, 936, 937, 938, 941, 949, 950, 951,
        954, 957, 959, 963, 966, 985, 987, 992,
    ),
    "background": (
        7, 9, 20, 30, 35, 46, 50, 65, 72, 93, 96, 97, 119, 133, 147, 337, 350, 353, 354, 383, 429, 460, 693, 801, 888,
        947, 949, 952, 953, 955, 958, 970, 972, 973, 974, 977, 979, 998,
    ),
}  # fmt: skip

Share = Annotated[float, Field(ge=0, le=1)]
Labels = Annotated[list[int], Field(min_length=1)]


class ClassLists(Table):
    """Class labels of each mechanism; all of the network's where a list is left out."""

    shape: Labels | None = None
    texture: Labels | None = None
    background: Labels | None = None


class CounterfactualStream(Stream):
    """Compositions of a CGN's three mechanisms; a sample's label is its shape's."""

    role: ClassVar[Role] = "counterfactual"
    digital_source_type: ClassVar[str] = "trainedAlgorithmicMedia"
    has_masks: ClassVar[bool] = True
    grows_by: ClassVar[str] = "samples_per_class"

    source: Literal["counterfactual"]
    cgn: Name = Field(
        description='Name of the network: "mini-cgn" (shipped), or an input: a folder of fit-cgn or an official file.'
    )
    swap: list[Literal["texture", "background"]] = Field(
        ["texture", "background"],
        description="Mechanisms whose class is drawn independently of the shape's; [] composes the class itself.",
    )
    latents: Literal["shared", "own"] = Field(
        "shared", description="shared: one latent for the three mechanisms (ImageNet); own: one each (MNIST)."
    )
    classes: Literal["best"] | Labels | ClassLists | None = Field(
        None,
        description="Class labels to draw from, for all mechanisms or as a table of lists; all by default. "
        '"best": the 76 shapes, 75 textures and 38 backgrounds of ImageNet that the authors chose.',
    )
    samples_per_class: int = Field(gt=0, description="Counterfactuals of each class of shapes.")
    truncation: float = Field(1.0, gt=0, le=1, description="t of the latents; of the BigGAN form alone.")
    bank: int | None = Field(
        None,
        gt=0,
        description="Render this many of each mechanism and class once and recombine them: shapes equally often, own "
        "textures and backgrounds at random.",
    )
    min_contrast: Share | None = Field(
        None,
        description="Least contrast of object and background, |f - b| of pictures in [0, 1] averaged over the mask; "
        "samples below are holes.",
    )
    mask_range: Annotated[list[Share], Field(min_length=2, max_length=2)] | None = Field(
        None, description="Least and largest mean of the mask; samples outside are holes."
    )
    normalise: bool | None = Field(
        None,
        description="Whether the saliency network gets ImageNet-normalised pictures; by default as it was trained "
        "with. The official network was trained without and makes better masks with.",
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="Precision of the BigGAN form.")
    batch_size: int = Field(64, gt=0, description="Fixed members of a render batch: part of the floating point.")

    @field_validator("classes", mode="wrap")
    @classmethod
    def _one_of_its_forms(cls, value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        try:
            return validate(value)
        except ValidationError as error:
            raise ValueError(
                'expected "best", a list of class labels, or a table with a list for shape, texture or background'
            ) from error

    @model_validator(mode="after")
    def _keys_fit(self) -> Self:
        if len(set(self.swap)) < len(self.swap):
            raise ValueError(f"swap = {self.swap}: stands there twice")
        if self.mask_range is not None and self.mask_range[0] > self.mask_range[1]:
            raise ValueError(f"mask_range = {self.mask_range}: the least is more than the largest")
        if self.bank is not None and self.bank > self.samples_per_class:
            raise ValueError(f"bank = {self.bank}: more than samples_per_class = {self.samples_per_class}")
        return self

    def inputs(self) -> Mapping[str, InputKind]:
        return {self.cgn: "cgn"}

    def check(self, facts: Facts) -> None:
        network = facts.cgns[self.cgn]
        known = len(network.class_names)
        if self.classes == "best" and known != 1000:
            raise RecipeError(
                f'streams.{self.name}.classes = "best": these are classes of ImageNet, and {self.cgn} has {known}'
            )
        for mechanism in MECHANISMS:
            labels = self.class_labels(facts, mechanism)
            wrong = [label for label in labels if not 0 <= label < known]
            if wrong:
                raise RecipeError(f"streams.{self.name}.classes: {wrong[0]} is not a class label (0 to {known - 1})")
            if len(set(labels)) < len(labels):
                raise RecipeError(f"streams.{self.name}.classes: a label of {mechanism} stands there twice")
        if network.form == "mnist" and (self.truncation != 1.0 or self.precision != "fp32"):
            raise RecipeError(
                f"streams.{self.name}: truncation and precision are of the BigGAN form, and {self.cgn} is of the MNIST "
                "form; leave them out"
            )
        size = self.bank_bytes(facts)
        if size > MAX_BANK_BYTES:
            raise RecipeError(
                f"streams.{self.name}.bank = {self.bank}: takes {size / 2**30:.0f} GiB of each worker's memory, at "
                f"most {MAX_BANK_BYTES >> 30}; make it smaller, or leave it out"
            )

    def class_names(self, facts: Facts) -> Sequence[str]:
        return facts.cgns[self.cgn].class_names

    def class_labels(self, facts: Facts, mechanism: str) -> Sequence[int]:
        """Labels from which a mechanism's class is drawn."""
        if self.classes == "best":
            return BEST_CLASSES[mechanism]
        chosen = getattr(self.classes, mechanism) if isinstance(self.classes, ClassLists) else self.classes
        return range(len(self.class_names(facts))) if chosen is None else chosen

    def bank_labels(self, facts: Facts, mechanism: str) -> Sequence[int]:
        """Labels of which a bank holds a mechanism's pictures."""
        return self.class_labels(facts, mechanism if mechanism in self.swap else "shape")

    def bank_bytes(self, facts: Facts) -> int:
        """Bytes of the bank in memory; 0 without one."""
        most = max(len(self.bank_labels(facts, mechanism)) for mechanism in MECHANISMS)
        return (self.bank or 0) * most * facts.cgns[self.cgn].resolution ** 2 * BYTES_PER_PIXEL

    def count(self, facts: Facts) -> int:
        return len(self.class_labels(facts, "shape")) * self.samples_per_class

    def class_ranges(self, facts: Facts) -> Sequence[range]:
        size = self.samples_per_class
        return [range(start, start + size) for start in range(0, self.count(facts), size)]

    def rehearsal(self, on_cpu: bool) -> Rehearsal:
        if self.bank is None:
            return Rehearsal(self, samples=2 if on_cpu else self.batch_size)
        # Without its bank it takes as long as the bank's pictures, which are fewer.
        alone = self.model_copy(update={"bank": None})
        share = min(1.0, self.bank / self.samples_per_class + COMPOSING_SHARE)
        return Rehearsal(alone, factor=share, samples=self.batch_size)

    def draw_latents(
        self, facts: Facts, mechanism: str, labels: NDArray[np.int64], members: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Latents u [N, z_dim] of a mechanism: of class `labels` [N], and of number `members` [N] in the bank, or of
        the sample's number where there is no bank. Shared ones do not depend on mechanism and class."""
        network = facts.cgns[self.cgn]
        purpose = SHARED if self.latents == "shared" else 1 + MECHANISMS.index(mechanism)
        class_labels = np.zeros_like(labels) if purpose == SHARED else labels
        words = random_rows(facts.seed, self.name, members, class_labels, purpose, count=network.z_dim)
        if network.form == "mnist":
            return normal(words)
        return self.truncation * truncated_normal(words, PACKAGE_BOUND)

    def samples(self, facts: Facts, indices: NDArray[np.int64]) -> list[Sample]:
        network = facts.cgns[self.cgn]
        words = random_rows(facts.seed, self.name, indices, 0, DRAWS, count=8)
        known_shapes = np.array(self.class_labels(facts, "shape"), np.int64)
        places, rank, _ = locate_in_classes(indices, len(known_shapes), self.stages)
        shapes = known_shapes[places]
        labels = {"shape": shapes}
        members = {"shape": indices if self.bank is None else rank % self.bank}
        for column, mechanism in enumerate(SWAPPED):
            known = np.array(self.class_labels(facts, mechanism), np.int64)
            drawn = known[integers_below(len(known), words[:, column])]
            labels[mechanism] = drawn if mechanism in self.swap else shapes
            own = self.bank is not None and self.latents == "own"
            members[mechanism] = integers_below(self.bank or 1, words[:, 2 + column]) if own else members["shape"]
        windows = integers_below(max(network.windows, 1), words[:, 4:]).reshape(-1, 2, 2).tolist()
        label_rows = np.stack([labels[name] for name in MECHANISMS], 1).tolist()
        member_rows = np.stack([members[name] for name in MECHANISMS], 1).tolist()
        common = self._common(facts, network)
        return [
            Sample(
                self.key(index),
                label_row[0],
                {
                    **common,
                    "sample_index": index,
                    "class_label": label_row[0],
                    "class_name": network.class_names[label_row[0]],
                    "labels": dict(zip(MECHANISMS, label_row, strict=True)),
                    "latent_index": dict(zip(MECHANISMS, member_row, strict=True)),
                    **({"windows": dict(zip(SWAPPED, window, strict=True))} if network.windows else {}),
                },
            )
            for index, label_row, member_row, window in zip(
                indices.tolist(), label_rows, member_rows, windows, strict=True
            )
        ]

    def _common(self, facts: Facts, network: CgnFacts) -> dict[str, Any]:
        return {
            "source": self.source,
            "stream": self.name,
            "seed": facts.seed,
            "cgn": self.cgn,
            "networks": network.digests,
            "swap": self.swap,
            "latents": self.latents,
            "truncation": self.truncation,
        }
