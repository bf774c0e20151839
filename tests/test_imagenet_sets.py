"""ImageNet-A, -R, -D, Sketch, ReaL and ImageNet-9: labels, masks and metrics, on small copies of their layouts."""

import json
import math
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from genint.evaluate.biases import measure_biases
from genint.evaluate.metrics.accuracy import accuracy
from genint.evaluate.prediction import predict
from genint.evaluate.test_sets import imagenet as imagenet_module
from genint.evaluate.test_sets import imagenet_real as real_module
from genint.evaluate.test_sets import open_test_set
from genint.manifests.errors import FormatError, UsageError
from genint.manifests.inputs import imagenet_wnids
from genint.train.checkpoint import Classifier, Preprocessing
from PIL import Image
from torch import Tensor, nn

PLAIN = Preprocessing(None, 2, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
WNIDS = imagenet_wnids()
THREE = WNIDS[:3]


class Reader(nn.Module):
    """Answers with the class that a picture's red and green say, and next with the class that blue adds to it."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, images: Tensor) -> Tensor:
        red, green, blue = (images[:, :, 0, 0] * 255).round().long().T
        first = (red + 250 * green) % self.classes
        hot = nn.functional.one_hot(first, self.classes) * 3 + nn.functional.one_hot(
            (first + blue) % self.classes, self.classes
        )
        return hot.float()


def reader(names: tuple[str, ...] = WNIDS) -> Classifier:
    return Classifier("reader", Reader(len(names)).eval(), "toy", names, PLAIN, "0" * 64)


def write(path: Path, label: int, second: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2), (label % 250, label // 250, second)).save(path)


def own_classes(name: str) -> list[str]:
    content = json.loads((files("genint.evaluate.test_sets") / "data" / f"{name}.json").read_text())
    assert "MIT" in content["source"]
    return content["wnids"]


@pytest.mark.parametrize(("name", "published"), [("imagenet-a", "7,500"), ("imagenet-r", "30,000")])
def test_sets_of_200_classes_are_measured_among_these_and_among_all(tmp_path: Path, name: str, published: str) -> None:
    wnids = own_classes(name)
    outside = next(label for label, wnid in enumerate(WNIDS) if wnid not in wnids)
    for number, wnid in enumerate(wnids):
        label = WNIDS.index(wnid)
        # Every fourth picture looks first like a class outside of the set, then like its own.
        first = outside if number % 4 == 0 else label
        write(tmp_path / name / wnid / "0.png", first, (label - first) % 256 if number % 4 == 0 else 0)
    narrow, wide = open_test_set(f"{name}={tmp_path / name}")
    assert (narrow.name, wide.name) == (f"{name}:200", f"{name}:1000")
    assert narrow.protocol.startswith("200-way: ") and wide.protocol.startswith("1,000-way: ")
    assert f"incomplete: 200 images, published are {published}" in wide.protocol
    reachable = sum(0 <= WNIDS.index(wnid) - outside < 256 for wnid in wnids[::4])
    assert accuracy(predict(reader(), wide).hit1).hits == 150
    assert accuracy(predict(reader(), narrow).hit1).hits == 150 + reachable
    assert reachable > 0
    (tmp_path / name / wnids[7] / "0.png").unlink()
    with pytest.raises(UsageError, match=f"{wnids[7]}"):
        open_test_set(f"{name}={tmp_path / name}")


def test_sketches_are_of_all_classes(tmp_path: Path) -> None:
    for label, wnid in enumerate(WNIDS):
        write(tmp_path / "sketch" / wnid / "sketch_0.JPEG", label)
    (one,) = open_test_set(f"imagenet-sketch={tmp_path}")
    assert one.protocol.endswith("incomplete: 1,000 images, published are 50,889")
    assert len(one) == 1000 and one.labels(999) == (999,) and one.marked == "official"
    (tmp_path / "sketch" / WNIDS[3] / "sketch_0.JPEG").rename(tmp_path / "sketch" / WNIDS[2] / "other.JPEG")
    (tmp_path / "sketch" / WNIDS[3]).rmdir()
    with pytest.raises(UsageError, match=f"lacks class folders {WNIDS[3]}; expected 1,000 class folders"):
        open_test_set(f"imagenet-sketch={tmp_path}")


def test_imagenet_d_counts_any_class_of_the_object_in_each_of_its_three_folders(tmp_path: Path) -> None:
    content = json.loads((files("genint.evaluate.test_sets") / "data" / "imagenet-d.json").read_text())
    classes = {name: [WNIDS.index(wnid) for wnid in wnids] for name, wnids in content["classes"].items()}
    assert "MIT" in content["source"] and len(classes) == 113
    assert len({label for labels in classes.values() for label in labels}) == 125
    chair, mug = classes["chair"], classes["mug"]
    assert (len(chair), len(mug)) == (3, 1)
    # A chair of each of its three classes, of which 0, 1 and 2 look like mugs; and a mug.
    for nuisance, wrong in (("background", 0), ("texture", 1), ("material", 2)):
        for number, label in enumerate(chair):
            write(tmp_path / nuisance / "chair" / f"{number}.png", mug[0] if number < wrong else label)
        write(tmp_path / nuisance / "mug" / "0.png", mug[0])
    sets = open_test_set(f"imagenet-d={tmp_path}")
    assert [one.name for one in sets] == ["imagenet-d:background", "imagenet-d:texture", "imagenet-d:material"]
    assert [accuracy(predict(reader(), one).hit1).value for one in sets] == [1.0, 0.75, 0.5]
    assert "incomplete: 12 images, published are 4,835, in the three folders" in sets[0].protocol
    (tmp_path / "texture" / "mug").rename(tmp_path / "texture" / "cup")
    with pytest.raises(UsageError, match="texture: class folder 'cup' is none of the set's 113 classes"):
        open_test_set(f"imagenet-d={tmp_path}")
    (tmp_path / "texture").rename(tmp_path / "textures")
    with pytest.raises(UsageError, match="lacks texture; expected the folders background, texture, material"):
        open_test_set(f"imagenet-d={tmp_path}")


@pytest.fixture
def flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A validation archive of three classes, 150 images; image n is of class n % 3."""
    monkeypatch.setattr(imagenet_module, "imagenet_wnids", lambda: THREE)
    monkeypatch.setattr(real_module, "imagenet_wnids", lambda: THREE)
    for number in range(1, 151):
        write(tmp_path / "val" / f"ILSVRC2012_val_{number:08d}.png", number % 3)
    return tmp_path


def test_real_counts_any_of_several_labels_and_leaves_images_without_one_out(flat: Path) -> None:
    # By number: own class; own and the next; the next alone; none.
    labels = [[[n % 3], [n % 3, (n + 1) % 3], [(n + 1) % 3], []][n % 4] for n in range(1, 151)]
    (flat / "real.json").write_text(json.dumps(labels))
    (one,) = open_test_set(f"imagenet-real={flat}")
    assert len(one) == 150 - 37 and "37 images without label left out" in one.protocol
    found = predict(reader(THREE), one)
    assert accuracy(found.hit1).hits == 37 + 38  # of the two kinds whose own class counts


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([[0]] * 149, "expected a list with the labels of each of 150 images"),
        ([[0]] * 149 + [[3]], "image 150: expected a list of labels from 0 to 2"),
        ([[0]] * 149 + [0], "image 150: "),
        ({"a": 1}, "expected a list"),
    ],
)
def test_damaged_real_is_named_with_its_place(flat: Path, content: object, problem: str) -> None:
    (flat / "real.json").write_text(json.dumps(content))
    with pytest.raises(FormatError, match=rf"real\.json: {problem}"):
        open_test_set(f"imagenet-real={flat}")


