"""ObjectNet: the mapping joined from its own files, its border, its protocols, and what its licence asks for."""

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from genint.evaluate.corrupt import corrupt
from genint.evaluate.metrics.accuracy import accuracy
from genint.evaluate.prediction import predict
from genint.evaluate.test_sets import FileSet, open_test_set
from genint.evaluate.test_sets.objectnet import BORDER, PROTOCOLS, ObjectNetSet, join_mapping
from genint.manifests.errors import FormatError, UsageError
from genint.manifests.inputs import imagenet_wnids
from genint.train.checkpoint import Classifier, Preprocessing
from PIL import Image
from torch import Tensor, nn

# ImageNet classes of each ObjectNet folder; the others, such as bathrobe, map to none.
CLASSES = {"full_sized_towel": (434,), "wall_clock": (409, 892), "banana": (954,)}
LABELS = {"full_sized_towel": "Bath towel", "wall_clock": "Clock (wall)", "banana": "Banana", "bathrobe": "Bathrobe"}
PICTURES = 3
PLAIN = Preprocessing(resize=256, crop=224, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def write_mappings(folder: Path, changes: dict[str, str] | None = None) -> None:
    """ObjectNet's four files, for some of its folders. Line i of the labels is not class i."""
    lines = [f"thing {number}" for number in range(1000)]
    line_of = {label: (label + 17) % 1000 for label in range(1000)}
    # As in the original: labels hold ", ", one of them is there twice, and some have blanks around.
    lines[line_of[409]], lines[line_of[892]] = "analog clock, dial", "wall clock"
    lines[line_of[434]], lines[line_of[954]] = "bath towel ", "banana"
    lines[line_of[134]] = lines[line_of[517]] = "crane"
    imagenet = {
        "Bath towel": "bath towel", "Clock (wall)": "analog clock, dial; wall clock", "Banana": "banana",
    } | (changes or {})  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "folder_to_objectnet_label.json").write_text(json.dumps(LABELS))
    (folder / "objectnet_to_imagenet_1k.json").write_text(json.dumps(imagenet))
    (folder / "imagenet_to_label_2012_v2").write_text("\n".join(lines) + "\n")
    (folder / "pytorch_to_imagenet_2012_id.json").write_text(json.dumps({str(k): v for k, v in line_of.items()}))


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Pictures of 44 x 34 px with a red border of 2 px; inside green and blue tell the folder's last ImageNet class."""
    root = tmp_path / "objectnet-1.0"
    write_mappings(root / "mappings")
    for name in LABELS:
        label = CLASSES.get(name, (0,))[-1]
        pixels = np.zeros((34, 44, 3), np.uint8)
        pixels[..., 0] = 255
        pixels[BORDER:-BORDER, BORDER:-BORDER] = (0, label % 250, label // 250)
        (root / "images" / name).mkdir(parents=True)
        for number in range(PICTURES):
            Image.fromarray(pixels).save(root / "images" / name / f"{number}.png")
    return root


class Oracle(nn.Module):
    """Reads the class off green and blue; anything red makes it answer with class 0. `first` comes before it."""

    def __init__(self, first: int | None = None) -> None:
        super().__init__()
        self.first = first

    def forward(self, images: Tensor) -> Tensor:
        pixels = (images * 255).round()
        label = pixels[:, 1].mean((1, 2)).round().long() + 250 * pixels[:, 2].mean((1, 2)).round().long()
        label = torch.where(pixels[:, 0].amax((1, 2)) > 0, 0, label)
        logits = nn.functional.one_hot(label, 1000).float()
        if self.first is not None:
            logits[:, self.first] = 2.0
        return logits


def classifier(first: int | None = None) -> Classifier:
    return Classifier("oracle", Oracle(first).eval(), "toy", imagenet_wnids(), PLAIN, "0" * 64)


def opened(release: Path, protocol: str = "genint") -> ObjectNetSet:
    (one,) = open_test_set(f"objectnet={release}:{protocol}")
    assert isinstance(one, ObjectNetSet)
    return one


def test_mapping_is_joined_from_objectnets_own_files(release: Path) -> None:
    assert join_mapping(release / "mappings") == CLASSES
    one = opened(release)
    assert len(one) == 3 * PICTURES and one.marked == "official"
    assert {one.key(i).partition("/")[0]: one.labels(i) for i in range(len(one))} == CLASSES
    # Fewer images than are usually quoted: said, and no error.
    assert one.notes == ("9 images of shared classes; release 1.0 is usually quoted with 18,574",)


def test_bath_towel_belongs_to_the_towel_and_not_to_the_bathrobe(release: Path) -> None:
    one = opened(release)
    towels = [i for i in range(len(one)) if one.labels(i) == (434,)]
    assert {one.key(i).partition("/")[0] for i in towels} == {"full_sized_towel"}
    # The error of an early release of the mapping.
    write_mappings(release / "mappings", {"Bathrobe": "bath towel"})
    with pytest.raises(FormatError, match="bath towel to the folder bathrobe"):
        opened(release)


def test_mapping_that_does_not_join_is_refused_by_name(release: Path) -> None:
    for changes, problem in [
        ({"Banana": "bananas"}, "'Banana': 'bananas' is no line"),
        ({"Banana": "banana, crane"}, "'banana, crane' is no line"),
        ({"Banana": "crane"}, "'crane' stands on two lines"),
        ({"Bananas": "banana"}, "'Bananas' is no label"),
    ]:
        write_mappings(release / "mappings", changes)
        with pytest.raises(FormatError, match=problem):
            join_mapping(release / "mappings")
    (release / "mappings" / "imagenet_to_label_2012_v2").unlink()
    with pytest.raises(UsageError, match="imagenet_to_label_2012_v2: missing"):
        join_mapping(release / "mappings")


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("objectnet_to_imagenet_1k.json", b'{"Banana": ["banana"]}', "'Banana': \\['banana'\\]; expected a text"),
        ("objectnet_to_imagenet_1k.json", b"[" * 100_000, "nested too deeply"),
        ("folder_to_objectnet_label.json", b"[1]", "holds a list; expected an object"),
        (
            "folder_to_objectnet_label.json",
            b'{"full_sized_towel": "Bath towel"}',
            "'Clock \\(wall\\)' is no label|'Banana'",
        ),
        ("pytorch_to_imagenet_2012_id.json", b'{"0": "x"}', "'0': 'x'; expected a class from 0 to 999"),
        ("pytorch_to_imagenet_2012_id.json", b'{"0": 1e999}', "1e999 is too large"),
        ("pytorch_to_imagenet_2012_id.json", b'{"0": 1}', "1 classes with a line of their own; expected 1,000"),
        ("imagenet_to_label_2012_v2", b"\xff\xfet", "not UTF-8"),
    ],
)
def test_damaged_mapping_is_named_with_its_place(release: Path, file: str, content: bytes, problem: str) -> None:
    (release / "mappings" / file).write_bytes(content)
    with pytest.raises(FormatError, match=f"mappings/{file}: .*{problem}"):
        opened(release)


