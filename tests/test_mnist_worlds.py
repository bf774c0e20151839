"""The MNIST worlds: their input is read with suspicion, and their factors are what the pictures show."""

import gzip
import json
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from genint.manifests.digits import list_digits, read_idx
from genint.manifests.errors import FormatError, UsageError
from genint.manifests.recipe import read_recipe
from genint.manifests.sources.mnist import PALETTE, TEXTURE_FOLDERS
from genint.manifests.sources.stream import Facts, StreamPlan
from genint.manifests.tar_inputs import list_input
from genint.pipeline.sources import RENDERERS
from genint.pipeline.sources.rendering import RenderContext
from PIL import Image

NUM_DIGITS = 50_200
RECIPE = """
name = "worlds"
seed = 3
[[streams]]
name = "{world}"
source = "{world}"
digits = "{digits}"
factors = "{factors}"
image_format = "png"
samples_per_shard = 100
"""


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    content = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, str]:
    """A small MNIST, big enough for the published split: squares of light, and textures of one colour a class."""
    folder = tmp_path_factory.mktemp("mnist")
    for part, count, ending in (("train", NUM_DIGITS, ""), ("t10k", 100, ".gz")):
        labels = np.arange(count) % 10
        images = np.zeros((count, 28, 28), np.uint8)
        images[:, 7:21, 7:21] = 100 + 10 * labels[:, None, None]
        write_idx(folder / f"{part}-images-idx3-ubyte{ending}", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte{ending}", labels)
    textures = tmp_path_factory.mktemp("textures")
    for shade, place in enumerate(TEXTURE_FOLDERS):
        (textures / place).mkdir()
        for label in range(10):
            Image.new("RGB", (40, 50), (20 * label, 100 * shade, 7)).save(textures / place / f"{label}_plain.png")
    return {"mnist": str(folder), "textures": str(textures)}


def render(inputs: dict[str, str], world: str, digits: str, factors: str, count: int = 100):
    recipe = read_recipe(RECIPE.format(world=world, digits=digits, factors=factors), "test")
    listings = {name: list_input(kind, inputs[name], name) for name, kind in recipe.inputs().items()}
    stream = recipe.streams[0]
    facts = Facts(recipe.seed, inputs=listings, streams={stream.name: stream})
    stream.check(facts)
    samples = stream.samples(facts, np.arange(min(count, stream.count(facts))))
    context = RenderContext(recipe, facts, storage=None, device="cpu")
    return facts, list(RENDERERS[stream.source](context, stream, samples))


@pytest.mark.parametrize(
    ("world", "digits", "count"),
    [
        ("colored-mnist", "train", NUM_DIGITS),
        ("colored-mnist", "test", 100),
        ("double-colored-mnist", "train", 50_000),
        ("double-colored-mnist", "test", 200),
        ("wildlife-mnist", "test", 200),
    ],
)
def test_slices_are_the_published_ones(inputs, world, digits, count):
    facts, rendered = render(inputs, world, digits, "class", 1)
    plan = StreamPlan(facts.streams[world], facts)
    assert plan.count == count
    assert [len(members) for members in plan.stream.class_ranges(facts)] == [count // 10] * 10
    assert rendered[0].image.shape == (32, 32, 3)


def test_double_colored_shows_its_factors_and_a_tenth_of_random_ones_is_invisible(inputs):
    _, rendered = render(inputs, "double-colored-mnist", "test", "random", 200)
    invisible = 0
    for result in rendered:
        factors = result.sample.parameters["factors"]
        same = (factors["object_class"] - 6) % 10 == factors["background_class"]
        assert result.sample.parameters["visible"] == (not same)
        invisible += same
        np.testing.assert_allclose(result.image[0, 0] / 255, factors["background_rgb"], atol=0.51 / 255)
        np.testing.assert_allclose(result.image[16, 16] / 255, factors["object_rgb"], atol=0.51 / 255)
        assert np.abs(np.array(factors["background_rgb"]) - PALETTE[factors["background_class"]]).max() < 0.06
    assert 8 <= invisible <= 35  # 20 of 200 are expected


def test_factors_of_training_digits_are_their_class_and_random_ones_are_uniform(inputs):
    _, tied = render(inputs, "wildlife-mnist", "train", "class", 50)
    assert all(r.sample.parameters["factors"]["object_class"] == r.sample.class_label for r in tied)
    _, free = render(inputs, "colored-mnist", "train", "random", 1000)
    counts = Counter(r.sample.parameters["factors"]["object_class"] for r in free)
    assert len(counts) == 10 and max(counts.values()) < 160


def test_colored_digits_stand_on_black_in_one_colour(inputs):
    _, rendered = render(inputs, "colored-mnist", "test", "class")
    for result in rendered:
        rgb = np.array(result.sample.parameters["factors"]["object_rgb"])
        grey = (100 + 10 * result.sample.class_label) / 255
        np.testing.assert_allclose(result.image[16, 16] / 255, grey * rgb, atol=0.51 / 255)
        assert not result.image[0, 0].any()


def test_wildlife_takes_object_and_background_from_the_textures_of_its_factors(inputs):
    _, rendered = render(inputs, "wildlife-mnist", "test", "random")
    windows = set()
    for result in rendered:
        factors = result.sample.parameters["factors"]
        assert result.image[16, 16].tolist() == [20 * factors["object_class"], 0, 7]
        assert result.image[0, 0].tolist() == [20 * factors["background_class"], 100, 7]
        windows.update(map(tuple, (factors["object_window"], factors["background_window"])))
    assert len(windows) > 150
    assert max(max(window) for window in windows) <= 124


def test_a_digit_looks_the_same_whatever_is_made_with_it(inputs):
    facts, rendered = render(inputs, "double-colored-mnist", "train", "random", 30)
    stream = facts.streams["double-colored-mnist"]
    alone = stream.samples(facts, np.array([17]))[0]
    assert alone.parameters == rendered[17].sample.parameters


def test_a_dataset_is_built_verified_and_built_again(inputs, run_cli, tmp_path):
    recipe = tmp_path / "worlds.toml"
    recipe.write_text(RECIPE.format(world="wildlife-mnist", digits="test", factors="random"))
    bound = [part for name, path in inputs.items() for part in ("--input", f"{name}={path}")]
    out = tmp_path / "dataset"
    assert run_cli("build-shards", recipe, "--out", out, "--workers", 1, *bound).exit_code == 0
    verified = run_cli("verify", out, "--rebuild", 2, *bound)
    assert verified.exit_code == 0 and verified.out.count("bytes equal") == 2
    shown = json.loads(run_cli("inspect", out, "wildlife-mnist-00000042").out)
    assert shown["parameters"]["visible"] is True and "mask.png" in shown["members"]
    assert run_cli("build-shards", recipe, "--out", tmp_path / "d", "--dry-run", *bound).exit_code == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with"),
        (b"\0\0\x0d\x01\0\0\0\0", "begins with '00 00 0d 01'; expected an idx file of bytes"),
        (b"\0\0\x08\x03\0\0", "cut short in its header"),
        (b"\0\0\x08\x02\xff\xff\xff\xff\xff\xff\xff\xff", "expected at most"),
        (b"\0\0\x08\x01\0\0\0\x05abc", "says 5 bytes, it has 3"),
        (b"\0\0\x08\x01\0\0\0\x02abc", "says 2 bytes, it has more"),
    ],
)
def test_idx_files_that_are_none_are_refused(tmp_path, content, message):
    for path in (tmp_path / "a-idx1-ubyte", tmp_path / "a-idx1-ubyte.gz"):
        path.write_bytes(gzip.compress(content) if path.suffix else content)
        with pytest.raises(FormatError, match=message):
            read_idx(path)
    path.write_bytes(gzip.compress(content)[:-9])
    with pytest.raises(FormatError):
        read_idx(path)


