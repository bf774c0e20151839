"""Where training images come from, and what is said of a place that has none."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest
import webdataset
from genint.manifests.errors import FormatError, UsageError
from genint.manifests.inputs import imagenet_wnids
from genint.manifests.manifest import MANIFEST, Manifest
from genint.manifests.tar_inputs import list_input
from genint.train.joined_images import join_streams
from genint.train.streams import Images, TrainStream, check_classes, open_images, open_shards, unique_names
from PIL import Image


def jpeg(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value, value, value)).save(buffer, "JPEG")
    return buffer.getvalue()


def write_webdataset(path: Path, labels: list[int], **options: object) -> Path:
    with webdataset.TarWriter(str(path), **options) as writer:
        for i, label in enumerate(labels):
            writer.write({"__key__": f"train/n{label}/{path.stem}-{i}", "jpg": jpeg(i), "cls": label, "txt": "words"})
    return path


def make_folder(root: Path, classes: list[str], count: int = 3) -> Path:
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i}.jpg").write_bytes(jpeg(i))
    return root


def contents(images: Images) -> list[tuple[bytes, int]]:
    return [images.read(position) for position in range(len(images))]


@pytest.fixture
def copied(reference: Path, tmp_path: Path) -> Path:
    return shutil.copytree(reference, tmp_path / "dataset")


def edit_manifest(dataset: Path, stream: int, **values: object) -> None:
    manifest = json.loads((dataset / MANIFEST).read_text())
    manifest["streams"][stream].update(values)
    (dataset / MANIFEST).write_bytes(Manifest.from_json(json.dumps(manifest).encode(), MANIFEST).to_json())


def test_a_dataset_gives_its_training_streams_with_their_terms(reference: Path) -> None:
    streams = open_shards(str(reference))
    assert [(stream.name, stream.term) for stream in streams] == [
        ("natural", "natural"), ("observational", "int"), ("interventional", "int"),
    ]  # fmt: skip
    assert [len(stream.images) for stream in streams] == [60, 30, 60]
    for stream in streams:
        stream.images.check()
        assert all(0 <= label < 10 for _, label in contents(stream.images))
        assert json.loads(json.dumps(stream.images.fingerprint()))["stream"] == stream.name
    assert [stream.name for stream in open_shards(str(reference), ["interventional"])] == ["interventional"]


def test_transferred_streams_have_their_term_and_tests_are_left_out(copied: Path) -> None:
    edit_manifest(copied, 0, split="test")
    edit_manifest(copied, 1, role="transferred")
    streams = open_shards(str(copied))
    assert [(s.name, s.term) for s in streams] == [("observational", "transfer"), ("interventional", "int")]
    assert [stream.name for stream in open_shards(str(copied), ["natural"])] == ["natural"]


def test_places_without_a_finished_dataset_are_told_apart(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere: no such folder"):
        open_shards(str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match=f"^{tmp_path}: not a genint dataset: no manifest.json in it$"):
        open_shards(str(tmp_path))
    (copied / MANIFEST).unlink()
    for opened in (open_shards, open_images):
        with pytest.raises(UsageError, match=f"still building .*`genint-pipeline status {copied}`") as caught:
            opened(str(copied))
        assert "\n" not in str(caught.value)


def test_an_unknown_stream_is_answered_with_near_misses(reference: Path) -> None:
    with pytest.raises(UsageError, match="no stream 'interventionl'; did you mean 'interventional'"):
        open_shards(str(reference), ["natural", "interventionl"])
    with pytest.raises(UsageError, match="no stream 'x'; known: natural, observational, interventional"):
        open_images(f"{reference}:x")


def test_an_empty_stream_is_refused(copied: Path) -> None:
    edit_manifest(copied, 1, samples=0, parts=[])
    with pytest.raises(UsageError, match="stream 'observational' is empty"):
        open_shards(str(copied))


def test_streams_of_a_name_are_told_apart(reference: Path) -> None:
    streams = unique_names([*open_shards(str(reference)), *open_shards(str(reference), ["natural"])])
    assert [stream.name for stream in streams] == ["natural", "observational", "interventional", "natural-2"]


def test_streams_of_one_name_join_and_what_is_there_twice_is_taken_once(reference: Path, copied: Path) -> None:
    # Another dataset by its name, with the same natural images, and the first one a second time.
    manifest = json.loads((copied / MANIFEST).read_text())
    manifest["name"] = "other"
    (copied / MANIFEST).write_bytes(Manifest.from_json(json.dumps(manifest).encode(), MANIFEST).to_json())
    alone = {stream.name: stream.images for stream in open_shards(str(reference))}
    joined = join_streams([*open_shards(str(reference)), *open_shards(str(copied)), *open_shards(str(reference))])
    assert [(stream.name, len(stream.images)) for stream in joined] == [
        ("natural", 60), ("observational", 60), ("interventional", 120),
    ]  # fmt: skip
    images = joined[2].images
    assert images.shard_sizes == alone["interventional"].shard_sizes * 2
    assert contents(images) == contents(alone["interventional"]) * 2
    assert images.labels().tolist() == [label for _, label in contents(images)]
    assert str(copied) in images.key(60) and str(reference) in images.key(59)
    images.check()
    shard = min((copied / "interventional").rglob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:-512] + b"\1" * 512)
    images.check_shard(3)
    with pytest.raises(FormatError, match=str(shard)):
        images.check_shard(4)


def test_streams_of_one_name_and_other_classes_do_not_join(reference: Path, copied: Path) -> None:
    edit_manifest(copied, 2, class_names=[f"other {label}" for label in range(10)])
    tree = json.loads((copied / MANIFEST).read_text()) | {"name": "other"}
    (copied / MANIFEST).write_bytes(Manifest.from_json(json.dumps(tree).encode(), MANIFEST).to_json())
    streams = [*open_shards(str(reference), ["interventional"]), *open_shards(str(copied), ["interventional"])]
    with pytest.raises(UsageError, match="class 0 is 't-shirt' and 'other 0'; name the classes of the run with --cla"):
        join_streams(streams)


def test_natural_images_of_a_dataset_are_found_by_split_or_by_name(copied: Path) -> None:
    assert len(open_images(str(copied))) == len(open_images(f"{copied}:natural")) == 60
    with pytest.raises(UsageError, match=f"no natural stream of split validation; name one as {copied}:STREAM of nat"):
        open_images(str(copied), "validation")
    edit_manifest(copied, 0, split="validation")
    assert len(open_images(str(copied), "validation")) == 60
    edit_manifest(copied, 1, split="validation", role="natural")
    with pytest.raises(UsageError, match="2 natural streams of split validation"):
        open_images(str(copied), "validation")


def test_a_missing_or_resized_shard_is_named_before_training(copied: Path) -> None:
    path = min(copied.glob("natural/*/*.tar"))
    with open(path, "ab") as file:
        file.write(b"\0" * 512)
    with pytest.raises(FormatError, match=f"^{path}: .* bytes, its record says"):
        open_shards(str(copied))[0].images.check()
    path.unlink()
    with pytest.raises(FormatError, match=f"^{path}: missing$"):
        open_shards(str(copied))[0].images.check()


def test_a_class_folder_is_read_in_a_fixed_mixture(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "images", ["b", "a"], count=40)
    images = open_images(str(root))
    images.check()
    assert images.class_names == ("a", "b")
    assert len(images) == sum(images.shard_sizes) == 80
    keys = [images.key(position) for position in range(80)]
    assert sorted(keys) == sorted(str(path) for path in root.rglob("*.jpg"))
    for key, (content, label) in zip(keys, contents(images), strict=True):
        assert content == Path(key).read_bytes()
        assert ("a", "b")[label] == Path(key).parent.name
    # Shards of a folder are mixtures of classes, as those of a dataset.
    assert 8 <= sum("/a/" in key for key in keys[:40]) <= 32
    assert [open_images(str(root)).key(position) for position in range(80)] == keys
    before = images.fingerprint()
    (root / "a" / "0.jpg").write_bytes(jpeg(200) + b"more")
    assert open_images(str(root)).fingerprint() != before


def test_numbered_class_folders_have_the_order_that_they_have_in_shards(tmp_path: Path) -> None:
    names = [str(i) for i in range(12)]
    images = open_images(str(make_folder(tmp_path / "twelve", names, 1)))
    assert images.class_names == list_input("class folders", str(tmp_path / "twelve"), "photos").class_names
    for position in range(12):
        assert Path(images.key(position)).parent.name == images.class_names[images.read(position)[1]]


def test_folders_named_by_numbers_are_compared_by_name(reference: Path, tmp_path: Path) -> None:
    digits = TrainStream("digits", "natural", open_images(str(make_folder(tmp_path / "d", list("0123456789")))))
    with pytest.raises(UsageError, match=r"^stream natural: class 0 is '.*', in stream digits it is '0'; say which"):
        check_classes([digits, *open_shards(str(reference))])
    tars = TrainStream("tars", "natural", open_images(str(write_webdataset(tmp_path / "a.tar", [9, 0]))))
    assert check_classes([digits, tars]) == tuple("0123456789")


def test_a_class_folder_may_be_called_a_tar(tmp_path: Path) -> None:
    images = open_images(str(make_folder(tmp_path / "images", ["a.tar", "b"])))
    assert images.class_names == ("a.tar", "b")
    make_folder(tmp_path / "images.tar", ["x", "y"])
    assert open_images(str(tmp_path / "images.tar")).class_names == ("x", "y")


def test_tars_in_subfolders_are_found_and_pictures_beside_them_refused(tmp_path: Path) -> None:
    (tmp_path / "0000").mkdir()
    write_webdataset(tmp_path / "0000" / "a.tar", [1, 0])
    assert len(open_images(str(tmp_path))) == 2
    (tmp_path / "overview.jpg").write_bytes(jpeg(0))
    with pytest.raises(UsageError, match=r"holds tars and pictures, such as '0000/a.tar' and 'overview.jpg'"):
        open_images(str(tmp_path))


def test_a_pattern_of_many_tars_is_looked_for_one_by_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"x-000000000.tar: no such file"):
        open_images(str(tmp_path / "x-{000000000..999999999}.tar"))


@pytest.mark.parametrize("index", ["stale", "of a dotted folder"])
def test_an_index_of_others_is_left_alone(tmp_path: Path, index: str) -> None:
    members = [("data.v2/0.jpg", jpeg(0)), ("data.v2/0.cls", b"0"), ("data.v2/1.jpg", jpeg(1)), ("data.v2/1.cls", b"1")]
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    stale = "v1.2 1\njpg 512 10 data.v2/0.jpg cls 512 1 data.v2/0.cls\n"
    (tmp_path / "a.idx").write_text(stale if index == "stale" else "v1.2 0\n")
    assert contents(open_images(str(tmp_path))) == [(jpeg(0), 0), (jpeg(1), 1)]


def test_a_folder_that_is_none_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"^{tmp_path}: no image in it; expected one folder a class"):
        open_images(str(tmp_path))
    with pytest.raises(UsageError, match="nowhere: no such folder"):
        open_images(str(tmp_path / "nowhere"))
    root = make_folder(tmp_path / "images", ["a", "b"])
    (root / "a" / "1.jpg").write_bytes(b"")
    with pytest.raises(FormatError, match=f"{root}/a/1.jpg: empty, or a link to nothing"):
        open_images(str(root)).check()


@pytest.mark.parametrize("options", [{}, {"encoder": True, "mtime": 1.5}])
def test_tars_of_webdataset_are_read(tmp_path: Path, options: dict[str, object]) -> None:
    for name, labels in (("train-000", [3, 0, 2]), ("train-001", [1, 9])):
        write_webdataset(tmp_path / f"{name}.tar", labels, **options)
    for location in (tmp_path, tmp_path / "train-{000..001}.tar"):
        images = open_images(str(location))
        images.check()
        assert list(images.shard_sizes) == [3, 2]
        assert contents(images) == [(jpeg(i), label) for i, label in ((0, 3), (1, 0), (2, 2), (0, 1), (1, 9))]
        assert images.class_names == tuple(map(str, range(10)))
        assert images.key(4) == f"{tmp_path}/train-001.tar: sample train/n9/train-001-1"
    assert len(open_images(str(tmp_path / "train-001.tar"))) == 2
    before = images.fingerprint()
    write_webdataset(tmp_path / "train-001.tar", [9, 1], **options)  # of the same size
    assert open_images(str(tmp_path)).fingerprint() != before
    write_webdataset(tmp_path / "train-001.tar", [1, 9, 9, 9])
    with pytest.raises(FormatError, match=r"train-001\.tar: changed since"):
        images.check()
    assert open_images(str(tmp_path)).fingerprint() != before


def test_our_own_shards_are_tars_too(reference: Path, tmp_path: Path) -> None:
    folder = reference / "natural" / "0000"
    expected = contents(open_images(f"{reference}:natural"))
    assert contents(open_images(str(folder))) == expected
    for path in folder.glob("*.tar"):  # without the indexes
        shutil.copy(path, tmp_path)
    assert contents(open_images(str(tmp_path))) == expected


def test_tars_made_by_tar_with_folders_are_read(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    for i in range(3):
        (tmp_path / "samples" / f"{i}.jpg").write_bytes(jpeg(i))
        (tmp_path / "samples" / f"{i}.cls").write_text(f"{i}\n")
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        archive.add(tmp_path / "samples", "./samples")
    assert sorted(label for _, label in contents(open_images(str(tmp_path / "all.tar")))) == [0, 1, 2]


@pytest.mark.parametrize("cut", [100, 512, 1024, 5000])
def test_a_tar_cut_short_is_named(tmp_path: Path, cut: int) -> None:
    path = write_webdataset(tmp_path / "a.tar", [0, 1, 2])
    content = path.read_bytes()
    end = len(content.rstrip(b"\0")) // 512 * 512 + 512
    path.write_bytes(content[: end + 1024 - cut])
    with pytest.raises(FormatError, match=f"^{path}: "):
        open_images(str(tmp_path))


def test_tars_without_labels_or_images_are_named(tmp_path: Path) -> None:
    for name, sample in (("no-label", {"jpg": jpeg(0)}), ("no-image", {"cls": 1}), ("bad", {"jpg": b"", "cls": b"x"})):
        path = tmp_path / f"{name}.tar"
        with webdataset.TarWriter(str(path), encoder=name != "bad") as writer:
            writer.write({"__key__": "a", **sample})
        with pytest.raises(FormatError, match=f"^{path}: sample 'a'(: .cls is 'x'| has no)"):
            open_images(str(path))
    webdataset.TarWriter(str(tmp_path / "empty.tar")).close()
    with pytest.raises(UsageError, match="no sample in 1 tars"):
        open_images(str(tmp_path / "empty.tar"))
    shutil.copy(tmp_path / "bad.tar", tmp_path / "b-0.tar")
    with pytest.raises(UsageError, match=r"b-1.tar: no such file \(of .*\{0..1\}.tar\)"):
        open_images(str(tmp_path / "b-{0..1}.tar"))


def test_classes_of_all_streams_agree(reference: Path, tmp_path: Path) -> None:
    streams = open_shards(str(reference))
    names = streams[0].images.class_names
    assert check_classes(streams) == names

    def stream(location: Path) -> TrainStream:
        return TrainStream("imagenet", "natural", open_images(str(location)))

    write_webdataset(tmp_path / "few.tar", [3, 1])
    assert check_classes([stream(tmp_path / "few.tar"), *streams]) == names
    write_webdataset(tmp_path / "many.tar", [10])
    with pytest.raises(UsageError, match=r"^stream imagenet: 11 classes, stream natural has 10; say which"):
        check_classes([stream(tmp_path / "many.tar"), *streams])
    with pytest.raises(UsageError, match=r"^stream natural: 10 classes, stream imagenet has 2; say which"):
        check_classes([stream(make_folder(tmp_path / "two", ["cat", "dog"])), *streams])
    others = sorted([*names[1:], "zebra"])
    with pytest.raises(UsageError, match=r"^stream natural: class \d is '.*', in stream imagenet it is '.*--class-map"):
        check_classes([stream(make_folder(tmp_path / "ten", others)), *streams])


def test_a_thousand_classes_without_names_are_imagenets(tmp_path: Path) -> None:
    stream = TrainStream("a", "natural", open_images(str(write_webdataset(tmp_path / "a.tar", [999, 0]))))
    assert check_classes([stream]) == imagenet_wnids()
    stream = TrainStream("a", "natural", open_images(str(write_webdataset(tmp_path / "a.tar", [5, 0]))))
    assert check_classes([stream]) == tuple("012345")