def test_a_mapping_that_lacks_entries_says_so_beside_every_number(release: Path) -> None:
    assert opened(release).protocol.endswith(
        "incomplete: the mapping has 3 of 113 shared folders and 4 of 125 ImageNet classes"
    )
    labels = dict(LABELS)
    del labels["bathrobe"]
    (release / "mappings" / "folder_to_objectnet_label.json").write_text(json.dumps(labels))
    with pytest.raises(FormatError, match="no label for the folder images/bathrobe"):
        opened(release)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_border_is_cut_off_before_anything_else(release: Path, protocol: str) -> None:
    one = opened(release, protocol)
    with Image.open(io.BytesIO(one.read(0))) as picture:
        prepared = one.transform(PLAIN)(picture.convert("RGB"))
        with_border = PLAIN.prepare(picture.convert("RGB"))
    assert prepared.shape == (3, PROTOCOLS[protocol].crop, PROTOCOLS[protocol].crop)
    assert prepared[0].max() == 0
    # The check can fail: left on, the border is seen.
    assert with_border[0].max() > 0


@pytest.mark.parametrize(
    ("protocol", "side", "shown"), [("genint", 256, 256), ("challenge", 224, 224), ("zoom", 358, 224)]
)
def test_protocols_show_what_they_say(release: Path, protocol: str, side: int, shown: int) -> None:
    one = opened(release, protocol)
    rng = np.random.default_rng(0)
    inside = Image.fromarray(rng.integers(0, 256, (300, 400, 3), np.uint8))
    framed = one.frame(inside)
    assert torch.equal(one.transform(PLAIN)(framed), replace(PLAIN, resize=side, crop=shown).prepare(inside))
    assert one.protocol.startswith(f"{protocol}: ") and f"Resize({side}), CenterCrop({shown})" in one.protocol
    assert one.name == f"objectnet:{protocol}"


