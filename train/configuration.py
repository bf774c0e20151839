"""The configuration of a run: a preset (a TOML file that may extend another) with overrides. It holds all that changes
what is learned; what changes only speed or place is a flag of the command line."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import tomli_w
from pydantic import Field, ValidationError, model_validator

from ..manifests.errors import UsageError, shorten
from ..manifests.recipe import suggest
from ..manifests.sources.stream import Name, Table
from ..manifests.toml import check_exact, parse_toml, parse_value
from .stream_images import Head
from .streams import Term

# The terms of equation 1, and counterfactuals, in the order of their images in the batch.
TERMS: Final[tuple[Term, ...]] = ("natural", "int", "transfer", "counterfactual")
AugmentationName = Literal[
    "standard", "additional", "autoaugment", "randaugment", "trivialaugment", "augmix", "pad-crop", "none"
]
Count = Annotated[int, Field(gt=0)]

# The sub-batches of the released code for its GenInt and transfer rows, and of CGN's.
BATCH_SIZES: Final[dict[Term, int]] = {"natural": 256, "int": 64, "transfer": 256, "counterfactual": 256}


class Stage(Table):
    """One stretch of training with its own optimizer and its own weights of equation 1."""

    name: Name = Field("train", description="By which --set stages.NAME.KEY=VALUE finds it.")
    epochs: int | None = Field(None, gt=0, description="Length; an epoch is `images_per_epoch` of the leading term.")
    steps: int | None = Field(None, gt=0, description="Length in steps, instead of epochs.")
    optimizer: Literal["sgd", "adam", "adadelta"] = Field("sgd", description="As torch.optim has them.")
    lr: float = Field(0.1, gt=0, description="Learning rate after the warm-up.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of sgd; the others have their defaults.")
    weight_decay: float = Field(1e-4, ge=0, description="On all parameters, batch norm and biases included.")
    norm_weight_decay: float | None = Field(
        None, ge=0, description="On those of batch norm and other normalisation; none: as on all others."
    )
    warmup_steps: int = Field(0, ge=0, description="Steps over which lr rises linearly to its value.")
    schedule: Literal["steps", "cosine"] = Field(
        "steps", description="After the warm-up: by decay_epochs, or along a cosine to 0 at the end of the stage."
    )
    decay_epochs: list[Count] = Field(
        [30, 60], description="lr is multiplied by decay_factor at the start of these; [] = constant."
    )
    decay_factor: float = Field(0.1, gt=0, lt=1, description="What lr is multiplied by at each of decay_epochs.")
    natural: bool = Field(True, description="Whether the natural images, the X term, take part.")
    lambda_int: float | None = Field(
        None, ge=0, description="Weight of generated images, lambda_1 of equation 1; none: they take no part."
    )
    lambda_transfer: float | None = Field(
        None, ge=0, description="Weight of transferred images, lambda_2 of equation 1; none: they take no part."
    )
    lambda_counterfactual: float | None = Field(
        None, ge=0, description="Weight of counterfactual and recomposed images; none: they take no part."
    )
    mixup: float | None = Field(None, gt=0, description="alpha of mixup on the natural images; none: no mixup.")
    cutmix: float | None = Field(
        None, gt=0, description="alpha of CutMix on the natural images; beside mixup one of the two is drawn each step."
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of each label that is spread over all classes.")
    batch_sizes: dict[Term, Count] = Field(
        {}, description="Images per step by term; a term's streams share them equally, the first ones taking the rest."
    )
    stream_batch_sizes: dict[str, Count] = Field(
        {}, description="Images per step of streams that do not share equally."
    )
    sources: dict[Term, list[str]] = Field(
        {}, description="Sources of the streams that a term takes, such as interventional; none: of any source."
    )

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("batch_sizes", {}), dict):
            value = {**value, "batch_sizes": {**BATCH_SIZES, **value.get("batch_sizes", {})}}
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give its length as epochs or as steps")
        if not self.terms:
            raise ValueError(
                "natural = false and no lambda_int, lambda_transfer or lambda_counterfactual: nothing to train on"
            )
        if (self.mixup or self.cutmix) and not self.natural:
            raise ValueError("mixup and cutmix mix natural images, and natural = false")
        return self

    @property
    def terms(self) -> list[Term]:
        """Terms of the loss that take part."""
        return [term for term in TERMS if self.weight(term) is not None]

    def takes(self, term: Term, source: str | None) -> bool:
        """Whether streams of this term and source take part. What comes from no dataset has no source, and is taken."""
        wanted = self.sources.get(term)
        return self.weight(term) is not None and (wanted is None or source is None or source in wanted)

    def weight(self, term: Term) -> float | None:
        """Weight of a term in the loss; None where it takes no part."""
        weights: dict[Term, float | None] = {
            "natural": 1.0 if self.natural else None,
            "int": self.lambda_int,
            "transfer": self.lambda_transfer,
            "counterfactual": self.lambda_counterfactual,
        }
        return weights[term]


class Configuration(Table):
    """All that decides what a run learns, given its streams."""

    preset: str = Field(description="The preset it comes from.")
    arch: str = Field(
        "resnet18", description="Any torchvision classifier, or mnist-cnn, or resnet18-half: half the channels."
    )
    min_fidelity: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Leave out images that a network had a part in and whose label a classifier reads with a smaller "
        "probability (see genint-pipeline score); none: no image is left out.",
    )
    init: str = Field(
        "random",
        description='Weights to start from: "random", "required" (by --init), a checkpoint, or torchvision:ARCH.',
    )
    heads: dict[Head, Annotated[float, Field(ge=0)]] = Field(
        {},
        description="Linear layers on one trunk, each named for the label of counterfactuals that it learns, with the "
        "weight of its loss. All other images train the mean of their logits.",
    )
    size: int = Field(224, gt=0, description="Side of the images that the classifier sees.")
    evaluation_size: int | None = Field(None, gt=0, description="The same outside of training; none: as in training.")
    resize: int | None = Field(
        None, gt=0, description="Shorter side before the centre crop in validation; none: 8/7 of its side, 256 for 224."
    )
    mean: list[float] = Field(
        [0.485, 0.456, 0.406],
        min_length=3,
        max_length=3,
        description="Subtracted from pixels in [0, 1]: red, green, blue.",
    )
    std: list[Annotated[float, Field(gt=0)]] = Field(
        [0.229, 0.224, 0.225], min_length=3, max_length=3, description="What pixels are divided by after that."
    )
    augmentation: AugmentationName = Field(
        "standard",
        description="How training images are varied. standard: random crop and flip; additional: rotation, colour "
        "jitter and vertical flip too, as in the paper's second columns; pad-crop: padding by 4 pixels, crop and flip.",
    )
    term_augmentations: dict[Term, AugmentationName] = Field({}, description="Where a term's differs.")
    random_erasing: float = Field(
        0.0, ge=0, le=1, description="Probability that a rectangle of a training image is set to the mean colour."
    )
    crop_scale: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        [0.08, 1.0], min_length=2, max_length=2, description="Range of a random crop's share of the image's area."
    )
    classes: Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description="Classes of the run, in the order of its labels; none: all that the streams have."
    )
    class_map: dict[str, dict[str, str]] = Field(
        {},
        description='By stream, or "every-stream": its class, by name, wnid or number, to the class of the run. Those '
        "that lead to none of its classes take no part.",
    )
    streams: list[str] | None = Field(None, description="Names of the streams to train on; none: all that fit.")
    validation_share: float | None = Field(
        None, gt=0, lt=1, description="Share of the natural images that is held out for validation."
    )
    images_per_epoch: int | None = Field(
        None,
        gt=0,
        description="Cap on an epoch's images of the leading term (natural, or else int); none: all of them.",
    )
    bn_statistics: Literal["mixed", "natural"] = Field(
        "mixed", description="What batch norm's running statistics see. Training normalises by the whole batch."
    )
    freeze_batch_norm: bool = Field(
        False, description="Batch norm normalises by the statistics of the weights to start from, and keeps them."
    )
    as_released: bool = Field(False, description="The released code's loss: lambda_int is added, not multiplied.")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: autocast; weights and optimizer stay fp32.")
    channels_last: bool = Field(False, description="Memory layout that GPUs with tensor cores prefer.")
    compile: bool = Field(False, description="Compile the network with torch.compile.")
    seed: int = Field(0, ge=0, lt=2**63, description="Random seed for initial weights, data order and augmentation.")
    shuffle_window: int | None = Field(None, gt=0, description="Shards shuffled together; none: all, a full shuffle.")
    stages: list[Stage] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"two stages have one name: {', '.join(names)}")
        for stage in self.stages:
            if self.bn_statistics == "natural" and not stage.natural:
                raise ValueError(f'bn_statistics = "natural": stage {stage.name!r} has no natural images')
        if self.heads and all(stage.lambda_counterfactual is None for stage in self.stages):
            raise ValueError("heads learn apart from counterfactual images alone: give lambda_counterfactual")
        if self.freeze_batch_norm and self.init == "random":
            raise ValueError("freeze_batch_norm keeps the statistics of weights to start from: give them with --init")
        if self.freeze_batch_norm and self.bn_statistics != "mixed":
            raise ValueError(f'freeze_batch_norm: nothing is seen, and bn_statistics = "{self.bn_statistics}"')
        if self.as_released and not any({"natural", "int", "transfer"} <= {*stage.terms} for stage in self.stages):
            raise ValueError("as_released changes the loss of all three terms, and no stage has them")
        if self.crop_scale[0] > self.crop_scale[1]:
            raise ValueError("crop_scale: expected [smallest, largest]")
        return self

    def flatten(self) -> dict[str, Any]:
        """Every key with its value, stages by name: `stages.train.lr`. Absent ones are left out."""
        tree = self.model_dump(mode="json", exclude_none=True)
        stages = {stage["name"]: stage for stage in tree.pop("stages")}
        return _flatten({**tree, "stages": stages})

    def defaults(self) -> dict[str, Any]:
        """The same keys, as `flatten`, with the values that they have where a preset says nothing."""
        stages = [Stage(name=stage.name, epochs=1) for stage in self.stages]
        return Configuration(preset=self.preset, stages=stages).flatten()

    def without_places(self) -> Self:
        """The same for others to read: weights to start from are a file's place, and are given anew with --init."""
        file = self.init not in ("random", "required") and not self.init.startswith("torchvision:")
        return self.model_copy(update={"init": "required"}) if file else self

    def to_toml(self) -> str:
        """As TOML with every default spelled out: a preset in its own right."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def shipped_presets() -> dict[str, str]:
    """Names and TOML texts of the presets in the package."""
    folder = files(__package__) / "presets"
    texts = {entry.name.removesuffix(".toml"): entry for entry in folder.iterdir() if entry.name.endswith(".toml")}
    return {name: texts[name].read_text("utf-8") for name in sorted(texts)}


def describe_preset(text: str) -> str:
    """What a preset is, from the comment that opens its file."""
    return text.splitlines()[0].removeprefix("# ")


def describe_differences(text: str) -> list[str]:
    """Lines of the comment that opens a preset's file, if it says where the paper and its released code disagree."""
    comment = [line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#")]
    says = any(word in " ".join(comment) for word in ("Paper:", "Code:", "Code only:", "Paper and code"))
    return comment if says else []


def load_configuration(
    name_or_path: str, overrides: Sequence[str] = (), values: Mapping[str, Any] = {}
) -> Configuration:
    """Load a shipped preset or a file, with `KEY=VALUE` overrides, values in TOML, and values by key after them.

    A stage's key without its stage (`lr=0.01`) goes to all stages, and a lambda to those that have it already, if any
    has; `stages.NAME.lr=0.01` goes to one. Raises UsageError that names the offending key and what was expected.
    """
    merged: dict[str, Any] = {}
    for _, _, own in reversed(_read_chain(name_or_path)):
        merged = _merge(merged, own)
    tree = _expand(merged)
    tree.setdefault("preset", Path(name_or_path).name.removesuffix(".toml"))
    for override in overrides:
        _override(tree, *_parse(override), f"--set {shorten(override)}")
    for key, value in values.items():
        _override(tree, key, value, f"--{key.replace('_', '-')}")
    try:
        configuration = Configuration.model_validate(tree)
    except ValidationError as error:
        raise UsageError(f"preset {shorten(name_or_path)}: {_explain(error, tree)}") from error
    given = {stage.name: table for stage, table in zip(configuration.stages, tree["stages"], strict=True)}
    try:
        check_exact(_flatten({**tree, "stages": given}), configuration.flatten())
    except ValueError as error:
        raise UsageError(f"preset {shorten(name_or_path)}: {error}") from error
    return configuration


def preset_texts(name_or_path: str) -> dict[str, str]:
    """TOML text of a preset, and of those that it extends, by name or path. Raises UsageError."""
    return {name: text for name, text, _ in _read_chain(name_or_path)}


def _read_chain(name_or_path: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Name, text and tables of a preset and of those that it extends, itself first."""
    chain: list[tuple[str, str, dict[str, Any]]] = []
    wanted: str | None = name_or_path
    while wanted is not None:
        seen = [name for name, _, _ in chain]
        if wanted in seen:
            raise UsageError(f"preset {wanted}: extends itself, by way of {' -> '.join(seen)}")
        text = _read_text(wanted)
        try:
            tree = parse_toml(text)
        except ValueError as error:
            raise UsageError(f"{shorten(wanted)}: not TOML: {shorten(str(error))}") from error
        extended = tree.pop("extends", None)
        if not isinstance(extended, str | None):
            raise UsageError(f"{shorten(wanted)}: extends = {shorten(repr(extended))}: expected the name of a preset")
        chain.append((wanted, text, tree))
        beside = Path(wanted).parent / extended if extended else None
        wanted = str(beside) if beside and beside.is_file() else extended
    return chain


def _read_text(name_or_path: str) -> str:
    """The TOML text of a shipped preset or a file."""
    shipped, path = shipped_presets(), Path(name_or_path)
    if name_or_path in shipped:
        return shipped[name_or_path]
    if path.is_file():
        try:
            return path.read_text("utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"{shorten(name_or_path)}: not UTF-8: {error}") from error
    if path.suffix == ".toml" or "/" in name_or_path:
        raise UsageError(f"{shorten(name_or_path)}: no such preset file")
    raise UsageError(f"no preset {shorten(name_or_path)!r}{suggest(name_or_path, list(shipped))}")


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Tables merge key by key; anything else, lists of stages included, is replaced."""
    both = {
        key: _merge(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
        for key, value in over.items()
    }
    return {**base, **both}


def _expand(tree: dict[str, Any]) -> dict[str, Any]:
    """Stages with the stage keys that stand at the top, which are the defaults of all of them."""
    shared = {key: tree.pop(key) for key in list(tree) if key in Stage.model_fields}
    tree.setdefault("stages", [{}])
    stages = _stages(tree)
    lengths = ("epochs", "steps")
    tree["stages"] = [
        _merge({k: v for k, v in shared.items() if k not in lengths or not any(n in stage for n in lengths)}, stage)
        for stage in stages
    ]
    return tree


def _stages(tree: dict[str, Any]) -> list[dict[str, Any]]:
    """The stages of a tree. Raises UsageError where they are no tables."""
    stages = tree["stages"]
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        raise UsageError("stages: expected tables, each under [[stages]]")
    return stages


def _parse(override: str) -> tuple[str, Any]:
    """Key and value of KEY=VALUE."""
    key, separator, text = override.partition("=")
    if not separator:
        raise UsageError(f"--set {shorten(override)}: expected KEY=VALUE, such as lr=0.01 or stages.NAME.lr=0.01")
    try:
        return key, parse_value(text)
    except ValueError as error:
        raise UsageError(f"--set {shorten(override)}: {error}") from error


def _override(tree: dict[str, Any], dotted: str, value: Any, origin: str) -> None:
    path = dotted.strip().split(".")
    if path[0] in Stage.model_fields:
        tables = _stages(tree)
        if path[0].startswith("lambda_"):
            tables = [stage for stage in tables if path[0] in stage] or tables
    elif path[0] == "stages" and len(path) > 2:
        names = [str(stage.get("name", "train")) for stage in _stages(tree)]
        if path[1] not in names:
            raise UsageError(f"{origin}: no stage {shorten(path[1])!r}{suggest(path[1], names)}")
        tables, path = [tree["stages"][names.index(path[1])]], path[2:]
    else:
        tables = [tree]
    for table in tables:
        _set(table, path, value, origin)
    if path == ["stages"]:
        _stages(tree)


def _set(table: dict[str, Any], path: Sequence[str], value: Any, origin: str) -> None:
    *parents, key = path
    if not parents and key in ("epochs", "steps"):
        table.pop("steps" if key == "epochs" else "epochs", None)
    for part in parents:
        # A new table each time: stages may share the one that stood at the top.
        table[part] = dict(table[part]) if isinstance(table.get(part), dict) else table.get(part, {})
        table = table[part]
        if not isinstance(table, dict):
            raise UsageError(f"{origin}: {shorten(part)} is a value, not a table")
    table[key] = value


def _explain(error: ValidationError, tree: dict[str, Any]) -> str:
    """The first problem of a validation, in one line: where, what was found, what was expected."""
    first = error.errors()[0]
    location = list(first["loc"])
    in_stage = len(location) > 1 and location[0] == "stages" and isinstance(location[1], int)
    if in_stage:
        location[1] = tree["stages"][location[1]].get("name", "train")
    where = shorten(".".join(map(str, location)))
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        known = [*Stage.model_fields] if in_stage else [*Configuration.model_fields, *Stage.model_fields]
        return f"unknown key {where!r}{suggest(str(location[-1]), sorted(known))}{more}"
    if first["type"] == "missing":
        return f"key {where!r} is missing{more}"
    found = f" = {shorten(repr(first['input']))}" if isinstance(first["input"], (str, int, float, bool)) else ""
    message = shorten(first["msg"].removeprefix("Value error, "), 400)
    return f"{where}{found}: {message}{more}" if where else f"{message}{more}"


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
