import hashlib
import json

import numpy as np
import pytest
import torch
from genint.manifests.directions import coordinates, load_directions
from genint.manifests.inputs import imagenet_wnids
from genint.manifests.recipe import load_recipe
from genint.manifests.sources.stream import Facts, GeneratorFacts, StreamPlan
from genint.manifests.storage import Storage
from genint.manifests.world import CLASSES
from genint.pipeline.biggan.fast_generator import fold
from genint.pipeline.biggan.generator import load_generator
from genint.pipeline.generators.directions import exact_directions
from genint.pipeline.generators.load import weights_location
from genint.pipeline.generators.network import as_network
from genint.pipeline.sources.generated import render_generated
from genint.pipeline.sources.rendering import RenderContext


@pytest.fixture(scope="module")
def facts():
    model = load_generator(weights_location("mini")).model
    generator = GeneratorFacts("mini", model.config.z_dim, 32, tuple("0123456789"))
    return Facts(seed=7, generator=generator, directions=exact_directions(model, 10))


@pytest.fixture(scope="module")
def recipe(tiny_recipe):
    return load_recipe(str(tiny_recipe))


@pytest.mark.parametrize("name", ["natural", "observational", "interventional"])
def test_shards_hold_every_sample_once(recipe, facts, name):
    plan = StreamPlan(recipe.stream(name), facts)
    indices = np.concatenate([plan.indices(i) for i in range(plan.num_shards)])
    assert sorted(indices) == list(range(plan.count))
    indices = plan.indices(0).tolist()
    assert [plan.locate(index) for index in indices] == [(0, place) for place in range(len(indices))]


def test_shards_mix_the_classes(recipe, facts):
    plan = StreamPlan(recipe.stream("observational"), facts)
    assert len({sample.class_label for sample in plan.samples(0)}) > 3


def test_a_sample_depends_on_its_own_index_alone(recipe, facts):
    stream = recipe.stream("interventional")
    alone = stream.latents(facts, np.array([17]))
    among_others = stream.latents(facts, np.array([3, 17, 40]))
    assert (alone[0] == among_others[1]).all()


def test_directions_of_one_latent_are_all_different(recipe, facts):
    stream = recipe.stream("interventional")
    for latent in range(0, stream.count(facts), 3):
        drawn = [s.parameters["direction"] for s in stream.samples(facts, np.arange(latent, latent + 3))]
        assert len(set(drawn)) == 3


def test_intervention_sets_one_coordinate_and_leaves_the_others(recipe, facts):
    stream = recipe.stream("interventional")
    indices = np.arange(stream.count(facts))
    before = coordinates(stream.draw_latents(facts, indices), facts.directions)
    after = coordinates(stream.latents(facts, indices), facts.directions)
    for row, sample in enumerate(stream.samples(facts, indices)):
        direction, step = sample.parameters["direction"], sample.parameters["step_size"]
        assert after[row, direction] == pytest.approx(step, abs=1e-9)
        others = np.arange(10) != direction
        np.testing.assert_allclose(after[row, others], before[row, others], atol=1e-9)


def test_steps_have_the_same_distribution_in_every_class(tiny_recipe, facts):
    # Theorem 1: the intervention is chosen without looking at the class.
    recipe = load_recipe(str(tiny_recipe), ["streams.interventional.latents_per_class=300"])
    stream = recipe.stream("interventional")
    samples = stream.samples(facts, np.arange(stream.count(facts)))
    for label in (0, 9):
        steps = [s.parameters["step_size"] for s in samples if s.class_label == label]
        drawn = np.bincount([s.parameters["direction"] for s in samples if s.class_label == label], minlength=6)
        assert np.mean(steps) == pytest.approx(0, abs=0.3)
        assert np.std(steps) == pytest.approx(4 / np.sqrt(3), abs=0.15)
        assert drawn.min() > 0.8 * drawn.mean()


def test_classes_draw_independent_latents(recipe, facts):
    stream = recipe.stream("observational")
    first_of_each = stream.draw_latents(facts, np.arange(0, 30, 3))
    assert np.abs(np.corrcoef(first_of_each) - np.eye(10)).max() < 0.6


def test_a_larger_dataset_keeps_the_samples_of_the_smaller(tiny_recipe, facts):
    small = load_recipe(str(tiny_recipe)).stream("interventional")
    wide = load_recipe(str(tiny_recipe), ["streams.interventional.interventions_per_latent=5"]).stream("interventional")
    first, again = small.samples(facts, np.arange(3)), wide.samples(facts, np.arange(3))
    assert [s.parameters["direction"] for s in first] == [s.parameters["direction"] for s in again]
    assert (small.latents(facts, np.arange(3)) == wide.latents(facts, np.arange(3))).all()


def test_truncation_scales_the_same_noise(tiny_recipe, facts):
    half = load_recipe(str(tiny_recipe), ["streams.observational.truncation=0.5"]).stream("observational")
    whole = load_recipe(str(tiny_recipe)).stream("observational")
    indices = np.arange(5)
    np.testing.assert_allclose(half.latents(facts, indices) * 2, whole.latents(facts, indices), rtol=1e-15)


