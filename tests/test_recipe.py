"""Recipes: what they accept, how they say no, and that the shipped ones hold the paper's numbers."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from genint.manifests.errors import RecipeError
from genint.manifests.inputs import imagenet_wnids
from genint.manifests.recipe import Recipe, load_recipe, read_recipe, shipped_recipes, stream_models
from genint.manifests.sources.stream import Facts, GeneratorFacts, StreamPlan
from genint.manifests.step_ranges import GENINT_STEP_RANGES

RunCli = Callable[..., Any]

RECIPE = """
name = "small"
seed = 3

[generator]
name = "mini"

[[streams]]
name = "plain"
source = "observational"
latents_per_class = 2

[[streams]]
name = "moved"
source = "interventional"
latents_per_class = 2
"""

MINI = Facts(3, GeneratorFacts("mini", 24, 32, tuple("abcdefghij")))
BIGGAN = Facts(10319, GeneratorFacts("biggan-deep-256", 128, 256, imagenet_wnids()))


def read(*overrides: str, text: str = RECIPE) -> Recipe:
    return read_recipe(text, "small.toml", overrides)


def refusal(*overrides: str, text: str = RECIPE) -> str:
    with pytest.raises(RecipeError) as caught:
        read(*overrides, text=text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Refusals name the key, what was found and what was expected.


@pytest.mark.parametrize(
    ("override", "key", "suggestion"),
    [
        ("streams.moved.truncaton=0.5", "streams.moved.truncaton", "truncation"),
        ("sead=1", "sead", "seed"),
        ("generator.precison=bf16", "generator.precison", "precision"),
        ("directions.layers=x", "directions.layers", "layer"),
        ("streams.plain.num_directions=3", "streams.plain.num_directions", ""),
    ],
)
def test_unknown_key_is_named_with_a_suggestion_and_the_known_ones(override: str, key: str, suggestion: str) -> None:
    message = refusal(override)
    assert message.startswith(f"small.toml: unknown key {key!r}")
    if suggestion:
        assert f"did you mean {suggestion!r}?" in message
    assert "known: " in message


@pytest.mark.parametrize(
    ("override", "key", "expected"),
    [
        ("seed=many", "seed = 'many'", "valid integer"),
        ('seed="3"', "seed = '3'", "valid integer"),
        ("seed=true", "seed = True", "valid integer"),
        ("seed=-1", "seed = -1", "greater than or equal to 0"),
        ("seed=1.5", "seed = 1.5", "integer"),
        ("name=Upper Case", "name = 'Upper Case'", "pattern"),
        ("name=../escape", "name = '../escape'", "pattern"),
        ("streams.moved.latents_per_class=0", "streams.moved.latents_per_class = 0", "greater than 0"),
        ("streams.moved.truncation=high", "streams.moved.truncation = 'high'", "valid number"),
        ("streams.moved.truncation=inf", "streams.moved.truncation = inf", "finite number"),
        ("streams.moved.step_scale=nan", "streams.moved.step_scale = nan", "number"),
        ("streams.moved.samples_per_shard=0", "streams.moved.samples_per_shard = 0", "greater than 0"),
        ("streams.moved.classes=[]", "streams.moved.classes", "at least 1 item"),
        ("streams.moved.jpeg_quality=101", "streams.moved.jpeg_quality = 101", "less than or equal to 100"),
        ("streams.moved.image_format=tiff", "streams.moved.image_format = 'tiff'", "'jpeg', 'png' or 'webp'"),
        ("streams.moved.step_ranges=wide", "streams.moved.step_ranges = 'wide'", '"released-51-symmetric", a number'),
        ("streams.moved.step_ranges=[[1, 2], 3]", "streams.moved.step_ranges", "[lo, hi] pairs"),
        ("generator.precision=fp16", "generator.precision = 'fp16'", "'fp32' or 'bf16'"),
        ("generator=biggan", "generator = 'biggan'", ""),
        ("streams=3", "streams = 3", "list"),
    ],
)
def test_wrong_value_is_named_with_what_was_expected(override: str, key: str, expected: str) -> None:
    message = refusal(override)
    assert message.startswith(f"small.toml: {key}: ")
    assert expected in message


def test_missing_keys_are_named() -> None:
    assert "key 'seed' is missing" in refusal(text=RECIPE.replace("seed = 3", ""))
    lost = RECIPE.replace("latents_per_class = 2\n\n", "\n")
    assert "key 'streams.plain.latents_per_class' is missing" in refusal(text=lost)


def test_unknown_source_lists_the_known_ones() -> None:
    message = refusal("streams.moved.source=interventionl")
    assert "streams.moved.source = 'interventionl': no such source" in message
    assert all(name in message for name in stream_models())


def test_stream_without_source_says_so() -> None:
    message = refusal(text=RECIPE.replace('source = "observational"\n', ""))
    assert "streams.plain" in message
    assert "source" in message


def test_recipe_without_streams_is_refused() -> None:
    assert "streams" in refusal(text='name = "x"\nseed = 1\n')
    assert "at least 1 item" in refusal(text='name = "x"\nseed = 1\nstreams = []\n')


def test_two_streams_of_one_name_are_refused() -> None:
    assert "two streams are named 'plain'" in refusal(text=RECIPE.replace('"moved"', '"plain"'))


def test_generated_stream_without_a_generator_is_refused() -> None:
    lost = RECIPE.replace('[generator]\nname = "mini"\n', "")
    assert "stream 'plain' is generated, but there is no [generator]" in refusal(text=lost)


def test_exact_directions_of_a_nonlinear_layer_are_refused() -> None:
    assert 'use "sampled"' in refusal("directions.layer=generator.layers.0")


def test_text_that_is_not_toml_is_one_line() -> None:
    assert "small.toml: not TOML" in refusal(text="name = \n")


def test_number_of_further_problems_is_told() -> None:
    assert "(and 2 more)" in refusal("sead=1", "streams.moved.truncation=-1", "streams.plain.truncation=-1")


def test_file_that_is_not_utf8_is_a_recipe_error(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes(RECIPE.replace("small", "caf\xe9").encode("latin-1"))
    with pytest.raises(RecipeError, match="not UTF-8"):
        load_recipe(str(path))


def test_unknown_recipe_is_suggested_and_missing_file_is_not(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean 'genint-imagenet-256'"):
        load_recipe("genint-imagenet-265")
    with pytest.raises(RecipeError, match="no such recipe file"):
        load_recipe(str(tmp_path / "lost.toml"))


# Overrides.


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("seed=12", "seed", 12),
        (" seed = 12", "seed", 12),
        ("name=other", "name", "other"),
        ('name="other"', "name", "other"),
        ("notes=two words = 1", "notes", "two words = 1"),
        ("generator.batch_size=7", "generator.batch_size", 7),
        ("directions.method=sampled", "directions.method", "sampled"),
        ("streams.moved.truncation=0.25", "streams.moved.truncation", 0.25),
        ("streams.moved.truncation=1", "streams.moved.truncation", 1.0),
        ("streams.moved.classes=[1, 2]", "streams.moved.classes", [1, 2]),
        ("streams.moved.step_ranges=4", "streams.moved.step_ranges", 4.0),
        ("streams.moved.step_ranges=released-51-symmetric", "streams.moved.step_ranges", "released-51-symmetric"),
        ("streams.moved.step_ranges=[[-1, 2], [-0.5, 3]]", "streams.moved.step_ranges", [[-1.0, 2.0], [-0.5, 3.0]]),
    ],
)
def test_set_changes_one_key(override: str, key: str, value: Any) -> None:
    changed, before = read(override).flatten(), read().flatten()
    assert changed[key] == value
    assert {k: v for k, v in changed.items() if k != key} == {k: v for k, v in before.items() if k != key}


def test_later_set_wins() -> None:
    assert read("seed=1", "seed=2").seed == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "expected KEY=VALUE"),
        ("streams.movd.truncation=1", "no stream 'movd'; did you mean 'moved'?"),
        ("streams.moved=1", "name a key of the stream"),
        ("seed.x=1", "seed is a value, not a table"),
    ],
)
def test_set_that_leads_nowhere_is_explained(override: str, message: str) -> None:
    found = refusal(override)
    assert found.startswith(f"--set {override}: ")
    assert message in found


def test_set_into_streams_that_are_no_tables_is_a_recipe_error() -> None:
    assert "no stream 'x'" in refusal("streams.x.truncation=1", text='name = "x"\nseed = 1\nstreams = [1]\n')


# One meaning, one digest.


def test_digest_ignores_formatting_comments_and_spelled_out_defaults() -> None:
    noisy = "# a comment\n" + RECIPE.replace("seed = 3", "seed   =   3  # three") + "truncation = 1\n"
    assert read(text=noisy).digest() == read().digest()


@pytest.mark.parametrize(
    "override", ["seed=4", "name=other", "streams.moved.step_scale=0.5", "streams.plain.split=test"]
)
def test_digest_changes_with_every_key(override: str) -> None:
    assert read(override).digest() != read().digest()


@pytest.mark.parametrize("name", shipped_recipes())
def test_toml_round_trip_keeps_the_recipe(name: str) -> None:
    recipe = load_recipe(name)
    again = read_recipe(recipe.to_toml(), "again")
    assert again == recipe
    assert again.digest() == recipe.digest()
    assert again.to_toml() == recipe.to_toml()


@pytest.mark.parametrize("ranges", ["4.5", "[1, 2.5]", "[[-1, 2], [0, 0.1]]"])
def test_toml_round_trip_keeps_own_step_ranges(ranges: str) -> None:
    recipe = read(f"streams.moved.step_ranges={ranges}", 'notes="""two\nlines "quoted" süß"""')
    assert read(text=recipe.to_toml()) == recipe


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_fit_the_printed_json_schema(name: str, run_cli: RunCli) -> None:
    schema = json.loads(run_cli("schema", "recipe").out)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    tree = tomllib.loads(shipped_recipes()[name])
    validator.validate(tree)
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({**tree, "sead": 1})


# The paper.


@pytest.mark.parametrize("name", ["genint-imagenet-128", "genint-imagenet-256"])
def test_genint_recipes_hold_the_papers_numbers(name: str) -> None:
    recipe = load_recipe(name)
    (stream,) = recipe.streams
    assert recipe.generator is not None
    assert recipe.generator.name == f"biggan-deep-{name[-3:]}"
    assert stream.name == stream.source == "interventional"
    assert (stream.truncation, stream.sampler, stream.num_directions, stream.step_scale) == (1.0, "scaled", 60, 1.0)
    assert (stream.latents_per_class, stream.interventions_per_latent, stream.classes) == (1000, 5, None)
    assert (stream.ranges == GENINT_STEP_RANGES).all()
    assert (recipe.directions.method, recipe.directions.layer) == ("exact", "generator.gen_z")
    plan = StreamPlan(stream, BIGGAN)
    assert (plan.count, plan.num_shards) == (5_000_000, 1000)


def test_baseline_and_figure_recipes_hold_their_truncations() -> None:
    (baseline,) = load_recipe("gan-augmentation-256").streams
    assert (baseline.source, baseline.truncation) == ("observational", 0.2)
    (figure,) = load_recipe("figure-5-256").streams
    assert (figure.source, figure.truncation, figure.num_directions) == ("interventional", 0.5, 60)


@pytest.mark.parametrize("name", ["genint-imagenet-128", "genint-imagenet-256", "gan-augmentation-256", "figure-5-256"])
def test_shipped_recipes_of_imagenet_fit_the_published_generators(name: str) -> None:
    for stream in load_recipe(name).streams:
        stream.check(BIGGAN)


# What only the generator at hand can tell.


def check(*overrides: str, facts: Facts = BIGGAN) -> str:
    """The refusal of the stream `moved` by a generator; "" if it fits."""
    try:
        read(*overrides).stream("moved").check(facts)
    except RecipeError as error:
        return str(error)
    return ""


def test_truncation_above_the_statistics_needs_the_threshold_sampler() -> None:
    assert 'use sampler = "threshold"' in check("streams.moved.truncation=2.0")
    assert check("streams.moved.truncation=2.0", "streams.moved.sampler=threshold") == ""
    assert check("streams.moved.truncation=1.0") == ""


def test_more_directions_than_latent_dimensions_are_refused() -> None:
    message = check("streams.moved.num_directions=25", "streams.moved.step_ranges=4.0", facts=MINI)
    assert "num_directions = 25: more than the latent size 24 of mini" in message
    assert check("streams.moved.num_directions=24", "streams.moved.step_ranges=4.0", facts=MINI) == ""


def test_more_directions_than_released_ranges_are_refused() -> None:
    assert "61 directions, but step ranges for 60" in check("streams.moved.num_directions=61")
    assert check("streams.moved.num_directions=61", "streams.moved.step_ranges=4.0") == ""


def test_more_interventions_than_directions_are_refused() -> None:
    overrides = ("streams.moved.num_directions=3", "streams.moved.interventions_per_latent=4")
    assert "a latent's directions are all different" in check(*overrides)


@pytest.mark.parametrize(
    ("ranges", "message"),
    [("[1.0, 2.0]", "step ranges for 2"), ("[[2, 1]]", "no finite, rising range"), ("-1.0", "no finite, rising range")],
)
def test_step_ranges_that_do_not_fit_are_refused(ranges: str, message: str) -> None:
    count = 1 if ranges == "[[2, 1]]" else 5
    found = check(
        f"streams.moved.step_ranges={ranges}",
        f"streams.moved.num_directions={count}",
        "streams.moved.interventions_per_latent=1",
    )
    assert found.startswith("streams.moved.step_ranges: ")
    assert message in found


def test_class_labels_outside_the_generator_or_twice_are_refused() -> None:
    assert "10 is not a class label (0 to 9)" in check("streams.moved.classes=[0, 10]", facts=MINI)
    assert "-1 is not a class label" in check("streams.moved.classes=[-1]", facts=MINI)
    assert "classes: 4 stands there twice" in check("streams.moved.classes=[4, 2, 4]", facts=MINI)


def test_refused_recipe_writes_nothing_and_exits_with_2(run_cli: RunCli, tiny_recipe: Path, tmp_path: Path) -> None:
    for override in ("streams.interventional.num_directions=500", "streams.observational.truncation=2.0", "x=1"):
        result = run_cli("build-shards", tiny_recipe, "--set", override, "--out", tmp_path / "out")
        assert result.exit_code == 2
        assert result.err.startswith("error: ")
        assert result.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "streams.transfer.style_weight=9007199254740993",
            "that floating point cannot hold; the nearest is 9007199254740992",
        ),
        ("streams.transfer.content=10000000000000000000000000000000000000000", "an integer has more than 64 bits"),
    ],
)
def test_numbers_that_would_become_others_are_refused(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("mini", [override])


def test_more_samples_than_can_be_numbered_are_refused(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    override = "streams.observational.latents_per_class=1000000000000000000"
    refused = run_cli("build-shards", "mini", "--dry-run", "--out", tmp_path / "out", "--set", override)
    assert refused.exit_code == 2 and refused.err.count("\n") == 1
    assert "stream observational: 10,000,000,000,000,000,000 samples, more than 9,007,199,254,740,992" in refused.err