def test_real_needs_its_labels_and_the_archives_names(flat: Path) -> None:
    with pytest.raises(UsageError, match=r"no real\.json in .*reassessed-imagenet"):
        open_test_set(f"imagenet-real={flat}")
    (flat / "real.json").write_text(json.dumps([[0]] * 150))
    (flat / "val" / "ILSVRC2012_val_00000001.png").rename(flat / "val" / "first.png")
    with pytest.raises(UsageError, match=r"first\.png: expected the name that the archive gives it"):
        open_test_set(f"imagenet-real={flat}")


@pytest.fixture
def nine(tmp_path: Path) -> Path:
    """Two variants of ImageNet-9, ten images a group; class n is of group n % 10, and 9 stands for none."""
    mapping = {str(label): label % 10 if label % 10 < 9 else -1 for label in range(1000)}
    (tmp_path / "in_to_in9.json").write_text(json.dumps(mapping))
    for variant, wrong in (("mixed_same", 2), ("mixed_rand", 5)):
        for group in range(9):
            for number in range(10):
                # Right is any class of the group, not one alone; wrong are another group's and those of none.
                label = 10 * number + (group if number >= wrong else 9 if number % 2 else (group + 1) % 9)
                write(tmp_path / variant / "val" / f"0{group}_group" / f"{number}.png", label)
    return tmp_path


def test_imagenet_9_counts_any_class_of_the_group_and_gives_the_gap(nine: Path) -> None:
    same, rand = open_test_set(f"imagenet-9={nine}")
    assert (same.name, rand.name) == ("imagenet-9:mixed_same", "imagenet-9:mixed_rand")
    assert "incomplete: 90 images, published are 4,050" in same.protocol
    found = [(one, predict(reader(), one)) for one in (same, rand)]
    assert [accuracy(predictions.hit1).value for _, predictions in found] == [0.8, 0.5]
    (gap,) = measure_biases("reader", found)
    assert (gap.name, gap.images) == ("background gap", 180)
    assert gap.value == pytest.approx(0.3)
    # Wilson of 72 and of 45 of 90 is 0.7056 to 0.8695 and 0.3988 to 0.6012.
    assert gap.interval == pytest.approx((0.3 - math.hypot(0.0944, 0.1012), 0.3 + math.hypot(0.0695, 0.1012)), abs=2e-3)
    assert measure_biases("reader", found[:1]) == []


