"""Counterfactuals as a source: what is drawn, what is composed, what a bank saves, and what is refused."""

import io
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from genint.manifests.dataset import load_dataset
from genint.manifests.errors import RecipeError
from genint.manifests.manifest import load_manifest
from genint.manifests.recipe import load_recipe, read_recipe
from genint.manifests.samples import StreamSamples
from genint.manifests.sources.counterfactual import BEST_CLASSES, MECHANISMS, CounterfactualStream
from genint.manifests.sources.stream import CgnFacts, Facts
from genint.manifests.storage import Storage
from genint.pipeline.cgn.mnist_form import MnistCgn, shuffle
from genint.pipeline.release.interpolate import draw_interpolation
from genint.pipeline.shards.settle import gather
from genint.pipeline.sources.counterfactual import Composition, make_part, out_of_bounds
from genint.pipeline.sources.rendering import RenderContext
from PIL import Image

STREAM = """
[[streams]]
name = "cf"
source = "counterfactual"
cgn = "net"
samples_per_class = 20
latents = "own"
samples_per_shard = 50
image_format = "png"
batch_size = 10
"""
RECIPE = f'name = "cfs"\nseed = 5\n{STREAM}'


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    """A small CGN of the MNIST form with random weights, in the official layout."""
    path = tmp_path_factory.mktemp("network") / "cgn.pth"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(MnistCgn(width=4).state_dict(), path)
    return path


def stream_of(*overrides: str) -> CounterfactualStream:
    stream = read_recipe(RECIPE, "test", [f"streams.cf.{override}" for override in overrides]).streams[0]
    assert isinstance(stream, CounterfactualStream)
    return stream


def facts_of(stream: CounterfactualStream, classes: int = 10, form: str = "mnist", name: str = "net") -> Facts:
    network = CgnFacts(
        form=form, z_dim=8, resolution=32, windows=33, class_names=[str(i) for i in range(classes)], digests={}
    )
    return Facts(5, streams={stream.name: stream}, cgns={name: network})


def parameters(stream: CounterfactualStream, facts: Facts) -> list[dict]:
    return [sample.parameters for sample in stream.samples(facts, np.arange(stream.count(facts)))]


@pytest.mark.parametrize("swap", [[], ["texture"], ["background"], ["texture", "background"]])
def test_what_is_swapped_is_independent_of_the_shape_and_the_rest_is_its_class(swap):
    stream = stream_of(f"swap={json.dumps(swap)}", "samples_per_class=100")
    drawn = parameters(stream, facts_of(stream))
    assert Counter(p["class_label"] for p in drawn) == dict.fromkeys(range(10), 100)
    for mechanism in ("texture", "background"):
        same = sum(p["labels"][mechanism] == p["class_label"] for p in drawn)
        assert same == 1000 if mechanism not in swap else 60 <= same <= 145
    assert all(p["labels"]["shape"] == p["class_label"] for p in drawn)


def test_shared_latents_are_one_and_own_latents_differ():
    for latents, expected in (("shared", 1), ("own", 3)):
        stream = stream_of(f"latents={latents}")
        facts = facts_of(stream)
        label, member = np.array([3]), np.array([7])
        drawn = {stream.draw_latents(facts, mechanism, label, member).tobytes() for mechanism in MECHANISMS}
        assert len(drawn) == expected
    other = stream.draw_latents(facts, "shape", np.array([4]), member)
    assert not np.allclose(other, stream.draw_latents(facts, "shape", label, member))


def test_a_bank_uses_every_shape_equally_often():
    stream = stream_of("bank=5")
    drawn = parameters(stream, facts_of(stream))
    used = Counter((p["class_label"], p["latent_index"]["shape"]) for p in drawn)
    assert len(used) == 50 and set(used.values()) == {4}
    assert {p["latent_index"]["texture"] for p in drawn} == set(range(5))
    shared = stream_of("bank=5", "latents=shared")
    assert all(len(set(p["latent_index"].values())) == 1 for p in parameters(shared, facts_of(shared)))


