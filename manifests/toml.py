"""TOML as recipes and presets are written in it."""

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

DEEPEST = 32  # tables in tables; ours need four


def parse_toml(text: str) -> dict[str, Any]:
    """Parse a text. Raises ValueError where it is no TOML, nests too deeply, or holds integers beyond 64 bits."""
    try:
        tree = tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except ValueError as error:
        if isinstance(error, tomllib.TOMLDecodeError):
            raise
        raise ValueError("a number has too many digits") from error
    for depth, value in _values(tree):
        if depth > DEEPEST:
            raise ValueError(f"nested more than {DEEPEST} levels deep")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValueError("an integer has more than 64 bits")
    return tree


def parse_value(text: str) -> Any:
    """The value in KEY=VALUE: TOML, or a bare word, which is a string as on any command line.

    Raises ValueError where it is TOML that no key can have.
    """
    try:
        return parse_toml(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def check_exact(given: Mapping[str, Any], held: Mapping[str, Any]) -> None:
    """Raise ValueError where a number that was given as an integer is held as another one, by floating point.

    Both with the same dotted keys; a key may be in either alone.
    """
    for key, value in given.items():
        kept = held.get(key)
        pairs = (
            zip(value, kept, strict=False) if isinstance(value, list) and isinstance(kept, list) else [(value, kept)]
        )
        for one, other in pairs:
            if isinstance(one, int) and isinstance(other, float) and one != other:
                raise ValueError(
                    f"{key} = {one}: an integer that floating point cannot hold; the nearest is {other:.0f}"
                )


def _values(tree: dict[str, Any]) -> Iterator[tuple[int, Any]]:
    """Every value with its depth; those too deep are not entered."""
    waiting: list[tuple[int, Any]] = [(0, tree)]
    while waiting:
        depth, value = waiting.pop()
        yield depth, value
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        waiting += [(depth + 1, entry) for entry in inner]