def test_imagenet_9_needs_its_variants_groups_and_mapping(nine: Path) -> None:
    with pytest.raises(UsageError, match="no variant in it"):
        open_test_set(f"imagenet-9={nine / 'mixed_same'}")
    (nine / "mixed_same" / "val" / "08_group").rename(nine / "mixed_same" / "val" / "fish")
    with pytest.raises(UsageError, match=r"expected nine folders from 00_dog to 08_fish; found .*fish"):
        open_test_set(f"imagenet-9={nine}")
    damaged = [({"0": 9}, "'0': expected"), ({"1000": 0}, "'1000': expected"), ({"0": 0}, "group 1 has no")]
    for content, problem in damaged:
        (nine / "in_to_in9.json").write_text(json.dumps(content))
        with pytest.raises(FormatError, match=rf"in_to_in9\.json: {problem}"):
            open_test_set(f"imagenet-9={nine}")
    (nine / "in_to_in9.json").unlink()
    with pytest.raises(UsageError, match=r"no in_to_in9\.json in it or above; .*backgrounds_challenge"):
        open_test_set(f"imagenet-9={nine}")


def sixteen() -> dict[str, list[int]]:
    content = json.loads((files("genint.evaluate.test_sets") / "data" / "sixteen-classes.json").read_text())
    assert "MIT" in content["source"]
    return {name: [WNIDS.index(wnid) for wnid in wnids] for name, wnids in sorted(content["classes"].items())}


def test_cue_conflicts_are_answered_among_sixteen_and_give_the_shape_bias(tmp_path: Path) -> None:
    classes = sixteen()
    assert len(classes) == 16 and sum(map(len, classes.values())) == 207
    names = list(classes)
    for number, shape in enumerate(names):
        texture, other = names[(number + 1) % 16], names[(number + 2) % 16]
        # Eight answers for the shape, four for the texture, four for a third class; one where both agree.
        answer = shape if number < 8 else texture if number < 12 else other
        write(tmp_path / shape / f"{shape}1-{texture}2.png", classes[answer][-1])
        write(tmp_path / shape / f"{shape}1-{shape}2.png", classes[shape][0])
    (one,) = open_test_set(f"cue-conflict={tmp_path}")
    assert len(one) == 16 and "incomplete: 16 images, published are 1,200" in one.protocol
    # A reader as sure as this one: the mean over a group with one class of its own is smaller in a larger group.
    sure = reader()
    sure.model.register_forward_hook(lambda _module, _inputs, logits: 10 * logits)
    found = predict(sure, one)
    assert accuracy(found.hit1).hits == 8
    (bias,) = measure_biases("sure", [(one, found)])
    assert (bias.name, bias.images) == ("shape bias", 12)
    assert bias.value == pytest.approx(8 / 12)
    # A photo of a shape stands for itself here: 12 decisions, standard error sqrt(2 / 9 / 12) = 0.136.
    assert one.clusters().unit == "photo" and one.clusters().count == 16
    assert bias.interval == pytest.approx((0.667 - 0.267, 0.667 + 0.267), abs=0.1)


def test_groups_are_answered_by_the_mean_probability_of_their_classes(tmp_path: Path) -> None:
    classes = sixteen()
    knife, bird = classes["knife"], classes["bird"]
    assert len(knife) == 1 and len(bird) > 40
    for name in classes:
        write(tmp_path / name / f"{name}1-{'dog' if name != 'dog' else 'cat'}2.png", 0)
    (one,) = open_test_set(f"cue-conflict={tmp_path}")

    class Fixed(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            # Birds together have 0.6 and knives 0.1: by their sum a bird, by their mean a knife.
            logits = torch.full((1000,), 0.3 / (999 - len(bird))).log()
            logits[bird], logits[knife] = torch.tensor(0.6 / len(bird)).log(), torch.tensor(0.1).log()
            return logits.expand(len(images), -1)

    found = predict(Classifier("fixed", Fixed().eval(), "toy", WNIDS, PLAIN, "0" * 64), one)
    assert set(found.top5[:, 0].tolist()) == {list(classes).index("knife")}
    # Probabilities of the answers are the means, over their sum.
    means = [0.1, 0.6 / len(bird)] + [0.3 / (999 - len(bird))] * 14
    assert found.confidence[0] == pytest.approx(0.1 / sum(means), rel=1e-4)


def test_names_of_cue_conflicts_must_say_shape_and_texture(tmp_path: Path) -> None:
    for name in sixteen():
        write(tmp_path / name / f"{name}1-{name}2.png", 0)
    with pytest.raises(UsageError, match="one class in every image"):
        open_test_set(f"cue-conflict={tmp_path}")
    write(tmp_path / "cat" / "dog1-cat2.png", 0)
    with pytest.raises(UsageError, match=r"cat/dog1-cat2\.png: expected a name such as cat1-"):
        open_test_set(f"cue-conflict={tmp_path}")


def test_reader_answers_as_it_says() -> None:
    logits = Reader()(torch.tensor([7.0, 1.0, 3.0]).view(1, 3, 1, 1) / 255)
    assert logits[0].topk(2).indices.tolist() == [257, 260]