def test_classes_are_lists_of_a_mechanism_each_or_the_authors_choice():
    stream = stream_of("classes={shape=[1,2], background=[9]}")
    drawn = parameters(stream, facts_of(stream))
    assert {p["class_label"] for p in drawn} == {1, 2} and {p["labels"]["background"] for p in drawn} == {9}
    assert len({p["labels"]["texture"] for p in drawn}) == 10
    assert [len(BEST_CLASSES[mechanism]) for mechanism in MECHANISMS] == [76, 75, 38]
    best = stream_of('classes="best"', "samples_per_class=1")
    drawn = parameters(best, facts_of(best, classes=1000))
    assert [p["class_label"] for p in drawn] == list(BEST_CLASSES["shape"])
    assert all(p["labels"]["background"] in BEST_CLASSES["background"] for p in drawn)


def test_a_sample_does_not_depend_on_its_neighbours():
    stream = stream_of("bank=4")
    facts = facts_of(stream)
    assert stream.samples(facts, np.array([150]))[0].parameters == parameters(stream, facts)[150]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("swap=['shape']", "'texture' or 'background'"),
        ("swap=['texture','texture']", "stands there twice"),
        ("bank=0", "greater than 0"),
        ("bank=21", "more than samples_per_class = 20"),
        ("classes='worst'", 'expected "best", a list of class labels, or a table'),
        ("classes={shapes=[1]}", 'expected "best", a list of class labels, or a table'),
        ("mask_range=[0.9,0.1]", "the least is more than the largest"),
        ("min_contrast=2", "less than or equal to 1"),
        ("truncation=1.5", "less than or equal to 1"),
    ],
)
def test_keys_that_make_no_sense_are_refused(override, message):
    with pytest.raises(RecipeError, match=message):
        stream_of(override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("classes=[3,10]", r"10 is not a class label \(0 to 9\)"),
        ("classes={background=[-1]}", r"-1 is not a class label"),
        ("classes=[3,3]", "a label of shape stands there twice"),
        ("classes='best'", "these are classes of ImageNet, and net has 10"),
        ("truncation=0.5", "net is of the MNIST form"),
    ],
)
def test_keys_that_do_not_fit_the_network_are_refused(override, message):
    stream = stream_of(override)
    with pytest.raises(RecipeError, match=message):
        stream.check(facts_of(stream))


def test_a_bank_larger_than_memory_is_refused():
    stream = stream_of("bank=1000000", "samples_per_class=1000000")
    with pytest.raises(RecipeError, match="GiB of each worker's memory, at most 4"):
        stream.check(facts_of(stream))


def test_contrast_is_the_difference_under_the_mask():
    masks = torch.zeros(1, 1, 2, 2)
    masks[0, 0, 0, 0] = 1
    textures, backgrounds = torch.full((1, 3, 2, 2), -1.0), torch.full((1, 3, 2, 2), -1.0)
    textures[0, :, 0, 0] = torch.tensor([0.0, -1.0, 0.5])
    parts = Composition(masks, textures, backgrounds)
    assert parts.contrast().item() == pytest.approx((0.5 + 0 + 0.75) / 3)
    assert (parts.compose()[0, :, 0, 0] == textures[0, :, 0, 0]).all()
    assert (parts.compose()[0, :, 1] == -1).all()


def test_a_bank_holds_what_would_be_rendered_alone(network):
    recipe = read_recipe(RECIPE, "test", ["streams.cf.bank=4"])
    ingredients = gather(recipe, inputs={"net": str(network)})
    stream = recipe.streams[0]
    samples = stream.samples(ingredients.facts, np.array([0, 57, 199]))
    context = RenderContext(recipe, ingredients.facts, Storage("memory://x"), "cpu", roots=ingredients.roots)
    alone = stream.model_copy(update={"bank": None})
    for mechanism in MECHANISMS:
        banked, rendered = (make_part(context, s, mechanism, samples) for s in (stream, alone))
        torch.testing.assert_close(banked, rendered, atol=2e-3, rtol=2e-3)
    # The window of the shuffler is the sample's, not the bank's.
    windows = torch.tensor([sample.parameters["windows"]["background"] for sample in samples])
    bank, starts = context.kept[next(key for key in context.kept if "background" in key.split(":")[0])]
    rows = [starts[s.parameters["labels"]["background"]] + s.parameters["latent_index"]["background"] for s in samples]
    torch.testing.assert_close(banked, shuffle(bank[rows].float(), windows))


