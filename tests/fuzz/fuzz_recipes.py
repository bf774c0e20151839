"""Recipes, presets and --set values of wrong types and extreme sizes: refused in one line, or a dry run in bounded time and
memory that took the value as it was given."""

import datetime
import math
import random
import tomllib
from pathlib import Path
from typing import Any

import tomli_w
from common import (
    FAST_RECIPE,
    RENDERED_RECIPE,
    Tally,
    arguments,
    attempt,
    attempt_apart,
    bound_memory,
    build,
    picture,
    run_cli,
    workplace,
)
from documents import mutate_text, nodes

TRANSFER = """
[[streams]]
name = "transfer"
source = "transfer"
content = "natural"
style = "observational"
encoder = "mini-encoder"
resize = 32
crop = 32
num_samples = 8
batch_size = 4
evaluations = [2, 3]

[[streams]]
name = "photos"
source = "natural"
images = "photos"
resize = 32
crop = 32
"""
# Keys with the values that they have before anything is changed.
FLAT: dict[str, Any] = {}
PRESET: dict[str, Any] = {}
LIMIT = 20.0  # seconds that a dry run may take; by themselves these take one or two

VALUES: list[Any] = [
    -1,
    0,
    1,
    2,
    3,
    100,
    2**31 - 1,
    2**31,
    2**32,
    2**53 + 1,
    2**62,
    2**63 - 1,
    2**63,
    2**64,
    10**18,
    10**40,
    -(2**63),
    10**6,
    10**9,
    0.0,
    -0.0,
    1.0,
    0.5,
    1e-9,
    5e-324,
    1e308,
    -1e308,
    1e300,
    math.inf,
    -math.inf,
    math.nan,
    3.0,
    1e18,
    "",
    "x",
    "mini",
    "ä😀",
    "../x",
    "/etc/passwd",
    "a b",
    "A",
    "-",
    "a" * 64,
    "a" * 65,
    "a" * 10**6,
    "natural",
    "transfer",
    "x\ny",
    "\x7f",
    "released",
    "inf",
    "1",
    "true",
    "biggan-deep-256",
    "pipe:id",
    "s3://k:secret@b/x",
    [],
    [1],
    [-1],
    [0, 0],
    [0, 1, 2],
    [2, 1],
    [[1, 2]],
    [[-1e308, 1e308]] * 6,
    [[2, 1]] * 6,
    [1e308] * 6,
    [1] * 100_000,
    list(range(10)),
    ["x"],
    [[]],
    [True],
    [1, "x"],
    [math.nan] * 6,
    [10**18, 10**18],
    [100, 100],
    [1, 100],
    {},
    {"a": 1},
    True,
    False,
    datetime.date(1979, 5, 27),
    datetime.time(7, 32),
    datetime.datetime(1, 1, 1),
]
RAW = [
    b"9" * 5000,
    b"[" * 2000 + b"]" * 2000,
    b"[" * 100_000,
    b"{a=" * 2000 + b"1" + b"}" * 2000,
    b'"\\ud800"',
    b"1e999999",
    b"0x" + b"f" * 20000,
    b"1979-99-99",
    b"''''''",
    b"'''" + b"x" * 10**6 + b"'''",
    b"{a=1,a=2}",
    b"nan",
    b"+inf",
    b"0b1",
    b"1_000",
    b'"""\n"""',
    b"\xff",
    b"a.b.c",
    b"",
    b"=",
    b"#",
    b'"\\u0000"',
    b"[1,]",
]
DEEP_KEYS = [
    "a." * 500 + "b",
    "a." * 5000 + "b",
    "",
    ".",
    "..",
    "=",
    "streams",
    "streams.",
    "streams.natural",
    "streams.nothing.x",
    "generator.name.x",
    "streams.natural.name",
    "ä",
    "name.x",
    "seed.x",
    " seed ",
    "directions.layer",
    "streams.0.name",
]


def recipe_tree() -> dict[str, Any]:
    return tomllib.loads(RENDERED_RECIPE + TRANSFER)


def keys_of(models: list[Any]) -> list[str]:
    return [name for model in models for name in model.model_fields]


def settings() -> list[str]:
    """Every key of the recipe that --set can name, defaults included."""
    from genint.manifests.recipe import DirectionsTable, Generator, Recipe, stream_models

    found = [name for name in Recipe.model_fields if name != "streams"]
    found += [f"generator.{name}" for name in Generator.model_fields] + [
        f"directions.{name}" for name in DirectionsTable.model_fields
    ]
    models = stream_models()
    for stream in recipe_tree()["streams"]:
        found += [f"streams.{stream['name']}.{name}" for name in models[stream["source"]].model_fields]
    return found


def as_toml(value: Any) -> str:
    return (
        tomli_w.dumps({"x": value}).partition("=")[2].strip()
        if not isinstance(value, dict)
        else "{" + ", ".join(f"{k} = {v}" for k, v in value.items()) + "}"
    )


