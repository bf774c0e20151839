"""Streams of the three MNIST worlds of counterfactual generative networks (Sauer & Geiger 2021), with true factors.

In each, something that is not the digit tells its class in training, and nothing in the test: the digit's colour, the
colours of digit and background, or the textures of both.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..digits import NUM_CLASSES, Digit
from ..errors import RecipeError
from ..inputs import Listing
from ..randomness import integers_below, normal, random_rows
from .stream import Facts, InputKind, Name, Role, Sample, Stream

# Of colored MNIST, as read out of the official network: its data cannot be had, nor what made it.
MEAN_COLORS = np.array(
    [
        (200, 30, 82), (24, 117, 121), (227, 214, 39), (14, 91, 194), (229, 130, 53),
        (145, 52, 173), (65, 224, 186), (244, 207, 206), (209, 225, 62), (162, 34, 27),
    ]
) / 255.0  # fmt: skip
COLOR_VARIANCE = 0.02
# Of double-colored MNIST: darkgreen, darkblue, #b03060, orangered, yellow, burlywood, lime, aqua, fuchsia, #6495ed.
PALETTE = np.array(
    [
        (0, 100, 0), (0, 0, 139), (176, 48, 96), (255, 69, 0), (255, 255, 0),
        (222, 184, 135), (0, 255, 0), (0, 255, 255), (255, 0, 255), (100, 149, 237),
    ]
) / 255.0  # fmt: skip
OBJECT_SHIFT = 6
PALETTE_SD = 0.01
# Of wildlife MNIST: textures of 150 px, padded by reflection, in which every sample has a window of its own.
TEXTURE_SIDE = 150
TEXTURE_PADDING = 3
IMAGE_SIZE = 32
TEXTURE_FOLDERS = ("object", "background")
# The published split of MNIST's 60,000 of double-colored and wildlife.
NUM_TRAIN = 50_000


class MnistStream(Stream):
    """What the three worlds share: which digits, and whether their factors tell the class."""

    role: ClassVar[Role] = "natural"
    has_masks: ClassVar[bool] = True

    mnist: Name = Field("mnist", description="Name of the input: a folder with MNIST's four idx files, gzipped or not.")
    digits: Literal["train", "test"] = Field(description="Slice of MNIST, as published for this world.")
    factors: Literal["class", "random"] = Field(
        "class", description="class: of the digit's class, as in training; random: drawn independently of it."
    )
    digits_per_class: int | None = Field(None, gt=0, description="Leading digits of each class; all by default.")

    def inputs(self) -> Mapping[str, InputKind]:
        return {self.mnist: "digits"}

    @staticmethod
    def slice_of(digit: Digit) -> str | None:
        """The slice that a digit is in; None where this world leaves it out."""
        if digit.part != "train":
            return None
        return "train" if digit.number < NUM_TRAIN else "test"

    def factor_draws(self, classes: NDArray[np.int64], words: NDArray[np.uint64]) -> dict[str, NDArray[Any]]:
        """True factors of samples, each [N, ...], of the classes [N, 2] that object and background look like."""
        raise NotImplementedError

    def visible(self, classes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether object and background differ, [N]."""
        return np.ones(len(classes), bool)

    def check(self, facts: Facts) -> None:
        fewest = min((len(members) for members in self.class_ranges(facts)), default=0)
        if (self.digits_per_class or 0) > fewest:
            raise RecipeError(
                f"streams.{self.name}.digits_per_class = {self.digits_per_class}: a class of input {self.mnist!r} has "
                f"{fewest} digits in slice {self.digits!r}"
            )
        if fewest == 0:
            raise RecipeError(f"streams.{self.name}: input {self.mnist!r} lacks a class in slice {self.digits!r}")

    def class_names(self, facts: Facts) -> Sequence[str]:
        return [str(label) for label in range(NUM_CLASSES)]

    def count(self, facts: Facts) -> int:
        return self.class_ranges(facts)[-1].stop

    def class_ranges(self, facts: Facts) -> Sequence[range]:
        stops = np.cumsum([len(members) for members in self._members(facts)]).tolist()
        return [range(start, stop) for start, stop in zip([0, *stops[:-1]], stops, strict=True)]

    def _members(self, facts: Facts) -> list[list[str]]:
        """Paths of the stream's digits, class by class."""
        members = _slice(facts.inputs[self.mnist], type(self), self.digits)
        return [paths[: self.digits_per_class] for paths in members]

    def samples(self, facts: Facts, indices: NDArray[np.int64]) -> list[Sample]:
        paths = [path for members in self._members(facts) for path in members]
        chosen = [paths[index] for index in indices]
        digits = [Digit.of(path) for path in chosen]
        labels = np.array([digit.class_label for digit in digits], np.int64)
        words = random_rows(facts.seed, self.name, np.array([digit.number for digit in digits], np.int64), count=8)
        classes = np.stack([labels, labels], 1)
        if self.factors == "random":
            classes = integers_below(NUM_CLASSES, words[:, :2])
        # Nine decimals, so that the text does not depend on a platform's last bits of log and sqrt.
        draws = {name: values.round(9).tolist() for name, values in self.factor_draws(classes, words[:, 2:]).items()}
        return [
            Sample(
                self.key(int(index)),
                digit.class_label,
                {
                    "source": self.source,
                    "stream": self.name,
                    "seed": facts.seed,
                    "input": self.mnist,
                    "path": path,
                    "sample_index": int(index),
                    "class_label": digit.class_label,
                    "class_name": str(digit.class_label),
                    "factors": {
                        "object_class": looks[0],
                        "background_class": looks[1],
                        **{name: values[row] for name, values in draws.items()},
                    },
                    "visible": visible,
                },
            )
            for row, (index, path, digit, looks, visible) in enumerate(
                zip(indices, chosen, digits, classes.tolist(), self.visible(classes).tolist(), strict=True)
            )
        ]


