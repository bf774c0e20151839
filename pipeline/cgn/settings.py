"""What the weights of a CGN depend on: presets in the package, files of one's own, and overrides."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from ...manifests.errors import UsageError, shorten
from ...manifests.recipe import suggest
from ...manifests.sources.stream import Table
from ...manifests.toml import parse_toml, parse_value

Weights = list[Annotated[float, Field(ge=0)]]
World = Literal["colored-mnist", "double-colored-mnist", "wildlife-mnist"]


class CollageSettings(Table):
    """How the texture's target is cut out of the picture."""

    side: int = Field(gt=0, description="Side in pixels to which picture and mask are resized first.")
    patch: int = Field(gt=0, description="Side of a patch.")
    candidates: int = Field(gt=0, description="Patches of the highest mean mask that are drawn from.")
    tiles: int = Field(gt=0, description="Patches along each side of the collage.")
    threshold: float | None = Field(None, gt=0, lt=1, description="Least mean mask of a patch; none: rank alone.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.patch > self.side:
            raise ValueError(f"patch = {self.patch} is larger than side = {self.side}")
        return self


class BigGanFit(Table):
    """A training of the ImageNet form: three copies of a generator become mechanisms."""

    form: Literal["biggan"]
    generator: str = Field(description="Name of the generator that all three start from, and that stays the target.")
    saliency: str = Field(description="Network that makes masks: mini-saliency, u2net, or an input's name.")
    normalise: bool = Field(True, description="Whether the saliency network's input is normalised; officially not.")
    encoder: str = Field(description="VGG whose features the styles compare: mini-encoder, vgg16, or an input's name.")
    layers: list[Annotated[int, Field(ge=1)]] = Field(
        min_length=1, description="Convolutions of the encoder, from 1, whose outputs after the ReLU are compared."
    )
    encoder_normalise: bool = Field(description="Whether the encoder's input is normalised; officially not.")
    steps: int = Field(gt=0, description="Updates.")
    batch_size: int = Field(gt=0, description="Images in a forward pass.")
    accumulate: int = Field(1, gt=0, description="Forward passes an update; their gradients are summed, not averaged.")
    one_class_a_batch: bool = Field(False, description="As officially: all images of a pass are of one class.")
    truncation: float = Field(1.0, gt=0, le=1)
    l1: float = Field(ge=0, description="Weight of the reconstruction's L1.")
    style: Weights = Field(description="w of the reconstruction's style by layer; it enters as 5,000 w^2.")
    binary: float = Field(ge=0, description="Weight of the mask's entropy in bits.")
    size: float = Field(ge=0, description="Weight of the mask's size outside its range.")
    size_range: list[Annotated[float, Field(ge=0, le=1)]] = Field([0.1, 0.9], min_length=2, max_length=2)
    texture: Weights = Field(description="w of the texture's style by layer.")
    background: float = Field(ge=0, description="Weight of the background's mean saliency.")
    collage: CollageSettings
    lr_shape: float = Field(gt=0)
    lr_texture: float = Field(gt=0)
    lr_background: float = Field(gt=0)
    betas: list[Annotated[float, Field(ge=0, lt=1)]] = Field([0.9, 0.999], min_length=2, max_length=2)
    warmup: int = Field(0, ge=0, description="Updates over which the rates rise to their values.")
    decay: bool = Field(False, description="Constant for 60 % of the updates, then linearly down to a tenth.")
    clip: float | None = Field(None, gt=0, description="Largest norm of each mechanism's gradient; none: any.")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: autocast, on CUDA alone.")
    store: Literal["fp32", "fp16"] = Field("fp32", description="Precision of the weights in the file.")
    all_statistics: bool = Field(True, description="Keep batch-norm statistics of all truncations, or of this one.")
    seed: int = Field(0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("style", "texture"):
            if len(getattr(self, name)) != len(self.layers):
                raise ValueError(f"{name}: {len(getattr(self, name))} weights for {len(self.layers)} layers")
        if sorted(set(self.layers)) != self.layers:
            raise ValueError("layers: expected rising numbers")
        if self.size_range[0] >= self.size_range[1]:
            raise ValueError("size_range: expected [smallest, largest]")
        return self


class MnistFit(Table):
    """A training of the MNIST form: an LSGAN on a world's pictures."""

    form: Literal["mnist"]
    world: World
    encoder: str = Field(
        "vgg16", description="VGG whose styles are compared: vgg16, an input's name, or stand-in: trained on the spot."
    )
    layers: list[Annotated[int, Field(ge=1)]] = Field([2, 4, 7, 10], min_length=1)
    encoder_normalise: bool = False
    epochs: int = Field(15, gt=0)
    batch_size: int = Field(16, gt=1)
    binary: float = Field(ge=0, description="Weight of the mask's entropy in bits.")
    style: Weights = Field(description="w of the style loss by layer, between generated and unpaired real pictures.")
    discriminator: Literal["linear", "convolutional"]
    width: int = Field(gt=0, description="Hidden units of the linear discriminator, or channels of the other.")
    init: Literal["orthogonal", "normal"]
    gain: float = Field(gt=0)
    lr: float = Field(2e-4, gt=0)
    betas: list[Annotated[float, Field(ge=0, lt=1)]] = Field([0.5, 0.999], min_length=2, max_length=2)
    digits_per_class: int | None = Field(None, gt=0, description="Leading digits of each class; all by default.")
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = Field(0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.style) != len(self.layers):
            raise ValueError(f"style: {len(self.style)} weights for {len(self.layers)} layers")
        return self


Fit = BigGanFit | MnistFit
_FORMS: dict[str, type[BigGanFit] | type[MnistFit]] = {"biggan": BigGanFit, "mnist": MnistFit}


def shipped_presets() -> dict[str, str]:
    """Names and TOML texts of the presets in the package."""
    folder = files(__package__) / "presets"
    texts = {entry.name.removesuffix(".toml"): entry for entry in folder.iterdir() if entry.name.endswith(".toml")}
    return {name: texts[name].read_text("utf-8") for name in sorted(texts)}


def load_settings(name_or_path: str, overrides: Sequence[str] = ()) -> Fit:
    """A shipped preset or a file, with `KEY=VALUE` overrides, values in TOML.

    Raises UsageError that names the offending key and what was expected.
    """
    shipped, path = shipped_presets(), Path(name_or_path)
    if name_or_path in shipped:
        text = shipped[name_or_path]
    elif path.is_file():
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"{name_or_path}: not UTF-8: {error}") from error
    else:
        raise UsageError(f"no preset {name_or_path!r}{suggest(name_or_path, list(shipped))}")
    try:
        tree = parse_toml(text)
    except ValueError as error:
        raise UsageError(f"{name_or_path}: not TOML: {shorten(str(error))}") from error
    for override in overrides:
        _override(tree, override)
    form = tree.get("form")
    if not isinstance(form, str) or form not in _FORMS:
        raise UsageError(f"preset {name_or_path}: form = {form!r}: expected biggan or mnist")
    try:
        return TypeAdapter(_FORMS[form]).validate_python(tree)
    except ValidationError as error:
        raise UsageError(f"preset {name_or_path}: {_explain(error, _FORMS[form])}") from error


def _override(tree: dict[str, Any], override: str) -> None:
    dotted, separator, text = override.partition("=")
    if not separator:
        raise UsageError(f"--set {override}: expected KEY=VALUE, such as steps=100 or collage.patch=5")
    try:
        value = parse_value(text)
    except ValueError as error:
        raise UsageError(f"--set {shorten(override)}: {error}") from error
    *parents, key = dotted.strip().split(".")
    for part in parents:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise UsageError(f"--set {override}: {part} is a value, not a table")
    tree[key] = value


def _explain(error: ValidationError, form: type[Table]) -> str:
    """The first problem of a validation, in one line."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        known = [*form.model_fields, *(f"collage.{key}" for key in CollageSettings.model_fields)]
        return f"unknown key {where!r}{suggest(where, sorted(known))}{more}"
    if first["type"] == "missing":
        return f"key {where!r} is missing{more}"
    found = f" = {shorten(repr(first['input']))}" if isinstance(first["input"], (str, int, float, bool)) else ""
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}{found}: {message}{more}" if where else f"{message}{more}"
