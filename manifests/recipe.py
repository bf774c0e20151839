"""The recipe: one TOML file that holds everything that changes a pixel, and nothing else."""

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self

import tomli_w
from pydantic import Field, ValidationError, field_validator, model_validator

from .errors import RecipeError, shorten
from .origins import Origin, all_origins, known_origins, spdx_expression
from .sources import AnyStream
from .sources.stream import LISTED_KINDS, NETWORK_KINDS, InputKind, Name, Table
from .toml import check_exact, parse_toml, parse_value

MINI_GENERATOR = "mini"
# Of a BigGAN-deep: linear in the latents.
FIRST_LAYER = "generator.gen_z"
# Keys that describe a dataset and change no pixel: they are in no fingerprint, and may change when it is there.
DESCRIPTION = frozenset({"version", "notes", "license", "card", "origins", "fidelity"})
# Names in a dataset's folder that are no stream's.
RESERVED = frozenset({"manifest", "records", "directions", "inputs", "preview", "fidelity"})


class Generator(Table):
    """Which generator renders, and how: what changes its floating point belongs here."""

    name: Name = Field(
        description='"mini" (shipped), a published biggan-deep-128/256/512, or a name of your own with --weights DIR.'
    )
    code: str | None = Field(
        None,
        pattern=r"^([A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*|[a-z0-9]([a-z0-9-]*[a-z0-9])?)$",
        max_length=200,
        description="Class of a generator of your own, module:Class or an entry point of the group genint.generators; "
        "it runs only where --allow-code names it too. Without it, the generator is a BigGAN-deep.",
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16 is for CPUs and GPUs that have it.")
    batch_size: int = Field(64, gt=0, description="Fixed members of a render batch: part of the floating point.")

    @model_validator(mode="after")
    def _code_has_a_name_of_its_own(self) -> Self:
        if self.code is not None and self.name in known_origins():
            raise ValueError(f'name = "{self.name}" is a generator that genint knows; give yours another name')
        return self


class DirectionsTable(Table):
    """Where the principal directions come from (method: GANSpace, Härkönen et al. 2020)."""

    method: Literal["exact", "sampled", "imported"] = Field(
        "exact",
        description="exact: SVD of a layer that is linear in the latents, generator.gen_z of a BigGAN; sampled: "
        "incremental PCA of any layer; imported: a GANSpace .npz bound by --input directions=FILE.",
    )
    layer: str = Field(
        FIRST_LAYER, description="Layer whose activations are decomposed; with generator.code, any submodule's name."
    )
    samples: int = Field(1_000_000, gt=0, description="Latents of the sampled method.")
    class_label: int = Field(0, ge=0, description="Class of the sampled latents, and of the stored activation mean.")


class Card(Table):
    """What a dataset's card and its Croissant metadata say besides; what is left out follows from the recipe."""

    date: str = Field("", pattern=r"^(\d{4}-\d{2}-\d{2})?$", description="Date of this version, such as 2026-11-25.")
    url: str = Field("", description="Where the dataset itself can be had.")
    doi: str = Field("", description="DOI of this version, such as 10.5281/zenodo.1234567.")
    creators: list[str] = Field([], description="Names of people or groups.")
    limitations: list[str] = Field([], description="What the dataset is not fit for, a sentence each.")
    biases: list[str] = Field([], description="What it shows too much or too little of, a sentence each.")
    personal_information: list[str] = Field([], description="What it shows of people, a sentence each.")
    use_cases: list[str] = Field([], description="What it is meant for, a sentence each.")
    social_impact: str = Field("", description="What good or harm its use may do.")


class FidelityTable(Table):
    """Who reads each generated sample when the dataset is closed; how surely it reads the label is kept beside it."""

    checkpoint: str = Field(
        min_length=1,
        description="mini-reader (shipped, for the mini world), torchvision:ARCH[:WEIGHTS], or a name of your own "
        "for a checkpoint, which --input NAME=FILE gives.",
    )


class Recipe(Table):
    """One recipe makes one dataset of one or more streams."""

    name: Name = Field(description="Name of the dataset.")
    seed: int = Field(ge=0, lt=2**63, description="Every draw is keyed by it.")
    # None in these, not a default: recipes of before, which do not have them, keep their digests.
    version: str | None = Field(
        None,
        pattern=r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)$",
        description="Semantic version of the data, 1.0.0 by default: MAJOR when samples change, MINOR when some join, "
        "PATCH when only packing or words do.",
    )
    notes: str = Field("", description="What a user of the dataset should know; goes into its card.")
    license: str = Field(
        "", description="SPDX expression of the whole dataset; by default all that its origins' licences say."
    )
    card: Card | None = None
    origins: dict[Name, Origin] | None = Field(
        None, description="What inputs, generators and networks are, by name, where the package does not know it."
    )
    marks: bool | None = Field(
        None,
        description="Mark each image that a network had a part in (XMP, IPTC DigitalSourceType; about 0.5 kB per "
        "image, the same in all of a stream). Off by default.",
    )
    fidelity: FidelityTable | None = None
    generator: Generator | None = None
    directions: DirectionsTable = DirectionsTable()
    streams: list[AnyStream] = Field(min_length=1)

    @field_validator("marks")
    @classmethod
    def _off_is_absent(cls, value: bool | None) -> bool | None:
        return value or None  # so that recipes of before keep their digests

    @model_validator(mode="after")
    def _streams_fit(self) -> Self:
        seen: list[str] = []
        names = {stream.name for stream in self.streams}
        grown = {stream.name for stream in self.streams if stream.grown_from}
        for stream in self.streams:
            if stream.name in RESERVED:
                raise ValueError(f"a stream cannot be named {stream.name!r}: a dataset has a folder of that name")
            if stream.name in seen:
                raise ValueError(f"two streams are named {stream.name!r}")
            for earlier in stream.reads():
                if earlier in names and earlier not in seen:
                    raise ValueError(f"stream {stream.name!r} reads {earlier!r}, which is not an earlier stream")
                if earlier in grown:
                    raise ValueError(
                        f"stream {stream.name!r} reads {earlier!r}, which therefore cannot grow: its samples would be "
                        "drawn anew"
                    )
            if stream.uses_generator and self.generator is None:
                raise ValueError(f"stream {stream.name!r} is generated, but there is no [generator]")
            seen.append(stream.name)
            if stream.uses_generator and getattr(stream, "statistics_truncation", None) is not None and self.has_code:
                raise ValueError(
                    f"streams.{stream.name}.statistics_truncation: a generator of one's own has no batch-norm "
                    "statistics by truncation; leave it out"
                )
        table = self.directions
        if table.method == "exact" and table.layer != FIRST_LAYER and not self.has_code:
            raise ValueError(
                f'directions.layer = "{table.layer}": not linear, so method = "exact" does not apply; use "sampled"'
            )
        self.inputs()
        for name in self.origins or {}:
            if name not in (known := all_origins(self)):
                raise ValueError(f"origins.{name}: nothing is made of it{suggest(name, list(known))}")
        return self

    @property
    def has_code(self) -> bool:
        """Whether its generator is of a class that others wrote."""
        return self.generator is not None and self.generator.code is not None

    @property
    def data_version(self) -> str:
        """Semantic version of the data."""
        return self.version or "1.0.0"

    def stream(self, name: str) -> AnyStream:
        """The stream of that name. Raises RecipeError with the known names."""
        for stream in self.streams:
            if stream.name == name:
                return stream
        known = suggest(name, [stream.name for stream in self.streams])
        raise RecipeError(f"no stream {shorten(name)!r} in recipe {self.name!r}{known}")

    def depends_on(self, stream: str) -> list[str]:
        """Names of the earlier streams that a stream reads."""
        return [name for name in self.stream(stream).reads() if name in {s.name for s in self.streams}]

    def inputs(self) -> dict[str, InputKind]:
        """All outside inputs by name, in order of first use."""
        names = {stream.name for stream in self.streams}
        kinds: dict[str, InputKind] = {}
        for stream in self.streams:
            outside = {name: kind for name, kind in stream.reads().items() if name not in names}
            for name, kind in {**stream.inputs(), **outside}.items():
                if kinds.setdefault(name, kind) != kind:
                    raise ValueError(f"input {name!r} is read as {kinds[name]} and as {kind}; give it two names")
        if self.directions.method == "imported" and any(stream.uses_directions for stream in self.streams):
            kinds["directions"] = "directions"
        return kinds

    def listed_inputs(self) -> list[str]:
        """Names of the inputs that are pictures: the dataset keeps a list of them."""
        return [name for name, kind in self.inputs().items() if kind in LISTED_KINDS]

    def network_inputs(self) -> list[str]:
        """Names of the inputs that are trained networks: the dataset keeps their digests."""
        return [name for name, kind in self.inputs().items() if kind in NETWORK_KINDS]

    def flatten(self) -> dict[str, Any]:
        """Every key with its value, streams by name: `streams.interventional.truncation`. Defaults are spelled out."""
        return dict(_flatten(self.model_dump(mode="json", exclude_none=True)))

    def deciding(self) -> dict[str, Any]:
        """Every key that decides pixels, with its value."""
        return without_description(self.flatten())

    def digest(self) -> str:
        """Digest of all keys and values; formatting, comments and spelled-out defaults do not matter."""
        return hashlib.sha256(json.dumps(self.flatten(), sort_keys=True).encode()).hexdigest()

    def to_toml(self) -> str:
        """The recipe as TOML with every default spelled out, so that later defaults do not change it."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def decides_pixels(key: str) -> bool:
    """Whether a flattened key has a say in what is made. Others describe it, or say how much of it may be lost."""
    return key.partition(".")[0] not in DESCRIPTION and not re.fullmatch(r"streams\.[^.]+\.max_failures", key)


def without_description(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Of a recipe's flattened keys those that decide pixels."""
    return {key: value for key, value in keys.items() if decides_pixels(key)}


