"""Pictures that a network had a part in say so, in every format and for every reader, at the price of no pixel."""

import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from genint.manifests.recipe import load_recipe
from genint.manifests.shard import load_index, read_sample
from genint.pipeline.images.encode import encode_image, make_mark
from PIL import Image

PLACE = "http://cv.iptc.org/newscodes/digitalsourcetype/"
KINDS = {
    "interventional": "trainedAlgorithmicMedia",
    "observational": "trainedAlgorithmicMedia",
    "counterfactual": "trainedAlgorithmicMedia",
    "transfer": "compositeWithTrainedAlgorithmicMedia",
    "recomposed": "compositeWithTrainedAlgorithmicMedia",
}


def read_mark(content: bytes) -> str:
    with Image.open(io.BytesIO(content)) as image:
        packet = image.info.get("xmp", b"").decode()
    return packet.partition('DigitalSourceType="')[2].partition('"')[0]


@pytest.mark.parametrize("image_format", ["jpeg", "png", "webp"])
def test_marked_pictures_differ_in_their_mark_alone(image_format: str, tmp_path: Path) -> None:
    recipe = load_recipe("genint-transfer-256")
    stream = recipe.stream("transfer").model_copy(update={"image_format": image_format})
    mark = make_mark(recipe, stream)
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    marked, plain = encode_image(image, stream, mark), encode_image(image, stream)
    assert encode_image(image, stream, mark) == marked
    assert read_mark(marked) == PLACE + KINDS["transfer"] and read_mark(plain) == ""
    with Image.open(io.BytesIO(marked)) as first, Image.open(io.BytesIO(plain)) as second:
        assert np.array_equal(first, second)
    assert len(marked) - len(plain) < 500

    if shutil.which("exiftool"):
        path = tmp_path / f"x.{stream.extension}"
        path.write_bytes(marked)
        command = ["exiftool", "-s3", "-XMP-iptcExt:DigitalSourceType", path]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert told.strip() == PLACE + KINDS["transfer"]


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_each_kind_of_stream_has_its_mark(name: str, kind: str) -> None:
    recipe = load_recipe("mini", ["marks=true"])
    assert f"{PLACE}{kind}" in make_mark(recipe, recipe.stream(name))
    assert make_mark(recipe, recipe.stream("natural")) == ""
    assert make_mark(load_recipe("mini"), recipe.stream(name)) == ""


def test_a_recipe_without_marks_is_what_it_was_before_there_were_any() -> None:
    without = load_recipe("mini", ["marks=false"])
    assert "marks" not in without.flatten()
    assert load_recipe("mini", ["marks=true"]).deciding() == {**without.deciding(), "marks": True}


def test_a_dataset_has_them_in_what_was_generated(reference: Path) -> None:
    for stream, mark in (("natural", ""), ("interventional", PLACE + KINDS["interventional"])):
        path = reference / stream / "0000" / f"{stream}-0000000.tar"
        with open(path, "rb") as file:
            samples = [read_sample(file.fileno(), members) for members in load_index(path).values()]
        assert {read_mark(sample.get("png") or sample["jpg"]) for sample in samples} == {mark}
    assert f"Digital Source Type `{KINDS['interventional']}`" in (reference / "README.md").read_text()
