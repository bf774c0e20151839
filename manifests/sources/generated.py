"""Streams rendered by the class-conditional generator: observational and interventional (paper, section 4.2)."""

from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, field_validator

from ..directions import intervene
from ..errors import RecipeError, UsageError
from ..randomness import draw_without_replacement, random_rows, truncated_normal, uniform
from ..step_ranges import RELEASED, RELEASED_51_SYMMETRIC, step_ranges
from .stream import Facts, Role, Sample, Stream, locate_in_classes

# Third counter word: what the draws of one latent are for.
LATENT, INTERVENTIONS = 0, 1
PACKAGE_BOUND = 2.0

Pair = Annotated[list[float], Field(min_length=2, max_length=2)]


class GeneratedStream(Stream):
    """What both kinds share: which latents, of which classes, under which truncation."""

    role: ClassVar[Role] = "generated"
    digital_source_type: ClassVar[str] = "trainedAlgorithmicMedia"
    uses_generator: ClassVar[bool] = True
    grows_by: ClassVar[str] = "latents_per_class"

    classes: list[int] | None = Field(
        None, description="Class labels; all of the generator's by default.", min_length=1
    )
    latents_per_class: int = Field(gt=0, description="Latents drawn for each class, independently between classes.")
    truncation: float = Field(1.0, gt=0, description="t: scale of the latents, and which batch-norm statistics.")
    statistics_truncation: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Batch-norm statistics of another t than the latents'. The released intervention generator scales "
        "the latents by t and keeps those of 1.0; the paper's t = 0.2 baseline uses those of t.",
    )
    sampler: Literal["scaled", "threshold"] = Field(
        "scaled",
        description="scaled: t * TruncNormal(-2, 2), as the package; threshold: |z| <= t by resampling, as BigGAN, "
        "with the batch-norm statistics of t = 1 (an assumption: none are published for it).",
    )

    def check(self, facts: Facts) -> None:
        if self.sampler == "scaled" and self.truncation > 1:
            raise RecipeError(
                f"streams.{self.name}.truncation = {self.truncation}: the batch-norm statistics end at 1.0; "
                'use sampler = "threshold" for larger values'
            )
        known = len(self.class_names(facts))
        labels = self.classes or []
        repeated = [label for label in labels if labels.count(label) > 1]
        if repeated:
            raise RecipeError(f"streams.{self.name}.classes: {repeated[0]} stands there twice")
        wrong = [label for label in labels if not 0 <= label < known]
        if wrong:
            raise RecipeError(f"streams.{self.name}.classes: {wrong[0]} is not a class label (0 to {known - 1})")

    def class_names(self, facts: Facts) -> Sequence[str]:
        assert facts.generator is not None
        return facts.generator.class_names

    @property
    def batch_norm_truncation(self) -> float:
        """The truncation whose batch-norm statistics the generator uses."""
        if self.statistics_truncation is not None:
            return self.statistics_truncation
        return self.truncation if self.sampler == "scaled" else 1.0

    def class_labels(self, facts: Facts) -> list[int]:
        return list(range(len(self.class_names(facts)))) if self.classes is None else self.classes

    def per_latent(self) -> int:
        """Images made of one latent."""
        return 1

    def count(self, facts: Facts) -> int:
        classes = len(self.class_names(facts)) if self.classes is None else len(self.classes)
        return classes * self.latents_per_class * self.per_latent()

    def class_ranges(self, facts: Facts) -> Sequence[range]:
        size = self.latents_per_class * self.per_latent()
        return [range(start, start + size) for start in range(0, self.count(facts), size)]

    def locate(
        self, facts: Facts, indices: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Class labels, latent indices and ranks within the latent [N] of sample indices [N]."""
        labels = np.array(self.class_labels(facts))
        places, latent_indices, ranks = locate_in_classes(indices, len(labels), self.stages, self.per_latent())
        return labels[places], latent_indices, ranks

    def draw_latents(self, facts: Facts, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Latents z [N, z_dim] of samples before any intervention, scaled by the truncation."""
        assert facts.generator is not None
        labels, latent_indices, _ = self.locate(facts, indices)
        words = random_rows(facts.seed, self.name, latent_indices, labels, LATENT, count=facts.generator.z_dim)
        if self.sampler == "threshold":
            return truncated_normal(words, self.truncation)
        return self.truncation * truncated_normal(words, PACKAGE_BOUND)

    def latents(self, facts: Facts, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Final latents [N, z_dim] of samples, as the generator gets them."""
        return self.draw_latents(facts, indices)

    def samples(self, facts: Facts, indices: NDArray[np.int64]) -> list[Sample]:
        assert facts.generator is not None
        names = facts.generator.class_names
        shared: dict[str, Any] = {
            "source": self.source,
            "stream": self.name,
            "seed": facts.seed,
            "generator": facts.generator.name,
            "truncation": self.truncation,
            "sampler": self.sampler,
        }
        if self.statistics_truncation is not None:
            shared["statistics_truncation"] = self.statistics_truncation
        columns = {key: column.tolist() for key, column in self._columns(facts, indices).items()}
        return [
            Sample(
                self.key(index), label, {**shared, "class_name": names[label], **dict(zip(columns, row, strict=True))}
            )
            for index, label, *row in zip(
                columns["sample_index"], columns["class_label"], *columns.values(), strict=True
            )
        ]

    def _columns(self, facts: Facts, indices: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Parameters in which samples differ, an array [N] each."""
        labels, latent_indices, _ = self.locate(facts, indices)
        return {"sample_index": indices, "class_label": labels, "latent_index": latent_indices}


class ObservationalStream(GeneratedStream):
    """Images as the generator makes them: the GAN-augmentation baseline (Ravuri & Vinyals 2019)."""

    source: Literal["observational"]


class InterventionalStream(GeneratedStream):
    """Images whose latent was set, along one principal direction, to a step drawn alike for every class."""

    uses_directions: ClassVar[bool] = True

    source: Literal["interventional"]
    interventions_per_latent: int = Field(
        5, gt=0, description="Different directions drawn for a latent; one image each."
    )
    num_directions: int = Field(60, gt=0, description="k: the leading directions to draw from.")
    step_scale: float = Field(1.0, gt=0, description="s: multiplies the step ranges; 1.0 = 100 %.")
    step_ranges: Literal["released", "released-51-symmetric"] | float | list[float] | list[Pair] = Field(
        "released",
        description="lo and hi of each direction: the released GenInt ranges, the same with direction 51 made "
        "symmetric, one number r for -r..r, or a list of numbers or [lo, hi] pairs.",
    )

    @field_validator("step_ranges", mode="wrap")
    @classmethod
    def _one_of_its_forms(cls, value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        try:
            return validate(value)
        except ValidationError as error:
            raise ValueError(
                f'expected "{RELEASED}", "{RELEASED_51_SYMMETRIC}", a number, or a list of numbers or [lo, hi] pairs'
            ) from error

    def check(self, facts: Facts) -> None:
        super().check(facts)
        assert facts.generator is not None
        if self.num_directions > facts.generator.z_dim:
            raise RecipeError(
                f"streams.{self.name}.num_directions = {self.num_directions}: more than the latent size "
                f"{facts.generator.z_dim} of {facts.generator.name}"
            )
        if self.interventions_per_latent > self.num_directions:
            raise RecipeError(
                f"streams.{self.name}.interventions_per_latent = {self.interventions_per_latent}: more than "
                f"num_directions = {self.num_directions}; a latent's directions are all different"
            )
        try:
            _ = self.ranges
        except UsageError as error:
            raise RecipeError(f"streams.{self.name}.step_ranges: {error}") from error

    @cached_property
    def ranges(self) -> NDArray[np.float64]:
        """Step ranges [k, 2], scaled, in standard deviations of the untruncated latent."""
        return step_ranges(self.step_ranges, self.num_directions, self.step_scale)

    def per_latent(self) -> int:
        return self.interventions_per_latent

    def interventions(self, facts: Facts, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Direction and step size [N] of samples; those of one latent are drawn together: no direction twice."""
        labels, latent_indices, ranks = self.locate(facts, indices)
        count = 2 * self.interventions_per_latent
        words = random_rows(facts.seed, self.name, latent_indices, labels, INTERVENTIONS, count=count)
        rows = np.arange(len(indices))
        # Direction and step alternate, so that a larger count only appends.
        directions = draw_without_replacement(self.num_directions, words[:, 0::2])[rows, ranks]
        low, high = self.ranges[directions].T
        return directions, low + (high - low) * uniform(words[rows, 2 * ranks + 1])

    def latents(self, facts: Facts, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        assert facts.directions is not None
        return intervene(self.draw_latents(facts, indices), facts.directions, *self.interventions(facts, indices))

    def _columns(self, facts: Facts, indices: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        directions, step_sizes = self.interventions(facts, indices)
        return {**super()._columns(facts, indices), "direction": directions, "step_size": step_sizes}