@pytest.fixture(scope="module")
def dataset(network, tmp_path_factory) -> Path:
    """Built from a bank, by one worker, without interruption. Not to be changed."""
    import subprocess
    import sys

    folder = tmp_path_factory.mktemp("counterfactual")
    (folder / "recipe.toml").write_text(f"{RECIPE}bank = 4\n")
    command = [sys.executable, "-c", "from genint.pipeline.cli import main; main()", "build-shards"]
    where = ["--out", folder / "dataset", "--workers", "1", "--input", f"net={network}"]
    subprocess.run([*command, folder / "recipe.toml", *where], check=True)
    return folder / "dataset"


def test_samples_come_with_labels_measures_digests_and_mask(dataset, network, run_cli, tmp_path):
    sheet = tmp_path / "sheet.png"
    shown = json.loads(run_cli("inspect", dataset, "cf-00000123", "--sheet", sheet, "--input", f"net={network}").out)
    found = shown["parameters"]
    assert shown["differs_from_plan"] == [] and found["labels"].keys() == set(MECHANISMS)
    assert found["class_label"] == found["labels"]["shape"] == 6 and found["truncation"] == 1.0
    assert 0 < found["mean_mask"] < 1 and 0 < found["contrast"] < 1 and len(found["networks"]["cgn"]) == 64
    entry = load_manifest(Storage(str(dataset))).streams[0]
    assert entry.role == "counterfactual" and entry.class_names == [str(i) for i in range(10)]
    with Image.open(sheet) as picture:
        assert picture.width > 4 * 96
    # Without the network its parts are grey, and the sheet is drawn all the same.
    assert run_cli("inspect", dataset, "cf-00000123", "--sheet", sheet).exit_code == 0


def test_the_stored_mask_is_the_one_measured(dataset):
    loaded = load_dataset(str(dataset))
    samples = StreamSamples(loaded.storage, load_manifest(loaded.storage).streams[0])
    for position in range(5):
        content = samples.read(position)
        mask = np.asarray(Image.open(io.BytesIO(content["mask.png"]))) / 255
        assert mask.mean() == pytest.approx(json.loads(content["json"])["mean_mask"], abs=0.01)


def test_shards_are_made_again_bit_for_bit_and_a_build_goes_on(dataset, network, run_cli, tmp_path):
    bound = ["--input", f"net={network}"]
    verified = run_cli("verify", dataset, "--rebuild", 2, *bound)
    assert verified.exit_code == 0 and verified.out.count("bytes equal") == 2
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    (copy / "cf/0000/cf-0000002.tar").unlink()
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f"{RECIPE}bank = 4\n")
    assert run_cli("build-shards", recipe, "--out", copy, "--workers", 1, *bound).exit_code == 0
    assert (copy / "SHA256SUMS").read_bytes() == (dataset / "SHA256SUMS").read_bytes()


def read_parameters(dataset: Path) -> list[dict]:
    samples = StreamSamples(Storage(str(dataset)), load_manifest(Storage(str(dataset))).streams[0])
    return [json.loads(samples.read(position, ["json"])["json"]) for position in range(len(samples))]


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_samples_outside_the_bounds_are_holes_with_their_reason(dataset, network, run_cli, tmp_path, share):
    least = float(np.quantile([found["contrast"] for found in read_parameters(dataset)], share)) + 1e-5
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f"{RECIPE}bank = 4\nmin_contrast = {least}\nmax_failures = 1.0\n")
    out = tmp_path / "dataset"
    built = run_cli("build-shards", recipe, "--out", out, "--workers", 1, "--input", f"net={network}")
    assert built.exit_code == 0, built.err
    entry = load_manifest(Storage(str(out))).streams[0]
    assert entry.failures == {"contrast below min_contrast": pytest.approx(200 * share, abs=10)}
    assert all(found["contrast"] >= least - 1e-6 for found in read_parameters(out))


