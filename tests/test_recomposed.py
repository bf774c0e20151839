"""Recomposed pictures: whose object, on whose background, and what cannot be cut out."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from genint.manifests.errors import RecipeError
from genint.manifests.manifest import load_manifest
from genint.manifests.pictures import PictureError, decode_picture
from genint.manifests.recipe import read_recipe
from genint.manifests.samples import StreamSamples
from genint.manifests.storage import Storage
from genint.pipeline.cgn.mnist_form import MnistCgn
from genint.pipeline.shards.settle import gather
from genint.pipeline.sources.recomposed import feathered, find_by_grabcut, remove_object
from PIL import Image

NATURAL = """
name = "cut"
seed = 2
[[streams]]
name = "natural"
source = "mini-world"
objects = "train"
num_samples = 40
samples_per_shard = 25
image_format = "png"
"""
RECOMPOSED = """
[[streams]]
name = "{name}"
source = "recomposed"
objects = "natural"
image_format = "png"
samples_per_shard = 20
{keys}
"""


def recipe_text(**streams: str) -> str:
    return NATURAL + "".join(RECOMPOSED.format(name=name, keys=keys) for name, keys in streams.items())


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, str]:
    """Backgrounds of one colour, a photograph of a class, and a small CGN of the MNIST form with random weights."""
    folder = tmp_path_factory.mktemp("inputs")
    for number, colour in enumerate(((250, 0, 0), (0, 250, 0))):
        (folder / "walls").mkdir(exist_ok=True)
        Image.new("RGB", (48, 40), colour).save(folder / "walls" / f"{number}.png")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(MnistCgn(width=4).state_dict(), folder / "cgn.pth")
    return {"walls": str(folder / "walls"), "net": str(folder / "cgn.pth")}


@pytest.fixture(scope="module")
def dataset(inputs, tmp_path_factory) -> Path:
    """All kinds of backgrounds, built by one worker. Not to be changed."""
    import subprocess
    import sys

    folder = tmp_path_factory.mktemp("recomposed")
    streams = {
        "inpainted": 'background = "natural"\nfeather = 0.0',
        "walled": 'background = "walls"\nfeather = 0.0',
        "soft": 'background = "walls"\nfeather = 2.0\nnum_samples = 20',
        "dreamt": 'cgn = "net"\nnum_samples = 20',
        "found": 'background = "natural"\nsaliency = "mini-saliency"\ncrop = 32\nnum_samples = 20\nmax_failures = 0.5',
        "guessed": 'background = "walls"\nsaliency = "grabcut"\nnum_samples = 20\nmax_failures = 0.5',
    }
    (folder / "recipe.toml").write_text(recipe_text(**streams))
    command = [sys.executable, "-c", "from genint.pipeline.cli import main; main()", "build-shards"]
    bound = [part for name, path in inputs.items() for part in ("--input", f"{name}={path}")]
    where = [folder / "recipe.toml", "--out", folder / "dataset", "--workers", "1"]
    subprocess.run([*command, *where, *bound], check=True)
    return folder / "dataset"


def read_all(dataset: Path, stream: str) -> dict[str, dict]:
    """Samples by key: pixels, mask and parameters."""
    storage = Storage(str(dataset))
    samples = StreamSamples(storage, load_manifest(storage).stream(stream))
    found = {}
    for position in range(len(samples)):
        content = samples.read(position)
        found[samples.key(position)] = {
            "pixels": np.asarray(decode_picture(content["png"])),
            "mask": np.asarray(decode_picture(content["mask.png"]))[..., 0] > 0,
            "label": int(content["cls"]),
            **json.loads(content["json"]),
        }
    return found


def test_the_object_is_kept_and_the_label_is_its_own(dataset):
    natural = read_all(dataset, "natural")
    made = read_all(dataset, "inpainted")
    assert len(made) == 40
    for sample in made.values():
        origin = natural[sample["object"]["key"]]
        assert sample["label"] == origin["label"] and (sample["mask"] == origin["mask"]).all()
        assert (sample["pixels"][sample["mask"]] == origin["pixels"][origin["mask"]]).all()
        assert sample["mean_mask"] == pytest.approx(sample["mask"].mean(), abs=1e-6)


def test_the_background_is_the_other_picture_where_it_had_no_object(dataset):
    natural = read_all(dataset, "natural")
    made = read_all(dataset, "inpainted")
    labels = Counter()
    for sample in made.values():
        origin = natural[sample["background"]["key"]]
        labels[origin["label"]] += 1
        far = ~sample["mask"].copy()
        far &= np.asarray(Image.fromarray(origin["mask"]).convert("L").resize((32, 32))) == 0
        wide = np.zeros_like(far)
        for dy in range(-2, 3):
            for dx in range(-2, 3):
                wide |= np.roll(origin["mask"], (dy, dx), (0, 1))
        assert (sample["pixels"][far & ~wide] == origin["pixels"][far & ~wide]).all()
    assert len(labels) >= 6


def test_a_folder_of_backgrounds_is_used_as_it_is_at_the_objects_size(dataset):
    colours = Counter()
    for sample in read_all(dataset, "walled").values():
        (colour,) = {tuple(pixel) for pixel in sample["pixels"][~sample["mask"]].tolist()}
        colours[colour] += 1
    assert set(colours) == {(250, 0, 0), (0, 250, 0)}


def test_a_feathered_edge_mixes_both(dataset):
    hard = np.zeros((9, 9), bool)
    hard[:, 5:] = True
    soft = feathered(hard, 1.0)
    assert (feathered(hard, 0.0) == hard).all()
    assert (np.diff(soft[4]) >= 0).all() and 0.2 < soft[4, 4] < 0.5 < soft[4, 5] < 0.8 and soft[4, 0] < 0.01
    made = read_all(dataset, "soft").values()
    mixed = [sample for sample in made if sample["pixels"][~sample["mask"]].std(0).max() > 5]
    assert len(mixed) == 20


def test_a_cgn_draws_backgrounds_of_every_class(dataset):
    made = read_all(dataset, "dreamt")
    assert len({sample["background"]["class_label"] for sample in made.values()}) >= 6
    assert all(len(sample["background"]["networks"]["cgn"]) == 64 for sample in made.values())
    assert len({sample["pixels"][0].tobytes() for sample in made.values()}) == len(made)


@pytest.mark.parametrize(("stream", "least"), [("found", 0.9), ("guessed", 0.8)])
def test_what_is_cut_out_is_what_the_mask_says(dataset, stream, least):
    natural = read_all(dataset, "natural")
    made = read_all(dataset, stream).values()
    origins = [natural[sample["object"]["key"]]["mask"] for sample in made]
    overlaps = [(s["mask"] & o).sum() / (s["mask"] | o).sum() for s, o in zip(made, origins, strict=True)]
    assert np.median(overlaps) > least


def test_grabcut_finds_nothing_where_there_is_nothing_to_tell_apart():
    for shape in ((32, 32, 3), (2, 40, 3), (1, 1, 3)):
        assert not find_by_grabcut(np.full(shape, 128, np.uint8)).any()


def test_shards_are_made_again_bit_for_bit(dataset, inputs, run_cli):
    bound = [part for name, path in inputs.items() for part in ("--input", f"{name}={path}")]
    verified = run_cli("verify", dataset, "--rebuild", 10, *bound)
    assert verified.exit_code == 0, verified.err
    assert verified.out.count("bytes equal") == 10


def test_its_sheet_shows_object_mask_background_and_result(dataset, run_cli, tmp_path):
    sheet = tmp_path / "sheet.png"
    assert run_cli("inspect", dataset, "inpainted-00000003", "--sheet", sheet).exit_code == 0
    with Image.open(sheet) as picture:
        assert picture.width > 4 * 96
    # Without the folder of backgrounds its parts are grey, and the sheet is drawn all the same.
    assert run_cli("inspect", dataset, "walled-00000003", "--sheet", sheet).exit_code == 0
    for nowhere in (tmp_path / "sheet", tmp_path / "no" / "sheet.png"):
        refused = run_cli("inspect", dataset, "inpainted-00000003", "--sheet", nowhere)
        assert refused.exit_code == 2
        assert refused.err.endswith("expected a .png in a folder that exists\n")


def test_inpainting_forgets_the_object():
    picture = np.full((20, 20, 3), 100, np.uint8)
    mask = np.zeros((20, 20), bool)
    mask[5:12, 6:14] = True
    picture[mask] = 250
    assert np.abs(remove_object(picture, mask, 1).astype(int) - 100).max() <= 3
    with pytest.raises(PictureError, match="nothing is left"):
        remove_object(picture, np.ones((20, 20), bool), 0)


def test_objects_that_are_too_small_are_holes(run_cli, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(recipe_text(large='background = "natural"\nmask_range = [0.3, 0.9]\nmax_failures = 1.0'))
    out = tmp_path / "dataset"
    built = run_cli("build-shards", recipe, "--out", out, "--workers", 1)
    assert built.exit_code == 0, built.err
    entry = load_manifest(Storage(str(out))).streams[1]
    assert 0 < entry.failures["object outside mask_range"] == 40 - entry.samples
    assert entry.role == "counterfactual"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("", "expected one of background and cgn"),
        ('background = "natural"\ncgn = "net"', "expected one of background and cgn"),
        ('background = "natural"\nsaliency = "u2net"', "give crop"),
        ('background = "natural"\nmask_range = [0.9, 0.1]', "the least is more than the largest"),
        ('background = "natural"\nfeather = -1.0', "greater than or equal to 0"),
    ],
)
def test_keys_that_make_no_sense_are_refused(keys, message):
    with pytest.raises(RecipeError, match=message):
        read_recipe(recipe_text(bad=keys), "test")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ('background = "walls"\ninpaint = true', "background = 'walls': an input's pictures have no masks"),
        ('background = "natural"\nnum_samples = 41', "objects 'natural' has 40 images"),
        ('cgn = "net"\ntruncation = 0.5', "net is of the MNIST form"),
    ],
)
def test_keys_that_do_not_fit_what_is_read_are_refused(inputs, keys, message):
    recipe = read_recipe(recipe_text(bad=keys), "test")
    with pytest.raises(RecipeError, match=message):
        gather(recipe, inputs={name: path for name, path in inputs.items() if name in recipe.inputs()})


def test_a_stream_without_masks_needs_a_network_that_finds_objects(run_cli, tmp_path):
    gan = '[[streams]]\nname = "gan"\nsource = "observational"\nlatents_per_class = 1\n'
    generated = f'[generator]\nname = "mini"\n{gan}'
    text = f'name = "cut"\nseed = 2\n{generated}' + RECOMPOSED.format(name="bad", keys='background = "gan"')
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(text.replace('objects = "natural"', 'objects = "gan"'))
    refused = run_cli("build-shards", recipe, "--out", tmp_path / "out")
    assert refused.exit_code == 2 and "the stream has no masks" in refused.err and 'saliency = "u2net"' in refused.err
    recipe.write_text(recipe.read_text() + 'saliency = "u2net"\ncrop = 32\n')
    refused = run_cli("build-shards", recipe, "--out", tmp_path / "out")
    assert refused.exit_code == 2 and "u2net.pth" in refused.err and refused.err.count("\n") == 1
    (tmp_path / "text.pth").write_text("no network")
    refused = run_cli("build-shards", recipe, "--out", tmp_path / "out", "--input", f"u2net={tmp_path / 'text.pth'}")
    assert refused.exit_code == 2 and "input u2net" in refused.err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_needs_no_saliency_network(run_cli, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(recipe_text(found='background = "natural"\nsaliency = "net"\ncrop = 32\nbatch_size = 1'))
    shown = run_cli("build-shards", recipe, "--out", tmp_path / "out", "--dry-run", "--stream", "found")
    assert shown.exit_code == 0 and "timed with random weights of the same shape for net" in shown.out
