"""JSON and text documents with one thing changed."""

import json
import random
from typing import Any

NAN = float("nan")
VALUES: list[Any] = [
    None,
    True,
    False,
    -1,
    0,
    1,
    7,
    2**31,
    2**63,
    10**30,
    1e308,
    -0.5,
    "",
    "x",
    "train",
    "test",
    "generated",
    "natural",
    "../../etc/passwd",
    "/etc/passwd",
    "a\0b",
    "a" * 100_000,
    "x" * 300,
    [],
    {},
    [1],
    [None],
    {"a": 1},
    ["x"],
    "ä😀",
    "0" * 64,
    "..",
    ".",
    "\\x",
    "s3://bucket/x",
    "file:///etc/passwd",
    "\n",
    "png",
    "mini",
]


def nodes(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to every node below the top."""
    found = []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        found.append((*path, key))
        found += nodes(value, (*path, key))
    return found


def get(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def mutate_tree(rng: random.Random, tree: Any) -> tuple[Any, str]:
    """One node of a JSON tree replaced, dropped, repeated, renamed, nudged or exchanged with a sibling."""
    tree = json.loads(json.dumps(tree))
    places = nodes(tree)
    if not places:
        return rng.choice(VALUES), "whole replaced"
    # Deep lists of numbers would swallow all the cases: choose a depth first.
    depth = rng.choice(sorted({len(p) for p in places}))
    path = rng.choice([p for p in places if len(p) == depth])
    parent, key = get(tree, path[:-1]), path[-1]
    value = parent[key]
    kind = rng.choice(["replace", "replace", "drop", "repeat", "rename", "nudge", "nudge", "exchange", "add", "empty"])
    dotted = ".".join(map(str, path))
    if kind == "drop":
        del parent[key]
    elif kind == "repeat" and isinstance(parent, list):
        parent.insert(rng.randrange(len(parent) + 1), value)
    elif kind == "rename" and isinstance(parent, dict):
        parent[rng.choice(["x", "", str(key).upper(), f"{key} "])] = parent.pop(key)
    elif kind == "exchange" and isinstance(parent, list) and len(parent) > 1:
        other = rng.randrange(len(parent))
        parent[key], parent[other] = parent[other], parent[key]
        dotted += f" with {other}"
    elif kind == "add" and isinstance(value, dict):
        value["extra"] = rng.choice(VALUES)
    elif kind == "empty" and isinstance(value, list | dict | str):
        parent[key] = type(value)()
    elif isinstance(value, bool):
        parent[key] = not value
    elif kind != "replace" and isinstance(value, int):
        parent[key] = value + rng.choice([-1, 1, 1000])
    elif kind != "replace" and isinstance(value, str) and value:
        at = rng.randrange(len(value))
        parent[key] = value[:at] + rng.choice("0aZ/.") + value[at + 1 :]
    else:
        kind = "replace"
        parent[key] = rng.choice(VALUES)
    return tree, f"{kind} {dotted} -> {json.dumps(parent.get(key) if isinstance(parent, dict) else None)[:40]}"


def mutate_text(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    """The text of a document damaged, or made hard to parse."""
    kind = rng.choice(
        ["bom", "utf-16", "latin", "nesting", "duplicate key", "nan", "truncate", "flip", "nul", "garbage", "huge int"]
    )
    if kind == "bom":
        return b"\xef\xbb\xbf" + content, kind
    if kind == "utf-16":
        return content.decode("utf-8", "replace").encode("utf-16"), kind
    if kind == "latin":
        at = rng.randrange(len(content) + 1)
        return content[:at] + b"\xff\xe4" + content[at:], f"{kind} at {at}"
    if kind == "nesting":
        deep = rng.choice([b"[" * 100_000, b'{"a":' * 100_000, b"[" * 900 + b"]" * 900])
        at = content.find(b":")
        return (
            deep if rng.random() < 0.5 or at < 0 else content[: at + 1] + deep + content[at + 1 :]
        ), f"nesting {deep[:6]!r}"
    if kind == "duplicate key":
        at = content.find(b"{")
        first = content[at + 1 :].partition(b":")[0]
        return content[: at + 1] + first + b": 0, " + content[at + 1 :], f"duplicate key {first[:20]!r}"
    if kind in ("nan", "huge int"):
        digits = [i for i, c in enumerate(content) if chr(c).isdigit() and content[i - 1 : i] in (b" ", b":")]
        if digits:
            at = rng.choice(digits)
            end = at
            while end < len(content) and chr(content[end]) in "0123456789.":
                end += 1
            new = rng.choice([b"NaN", b"Infinity", b"-Infinity", b"1e999"]) if kind == "nan" else b"9" * 5000
            return content[:at] + new + content[end:], f"{kind} at {at}: {new[:10]!r}"
    if kind == "truncate":
        at = rng.choice([0, 1, rng.randrange(len(content) + 1)])
        return content[:at], f"cut at {at}"
    if kind == "nul":
        at = rng.randrange(len(content) + 1)
        return content[:at] + b"\0" + content[at:], f"NUL at {at}"
    if kind == "garbage":
        return content + rng.choice([b"x", b"{}", b"\n\n", b"[1]"]), "garbage after the end"
    data = bytearray(content)
    at = rng.randrange(len(data)) if data else 0
    if data:
        data[at] ^= 1 << rng.randrange(8)
    return bytes(data), f"flip a bit at {at}"


def mutate_json(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    if rng.random() < 0.25:
        return mutate_text(rng, content)
    tree, note = mutate_tree(rng, json.loads(content))
    return json.dumps(tree).encode(), note


def same_json(first: bytes, second: bytes) -> bool:
    try:
        return json.loads(first) == json.loads(second)
    except (ValueError, RecursionError):
        return False