def test_masks_outside_their_range_are_told_from_low_contrast():
    stream = stream_of("mask_range=[0.1, 0.5]", "min_contrast=0.2")
    assert out_of_bounds(stream, 0.3, 0.3) == ""
    assert out_of_bounds(stream, 0.05, 0.3) == out_of_bounds(stream, 0.6, 0.1) == "mean mask outside mask_range"
    assert out_of_bounds(stream, 0.3, 0.1) == "contrast below min_contrast"


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("colored-mnist-cgn", None, "ckp.pth (2.7 MB) of github.com/autonomousvision"),
        ("net", None, "give it with --input net=FILE"),
        ("net", "nothing.pth", "no such file"),
        ("net", "text.pth", "input net:"),
        ("imagenet-256-cgn", "cgn.pth", "a CGN of the mnist form; expected cgn.pth (1.1 GB)"),
    ],
)
def test_a_network_that_is_absent_or_another_is_refused_before_work(network, run_cli, tmp_path, name, given, message):
    (tmp_path / "text.pth").write_text("no network")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.replace('cgn = "net"', f'cgn = "{name}"'))
    path = network if given == "cgn.pth" else tmp_path / (given or "")
    bound = ["--input", f"{name}={path}"] if given else []
    refused = run_cli("build-shards", recipe, "--out", tmp_path / "out", *bound)
    assert refused.exit_code == 2 and message in refused.err and refused.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_official_file_of_another_world_is_refused(shared_data, run_cli, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.replace('cgn = "net"', 'cgn = "colored-mnist-cgn"'))
    other = shared_data / "cgn" / "cgn_wildlife_MNIST.pth"
    refused = run_cli("build-shards", recipe, "--out", tmp_path / "out", "--input", f"colored-mnist-cgn={other}")
    assert refused.exit_code == 2 and "the official file of wildlife-mnist-cgn" in refused.err


def test_a_dry_run_needs_no_network_and_a_bank_makes_it_cheaper(run_cli, tmp_path):
    recipe = tmp_path / "recipe.toml"
    text = RECIPE.replace('cgn = "net"', 'cgn = "colored-mnist-cgn"').replace("= 20\n", "= 100000\n")
    seconds = []
    for bank in ("", "bank = 100\n"):
        recipe.write_text(text + bank)
        shown = run_cli("build-shards", recipe, "--out", tmp_path / "out", "--dry-run")
        assert shown.exit_code == 0 and "timed with random weights" in shown.out
        stream = read_recipe(text + bank, "test").streams[0]
        seconds.append(stream.rehearsal(on_cpu=True).factor)
    assert seconds[1] < seconds[0] / 5 and not math.isnan(seconds[1])


def test_counterfactuals_train_a_classifier_by_their_shape(dataset):
    from genint.train.streams import open_shards

    (stream,) = open_shards(str(dataset))
    assert stream.term == "counterfactual" and len(stream.images) == 200
    assert {stream.images.read(position)[1] for position in range(200)} == set(range(10))


def test_interpolation_begins_and_ends_with_the_two_classes(network):
    sheet = np.asarray(draw_interpolation(str(network), "texture", (2, 7), 3, 1, 1.0, 0))
    same = np.asarray(draw_interpolation(str(network), "texture", (2, 2), 3, 1, 1.0, 0))
    other = np.asarray(draw_interpolation(str(network), "texture", (7, 7), 3, 1, 1.0, 0))
    tiles = [[picture[26:122, 110 + 98 * i : 110 + 98 * i + 96] for i in range(3)] for picture in (sheet, same, other)]
    assert (tiles[0][0] == tiles[1][0]).all() and (tiles[0][2] == tiles[2][2]).all()
    assert (tiles[0][1] != tiles[0][0]).any() and (tiles[0][1] != tiles[0][2]).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--classes", "1"], "expected two class labels"),
        (["--classes", "1,10"], "10 is not a class label (0 to 9)"),
        (["--truncation", "0.5"], "is of the MNIST form"),
        (["--out", "nowhere/sheet.png"], "a folder that exists"),
    ],
)
def test_interpolations_that_cannot_be_drawn_are_refused(network, run_cli, tmp_path, arguments, message):
    where = [] if "--out" in arguments else ["--out", tmp_path / "sheet.png"]
    refused = run_cli("interpolate", "--cgn", network, *where, *arguments)
    assert refused.exit_code == 2 and message in refused.err and refused.err.count("\n") == 1


@pytest.mark.parametrize("world", ["colored", "double-colored", "wildlife"])
def test_recipes_of_the_mnist_worlds_make_ten_thousand_masks_with_ten_pairs_each(world):
    recipe = load_recipe(f"cgn-{world}-mnist")
    natural = f"{world}-mnist"
    assert [stream.source for stream in recipe.streams] == [natural, natural, "counterfactual", "counterfactual"]
    assert recipe.stream("observational").swap == [] != recipe.stream("counterfactual").swap
    stream = recipe.stream("counterfactual")
    assert stream.bank * 10 == 10_000 and stream.count(facts_of(stream, name=f"{world}-mnist-cgn")) == 100_000
