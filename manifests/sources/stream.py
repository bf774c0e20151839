"""What every kind of stream has: its entry in the recipe, and the plan of its samples."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import FormatError, RecipeError, shorten
from ..randomness import Permutation

if TYPE_CHECKING:
    from ..directions import Directions
    from ..inputs import Listing

Role = Literal["natural", "generated", "transferred", "counterfactual"]
InputKind = Literal["class folders", "images", "digits", "weights", "cgn", "directions"]
# Of these the dataset keeps a list; of those, digests.
LISTED_KINDS: tuple[InputKind, ...] = ("class folders", "images", "digits")
NETWORK_KINDS: tuple[InputKind, ...] = ("weights", "cgn")
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=64)]


class Table(BaseModel):
    """A table of the recipe: unknown keys and values of another type are refused, and it never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def from_json(cls, content: bytes, location: str) -> Self:
        """Read a file's content. Raises FormatError that begins with its location."""
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            message = f"{where}: {first['msg']}" if where else first["msg"]
            raise FormatError(f"{location}: damaged: {shorten(message, 400)}") from error


@dataclass(frozen=True)
class GeneratorFacts:
    """What planning needs to know about a generator; `class_names` are wnids for the published ones."""

    name: str
    z_dim: int
    resolution: int
    class_names: tuple[str, ...]


class CgnFacts(Table):
    """What planning needs to know about a counterfactual generative network.

    windows: corners of the shuffler's windows are below it in both directions; 0 where it has no shuffler. digests:
    sha256 of the files that decide pixels.
    """

    form: Literal["biggan", "mnist"]
    z_dim: int
    resolution: int
    windows: int
    class_names: list[str]
    digests: dict[str, str]


@dataclass(frozen=True)
class Facts:
    """What samples depend on besides their stream's recipe entry."""

    seed: int
    generator: GeneratorFacts | None = None
    directions: "Directions | None" = None
    inputs: Mapping[str, "Listing"] = field(default_factory=dict)
    streams: Mapping[str, "Stream"] = field(default_factory=dict)  # all of the recipe's, by name
    cgns: Mapping[str, CgnFacts] = field(default_factory=dict)

    def plan(self, stream: str) -> "StreamPlan":
        """The plan of another stream of the recipe."""
        return StreamPlan(self.streams[stream], self)


@dataclass(frozen=True)
class Sample:
    """One sample to make. `parameters` is everything needed to make it again: JSON values, exact on any machine."""

    key: str
    class_label: int
    parameters: dict[str, Any]

    @property
    def index(self) -> int:
        """Position in the stream's own numbering."""
        return int(self.parameters["sample_index"])


class Stream(Table):
    """An entry of `[[streams]]`: keys common to every source. One source is one subclass in one module."""

    if TYPE_CHECKING:  # of the class, or a key

        @property
        def role(self) -> Role: ...

    uses_generator: ClassVar[bool] = False
    uses_directions: ClassVar[bool] = False
    has_masks: ClassVar[bool] = False  # its samples have the object's mask as `mask.png`
    # Of its pictures, at IPTC: how far a trained network made them. "": not at all.
    digital_source_type: ClassVar[str] = ""
    grows_by: ClassVar[str] = ""  # key that may be raised while the samples that were there keep their keys
    shipped_pictures: ClassVar[str] = ""  # origin of the package's own pictures that it shows

    source: str = Field(description="How its images are made: one of the sources below.")
    name: Name = Field(description="Folder and key prefix of the stream.")
    split: Literal["train", "validation", "test"] = Field("train", description="What the stream is for.")
    samples_per_shard: int = Field(1000, gt=0, description="Chosen so that a shard takes minutes, not hours.")
    image_format: Literal["jpeg", "png", "webp"] = Field("jpeg", description="png and webp are lossless.")
    jpeg_quality: int = Field(95, ge=1, le=100, description="4:4:4 chroma; jpeg only.")
    max_failures: float = Field(0.0, ge=0, le=1, description="Largest share of lost samples that is no error.")
    grown_from: Annotated[list[int], Field(min_length=1)] | None = Field(
        None,
        description="What `extend` raised: the number of samples, or of latents of a class, before. Samples that were "
        "there keep their keys and shards; new ones follow.",
    )

    @model_validator(mode="after")
    def _has_grown(self) -> Self:
        if self.grown_from is None:
            return self
        if not self.grows_by:
            raise ValueError(f"grown_from: a stream of source {self.source!r} cannot grow")
        stages = [*self.grown_from, getattr(self, self.grows_by) or 0]
        if min(stages) < 1 or any(later <= earlier for earlier, later in pairwise(stages)):
            raise ValueError(f"grown_from = {self.grown_from}, {self.grows_by} = {stages[-1]}: these must rise")
        return self

    @property
    def stages(self) -> list[int]:
        """What the stream has grown by, in turn."""
        return [*(self.grown_from or []), getattr(self, self.grows_by)]

    def inputs(self) -> Mapping[str, InputKind]:
        """The outside inputs it reads; each is bound by `--input NAME=PATH`."""
        return {}

    def reads(self) -> Mapping[str, InputKind]:
        """What it reads from an earlier stream of that name, or where the recipe has none, from an outside input."""
        return {}

    def check(self, facts: Facts) -> None:
        """Raise RecipeError where the entry does not fit the generator, directions or inputs at hand."""

    def class_names(self, facts: Facts) -> Sequence[str]:
        """Name of each class label; the wnid where there is one."""
        raise NotImplementedError

    def count(self, facts: Facts) -> int:
        """Number of samples."""
        raise NotImplementedError

    def samples(self, facts: Facts, indices: NDArray[np.int64]) -> list[Sample]:
        """Samples at `indices` [N], each a pure function of the recipe and its index."""
        raise NotImplementedError

    def class_ranges(self, facts: Facts) -> Sequence[range]:
        """Sample indices of each class, for streams that others draw from class by class."""
        raise NotImplementedError

    def rehearsal(self, on_cpu: bool) -> "Rehearsal":
        """How to time it on a CPU, or on a device that computes a whole batch as soon as one sample."""
        return Rehearsal(self)

    def key(self, index: int) -> str:
        return f"{self.name}-{index:08d}"

    @property
    def extension(self) -> str:
        return {"jpeg": "jpg", "png": "png", "webp": "webp"}[self.image_format]