def shipped_recipes() -> dict[str, str]:
    """Names and TOML texts of the recipes in the package."""
    folder = files(__package__) / "recipes"
    texts = {entry.name.removesuffix(".toml"): entry for entry in folder.iterdir() if entry.name.endswith(".toml")}
    return {name: texts[name].read_text("utf-8") for name in sorted(texts)}


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Load a shipped recipe or a file, with `KEY=VALUE` overrides (`streams.<name>.<key>`, values in TOML).

    Raises RecipeError that names the offending key and what was expected.
    """
    return _with_spdx(_read_named(name_or_path, overrides), name_or_path)


def override_recipe(recipe: Recipe, overrides: Sequence[str], origin: str) -> Recipe:
    """A dataset's recipe with other values. Raises RecipeError as `load_recipe` does."""
    return _with_spdx(read_recipe(recipe.to_toml(), origin, overrides), origin) if overrides else recipe


def _with_spdx(recipe: Recipe, origin: str) -> Recipe:
    # Not in the model: recipes of before have words, and their datasets must still open.
    if not recipe.license:
        return recipe
    try:
        return recipe.model_copy(update={"license": spdx_expression(recipe.license)})
    except ValueError as error:
        found = f"license = {shorten(repr(recipe.license))}"
        raise RecipeError(f"{shorten(origin)}: {found}: {error}; --license gives another") from error


