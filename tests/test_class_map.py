"""A run has classes of its own: streams that name theirs otherwise train together, and some classes train alone."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from genint.manifests.errors import UsageError
from genint.manifests.inputs import imagenet_wnids
from genint.train.class_map import load_class_map, map_classes
from genint.train.configuration import load_configuration
from genint.train.inputs import open_inputs
from genint.train.mapped_images import MappedImages
from genint.train.streams import TrainStream, open_images
from PIL import Image


def folder(root: Path, classes: list[str], count: int = 2) -> Path:
    """Class folders of single-coloured images; the colour tells class and number."""
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (8, 8), (label * 20, i * 20, 0)).save(root / name / f"{i}.png")
    return root


def stream(name: str, root: Path, term: Any = "natural") -> TrainStream:
    return TrainStream(name, term, open_images(str(root)))


def labels_by_colour(images: Any) -> dict[int, set[int]]:
    """Labels of a stream's images by the class that their colour tells."""
    found: dict[int, set[int]] = {}
    for position in range(len(images)):
        content, label = images.read(position)
        with Image.open(io.BytesIO(content)) as picture:
            colour = np.asarray(picture)[0, 0, 0] // 20
        found.setdefault(int(colour), set()).add(label)
    return found


def test_photos_train_beside_images_whose_classes_have_other_names(tmp_path: Path) -> None:
    photos = stream("photos", folder(tmp_path / "photos", ["Air plane", "Cat", "Ship"]))
    generated = stream("generated", folder(tmp_path / "generated", ["n1", "n2", "n3", "n4"]), "int")
    class_map = {
        "photos": {"Air plane": "airplane", "2": "ship"},
        "generated": {"n1": "ship", "n3": "airplane", "n4": "ship"},
    }
    ours, theirs = map_classes([photos, generated], class_map, None, ["photos"])
    assert ours.images.class_names == theirs.images.class_names == ("airplane", "ship")
    assert labels_by_colour(ours.images) == {0: {0}, 2: {1}}
    assert labels_by_colour(theirs.images) == {0: {1}, 2: {0}, 3: {1}}
    assert len(theirs.images) == 6 and sum(theirs.images.shard_sizes) == 6
    assert theirs.images.labels().tolist() == [theirs.images.read(place)[1] for place in range(6)]
    # Another mapping is other data.
    again = map_classes([photos], {"photos": {"Air plane": "ship", "2": "airplane"}}, ["airplane", "ship"], [])[0]
    assert again.images.fingerprint() != ours.images.fingerprint()


def test_some_classes_train_alone_in_the_order_in_which_they_are_named(tmp_path: Path) -> None:
    photos = stream("photos", folder(tmp_path / "photos", ["cat", "dog", "eel"]))
    (some,) = map_classes([photos], {}, ["eel", "0"], ["photos"])
    assert some.images.class_names == ("eel", "cat")
    assert labels_by_colour(some.images) == {0: {1}, 2: {0}}


def test_imagenets_classes_may_be_called_by_their_english_names(tmp_path: Path) -> None:
    wnids = imagenet_wnids()
    imagenet = stream("imagenet", folder(tmp_path / "imagenet", [wnids[0], wnids[207]], 1))
    (some,) = map_classes([imagenet], {"imagenet": {"Golden Retriever": "dog"}}, None, [])
    assert some.images.class_names == ("dog",) and labels_by_colour(some.images) == {1: {0}}


def test_validation_images_share_the_map_of_those_that_are_trained_on(tmp_path: Path) -> None:
    root = folder(tmp_path / "photos", ["Air plane", "Cat"])
    path = tmp_path / "map.toml"
    path.write_text('[imagenet]\n"Air plane" = "airplane"\nCat = "cat"\n')
    values = {"class_map": load_class_map(path), "classes": ["cat", "airplane"]}
    inputs = open_inputs(load_configuration("mini-erm", [], values), [], str(root), str(root))
    assert inputs.class_names == ("cat", "airplane")
    assert labels_by_colour(inputs.validation[0].images) == {0: {1}, 1: {0}}
    assert inputs.validation[0].name == "given"


def test_a_mechanism_of_a_class_outside_the_run_has_no_label(tmp_path: Path) -> None:
    class Heads:
        class_names, names_classes, shard_sizes = ("a", "b", "c"), True, [1]

        def __len__(self) -> int:
            return 1

        def read(self, position: int) -> tuple[bytes, tuple[int, ...]]:
            return b"", (2, 1, -100)

        def labels(self) -> Any:
            return np.array([2])

    images: Any = Heads()
    assert MappedImages(images, [0, None, 1], ("a", "c")).read(0) == (b"", (1, -100, -100))


@pytest.mark.parametrize(
    ("class_map", "classes", "message"),
    [
        ({"phots": {"cat": "x"}}, None, "class_map.phots: no such stream; did you mean 'photos'?"),
        ({"photos": {"catt": "x"}}, None, "class_map.photos: no class 'catt'; did you mean 'cat'?"),
        ({"photos": {"7": "x"}}, None, "class_map.photos: no class '7'"),
        ({"every-stream": {"zebra": "x"}}, None, "class_map.every-stream: no class 'zebra'"),
        ({}, ["cat", "dgo"], "--classes: no stream has a class 'dgo'; did you mean 'dog'?"),
        ({}, ["cat", "0"], "--classes: 'cat' stands there twice"),
        (
            {"photos": {"cat": "felis"}},
            None,
            r"stream other: none of its classes \(n1, n2\) is one of the run's \(felis\); .* class_map.other",
        ),
    ],
)
def test_what_does_not_fit_is_named_with_the_key_that_solves_it(
    tmp_path: Path, class_map: dict[str, dict[str, str]], classes: list[str] | None, message: str
) -> None:
    photos = stream("photos", folder(tmp_path / "photos", ["cat", "dog"]))
    other = stream("other", folder(tmp_path / "other", ["n1", "n2"]))
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        map_classes([photos, other], class_map, classes, ["photos"])


def test_a_class_map_is_read_from_toml_or_csv(tmp_path: Path) -> None:
    toml, csv = tmp_path / "map.toml", tmp_path / "map.csv"
    toml.write_text('dog = "hound"\n[photos]\n"Air plane" = "airplane"\n')
    csv.write_text('stream,class,run_class\n,dog,hound\nphotos,"Air plane",airplane\n\n')
    expected = {"every-stream": {"dog": "hound"}, "photos": {"Air plane": "airplane"}}
    assert load_class_map(toml) == load_class_map(csv) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("map.toml", "cat = 1\n", "every-stream.cat = 1: expected the name of a class"),
        ("map.toml", "[photos\n", "map.toml: "),
        ("map.csv", "a,b\n1,2\n", "expected a first line stream,class,run_class, found 'a,b'"),
        ("map.csv", "", "expected a first line stream,class,run_class, found ''"),
        ("map.csv", "stream,class,run_class\nphotos,cat\n", "line 2: expected stream,class,run_class"),
        ("map.csv", "stream,class,run_class\n,cat,a\n,cat,b\n", "line 3: class 'cat' of every-stream stands"),
        ("map.csv", 'stream,class,run_class\n,"cat,a\n', "map.csv: "),
    ],
)
def test_a_damaged_class_map_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError) as refused:
        load_class_map(tmp_path / name)
    assert message in str(refused.value) and "\n" not in str(refused.value)
    with pytest.raises(UsageError, match="no such file"):
        load_class_map(tmp_path / "none.toml")