def test_headline_protocol_is_the_papers(release: Path) -> None:
    (one,) = open_test_set(f"objectnet={release.parent}")
    assert one.name == "objectnet:genint"
    with pytest.raises(UsageError, match="no protocol 'zoomed'; known: genint, challenge, zoom, restricted"):
        open_test_set(f"objectnet={release}:zoomed")


def test_oracle_is_right_and_any_mapped_class_counts_once(release: Path) -> None:
    one = opened(release)
    found = predict(classifier(), one, batch_size=2)
    assert accuracy(found.hit1).value == 1.0
    # Both classes of the clock are among the five: one hit an image all the same.
    both = predict(classifier(first=409), one)
    clocks = np.array([one.labels(i) == (409, 892) for i in range(len(one))])
    assert both.hit1.tolist() == clocks.tolist()
    assert int(both.hit5.sum()) == len(one)


def test_restricted_protocol_predicts_among_shared_classes_alone(release: Path) -> None:
    # The likeliest class is one that no object maps to.
    free = predict(classifier(first=1), opened(release))
    restricted = opened(release, "restricted")
    bound = predict(classifier(first=1), restricted)
    assert not free.hit1.any() and free.hit5.all()
    assert bound.hit1.all()
    assert restricted.allowed == (409, 434, 892, 954)
    assert set(bound.top5.ravel().tolist()) == {409, 434, 892, 954, -1}


def test_pictures_are_written_with_their_border_alone(release: Path, tmp_path: Path) -> None:
    one = opened(release)
    assert one.read(0) == (release / "images" / one.key(0)).read_bytes()
    framed = np.asarray(one.frame(Image.new("RGB", (10, 8), (0, 9, 0))))
    assert framed.shape == (12, 14, 3)
    inside = np.zeros(framed.shape[:2], bool)
    inside[BORDER:-BORDER, BORDER:-BORDER] = True
    assert (framed[inside] == (0, 9, 0)).all() and (framed[~inside] == (255, 0, 0)).all()
    # A corrupted copy would be of pictures without it.
    with pytest.raises(UsageError, match="may be written without its border"):
        corrupt(one, tmp_path / "copy", ["contrast"], [1])
    disguised = FileSet(
        "own", "", one.class_names, str(release / "images" / "banana"), ("0.png",), (1,), ((0,),), "own"
    )  # fmt: skip
    with pytest.raises(UsageError, match="may be written without its border"):
        corrupt(disguised, tmp_path / "copy", ["contrast"], [1])
    assert not (tmp_path / "copy").exists()


def test_evaluation_leaves_the_release_as_it_is(release: Path) -> None:
    def state() -> dict[str, tuple[str, int]]:
        return {
            str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
            for path in release.rglob("*")
            if path.is_file()
        }

    before = state()
    predict(classifier(), opened(release), workers=1)
    assert state() == before


def test_missing_class_folder_is_named(release: Path) -> None:
    for path in (release / "images" / "banana").iterdir():
        path.unlink()
    (release / "images" / "banana").rmdir()
    with pytest.raises(UsageError, match=r"lacks images/banana and 0 more of 3"):
        opened(release)