def same(first: Any, second: Any) -> bool:
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, bool) or isinstance(second, bool):
        return first is second
    return first == second


def fitting(rng: random.Random, now: Any) -> Any:
    """A value, three times in four of the type that is there now: such a one may be taken."""
    alike = [v for v in VALUES if type(v) is type(now)] if now is not None and rng.random() < 0.75 else VALUES
    if isinstance(now, float):
        alike = [v for v in alike if not isinstance(v, float) or math.isfinite(v)] or VALUES
    if isinstance(now, int) and not isinstance(now, bool) and alike is not VALUES:
        alike = [v for v in alike if 0 < v < 2**63]
    return rng.choice(alike)


def recipe_case(rng: random.Random, folder: Path, keys: list[str], tally: Tally) -> None:
    from genint.manifests.recipe import load_recipe, read_recipe
    from genint.pipeline.cli import main

    path = folder / "recipe.toml"
    overrides: list[str] = []
    expected: list[tuple[str, Any]] = []
    style = rng.choice(["set", "set", "set", "raw set", "odd key", "file", "text"])
    content = tomli_w.dumps(recipe_tree()).encode()
    if style == "set":
        for _ in range(rng.choice([1, 1, 2, 3])):
            key = rng.choice(keys)
            value = fitting(rng, FLAT.get(key))
            text = as_toml(value)
            overrides.append(f"{key}={text}")
            expected = [pair for pair in expected if pair[0] != key] + [(key, value)]
        note = "; ".join(o[:90] for o in overrides)
    elif style == "raw set":
        overrides = [f"{rng.choice(keys)}={rng.choice(RAW).decode('utf-8', 'surrogateescape')}"]
        note = f"{overrides[0][:60]}... ({len(overrides[0])})"
    elif style == "odd key":
        overrides = [
            f"{rng.choice(DEEP_KEYS)}={as_toml(rng.choice(VALUES))}" if rng.random() < 0.8 else rng.choice(DEEP_KEYS)
        ]
        note = overrides[0][:80]
    elif style == "file":
        tree = recipe_tree()
        where = rng.choice(nodes(tree))
        parent: Any = tree
        for key in where[:-1]:
            parent = parent[key]
        parent[where[-1]] = value = fitting(rng, parent[where[-1]])
        note = f"{'.'.join(map(str, where))} = {str(value)[:60]}"
        try:
            content = tomli_w.dumps(tree).encode()
        except (TypeError, ValueError, AttributeError):
            return
    else:
        if rng.random() < 0.5:
            content, note = mutate_text(rng, content)
        else:
            raw = rng.choice(RAW)
            content = (
                content.replace(b"seed = 7", b"seed = " + raw) if rng.random() < 0.7 else content + b"\nx = " + raw
            )
            note = f"file with {raw[:20]!r} ({len(raw)})"
    path.write_bytes(content)
    result = attempt(lambda: load_recipe(str(path), overrides), 10)
    wrong = None
    recipe = None
    if result.kind == "ok":
        recipe = result.value[0]
        flat = recipe.flatten()
        for key, value in expected:
            if key in flat and not same(flat[key], value):
                wrong = f"took another value of {key}"
        again = attempt(lambda: read_recipe(recipe.to_toml(), "again").digest() == recipe.digest())
        if again.kind != "ok" or not again.value[0]:
            wrong = "does not come back from its own TOML"
    tally.add(f"load ({style})", note, result, wrong)
    if recipe is None:
        return
    words = [w for o in overrides for w in ("--set", o)]
    words += ["--input", f"photos={folder / 'photos'}"] if "photos" in recipe.inputs() else []
    result = attempt_apart(lambda: run_cli(main, "build-shards", path, "--dry-run", "--device", "cpu", *words), LIMIT)
    wrong = None
    if result.kind == "ok":
        text = result.value[1].lower()
        wrong = "nan or inf in the estimate" if any(f" {word} " in text for word in ("nan", "inf")) else None
    tally.add("dry run", note, result, wrong)


# Extremes that only matter together; each is tried once, before the random ones.
TOGETHER = [
    ("generator.batch_size=1000000000", "streams.observational.latents_per_class=1000000000"),
    ("generator.batch_size=100000", "streams.observational.latents_per_class=100000"),
    ("streams.transfer.resize=100000", "streams.transfer.crop=100000"),
    ("streams.transfer.resize=9000", "streams.transfer.crop=9000"),
    ("streams.photos.resize=9000", "streams.photos.crop=9000"),
    ("streams.photos.resize=100000", "streams.photos.crop=100000"),
    ("streams.observational.latents_per_class=4611686018427387904", "streams.observational.samples_per_shard=1"),
    ("streams.observational.latents_per_class=1000000000000", "streams.observational.samples_per_shard=1"),
    (
        "streams.interventional.latents_per_class=9223372036854775807",
        "streams.interventional.interventions_per_latent=6",
    ),
    ("streams.interventional.step_scale=1e308", "streams.interventional.step_ranges=1e308"),
    (
        "streams.interventional.num_directions=100000000000",
        "streams.interventional.interventions_per_latent=100000000000",
    ),
    ("streams.transfer.evaluations=[100,100]", "streams.transfer.content_weight=1e308"),
    ('directions.method="sampled"', "directions.samples=1000000000000"),
    ('directions.method="sampled"', 'directions.layer="generator.nothing"'),
    ("directions.class_label=1000000", 'directions.method="sampled"'),
    ("streams.observational.truncation=1e308", 'streams.observational.sampler="threshold"'),
    ("streams.observational.truncation=5e-324", 'streams.observational.sampler="threshold"'),
    ("seed=9223372036854775807", "streams.natural.samples_per_shard=9223372036854775807"),
]