def test_threshold_sampling_bounds_the_latent(tiny_recipe, facts):
    overrides = ["streams.observational.truncation=1.5", "streams.observational.sampler=threshold"]
    stream = load_recipe(str(tiny_recipe), overrides).stream("observational")
    latents = stream.latents(facts, np.arange(30))
    assert 1.2 < np.abs(latents).max() <= 1.5
    assert stream.batch_norm_truncation == 1.0


def test_statistics_of_another_truncation_are_rendered_and_recorded(tiny_recipe, facts, tmp_path):
    half = ["streams.observational.truncation=0.5"]
    other = [*half, "streams.observational.statistics_truncation=1.0"]
    recipe = load_recipe(str(tiny_recipe), other)
    stream, without = (load_recipe(str(tiny_recipe), o).stream("observational") for o in (other, half))
    indices = np.arange(4)
    samples = stream.samples(facts, indices)
    assert samples[0].parameters["statistics_truncation"] == 1.0
    assert "statistics_truncation" not in without.samples(facts, indices)[0].parameters
    assert np.array_equal(stream.latents(facts, indices), without.latents(facts, indices))
    model = load_generator(weights_location("mini")).model
    context = RenderContext(recipe, facts, Storage(tmp_path), "cpu", as_network(model))
    found = np.stack([rendered.image for rendered in render_generated(context, stream, samples)])
    latents = torch.from_numpy(stream.latents(facts, indices))
    labels = torch.tensor([sample.class_label for sample in samples])
    size = recipe.generator.batch_size
    at_one, at_half = (fold(model, t, batch_size=size).render(latents, labels)[0] for t in (1.0, 0.5))
    assert np.array_equal(found, at_one)
    assert not np.array_equal(found, at_half)


def test_parameters_are_json_and_complete(recipe, facts):
    sample = recipe.stream("interventional").samples(facts, np.array([5]))[0]
    parameters = json.loads(json.dumps(sample.parameters))
    assert parameters == sample.parameters
    needed = {"source", "seed", "generator", "class_label", "class_name", "latent_index", "truncation", "sampler"}
    assert needed | {"direction", "step_size", "sample_index"} <= parameters.keys()


def test_the_first_sample_of_a_recipe_never_changes(recipe, facts):
    # Written down once: these decide the bytes of published datasets (integers exactly, floats to 1e-12).
    sample = StreamPlan(recipe.stream("interventional"), facts).samples(0)[0]
    found = sample.key, sample.class_label, sample.parameters["latent_index"], sample.parameters["direction"]
    assert found == ("interventional-00000016", 2, 1, 1)
    assert sample.parameters["step_size"] == pytest.approx(-3.2247229920210367, rel=1e-12)
    latent = recipe.stream("interventional").draw_latents(facts, np.array([sample.index]))[0]
    np.testing.assert_allclose(latent[:3], [-1.0168724277798271, -1.058843749185102, -0.40073438895734803], rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "stream", "shard", "digest"),
    [
        ("mini", "natural", 0, "e087fcf4ef413404"),
        ("mini", "observational", 1, "e0da802827eec495"),
        ("mini", "interventional", 4, "6a3322fe0e74605d"),
        ("mini", "transfer", 3, "911f80759df2ef94"),
        ("genint-imagenet-256", "interventional", 999, "d95af3d8cf201d55"),
        ("figure-5-256", "interventional", 0, "d66bb2b3cbd182ee"),
        ("gan-augmentation-256", "observational", 7, "1f293695c2ffe717"),
    ],
)
def test_samples_of_shipped_recipes_never_change(name, stream, shard, digest):
    # Everything that is exact on any machine, of a whole shard; written down when samples were drawn one by one.
    recipe = load_recipe(name)
    classes = CLASSES if name == "mini" else imagenet_wnids()
    streams = {entry.name: entry for entry in recipe.streams}
    facts = Facts(recipe.seed, GeneratorFacts(recipe.generator.name, 128, 256, tuple(classes)), streams=streams)
    exact = [
        {key: value for key, value in sample.parameters.items() if not isinstance(value, float) and key != "nuisances"}
        for sample in StreamPlan(recipe.stream(stream), facts).samples(shard)
    ]
    assert hashlib.sha256(json.dumps(exact, sort_keys=True).encode()).hexdigest()[:16] == digest


def test_directions_of_a_dataset_are_the_ones_its_samples_moved_along(tmp_path, tiny_recipe, run_cli):
    out = tmp_path / "dataset"
    assert run_cli("build-shards", tiny_recipe, "--out", out, "--workers", 1).exit_code == 0
    stored = load_directions(out / "directions" / "mini-generator-gen_z.npz")
    model = load_generator(weights_location("mini")).model
    np.testing.assert_allclose(stored.latent, exact_directions(model, 6).latent, atol=1e-9)