def test_a_digit_folder_says_what_it_lacks(inputs, tmp_path):
    for name in Path(inputs["mnist"]).iterdir():
        if not name.name.startswith("t10k-labels"):
            (tmp_path / name.name).symlink_to(name)
    with pytest.raises(UsageError, match=r"no t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte\.gz in it"):
        list_digits(str(tmp_path), "mnist")
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.zeros(99))
    with pytest.raises(UsageError, match=r"\[99\] labels for 100 pictures"):
        list_digits(str(tmp_path), "mnist")
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.full(100, 10))
    with pytest.raises(UsageError, match="label 10; expected 0 to 9"):
        list_digits(str(tmp_path), "mnist")


def test_a_class_without_texture_is_refused_before_work_starts(inputs, run_cli, tmp_path):
    recipe = tmp_path / "worlds.toml"
    recipe.write_text(RECIPE.format(world="wildlife-mnist", digits="test", factors="random"))
    textures = tmp_path / "textures"
    for path in Path(inputs["textures"]).rglob("*.png"):
        target = textures / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    (textures / "object" / "4_plain.png").unlink()
    bound = ["--input", f"mnist={inputs['mnist']}", "--input", f"textures={textures}"]
    refused = run_cli("build-shards", recipe, "--out", tmp_path / "d", *bound)
    assert refused.exit_code == 2
    assert "has 0 files object/4_*, expected one texture of class 4" in refused.err
    (textures / "object" / "4_plain.png").write_bytes(b"no picture")
    refused = run_cli("build-shards", recipe, "--out", tmp_path / "d", *bound)
    assert refused.exit_code == 2 and "object/4_plain.png" in refused.err
    assert not (tmp_path / "d").exists()


def test_pixels_that_change_after_the_listing_are_noticed(inputs, tmp_path):
    facts, _ = render(inputs, "colored-mnist", "test", "class", 1)
    folder = tmp_path / "other"
    folder.mkdir()
    for name in Path(inputs["mnist"]).iterdir():
        (folder / name.name).write_bytes(name.read_bytes())
    write_idx(folder / "t10k-images-idx3-ubyte.gz", np.zeros((100, 28, 28)))
    assert list_digits(str(folder), "mnist").digest != facts.inputs["mnist"].digest
