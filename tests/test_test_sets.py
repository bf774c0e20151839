"""ImageNet, folders of one's own and genint streams: what they hold, and what is refused."""

import io
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from genint.evaluate.metrics.accuracy import accuracy
from genint.evaluate.prediction import Cache, predict
from genint.evaluate.test_sets import KINDS, open_test_set
from genint.evaluate.test_sets import imagenet as imagenet_module
from genint.evaluate.test_sets.imagenet import open_imagenet
from genint.evaluate.test_sets.streams import class_label
from genint.evaluate.test_sets.subset import StreamSubset
from genint.manifests.errors import FormatError, UsageError
from genint.manifests.manifest import load_manifest
from genint.manifests.samples import StreamSamples
from genint.manifests.storage import Storage
from genint.manifests.world import CLASSES
from genint.train.checkpoint import Classifier, Preprocessing
from PIL import Image
from torch import Tensor, nn

WNIDS = ("n01440764", "n01443537", "n01484850")
PLAIN = Preprocessing(resize=None, crop=2, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


class Oracle(nn.Module):
    """Reads the class off a picture's red value."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.one_hot((images[:, 0, 0, 0] * 255).round().long(), self.classes).float()


def oracle(*names: str) -> Classifier:
    return Classifier("oracle", Oracle(len(names)).eval(), "toy", names, PLAIN, "0" * 64)


def write(path: Path, red: int, size: tuple[int, int] = (2, 2)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (red, 0, 0)).save(path)


@pytest.fixture
def three_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """ImageNet with three classes of 50 images, for sets too large to write in a test."""
    monkeypatch.setattr(imagenet_module, "imagenet_wnids", lambda: WNIDS)


@pytest.fixture
def flat(tmp_path: Path, three_classes: None) -> Path:
    """The validation archive as it unpacks; image n is of class n % 3."""
    for number in range(1, 151):
        write(tmp_path / "flat" / f"ILSVRC2012_val_{number:08d}.png", number % 3)
    return tmp_path / "flat"


@pytest.mark.parametrize("text", ["imagenet", "imagenet=", "inagenet=/tmp", "=/tmp"])
def test_unknown_kind_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_test_set(text)
    assert all(form in str(caught.value) for form, _ in KINDS.values())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("shards", "groups")])
def test_missing_folder_is_named_as_it_was_given(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"^{kind}={tmp_path}/nowhere: no such folder$"):
        open_test_set(f"{kind}={tmp_path}/nowhere")


def test_imagenet_is_read_from_wnid_folders(tmp_path: Path, three_classes: None) -> None:
    for label, wnid in enumerate(WNIDS):
        for number in range(50):
            write(tmp_path / "val" / wnid / f"{number}.png", label)
    (one,) = open_imagenet(str(tmp_path), "imagenet=DIR")
    assert len(one) == 150 and one.marked == "official" and one.class_names == WNIDS
    assert accuracy(predict(oracle(*WNIDS), one).hit1).value == 1.0
    (tmp_path / "val" / WNIDS[1] / "7.png").unlink()
    with pytest.raises(UsageError, match=f"imagenet=DIR: 49 images in class folder {WNIDS[1]}; expected 50"):
        open_imagenet(str(tmp_path), "imagenet=DIR")


def test_missing_wnid_folder_is_named(tmp_path: Path) -> None:
    write(tmp_path / WNIDS[0] / "0.png", 0)
    with pytest.raises(UsageError, match=r"lacks class folders n01443537, n01484850, n01491361 and 996 more"):
        open_test_set(f"imagenet={tmp_path}")


@pytest.mark.parametrize("where", ["inside", "above"])
def test_flat_imagenet_is_labelled_by_its_list(flat: Path, where: str) -> None:
    lines = [f"ILSVRC2012_val_{number:08d}.JPEG {number % 3}\n" for number in range(150, 0, -1)]
    (flat / "val.txt" if where == "inside" else flat.parent / "val.txt").write_text("".join(lines))
    (one,) = open_imagenet(str(flat), "imagenet=DIR")
    assert accuracy(predict(oracle(*WNIDS), one).hit1).value == 1.0


def test_flat_imagenet_reads_kaggles_list(flat: Path) -> None:
    rows = [f"ILSVRC2012_val_{n:08d},{WNIDS[n % 3]} 1 2 3 4 {WNIDS[n % 3]} 5 6 7 8 \n" for n in range(1, 151)]
    (flat / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "".join(rows))
    (one,) = open_imagenet(str(flat), "imagenet=DIR")
    assert [one.labels(position) for position in range(3)] == [(1,), (2,), (0,)]


def test_flat_imagenet_reads_the_devkit_by_its_own_numbers(flat: Path) -> None:
    # The devkit's ids 1, 2, 3 stand for classes 2, 0, 1: their order is not that of the wnids.
    ids = {2: 1, 0: 2, 1: 3}
    synsets = np.array(
        [(1, WNIDS[2], 0), (2, WNIDS[0], 0), (3, WNIDS[1], 0), (4, "n00001740", 3)],
        dtype=[("ILSVRC2012_ID", object), ("WNID", object), ("num_children", object)],
    )
    truth = "".join(f"{ids[number % 3]}\n" for number in range(1, 151))
    (flat / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)
    with pytest.raises(UsageError, match=r"meta\.mat"):
        open_imagenet(str(flat), "imagenet=DIR")
    scipy.io.savemat(flat / "meta.mat", {"synsets": synsets})
    (one,) = open_imagenet(str(flat), "imagenet=DIR")
    assert accuracy(predict(oracle(*WNIDS), one).hit1).value == 1.0


def test_flat_imagenet_without_whole_ground_truth_is_refused(flat: Path) -> None:
    with pytest.raises(UsageError, match="no ground truth: none of"):
        open_imagenet(str(flat), "imagenet=DIR")
    (flat / "val.txt").write_text("ILSVRC2012_val_00000001.JPEG 1\n")
    with pytest.raises(FormatError, match=r"val\.txt: no label for ILSVRC2012_val_00000002\.png"):
        open_imagenet(str(flat), "imagenet=DIR")
    (flat / "val.txt").write_text("ILSVRC2012_val_00000001.JPEG 3\n")
    with pytest.raises(FormatError, match="line 1: '3' is neither"):
        open_imagenet(str(flat), "imagenet=DIR")
    (flat / "ILSVRC2012_val_00000009.png").unlink()
    with pytest.raises(UsageError, match="149 images and no wnid folders"):
        open_imagenet(str(flat), "imagenet=DIR")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\xff\n", "no list of labels"),
        (b'"' + b"x" * 200_000, "no list of labels"),
        (b"ILSVRC2012_val_00000001.png " + b"9" * 5000, "line 1: .* is neither a label"),
        (b"ILSVRC2012_val_00000001.png 1\nval/ILSVRC2012_val_00000001.png 2\n", "line 2: another label"),
    ],
)
def test_damaged_list_of_labels_is_named_with_its_line(flat: Path, content: bytes, problem: str) -> None:
    (flat / "val.txt").write_bytes(content)
    with pytest.raises(FormatError, match=rf"val\.txt: {problem}"):
        open_test_set(f"imagenet={flat}")


@pytest.mark.parametrize(("file", "content"), [("meta.mat", b"no table"), ("meta.mat", b""), ("truth", b"1\nx\n")])
def test_damaged_devkit_is_named(flat: Path, file: str, content: bytes) -> None:
    truth = flat / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_bytes(b"1\n" * 150)
    synsets = np.array([(1, WNIDS[0])], dtype=[("ILSVRC2012_ID", "i4"), ("WNID", "O")])
    scipy.io.savemat(flat / "meta.mat", {"synsets": synsets})
    (truth if file == "truth" else flat / file).write_bytes(content)
    with pytest.raises(FormatError, match=r"meta\.mat: |ground_truth\.txt: "):
        open_test_set(f"imagenet={flat}")


def test_label_that_is_none_of_the_streams_is_named_with_its_sample(reference: Path) -> None:
    (stream,) = open_test_set(f"shards={reference}:natural")
    for content in (b"x", b"-1", b"10", b"9" * 5000, b""):
        with pytest.raises(FormatError, match=r"natural-\d+: label .*; expected a number below 10"):
            class_label(stream.samples, 0, {"cls": content})


def test_altered_shard_is_no_more_what_was_predicted_of(reference: Path, tmp_path: Path) -> None:
    shutil.copytree(reference, tmp_path / "dataset")
    cache, reader = Cache(tmp_path / "cache", {}), oracle(*CLASSES)
    (stream,) = open_test_set(f"shards={tmp_path / 'dataset'}:natural")
    assert cache.entry(reader, stream, "fp32").load() is None
    shard = next((tmp_path / "dataset").glob("natural/*/*.tar"))
    content = bytearray(shard.read_bytes())
    content[-11_000] ^= 1
    shard.write_bytes(content)
    (stream,) = open_test_set(f"shards={tmp_path / 'dataset'}:natural")
    with pytest.raises(FormatError, match="sha256 differs from its record's"):
        cache.entry(reader, stream, "fp32")


def test_a_folder_of_ones_own_is_matched_by_class_names(tmp_path: Path) -> None:
    for red, name in enumerate(("zebra", "ant", "mole")):
        write(tmp_path / "mine" / name / "deep" / "0.png", red)
        write(tmp_path / "mine" / name / "1.png", red)
    (one,) = open_test_set(f"folder={tmp_path / 'mine'}")
    assert (one.name, one.marked, one.class_names) == ("mine", "own", ("ant", "mole", "zebra"))
    # The classifier counts in its own order, and knows a class that the folder lacks.
    found = predict(oracle("zebra", "ant", "mole", "yak"), one)
    assert accuracy(found.hit1).value == 1.0
    with pytest.raises(UsageError, match="knows no class 'ant'"):
        predict(oracle("zebra", "mole"), one)


def test_folders_under_other_rules_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "copy" / "snow" / "1" / "ant" / "0.png", 0)
    (tmp_path / "copy" / "corrupted.json").write_text("{}")
    with pytest.raises(UsageError, match=r"open it as corrupted="):
        open_test_set(f"folder={tmp_path / 'copy'}")
    write(tmp_path / "objectnet-1.0" / "images" / "banana" / "0.png", 0)
    (tmp_path / "objectnet-1.0" / "mappings").mkdir()
    (tmp_path / "objectnet-1.0" / "mappings" / "folder_to_objectnet_label.json").write_text("{}")
    for folder in (tmp_path / "objectnet-1.0" / "images", tmp_path / "objectnet-1.0"):
        with pytest.raises(UsageError, match="open it as objectnet=DIR"):
            open_test_set(f"folder={folder}")
    write(tmp_path / "loose" / "ant" / "0.png", 0)
    (tmp_path / "loose" / "empty").mkdir()
    with pytest.raises(UsageError, match=rf"^folder={tmp_path}/loose: class folder 'empty' holds no image"):
        open_test_set(f"folder={tmp_path / 'loose'}")


def test_digest_changes_with_the_files(tmp_path: Path) -> None:
    write(tmp_path / "a" / "ant" / "0.png", 0)
    (before,) = open_test_set(f"folder={tmp_path / 'a'}")
    (again,) = open_test_set(f"folder={tmp_path / 'a'}")
    write(tmp_path / "a" / "ant" / "1.png", 8)
    (after,) = open_test_set(f"folder={tmp_path / 'a'}")
    assert before.digest() == again.digest() != after.digest()
    size = (tmp_path / "a" / "ant" / "1.png").stat().st_size
    write(tmp_path / "a" / "ant" / "1.png", 9)
    assert (tmp_path / "a" / "ant" / "1.png").stat().st_size == size
    (remade,) = open_test_set(f"folder={tmp_path / 'a'}")
    assert remade.digest() != after.digest()
    os.rename(tmp_path / "a" / "ant", tmp_path / "a" / "bee")
    (renamed,) = open_test_set(f"folder={tmp_path / 'a'}")
    assert renamed.digest() != after.digest()


def test_a_file_that_went_is_an_error_that_names_it(tmp_path: Path) -> None:
    write(tmp_path / "a" / "ant" / "0.png", 0)
    (one,) = open_test_set(f"folder={tmp_path / 'a'}")
    (tmp_path / "a" / "ant" / "0.png").unlink()
    with pytest.raises(FormatError, match=r"a/ant/0\.png: missing"):
        predict(oracle("ant"), one)


def test_test_streams_of_a_dataset_are_found_by_its_manifest(mini_tests: Path) -> None:
    sets = open_test_set(f"shards={mini_tests}")
    assert [one.name for one in sets] == ["mini-tests/test", "mini-tests/test-shifted"]
    assert all(one.marked == "own" and len(one) == 20 for one in sets)
    entry = load_manifest(Storage(mini_tests)).stream("test")
    samples = StreamSamples(Storage(mini_tests), entry)
    assert sets[0].class_names == tuple(entry.class_names)
    assert sets[0].key(3) == samples.key(3)
    assert sets[0].labels(3) == (int(samples.read(3)["cls"]),)
    with Image.open(io.BytesIO(sets[0].read(3))) as picture:
        assert picture.size == (32, 32)
    assert sets[0].digest() != sets[1].digest()
    assert pickle.loads(pickle.dumps(sets[0])).read(5) == sets[0].read(5)  # noqa: S301


def test_one_stream_may_be_named_of_any_kind(mini_tests: Path) -> None:
    (one,) = open_test_set(f"shards={mini_tests}:natural")
    assert one.name == "mini-tests/natural"
    with pytest.raises(UsageError, match=r"no stream 'tests'; its streams: natural \(natural, train\), test "):
        open_test_set(f"shards={mini_tests}:tests")


def test_images_of_one_latent_are_a_cluster(reference: Path) -> None:
    (one,) = open_test_set(f"shards={reference}:interventional")
    found = one.clusters()
    assert found is not None and (found.unit, found.count) == ("latent", 20)
    assert set(np.bincount(found.numbers)) == {3}
    latents = [(p["class_label"], p["latent_index"]) for p in map(one.parameters, range(len(one)))]
    assert len(set(zip(found.numbers.tolist(), latents, strict=True))) == 20
    half = StreamSubset(one, tuple(range(0, 60, 2))).clusters()
    assert half is not None and half.numbers.tolist() == found.numbers[::2].tolist()
    # An image a latent, and an image an object; of ten classes, which are too few to be drawn again.
    for stream in ("observational", "natural"):
        (alone,) = open_test_set(f"shards={reference}:{stream}")
        assert alone.clusters() is None


def test_images_of_one_class_are_a_cluster_where_classes_are_many(tmp_path: Path) -> None:
    for number in range(20):
        write(tmp_path / f"class-{number:02d}" / "a.png", number)
        write(tmp_path / f"class-{number:02d}" / "b.png", number)
    (many,) = open_test_set(f"folder={tmp_path}")
    found = many.clusters()
    assert found is not None and (found.unit, found.count) == ("class", 20)
    assert found.numbers.tolist() == [position // 2 for position in range(40)]
    shutil.rmtree(tmp_path / "class-07")
    (few,) = open_test_set(f"folder={tmp_path}")
    assert few.clusters() is None


def test_dataset_without_test_stream_or_manifest_is_refused(reference: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no natural stream whose split is test"):
        open_test_set(f"shards={reference}")
    with pytest.raises(FormatError, match="not a finished dataset"):
        open_test_set(f"shards={tmp_path}")


def test_stream_is_evaluated_through_workers(mini_tests: Path) -> None:
    class Dark(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.eye(10)[4].expand(len(images), -1)

    (one, _) = open_test_set(f"shards={mini_tests}")
    preprocessing = Preprocessing(resize=None, crop=32)
    always = Classifier("always-4", Dark(), "toy", one.class_names, preprocessing, "0" * 64)
    found = predict(always, one, batch_size=8, workers=1)
    truth = [one.labels(position)[0] for position in range(20)]
    assert found.labels[:, 0].tolist() == truth
    assert accuracy(found.hit1).hits == truth.count(4)


@pytest.fixture(scope="module")
def mini_tests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished dataset with two test streams and a train stream, 20 images each."""
    from genint.pipeline.cli import cli

    folder = tmp_path_factory.mktemp("mini-tests")
    streams = "".join(
        f'[[streams]]\nname = "{name}"\nsource = "mini-world"\nsplit = "{split}"\nobjects = "{split}"\n'
        f'num_samples = 20\nsamples_per_shard = 12\nimage_format = "png"\nbackground_confounding = {strength}\n'
        for name, split, strength in (("natural", "train", 0.5), ("test", "test", 0.5), ("test-shifted", "test", 0.0))
    )
    (folder / "recipe.toml").write_text(f'name = "mini-tests"\nseed = 1\n{streams}')
    out = folder / "dataset"
    arguments = ["build-shards", str(folder / "recipe.toml"), "--out", str(out), "--workers", "1", "--device", "cpu"]
    cli(arguments, standalone_mode=False)
    return out
