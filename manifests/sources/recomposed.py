"""Objects cut out of pictures, on backgrounds of others: counterfactuals that need no generator."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ..errors import RecipeError
from ..randomness import Permutation, integers_below, normal, random_rows, truncated_normal
from .counterfactual import Share
from .generated import PACKAGE_BOUND
from .references import class_members, labelled_stream, refer
from .stream import Facts, InputKind, Name, Rehearsal, Role, Sample, Stream

# Finds objects without a network, from each picture's own colours.
GRABCUT = "grabcut"

# Third counter word: what draws are for.
DRAWS, LATENT = 0, 1


class RecomposedStream(Stream):
    """Each object once, on a uniformly drawn background of a uniformly drawn class; the label is the object's."""

    role: ClassVar[Role] = "counterfactual"
    grows_by: ClassVar[str] = "num_samples"
    digital_source_type: ClassVar[str] = "compositeWithTrainedAlgorithmicMedia"
    has_masks: ClassVar[bool] = True

    source: Literal["recomposed"]
    objects: Name = Field(
        description="An earlier stream, or an input: a folder with one folder per class, or WebDataset tars."
    )
    labels: Literal["folders", "imagenet"] = Field(
        "folders", description="How an input's labels are found, as in natural streams."
    )
    background: Name | None = Field(
        None,
        description="An earlier stream, or an input: a folder of pictures, or of class folders of them, or tars.",
    )
    cgn: Name | None = Field(None, description="In place of `background`: the CGN whose background mechanism draws it.")
    truncation: float = Field(1.0, gt=0, le=1, description="t of the CGN's latents; of the BigGAN form alone.")
    saliency: Name | None = Field(
        None,
        description='What finds objects: the name of a network, "mini-saliency" (shipped), "u2net" or another input, '
        'or "grabcut", which is trained on nothing (Rother et al. 2004). By default pictures bring their own mask.png.',
    )
    normalise: bool = Field(True, description="Whether u2net gets ImageNet-normalised pictures.")
    threshold: float = Field(0.5, gt=0, lt=1, description="Saliency above which a pixel is object.")
    inpaint: bool | None = Field(
        None,
        description="Remove the object of a background by inpainting (Telea 2004); by default of an earlier stream's "
        "pictures, and not of an input's.",
    )
    grow: int = Field(2, ge=0, le=64, description="Pixels around an object that are inpainted with it.")
    feather: float = Field(0.5, ge=0, le=16, description="Standard deviation of the blur of an object's edge, pixels.")
    mask_range: Annotated[list[Share], Field(min_length=2, max_length=2)] = Field(
        [0.01, 0.95], description="Least and largest share of the picture that is object; others are holes."
    )
    num_samples: int | None = Field(None, gt=0, description="Objects to use, drawn at random; all by default.")
    resize: int | None = Field(None, gt=0, description="Shorter side of both pictures in pixels, before the crop.")
    crop: int | None = Field(None, gt=0, description="Side of the centre crop in pixels.")
    batch_size: int = Field(16, gt=0, description="Pictures that networks compute together.")

    @model_validator(mode="after")
    def _keys_fit(self) -> Self:
        if (self.background is None) == (self.cgn is None):
            raise ValueError("expected one of background and cgn")
        if self.mask_range[0] > self.mask_range[1]:
            raise ValueError(f"mask_range = {self.mask_range}: the least is more than the largest")
        if self.saliency_network is not None and self.crop is None:
            raise ValueError("saliency needs pictures of one size: give crop")
        return self

    @property
    def saliency_network(self) -> Name | None:
        """The network that finds objects, where one does."""
        return None if self.saliency == GRABCUT else self.saliency

    def inputs(self) -> Mapping[str, InputKind]:
        saliency: dict[str, InputKind] = {self.saliency_network: "weights"} if self.saliency_network else {}
        return saliency | ({self.cgn: "cgn"} if self.cgn else {})

    def reads(self) -> Mapping[str, InputKind]:
        background: dict[str, InputKind] = {self.background: "images"} if self.background else {}
        # Objects last: an input may be both, and then needs its classes.
        return {**background, self.objects: "class folders"}

    def inpaints(self, facts: Facts) -> bool:
        """Whether objects of backgrounds are removed."""
        if self.background is None:
            return False
        return self.background in facts.streams if self.inpaint is None else self.inpaint

    def check(self, facts: Facts) -> None:
        cut = [("objects", self.objects)]
        if self.background is not None and self.inpaints(facts):
            cut.append(("background", self.background))
        for key, name in cut:
            if self.saliency is None and not (name in facts.streams and facts.streams[name].has_masks):
                what = "an input's pictures have" if name not in facts.streams else "the stream has"
                raise RecipeError(
                    f"streams.{self.name}.{key} = {name!r}: {what} no masks; name what finds objects with "
                    'saliency = "u2net", or "grabcut", which needs no weights'
                )
        if self.cgn is not None and facts.cgns[self.cgn].form == "mnist" and self.truncation != 1.0:
            raise RecipeError(
                f"streams.{self.name}.truncation: of the BigGAN form, and {self.cgn} is of the MNIST form"
            )
        objects = self._objects(facts)
        objects.check(facts)
        available = objects.count(facts)
        if (self.num_samples or 0) > available:
            raise RecipeError(
                f"streams.{self.name}.num_samples = {self.num_samples}: objects {self.objects!r} has {available} images"
            )

    def class_names(self, facts: Facts) -> Sequence[str]:
        return self._objects(facts).class_names(facts)

    def class_ranges(self, facts: Facts) -> Sequence[range]:
        if self.num_samples is not None:
            return [range(self.num_samples)]
        return self._objects(facts).class_ranges(facts)

    def count(self, facts: Facts) -> int:
        return self.num_samples or self._objects(facts).count(facts)

    def rehearsal(self, on_cpu: bool) -> Rehearsal:
        few = 2 if on_cpu and self.saliency == "u2net" else 16
        return Rehearsal(self, samples=few, side=self.crop)

    def background_latents(self, facts: Facts, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Latents [N, z_dim] of the CGN's backgrounds of samples."""
        assert self.cgn is not None
        network = facts.cgns[self.cgn]
        words = random_rows(facts.seed, self.name, indices, 0, LATENT, count=network.z_dim)
        if network.form == "mnist":
            return normal(words)
        return self.truncation * truncated_normal(words, PACKAGE_BOUND)

    def samples(self, facts: Facts, indices: NDArray[np.int64]) -> list[Sample]:
        objects = self._objects(facts)
        chosen = indices
        if self.num_samples is not None:
            chosen = Permutation(objects.count(facts), facts.seed, f"objects of {self.name}")(indices)
        backgrounds = self._backgrounds(facts, indices)
        return [
            Sample(
                self.key(index),
                sample.class_label,
                {
                    "source": self.source,
                    "stream": self.name,
                    "seed": facts.seed,
                    "sample_index": index,
                    "class_label": sample.class_label,
                    "class_name": sample.parameters["class_name"],
                    "object": refer(facts, self.objects, sample.index),
                    "background": background,
                },
            )
            for index, sample, background in zip(
                indices.tolist(), objects.samples(facts, chosen), backgrounds, strict=True
            )
        ]

    def _backgrounds(self, facts: Facts, indices: NDArray[np.int64]) -> list[dict[str, Any]]:
        """What each sample's background is."""
        words = random_rows(facts.seed, self.name, indices, 0, DRAWS, count=4)
        if self.cgn is not None:
            network = facts.cgns[self.cgn]
            labels = integers_below(len(network.class_names), words[:, 0]).tolist()
            windows = integers_below(max(network.windows, 1), words[:, 2:]).tolist()
            return [
                {"cgn": self.cgn, "networks": network.digests, "class_label": label, "truncation": self.truncation}
                | ({"window": window} if network.windows else {})
                for label, window in zip(labels, windows, strict=True)
            ]
        assert self.background is not None
        classes = class_members(facts, self.background)
        drawn = integers_below(len(classes), words[:, 0])
        places = integers_below(np.array([len(members) for members in classes])[drawn], words[:, 1])
        return [
            refer(facts, self.background, classes[label][place])
            for label, place in zip(drawn.tolist(), places.tolist(), strict=True)
        ]

    def _objects(self, facts: Facts) -> Stream:
        return labelled_stream(facts, self.objects, self.labels, self.name)
