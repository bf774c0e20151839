"""Images that another tool has made join a dataset in a role, with what a table or their own json says of them."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import webdataset
from genint.manifests.api import open_stream
from genint.manifests.errors import FormatError, UsageError
from genint.manifests.inputs import Listing
from genint.manifests.tar_inputs import list_input
from genint.train.choice import choose_preset
from genint.train.streams import open_shards
from PIL import Image

RECIPE = """
name = "own"
seed = 1
[[streams]]
name = "photos"
source = "natural"
images = "photos"
[[streams]]
name = "renders"
source = "imported"
role = "generated"
image_format = "png"
images = "renders"
[[streams]]
name = "composed"
source = "imported"
role = "counterfactual"
images = "composed"
"""
TABLE = """file_name,class_name,place,labels.background
x/one.png,cat,water,dog
x/two.png,dog,land,1
three.png,dog,,cat
"""


def picture(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write(root: Path, names: list[str]) -> Path:
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(i))
    return root


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = write(tmp_path / "made", ["x/one.png", "x/two.png", "three.png"]) / "metadata.csv"
    path.write_text(TABLE)
    return path


def test_images_of_folders_tars_and_tables_become_streams_with_a_role(
    table: Path, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    photos = write(tmp_path / "photos", ["cat/0.png", "dog/0.png"])
    renders = tmp_path / "renders.tar"
    with webdataset.TarWriter(str(renders)) as tar:
        for i, name in enumerate(["cat", "dog", "dog"]):
            described = {"class_name": name, "seed": i, "camera": {"angle": 30 * i}}
            tar.write({"__key__": f"r{i}", "png": picture(i), "json": described})
    (tmp_path / "own.toml").write_text(RECIPE)
    out = tmp_path / "dataset"
    words = ["build-shards", tmp_path / "own.toml", "--out", out, "--workers", 1, "--device", "cpu"]
    bound = [f"--input=photos={photos}", f"--input=renders={renders}", f"--input=composed={table}"]
    result = run_cli(*words, *bound)
    assert result.exit_code == 0, result.err
    assert run_cli("verify", out, "--rebuild", "all", *bound).exit_code == 0

    samples = {sample.parameters["described"]["seed"]: sample for sample in open_stream(str(out), "renders")}
    assert [samples[i].class_name for i in range(3)] == ["cat", "dog", "dog"]
    assert samples[2].parameters["described"] == {"class_name": "dog", "seed": 2, "camera": {"angle": 60}}
    assert samples[2].image.getpixel((0, 0)) == (2, 0, 0)
    composed = {sample.parameters["path"]: sample for sample in open_stream(str(out), "composed")}
    assert {path: sample.class_label for path, sample in composed.items()} == {
        "0/x/one.png": 0, "1/three.png": 1, "1/x/two.png": 1,
    }  # fmt: skip
    assert composed["0/x/one.png"].parameters["described"] == {"place": "water"}
    assert composed["0/x/one.png"].parameters["labels"] == {"background": 1}
    assert "described" not in composed["1/three.png"].parameters
    assert composed["1/three.png"].parameters["labels"] == {"background": 0}

    # In training the role is the term; a stream of counterfactuals has labels of its mechanisms.
    streams = {stream.name: stream for stream in open_shards(str(out))}
    assert [stream.term for stream in streams.values()] == ["natural", "int", "counterfactual"]
    assert choose_preset([streams["photos"], streams["renders"]]).preset == "mini-genint"
    images: Any = streams["composed"].images
    assert {images.with_heads(["background"]).read(i)[1] for i in range(3)} == {(1,), (0,)}
    # Nobody knows on what terms: publishing asks.
    refused = run_cli("publish", out, tmp_path / "published")
    assert refused.exit_code == 2 and "--license photos=SPDX" in refused.err


def test_a_table_is_listed_by_class_and_read_back_from_the_dataset(table: Path) -> None:
    listing = list_input("class folders", str(table), "composed")
    assert listing.class_names == ("cat", "dog")
    assert [len(numbers) for numbers in listing.class_ranges()] == [1, 2]
    again = Listing.from_bytes(listing.to_bytes(), str(table.parent))
    assert again == listing
    assert again.read("1/three.png") == picture(2)
    changed = table.parent / "other.csv"
    changed.write_text(TABLE.replace("water", "land"))
    assert list_input("class folders", str(changed), "composed").digest != listing.digest


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("path,label\nx/one.png,2\nthree.png,0\n", ("0", "1", "2")),
        ("path,label,class_name\nx/one.png,1,cat\nthree.png,0,dog\n", ("dog", "cat")),
        ("\ufefffile_name\nx/one.png\n", ("x",)),
    ],
)
def test_classes_are_numbers_names_or_folders(table: Path, text: str, names: tuple[str, ...]) -> None:
    table.write_text(text)
    assert list_input("class folders", str(table), "a").class_names == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column file_name or path or image; its columns: none"),
        ("name,class\na.png,cat\n", "no column file_name or path or image; its columns: name, class"),
        ("path,path\na.png,b.png\n", "two columns 'path'"),
        ("path,class\n", "lists no picture"),
        ("path,class\n/etc/a.png,cat\n", "line 2: '/etc/a.png': expected a path below the table's folder"),
        ("path,class\nx/../../a.png,cat\n", "expected a path below the table's folder"),
        ("path,class\nx/one.txt,cat\n", "no picture by its name"),
        ("path,class\nx/one.png\n", "line 2: expected 2 cells"),
        ("path,class\nx/one.png,cat,dog\n", "line 2: expected 2 cells"),
        ("path,class\nx/one.png,cat\nx//one.png,cat\n", "line 3: x/one.png stands there twice"),
        ("path,label\nx/one.png,cat\n", "line 2: label = 'cat': expected a class number; names are in class_name"),
        ("path,class\nthree.png,\n", "three.png: no class"),
        ("path\nthree.png\n", "three.png: no class"),
        ("path,class,labels.shape\nx/one.png,cat,zebra\n", "labels.shape = 'zebra': no class; expected a name"),
        ("path,class,note\nx/one.png,cat," + "n" * 5000 + "\n", "5,012 characters in other columns"),
        ("path,class\nnone.png,cat\n", "none of its pictures is there"),
        ('path,class\n"x/one.png,cat\n', "not a CSV"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_with_its_line(table: Path, text: str, message: str) -> None:
    table.write_text(text)
    with pytest.raises(UsageError) as refused:
        list_input("class folders", str(table), "composed")
    assert f"--input composed={table}" in str(refused.value) and message in str(refused.value)
    assert len(str(refused.value)) < 600 and "\n" not in str(refused.value)


@pytest.mark.parametrize("change", [("\t", " "), ("/table\t2", "/table\t9000000"), ('{"', '["'), ("cat\n", "")])
def test_a_damaged_list_of_a_table_is_refused(table: Path, change: tuple[str, str]) -> None:
    import gzip

    text = gzip.decompress(list_input("class folders", str(table), "a").to_bytes()).decode()
    with pytest.raises(FormatError, match="not a list of input files"):
        Listing.from_bytes(gzip.compress(text.replace(*change).encode()), "")


def test_a_role_is_one_of_three(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    (tmp_path / "own.toml").write_text(RECIPE.replace('"generated"', '"natural"'))
    result = run_cli("build-shards", tmp_path / "own.toml", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "streams.renders.role = 'natural'" in result.err and "'generated', 'transferred'" in result.err
    assert json.loads(run_cli("schema", "recipe").out)
