"""Inputs in tars: what webdataset's own writer made, other datasets' streams, and tars that are not what they seem."""

import io
import json
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from genint.manifests.errors import RecipeError, UsageError
from genint.manifests.inputs import Listing, imagenet_wnids
from genint.manifests.pictures import PictureError
from genint.manifests.shard import load_index, read_sample
from genint.manifests.sources.natural import NaturalStream
from genint.manifests.sources.stream import Facts
from genint.manifests.tar_inputs import list_input
from genint.pipeline.images.pictures import read_listed
from PIL import Image

RunCli = Callable[..., Any]

RECIPE = """
name = "repacked"
seed = 1

[[streams]]
name = "natural"
source = "natural"
images = "photos"
samples_per_shard = 10
"""


def jpeg(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 16), (10 * number, 80, 120)).save(buffer, "JPEG")
    return buffer.getvalue()


def write_tars(folder: Path, samples: list[dict[str, Any]]) -> Path:
    """Samples in tars of five each, by webdataset's writer; `__key__` is added."""
    folder.mkdir(exist_ok=True)
    with webdataset.ShardWriter(str(folder / "s-%03d.tar"), maxcount=5, verbose=0) as writer:
        for number, sample in enumerate(samples):
            writer.write({"__key__": f"part/{number:04d}", **sample})
    return folder


