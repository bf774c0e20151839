"""Streams of natural images in the style of other ones (paper, section 4.3), and the Stylized-ImageNet baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ..errors import RecipeError
from ..randomness import Permutation, integers_below, random_rows
from .references import class_members, labelled_stream, refer
from .stream import Facts, InputKind, Name, Rehearsal, Role, Sample, Stream

ADAIN_INPUTS = ("vgg-normalised", "decoder")

# Evaluations of one call of L-BFGS in the released loop, which counts them between calls.
RELEASED_OUTER_STEP = 10

# Less has nothing left after the networks' poolings, and reflection padding needs two pixels of what is left.
SMALLEST = 16

Evaluations = Annotated[int, Field(ge=1, le=100)]


class TransferredStream(Stream):
    """What both kinds share: each content image once, in the style of a uniformly drawn image of a drawn class.

    A sample's label is its content's. Where content or style cannot be read, the sample is a hole that is counted
    under the reason, with the path or key of what could not be read; its place in the batch goes to the next one.
    """

    role: ClassVar[Role] = "transferred"
    grows_by: ClassVar[str] = "num_samples"
    digital_source_type: ClassVar[str] = "compositeWithTrainedAlgorithmicMedia"

    content: Name = Field(
        description="An earlier natural stream, or an input: a folder with one folder per class, or WebDataset tars."
    )
    labels: Literal["folders", "imagenet"] = Field(
        "folders", description="How an input's labels are found, as in natural streams."
    )
    style: Name = Field(
        description="An earlier stream, or an input: a folder of images, or of class folders of them, or of WebDataset "
        "tars, such as a stream of another dataset (--input NAME=DATASET/STREAM)."
    )
    num_samples: int | None = Field(None, gt=0, description="Content images to use, drawn at random; all by default.")
    resize: int = Field(300, ge=SMALLEST, description="Shorter side of content and style in pixels, before the crop.")
    crop: int = Field(256, ge=SMALLEST, description="Side of the centre crop in pixels: the size of the result.")
    batch_size: int = Field(8, gt=0, description="Images computed together: part of the floating point.")
    max_failures: float = Field(0.001, ge=0, le=1, description="Largest share of lost samples that is no error.")

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.crop > self.resize:
            raise ValueError(f"crop = {self.crop}: larger than resize = {self.resize}")
        return self

    @property
    def working_side(self) -> int:
        """Side in pixels of the images that are computed; results are brought to `crop`."""
        return self.crop

    @property
    def network_inputs(self) -> Sequence[str]:
        """Names of the files of network weights."""
        raise NotImplementedError

    def inputs(self) -> Mapping[str, InputKind]:
        return dict.fromkeys(self.network_inputs, "weights")

    def reads(self) -> Mapping[str, InputKind]:
        return {self.style: "images", self.content: "class folders"}

    def rehearsal(self, on_cpu: bool) -> Rehearsal:
        size = min(self.batch_size, 2) if on_cpu else self.batch_size
        return Rehearsal(self.model_copy(update={"batch_size": size}), samples=2 * size, side=self.crop)

    def check(self, facts: Facts) -> None:
        if self.content in facts.streams and facts.streams[self.content].role != "natural":
            raise RecipeError(
                f"streams.{self.name}.content = {self.content!r}: a {facts.streams[self.content].role} stream; "
                "expected a natural one"
            )
        if self.style in facts.streams and facts.streams[self.style].role == "transferred":
            raise RecipeError(f"streams.{self.name}.style = {self.style!r}: a transferred stream is no style")
        if self.content == self.style:
            raise RecipeError(f"streams.{self.name}: content and style are both {self.content!r}")
        self._content(facts).check(facts)
        available = self._content(facts).count(facts)
        if (self.num_samples or 0) > available:
            raise RecipeError(
                f"streams.{self.name}.num_samples = {self.num_samples}: content {self.content!r} has {available} images"
            )

    def class_names(self, facts: Facts) -> Sequence[str]:
        return self._content(facts).class_names(facts)

    def count(self, facts: Facts) -> int:
        return self.num_samples or self._content(facts).count(facts)

    def samples(self, facts: Facts, indices: NDArray[np.int64]) -> list[Sample]:
        content = self._content(facts)
        chosen = indices
        if self.num_samples is not None:
            chosen = Permutation(content.count(facts), facts.seed, f"content of {self.name}")(indices)
        words = random_rows(facts.seed, self.name, indices, count=3)
        styles = class_members(facts, self.style)
        drawn = integers_below(len(styles), words[:, 0])
        places = integers_below(np.array([len(members) for members in styles])[drawn], words[:, 1])
        columns = {key: column.tolist() for key, column in self._draws(words[:, 2]).items()}
        shared = {"source": self.source, "stream": self.name, "seed": facts.seed, **self._shared()}
        return [
            Sample(
                self.key(index),
                sample.class_label,
                {
                    **shared,
                    "sample_index": index,
                    "class_label": sample.class_label,
                    "class_name": sample.parameters["class_name"],
                    "content": refer(facts, self.content, sample.index),
                    "style": refer(facts, self.style, styles[style][place]),
                    **{key: column[row] for key, column in columns.items()},
                },
            )
            for row, (index, sample, style, place) in enumerate(
                zip(indices.tolist(), content.samples(facts, chosen), drawn.tolist(), places.tolist(), strict=True)
            )
        ]

    def _shared(self) -> dict[str, Any]:
        """Parameters that are the same for every sample."""
        return {}

    def _draws(self, words: NDArray[np.uint64]) -> dict[str, NDArray[np.int64]]:
        """What else is drawn for samples, an array [N] each, of one word [N] a sample."""
        return {}

    def _content(self, facts: Facts) -> Stream:
        """The stream of the content: the recipe's, or the one that its input would make."""
        return labelled_stream(facts, self.content, self.labels, self.name)