class ColoredMnistStream(MnistStream):
    """Digits in one colour, around the mean of a class, on black. Slices: MNIST's own 60,000 and 10,000."""

    source: Literal["colored-mnist"]

    @staticmethod
    def slice_of(digit: Digit) -> str | None:
        return "train" if digit.part == "train" else "test"

    def factor_draws(self, classes: NDArray[np.int64], words: NDArray[np.uint64]) -> dict[str, NDArray[Any]]:
        noise = np.sqrt(COLOR_VARIANCE) * normal(words[:, :3])
        return {"object_rgb": np.clip(MEAN_COLORS[classes[:, 0]] + noise, 0.0, 1.0)}


class DoubleColoredMnistStream(MnistStream):
    """Digits in one colour on another, ten of each; the palettes are the same, so that some random pairs are equal."""

    source: Literal["double-colored-mnist"]

    def factor_draws(self, classes: NDArray[np.int64], words: NDArray[np.uint64]) -> dict[str, NDArray[Any]]:
        noise = PALETTE_SD * normal(words[:, :6])
        colors = _palette_places(classes)
        return {
            "object_rgb": np.clip(PALETTE[colors[:, 0]] + noise[:, :3], 0.0, 1.0),
            "background_rgb": np.clip(PALETTE[colors[:, 1]] + noise[:, 3:], 0.0, 1.0),
        }

    def visible(self, classes: NDArray[np.int64]) -> NDArray[np.bool_]:
        colors = _palette_places(classes)
        differ: NDArray[np.bool_] = colors[:, 0] != colors[:, 1]
        return differ


class WildlifeMnistStream(MnistStream):
    """Digits of one texture on another, ten of each."""

    source: Literal["wildlife-mnist"]
    textures: Name = Field(
        "textures",
        description="Name of the input: a folder with the folders object and background, ten textures in each, whose "
        "file names begin with the class label (0_striped.jpg).",
    )

    def inputs(self) -> Mapping[str, InputKind]:
        return {**super().inputs(), self.textures: "images"}

    def check(self, facts: Facts) -> None:
        super().check(facts)
        for folder in TEXTURE_FOLDERS:
            self.texture_paths(facts, folder)

    def texture_paths(self, facts: Facts, folder: str) -> list[str]:
        """The texture of each class. Raises RecipeError where a class has none, or several."""
        paths = [path for path in facts.inputs[self.textures].paths if path.startswith(f"{folder}/")]
        found = []
        for label in range(NUM_CLASSES):
            own = [path for path in paths if path.partition("/")[2].partition("_")[0] == str(label)]
            if len(own) != 1:
                raise RecipeError(
                    f"streams.{self.name}: input {self.textures!r} has {len(own)} files {folder}/{label}_*, expected "
                    f"one texture of class {label}"
                )
            found += own
        return found

    def factor_draws(self, classes: NDArray[np.int64], words: NDArray[np.uint64]) -> dict[str, NDArray[Any]]:
        places = integers_below(TEXTURE_SIDE + 2 * TEXTURE_PADDING - IMAGE_SIZE + 1, words[:, :4])
        return {"object_window": places[:, :2], "background_window": places[:, 2:]}


def _palette_places(classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which colours object and background of these classes [N, 2] have: the object's are shifted."""
    places: NDArray[np.int64] = (classes - np.array([OBJECT_SHIFT, 0])) % len(PALETTE)
    return places


@lru_cache(maxsize=8)
def _slice(listing: Listing, world: type[MnistStream], digits: str) -> list[list[str]]:
    """Paths of a world's slice, class by class."""
    return [
        [path for path in listing.paths[members.start : members.stop] if world.slice_of(Digit.of(path)) == digits]
        for members in listing.class_ranges()
    ]