def _read_named(name_or_path: str, overrides: Sequence[str]) -> Recipe:
    shipped = shipped_recipes()
    path = Path(name_or_path)
    if name_or_path in shipped:
        text = shipped[name_or_path]
    elif path.is_file():
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError as error:
            raise RecipeError(f"{shorten(name_or_path)}: not UTF-8: {error}") from error
    elif path.suffix == ".toml" or "/" in name_or_path:
        raise RecipeError(f"{shorten(name_or_path)}: no such recipe file")
    else:
        raise RecipeError(f"no recipe {shorten(name_or_path)!r}{suggest(name_or_path, list(shipped))}")
    return read_recipe(text, name_or_path, overrides)


def read_recipe(text: str, origin: str, overrides: Sequence[str] = ()) -> Recipe:
    """Parse and validate a recipe's TOML text; `origin` names it in errors."""
    try:
        tree = parse_toml(text)
    except ValueError as error:
        raise RecipeError(f"{shorten(origin)}: not TOML: {shorten(str(error))}") from error
    for override in overrides:
        _override(tree, override)
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(f"{shorten(origin)}: {explain(error, tree)}") from error
    try:
        check_exact(dict(_flatten(tree)), recipe.flatten())
    except ValueError as error:
        raise RecipeError(f"{shorten(origin)}: {error}") from error
    return recipe


