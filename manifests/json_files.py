"""JSON that others wrote: read strictly, refused with its place."""

import json
import math
from typing import Any

from .errors import FormatError


def parse_json(content: bytes, where: object) -> Any:
    """The value in a JSON text.

    Raises FormatError that begins with `where` if it is none, nests too deeply, names a key twice, or holds a number
    that is not finite or a text that is not Unicode.
    """
    try:
        value = json.loads(
            content.decode("utf-8"),
            parse_constant=_refuse,
            parse_float=_finite,
            object_pairs_hook=_unique_keys,
        )
        if b"\\u" in content:  # half a pair of surrogates, which could be written nowhere
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise FormatError(f"{where}: not JSON: nested too deeply") from error
    except ValueError as error:
        raise FormatError(f"{where}: not JSON: {str(error)[:200]}") from error
    return value


def _refuse(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is too large for a number")
    return number


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice[:40]!r} stands twice")
    return found