def together(folder: Path, tally: Tally) -> None:
    from genint.pipeline.cli import main

    path = folder / "recipe.toml"
    path.write_text(tomli_w.dumps(recipe_tree()))
    for pair in TOGETHER:
        words = [w for o in pair for w in ("--set", o)]
        run = lambda: run_cli(
            main, "build-shards", path, "--dry-run", "--device", "cpu", *words, "--input", f"photos={folder / 'photos'}"
        )
        result = attempt_apart(run, LIMIT)
        text = result.value[1].lower() if result.kind == "ok" else ""
        wrong = "nan or inf in the estimate" if any(f" {word} " in text for word in ("nan", "inf")) else None
        tally.add("dry run of extremes", "; ".join(pair), result, wrong)


def preset_case(rng: random.Random, folder: Path, keys: list[str], tally: Tally) -> None:
    from genint.train.cli import main

    path = folder / "preset.toml"
    overrides: list[str] = []
    style = rng.choice(["set", "set", "raw set", "odd key", "file"])
    content = b'extends = "mini-erm"\nbatch_sizes = { natural = 8 }\n'
    if style == "set":
        chosen = [rng.choice(keys) for _ in range(rng.choice([1, 1, 2]))]
        overrides = [
            f"{key}={as_toml(fitting(rng, PRESET.get(key, PRESET.get(f'stages.train.{key}'))))}" for key in chosen
        ]
        note = "; ".join(o[:90] for o in overrides)
    elif style == "raw set":
        overrides = [f"{rng.choice(keys)}={rng.choice(RAW).decode('utf-8', 'surrogateescape')}"]
        note = overrides[0][:60]
    elif style == "odd key":
        overrides = [
            f"{rng.choice([*DEEP_KEYS, 'stages', 'stages.train', 'stages.x.lr', 'batch_sizes.natural.x'])}={as_toml(rng.choice(VALUES))}"
        ]
        note = overrides[0][:80]
    else:
        value = rng.choice(VALUES)
        key = rng.choice([*keys, "extends", "stages"])
        parent, _, last = key.rpartition(".")
        try:
            content += (f"[{parent}]\n".encode() if parent else b"") + tomli_w.dumps({last: value}).encode()
        except (TypeError, ValueError):
            return
        note = f"{key} = {str(value)[:60]}"
        if key == "extends":
            content = tomli_w.dumps({"extends": value}).encode()
    if rng.random() < 0.1:
        content, note = mutate_text(rng, content)
    path.write_bytes(content)
    words = [w for o in overrides for w in ("--set", o)]
    result = attempt(lambda: run_cli(main, "--shards", folder / "fast", "--preset", path, *words, "--dry-run"), 10)
    tally.add(f"train --dry-run ({style})", note, result)


def main() -> None:
    options = arguments(__doc__)
    rng = random.Random(options.seed)
    tally = Tally("recipes")
    with workplace() as folder:
        for label in "ab":
            (folder / "photos" / label).mkdir(parents=True)
            for number in range(3):
                (folder / "photos" / label / f"{number}.png").write_bytes(picture(rng, 40))
        build(FAST_RECIPE, folder / "fast")
        from genint.pipeline.shards.estimate import estimate_streams  # noqa: F401
        from genint.train.configuration import Configuration, Stage

        keys = settings()
        stage_keys = [f"stages.train.{name}" for name in Stage.model_fields] + list(Stage.model_fields)
        preset_keys = [
            *Configuration.model_fields,
            *stage_keys,
            "batch_sizes.natural",
            "batch_sizes.int",
            "term_augmentations.natural",
        ]
        from genint.manifests.recipe import read_recipe
        from genint.train.configuration import load_configuration

        FLAT.update(read_recipe(RENDERED_RECIPE + TRANSFER, "base").flatten())
        PRESET.update(load_configuration("mini-erm").flatten())
        bound_memory()
        if options.only is None:
            together(folder, tally)
        while tally.cases < options.cases:
            if options.only == "presets" or (options.only is None and rng.random() < 0.3):
                preset_case(rng, folder, preset_keys, tally)
            else:
                recipe_case(rng, folder, keys, tally)
    tally.report(options.verbose)


if __name__ == "__main__":
    main()