def read_stream(folder: Path) -> list[dict[str, bytes]]:
    """Members of every sample of a built stream."""
    samples = []
    for path in sorted(folder.rglob("*.tar")):
        with open(path, "rb") as file:
            samples += [read_sample(file.fileno(), members) for members in load_index(path).values()]
    return samples


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Twelve photographs of classes 0 to 10, of which 3 has none."""
    labels = [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 10, 0]
    return write_tars(tmp_path / "tars", [{"jpg": jpeg(i), "cls": label} for i, label in enumerate(labels)])


def natural(**keys: Any) -> NaturalStream:
    return NaturalStream(source="natural", name="natural", images="photos", **keys)


def labels_and_names(listing: Listing, stream: NaturalStream) -> list[tuple[int, str]]:
    facts = Facts(1, inputs={"photos": listing})
    stream.check(facts)
    samples = stream.samples(facts, np.arange(stream.count(facts)))
    return [(sample.class_label, sample.parameters["class_name"]) for sample in samples]


def test_build_keeps_bytes_and_labels_and_writes_nothing_into_the_users_folder(
    run_cli: RunCli, tars: Path, tmp_path: Path
) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    before = sorted(tars.iterdir())
    build = ("build-shards", tmp_path / "recipe.toml", "--out", tmp_path / "dataset", "--input", f"photos={tars}")
    result = run_cli(*build, "--workers", 1)
    assert result.exit_code == 0, result.err
    assert sorted(tars.iterdir()) == before
    found = {}
    for sample in read_stream(tmp_path / "dataset" / "natural"):
        described = json.loads(sample["json"])
        assert int(sample["cls"]) == described["class_label"] == int(described["class_name"])
        found[sample["jpg"]] = int(sample["cls"])
    assert found == {jpeg(i): label for i, label in enumerate([0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 10, 0])}
    assert run_cli("verify", tmp_path / "dataset", "--rebuild", 2, "--input", f"photos={tars}").exit_code == 0


def test_list_survives_its_own_format(tars: Path) -> None:
    listing = list_input("class folders", str(tars), "photos")
    assert len(listing.folders) == 11 and [len(members) for members in listing.class_ranges()][3] == 0
    assert Listing.from_bytes(listing.to_bytes(), listing.root) == listing


def test_members_of_a_sample_may_stand_apart(tmp_path: Path) -> None:
    members = {"a.jpg": jpeg(1), "b.jpg": jpeg(2), "b.cls": b"1", "a.cls": b"0"}
    listing = list_input("class folders", str(write_tar(tmp_path / "x.tar", members)), "photos")
    assert [(path, listing.read(path)) for path in listing.paths] == [
        ("0/x.tar/a.jpg", jpeg(1)), ("1/x.tar/b.jpg", jpeg(2)),
    ]  # fmt: skip


def test_tar_made_as_webdatasets_manual_says_is_read(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    for i in range(4):
        (tmp_path / "plain" / f"{i}.jpg").write_bytes(jpeg(i))
        (tmp_path / "plain" / f"{i}.cls").write_text(f"{i % 2}\n")
    with tarfile.open(tmp_path / "documented.tar", "w") as archive:
        archive.add(tmp_path / "plain", "plain")
    listing = list_input("class folders", str(tmp_path / "documented.tar"), "photos")
    assert [listing.read(path) for path in listing.paths] == [jpeg(0), jpeg(2), jpeg(1), jpeg(3)]


def test_folder_of_tars_and_pictures_is_refused_by_one_of_each(tars: Path) -> None:
    (tars / "figures").mkdir()
    (tars / "figures" / "overview.jpg").write_bytes(jpeg(0))
    with pytest.raises(UsageError, match=r"holds tars and pictures, such as 's-000.tar' and 'figures/overview.jpg'"):
        list_input("class folders", str(tars), "photos")


def test_tar_that_was_replaced_by_one_of_the_same_size_is_noticed(tmp_path: Path) -> None:
    first = {"a.cls": b"0", "a.jpg": jpeg(1), "b.cls": b"1", "b.jpg": jpeg(2)}
    path = write_tar(tmp_path / "x.tar", first)
    listing = list_input("class folders", str(path), "photos")
    size = path.stat().st_size
    write_tar(path, {name: first[name] for name in ("b.cls", "b.jpg", "a.cls", "a.jpg")})
    assert path.stat().st_size == size
    with pytest.raises(OSError, match="the tar has changed since it was listed"):
        listing.read(listing.paths[0])
    write_tar(path, {**first, "a.cls": b"1", "b.cls": b"0"})
    assert list_input("class folders", str(path), "photos").digest != listing.digest


def test_class_names_are_those_of_the_json_members_in_the_order_of_the_labels(tmp_path: Path) -> None:
    names = ["whale", "ant", "mole"]
    both = [{"jpg": jpeg(i), "cls": i % 3, "json": {"class_name": names[i % 3]}} for i in range(6)]
    listing = list_input("class folders", str(write_tars(tmp_path / "both", both)), "photos")
    assert listing.class_names == ("whale", "ant", "mole")
    assert labels_and_names(listing, natural()) == [(i, name) for i, name in enumerate(names) for _ in range(2)]
    only_names = [{"jpg": jpeg(i), "json": {"class_name": names[i % 3]}} for i in range(6)]
    listing = list_input("class folders", str(write_tars(tmp_path / "names", only_names)), "photos")
    assert listing.class_names == ("ant", "mole", "whale")


def test_imagenet_labels_come_from_wnids_or_from_numbers_alone(tmp_path: Path, tars: Path) -> None:
    wnids = imagenet_wnids()
    numbered = labels_and_names(list_input("class folders", str(tars), "photos"), natural(labels="imagenet"))
    assert numbered[-1] == (10, wnids[10])
    named = write_tars(tmp_path / "named", [{"jpg": jpeg(0), "json": {"class_name": wnids[700]}}])
    listing = list_input("class folders", str(named), "photos")
    assert labels_and_names(listing, natural(labels="imagenet")) == [(700, wnids[700])]
    other = write_tars(tmp_path / "other", [{"jpg": jpeg(0), "json": {"class_name": "ladle"}}])
    with pytest.raises(RecipeError, match="folder 'ladle' is not a wnid"):
        labels_and_names(list_input("class folders", str(other), "photos"), natural(labels="imagenet"))


def test_tar_without_labels_serves_as_styles_of_one_class(tmp_path: Path) -> None:
    paintings = write_tars(tmp_path / "paintings", [{"jpg": jpeg(i)} for i in range(7)])
    listing = list_input("images", str(paintings), "paintings")
    assert listing.folders == () and listing.class_ranges() == [range(7)]
    assert {listing.read(path) for path in listing.paths} == {jpeg(i) for i in range(7)}
    with pytest.raises(UsageError, match=r"s-000.tar/part/0000.jpg: no class; expected a number \(.cls"):
        list_input("class folders", str(paintings), "photos")


def test_style_may_be_a_stream_of_another_dataset(run_cli: RunCli, reference: Path, tars: Path, tmp_path: Path) -> None:
    listing = list_input("images", str(reference / "interventional"), "styles")
    assert len(listing.paths) == 60 and len(listing.class_ranges()) == 10
    assert listing.class_names[9] == "ankle-boot"
    with pytest.raises(UsageError, match="one of its streams' folders: natural, observational, interventional"):
        list_input("images", str(reference), "styles")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'name = "elsewhere"\nseed = 1\n[[streams]]\nname = "transfer"\nsource = "transfer"\ncontent = "photos"\n'
        'style = "styles"\nencoder = "mini-encoder"\nevaluations = [1, 2]\nresize = 32\ncrop = 32\n'
    )
    inputs = ("--input", f"photos={tars}", "--input", f"styles={reference / 'interventional'}")
    result = run_cli("build-shards", recipe, "--out", tmp_path / "dataset", "--workers", 1, *inputs)
    assert result.exit_code == 0, result.err
    samples = read_stream(tmp_path / "dataset" / "transfer")
    assert len(samples) == 12
    for sample in samples:
        assert json.loads(sample["json"])["style"]["path"].partition("/")[2].startswith("0000/interventional-")


# What is refused.


def test_stream_of_which_a_shard_is_missing_is_refused(reference: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(reference, tmp_path / "copy")
    next(copy.glob("interventional/*/*.tar")).unlink()
    with pytest.raises(UsageError, match="the dataset's manifest says 4"):
        list_input("images", str(copy / "interventional"), "styles")


@pytest.mark.parametrize("root", ["pipe:cat /etc/passwd", "s3://bucket/x.tar", "http://host/x.tar"])
def test_commands_and_urls_are_refused(root: str) -> None:
    with pytest.raises(UsageError, match="commands and URLs are refused"):
        list_input("images", root, "photos")


@pytest.mark.parametrize("keep", [512, 700, 10_240 - 512, 3 * 512])
def test_truncated_tar_is_named(tars: Path, keep: int) -> None:
    path = tars / "s-001.tar"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UsageError, match=r"s-001\.tar: n"):
        list_input("class folders", str(tars), "photos")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.jpg": b"x", "a.cls": b"seven"}, r"sample 'a': .cls is 'seven'"),
        ({"a.jpg": b"x", "a.cls": b"-1"}, r".cls is '-1'"),
        ({"a.jpg": b"x", "a.cls": b"1" * 100}, r".cls of 100 bytes; expected at most 64"),
        ({"a.jpg": b"x", "a.json": b"["}, r".json cannot be read"),
        ({"a.jpg": b"x", "a.json": b'{"class_name": 3}'}, r"class_name '3' in .json; expected a text"),
        ({"a.jpg": b"x", "a.png": b"x", "a.cls": b"1"}, "sample 'a' has 2 images"),
        ({"a.cls": b"1"}, "sample 'a' has no image; expected one, found cls"),
        ({"a.jpg": b"x", "b.jpg": b"x", "a.cls": b"1"}, "b.jpg: no class; expected a number \\(.cls"),
        ({"README": b"x"}, "no image in 1 tars"),
    ],
)
def test_sample_without_meaning_is_named(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        list_input("class folders", str(write_tar(tmp_path / "x.tar", members)), "photos")


def test_pickled_members_are_never_decoded(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path(tmp_path / "exploded").touch, ())

    bomb = pickle.dumps(Bomb())
    members = {"a.jpg": jpeg(1), "a.cls": b"0", "a.pyd": bomb, "a.pickle": bomb, "a.pth": bomb}
    listing = list_input("class folders", str(write_tar(tmp_path / "x.tar", members)), "photos")
    assert listing.read(listing.paths[0]) == jpeg(1)
    assert not (tmp_path / "exploded").exists()


def test_tar_cut_after_listing_loses_only_what_is_gone(tars: Path) -> None:
    listing = list_input("class folders", str(tars), "photos")
    path = tars / "s-002.tar"
    path.write_bytes(path.read_bytes()[:1024])
    lost = []
    for name in listing.paths:
        try:
            read_listed(listing, "photos", name)
        except PictureError as error:
            lost.append((error.reason, error.name))
    assert lost and {name for _, name in lost} <= {p for p in listing.paths if "/s-002.tar/" in p}
    assert {reason for reason, _ in lost} == {"unreadable file"}


def test_compressed_tar_is_explained(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz"):
        pass
    with pytest.raises(UsageError, match=r"expected a folder, a .tar \(not compressed\) or a .csv"):
        list_input("images", str(tmp_path / "x.tar.gz"), "photos")