class TransferStream(TransferredStream):
    """Interventions transferred to natural images."""

    source: Literal["transfer"]
    method: Literal["gatys", "adain"] = Field(
        "gatys",
        description="gatys: optimisation of each image (Gatys et al. 2016), as the paper; adain: one forward pass "
        "(Huang & Belongie 2017), fast.",
    )
    encoder: Name = Field(
        "vgg19",
        description="gatys: name of the input with the network's weights, a file with the names of torchvision's "
        "vgg19; torchvision's own are downloaded where --input vgg19=FILE is not given.",
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="gatys: precision of the network's features.")
    evaluations: Annotated[list[Evaluations], Field(min_length=2, max_length=2)] = Field(
        [20, 70], description="gatys: least and most evaluations of an image, drawn uniformly for each."
    )
    content_weight: float = Field(
        0.1, ge=0, description="gatys: weight of the content loss; the released one by default."
    )
    style_weight: float = Field(
        1e6, ge=0, description="gatys: weight of the style loss; the released one, for the large activations of vgg19."
    )
    alpha: float = Field(1.0, ge=0, le=1, description="adain: strength of the style.")
    # None in these three, not a name for the default: recipes that do not use them keep their digests.
    geometry: Literal["released"] | None = Field(
        None,
        description="gatys: as the released code on a GPU: `resize` bounds the longer side of content and style, and "
        "nothing is magnified before the crop, which has black bars where a side is shorter; both are doubled for the "
        "optimisation, and the result is halved. Four times the work.",
    )
    schedule: Literal["released"] | None = Field(
        None,
        description="gatys: as the released loop, which counts in outer steps of ten. A drawn number is rounded up to "
        "a multiple of ten, and every evaluation is followed by a move; one evaluation more gives the final losses.",
    )
    keep: Literal["best"] | None = Field(
        None,
        description="gatys: of an image's evaluations, keep the one of the smallest loss. By default the last: without "
        "a line search a few in a hundred end with a larger loss than they began with, as in the released code.",
    )

    @model_validator(mode="after")
    def _evaluations_are_a_range(self) -> Self:
        if self.evaluations[0] > self.evaluations[1]:
            raise ValueError(f"evaluations = {self.evaluations}: the least is more than the most")
        return self

    @model_validator(mode="after")
    def _keys_fit_the_method(self) -> Self:
        for key in ("geometry", "schedule", "keep"):
            if self.method != "gatys" and getattr(self, key) is not None:
                raise ValueError(f'{key} = "{getattr(self, key)}" is for method = "gatys" only')
        return self

    @property
    def working_side(self) -> int:
        return 2 * self.crop if self.geometry == "released" else self.crop

    @property
    def network_inputs(self) -> Sequence[str]:
        return (self.encoder,) if self.method == "gatys" else ADAIN_INPUTS

    @property
    def mean_evaluations(self) -> float:
        least, most = self.evaluations
        return float(self._scheduled(np.arange(least, most + 1)).mean())

    def rehearsal(self, on_cpu: bool) -> Rehearsal:
        rehearsal = super().rehearsal(on_cpu)
        if self.method == "adain":
            return rehearsal
        few = 3
        shorter = rehearsal.stream.model_copy(update={"evaluations": [few, few], "schedule": None})
        return replace(rehearsal, stream=shorter, factor=self.mean_evaluations / few)

    def _shared(self) -> dict[str, Any]:
        if self.method == "adain":
            return {"method": "adain", "alpha": self.alpha}
        keys = {key: getattr(self, key) for key in ("geometry", "schedule", "keep")}
        return {"method": "gatys", **{key: value for key, value in keys.items() if value is not None}}

    def _draws(self, words: NDArray[np.uint64]) -> dict[str, NDArray[np.int64]]:
        if self.method == "adain":
            return {}
        least, most = self.evaluations
        return {"evaluations": self._scheduled(least + integers_below(most - least + 1, words))}

    def _scheduled(self, evaluations: NDArray[np.int64]) -> NDArray[np.int64]:
        """Evaluations that are computed where so many [N] were drawn."""
        if self.schedule is None:
            return evaluations
        return -(-evaluations // RELEASED_OUTER_STEP) * RELEASED_OUTER_STEP + 1


class StylizedStream(TransferredStream):
    """Natural images in the style of paintings: Stylized-ImageNet (Geirhos et al. 2019), by AdaIN."""

    source: Literal["stylized"]
    alpha: float = Field(1.0, ge=0, le=1, description="Strength of the style.")

    @property
    def network_inputs(self) -> Sequence[str]:
        return ADAIN_INPUTS

    def _shared(self) -> dict[str, Any]:
        return {"method": "adain", "alpha": self.alpha}