def explain(error: ValidationError, tree: dict[str, Any]) -> str:
    """The first problem of a validation, in one line: where, what was found, what was expected."""
    first = error.errors()[0]
    # Pydantic puts the discriminator's value into the location of a stream's key.
    location = [part for i, part in enumerate(first["loc"]) if not (i == 2 and first["loc"][0] == "streams")]
    if len(location) > 1 and location[0] == "streams" and isinstance(location[1], int):
        stream = tree["streams"][location[1]]
        location[1] = stream.get("name", location[1]) if isinstance(stream, dict) else location[1]
    where = shorten(".".join(map(str, location)))
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        known = _known_keys(first["loc"])
        return f"unknown key {where!r}{suggest(str(location[-1]), known)}{more}"
    if first["type"] == "missing":
        return f"key {where!r} is missing{more}"
    if first["type"] == "union_tag_invalid":
        tag, known_tags = shorten(repr(first["ctx"]["tag"])), first["ctx"]["expected_tags"]
        return f"{where}.source = {tag}: no such source; known: {known_tags}{more}"
    message = shorten(first["msg"].removeprefix("Value error, "), 400)
    found = f" = {shorten(repr(first['input']))}" if isinstance(first["input"], (str, int, float, bool)) else ""
    return f"{where}{found}: {message}{more}" if where else f"{message}{more}"


def suggest(word: str, known: Sequence[str]) -> str:
    """`; did you mean ...?` where something is close, and what is known in any case."""
    close = difflib.get_close_matches(word[:100], known, n=1)
    hint = f"; did you mean {shorten(close[0])!r}?" if close else ""
    return f"{hint}; known: {shorten(', '.join(known), 1000)}"


def _known_keys(location: Sequence[int | str]) -> list[str]:
    model: type[Table] = Recipe
    if location[0] == "generator" and len(location) > 1:
        model = Generator
    elif location[0] == "directions" and len(location) > 1:
        model = DirectionsTable
    elif location[0] == "card" and len(location) > 1:
        model = Card
    elif location[0] == "fidelity" and len(location) > 1:
        model = FidelityTable
    elif location[0] == "origins" and len(location) > 2:
        model = Origin
    elif location[0] == "streams" and len(location) > 2:
        model = stream_models()[str(location[2])]
    return sorted(model.model_fields)


def stream_models() -> dict[str, type[Table]]:
    """Model of each source by its name, read off the registry."""
    union = AnyStream.__origin__.__args__  # type: ignore[attr-defined]  # Annotated[A | B, ...]
    return {model.model_fields["source"].annotation.__args__[0]: model for model in union}


def _override(tree: dict[str, Any], override: str) -> None:
    dotted, separator, text = override.partition("=")
    shown = shorten(override)
    if not separator:
        raise RecipeError(f"--set {shown}: expected KEY=VALUE, such as streams.interventional.truncation=0.5")
    try:
        value = parse_value(text)
    except ValueError as error:
        raise RecipeError(f"--set {shown}: {error}") from error
    *parents, key = dotted.strip().split(".")
    table: Any = tree
    for i, part in enumerate(parents):
        if isinstance(table, list):
            entries = [entry for entry in table if isinstance(entry, dict)]
            named = [entry for entry in entries if entry.get("name") == part]
            if not named:
                names = [str(entry.get("name")) for entry in entries]
                raise RecipeError(f"--set {shown}: no stream {shorten(part)!r}{suggest(part, names)}")
            table = named[0]
        else:
            table = table.setdefault(part, {})
        if not isinstance(table, dict | list):
            raise RecipeError(f"--set {shown}: {shorten('.'.join(parents[: i + 1]))} is a value, not a table")
    if isinstance(table, list):
        raise RecipeError(f"--set {shown}: name a key of the stream, such as {shorten(dotted)}.truncation")
    table[key] = value


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flatten(inner, f"{prefix}.{key}" if prefix else key)
    elif prefix == "streams":
        for stream in value:
            yield from _flatten(stream, f"streams.{stream['name']}")
    else:
        yield prefix, value