@dataclass(frozen=True)
class Rehearsal:
    """How a stream's cost is found quickly.

    stream: takes a `1 / factor` of the time a sample. samples: timed together. side: in pixels, of results whose bytes
    the rehearsal does not tell, because it is made of stand-ins.
    """

    stream: Stream
    factor: float = 1.0
    samples: int = 32
    side: int | None = None


def locate_in_classes(
    indices: NDArray[np.int64], num_classes: int, stages: Sequence[int], per_member: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Place of the class, member of the class and rank within the member [N] of sample indices [N].

    Samples are numbered class by class, `per_member` of each member; a stage has the members that it added.
    """
    firsts, ends = np.array([0, *stages[:-1]], np.int64), np.array(stages, np.int64)
    samples = num_classes * per_member
    stage = np.searchsorted(samples * ends, indices, side="right")
    members, ranks = np.divmod(indices - samples * firsts[stage], per_member)
    places, added = np.divmod(members, (ends - firsts)[stage])
    return places, firsts[stage] + added, ranks


# Products of sample numbers stay within 64 bits, and estimates within what floating point holds exactly.
MOST_SAMPLES = 2**53


@dataclass(frozen=True)
class _Stage:
    """Samples that joined together: where they begin among samples and shards, and their order."""

    first: int
    first_shard: int
    order: Permutation


@dataclass(frozen=True)
class StreamPlan:
    """Which samples are in which shard: a fixed slice of a seeded permutation, whoever builds it and when.

    A stream that has grown has a permutation and shards for each stage, those of earlier ones as they were.
    """

    stream: Stream
    facts: Facts

    @cached_property
    def count(self) -> int:
        """Raises RecipeError where it is beyond what 64 bits can number."""
        count = self.stream.count(self.facts)
        if count > MOST_SAMPLES:
            raise RecipeError(
                f"stream {self.stream.name}: {count:,} samples, more than {MOST_SAMPLES:,}: ask for fewer"
            )
        return count

    @cached_property
    def num_shards(self) -> int:
        last = self._stages[-1]
        return last.first_shard + self._shards_of(self.count - last.first)

    @cached_property
    def _stages(self) -> list[_Stage]:
        stages: list[_Stage] = []
        first = shard = 0
        for size in [*(self.stream.grown_from or []), None]:
            stream = self.stream if size is None else self.stream.model_copy(update={self.stream.grows_by: size})
            count = stream.count(self.facts) - first
            label = f"shard order of {self.stream.name}{f', from {first} on' if first else ''}"
            stages.append(_Stage(first, shard, Permutation(count, self.facts.seed, label)))
            first, shard = first + count, shard + self._shards_of(count)
        return stages

    @cached_property
    def _first_shards(self) -> list[int]:
        return [stage.first_shard for stage in self._stages]

    def _shards_of(self, count: int) -> int:
        return -(-count // self.stream.samples_per_shard)

    def _stage_of(self, shard_index: int) -> _Stage:
        return self._stages[bisect_right(self._first_shards, shard_index) - 1]

    def indices(self, shard_index: int) -> NDArray[np.int64]:
        """Sample indices of a shard, in the order they stand in it."""
        stage = self._stage_of(shard_index)
        start = (shard_index - stage.first_shard) * self.stream.samples_per_shard
        return stage.first + stage.order(np.arange(start, start + self.shard_size(shard_index)))

    def shard_size(self, shard_index: int) -> int:
        """Number of samples planned for a shard; the last one of a stage may be short."""
        stage, size = self._stage_of(shard_index), self.stream.samples_per_shard
        return min(size, stage.order.size - (shard_index - stage.first_shard) * size)

    def samples(self, shard_index: int) -> list[Sample]:
        return self.stream.samples(self.facts, self.indices(shard_index))

    def locate(self, sample_index: int) -> tuple[int, int]:
        """The shard in which a sample stands, and its planned place there, which holes before it do not change."""
        stage = self._stages[bisect_right([stage.first for stage in self._stages], sample_index) - 1]
        place = int(stage.order.inverse(np.array([sample_index - stage.first]))[0])
        shard, place = divmod(place, self.stream.samples_per_shard)
        return stage.first_shard + shard, place
