"""What the samples of a recipe are made of, on whose terms, and what is known of it: for cards and licences."""

import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Literal

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from pydantic import Field, field_validator

from .sources.stream import Table

if TYPE_CHECKING:
    from .recipe import Recipe

# What a network is to the pictures: it makes them, or it only looks at others or changes them.
Kind = Literal["pictures", "generator", "network"]


class Origin(Table):
    """Pictures or a network that samples are made of."""

    title: str = Field("", description="What it is; its name in the recipe by default.")
    url: str = Field("", description="Where it can be had.")
    license: str = Field("", description='SPDX expression, such as "CC-BY-4.0", or a LicenseRef-… of its own terms.')
    terms: str = Field("", description="What the licence forbids that its name does not say.")
    trained_on: list[str] = Field([], description="For a network: names of the origins that it was trained on.")
    limitations: str = Field("", description="What it is not fit for.")
    biases: str = Field("", description="What it shows too much or too little of.")
    personal_information: str = Field("", description="What it shows of people, and on which basis.")

    @field_validator("license")
    @classmethod
    def _is_spdx(cls, value: str) -> str:
        return spdx_expression(value) if value else value


def spdx_expression(text: str) -> str:
    """A licence expression in its canonical form. Raises ValueError where it is none."""
    try:
        return str(canonicalize_license_expression(text))
    except InvalidLicenseExpression as error:
        raise ValueError(
            "not an SPDX licence expression; expected one such as MIT, Apache-2.0 AND CC-BY-4.0, or LicenseRef-NAME "
            "for terms that have no identifier (https://spdx.org/licenses)"
        ) from error


@cache
def known_origins() -> dict[str, Origin]:
    """The origins that the package knows, by name."""
    tree = tomllib.loads((files(__package__) / "data" / "origins.toml").read_text("utf-8"))
    return {name: Origin.model_validate(table) for name, table in tree.items()}


def find_origin(recipe: "Recipe", name: str) -> Origin:
    """What a recipe says of an origin, over what the package knows of that name."""
    said = (recipe.origins or {}).get(name, Origin())
    known = known_origins().get(name, Origin(title=name))
    return known.model_copy(update={key: value for key, value in said if value})


def stream_origins(recipe: "Recipe", stream: str) -> dict[str, Kind]:
    """Names of what a stream's samples are made of, those of the streams that it reads among them."""
    entry = recipe.stream(stream)
    found: dict[str, Kind] = {}
    if entry.shipped_pictures:
        found[entry.shipped_pictures] = "pictures"
    if entry.uses_generator and recipe.generator is not None:
        found[recipe.generator.name] = "generator"
    earlier = recipe.depends_on(stream)
    for name, kind in {**entry.inputs(), **entry.reads()}.items():
        if name in earlier:
            found |= stream_origins(recipe, name)
        else:
            found[name] = "generator" if kind == "cgn" else "network" if kind == "weights" else "pictures"
    return found


def stream_license(recipe: "Recipe", stream: str) -> str:
    """The SPDX expression of a stream: of all pictures and generators that its own are made of; "" where one has none.

    A network that only looks at pictures, or changes them, has no say.
    """
    origins = stream_origins(recipe, stream).items()
    return join_licenses([find_origin(recipe, name).license for name, kind in origins if kind != "network"])


def dataset_license(recipe: "Recipe") -> str:
    """The SPDX expression of a whole dataset: its recipe's, else that of all its streams; "" if one has none."""
    return recipe.license or join_licenses([stream_license(recipe, stream.name) for stream in recipe.streams])


def join_licenses(parts: list[str]) -> str:
    """All of these licences at once; "" where one is not known."""
    if not all(parts):
        return ""
    terms = {term for part in parts for term in license_terms(part)}
    return " AND ".join(sorted(terms))


def unlicensed(recipe: "Recipe") -> dict[str, list[str]]:
    """Origins without a licence, each with the streams that need it."""
    missing: dict[str, list[str]] = {}
    for stream in recipe.streams:
        for name, kind in stream_origins(recipe, stream.name).items():
            if kind != "network" and not find_origin(recipe, name).license:
                missing.setdefault(name, []).append(stream.name)
    return missing


def all_origins(recipe: "Recipe") -> dict[str, Kind]:
    """Everything that a recipe's samples are made of."""
    return {name: kind for stream in recipe.streams for name, kind in stream_origins(recipe, stream.name).items()}


def trained_on(recipe: "Recipe", name: str) -> Iterator[str]:
    """Names of what an origin was trained on, also by way of others, each once."""
    seen: dict[str, None] = {}
    waiting = list(find_origin(recipe, name).trained_on)
    while waiting:
        other = waiting.pop(0)
        if other not in seen:
            seen[other] = None
            waiting += find_origin(recipe, other).trained_on
    yield from seen


def license_terms(expression: str) -> list[str]:
    """The parts of an expression that AND joins; one with OR or brackets stays whole."""
    if not expression:
        return []
    return [f"({expression})"] if " OR " in expression else expression.split(" AND ")
