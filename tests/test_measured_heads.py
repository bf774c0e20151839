"""Heads apart: shape bias and background gap by head, and labels of mechanisms, against numbers worked out by hand."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from genint.evaluate.heads import measure_heads, only_heads
from genint.evaluate.prediction import Cache, Predictions, predict_sets
from genint.evaluate.report.report import write_report
from genint.evaluate.report.results import CheckpointEntry, Results, load_results, save_results
from genint.evaluate.test_sets import open_test_set
from genint.evaluate.test_sets.streams import StreamSet
from genint.manifests.errors import FormatError
from genint.manifests.inputs import imagenet_wnids
from genint.train.checkpoint import Classifier, Preprocessing
from genint.train.heads import add_heads
from PIL import Image
from torch import Tensor, nn

WNIDS = imagenet_wnids()
PLAIN = Preprocessing(None, 2, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
HEADS = ("shape", "texture", "background")


class Corners(nn.Module):
    """A one-hot class for each of three corners of a picture: what shape, texture and background are of."""

    def forward(self, images: Tensor) -> Tensor:
        red, green = (images[:, :2] * 255).round().long().unbind(1)
        classes = (red + 250 * green).flatten(1)[:, :3]
        return nn.functional.one_hot(classes, 1000).float().flatten(1)


def reader() -> Classifier:
    """A classifier whose heads read one corner each."""
    model = nn.Sequential(Corners(), nn.Linear(3000, 1000))
    add_heads(model, HEADS, "toy")
    state = model.state_dict()
    for place, head in enumerate(HEADS):
        weight = torch.zeros(1000, 3000)
        # The shape's head is the surest, so that the mean of all goes by shape.
        weight[:, 1000 * place : 1000 * (place + 1)] = (5 - place) * torch.eye(1000)
        state[f"1.head_{head}.weight"], state[f"1.head_{head}.bias"] = weight, torch.zeros(1000)
    model.load_state_dict(state)
    return Classifier("reader", model.eval(), "toy", WNIDS, PLAIN, "0" * 64, heads=HEADS)


def write(path: Path, *labels: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", (2, 2))
    for place, label in enumerate(labels):
        picture.putpixel((place % 2, place // 2), (label % 250, label // 250, 0))
    picture.save(path)


def predict(classifier: Classifier, test_sets: Sequence[Any]) -> Iterator[tuple[Any, Predictions]]:
    return predict_sets(classifier, test_sets)


def test_each_head_has_its_own_shape_bias(tmp_path: Path) -> None:
    content = json.loads((files("genint.evaluate.test_sets") / "data" / "sixteen-classes.json").read_text())
    classes = {name: [WNIDS.index(wnid) for wnid in wnids] for name, wnids in sorted(content["classes"].items())}
    names = list(classes)
    for number, shape in enumerate(names):
        texture, third = names[(number + 1) % 16], names[(number + 2) % 16]
        corners = [classes[shape][0], classes[texture][0], classes[shape if number < 4 else third][0]]
        write(tmp_path / shape / f"{shape}1-{texture}2.png", *corners)
    (conflicts,) = open_test_set(f"cue-conflict={tmp_path}")
    classifier = reader()
    # As sure as this, the mean probability goes to the group of the class read, however large the group.
    classifier.model[0].register_forward_hook(lambda _module, _inputs, features: 10 * features)
    biases, accuracies = measure_heads("reader", classifier, [conflicts], predict)
    found = {bias.name: (bias.value, bias.images) for bias in biases}
    assert found == {
        "shape bias, shape head": (1.0, 16),
        "shape bias, texture head": (0.0, 16),
        "shape bias, background head": (1.0, 4),
    }
    assert accuracies == []
    assert measure_heads("x", Classifier("x", nn.Identity(), "toy", WNIDS, PLAIN, ""), [conflicts], predict) == ([], [])


def test_the_background_gap_is_of_the_heads_of_the_object(tmp_path: Path) -> None:
    mapping = {str(label): label % 9 for label in range(1000)}
    (tmp_path / "in_to_in9.json").write_text(json.dumps(mapping))
    for variant, misled in (("mixed_same", 0), ("mixed_rand", 3)):
        for group in range(9):
            for number in range(5):
                # Where it is misled, the object's texture is another group's, and so is the shape read by nobody else.
                read = group if number >= misled else group + 1
                write(tmp_path / variant / "val" / f"0{group}_group" / f"{number}.png", read, read, 9 * number + group)
    sets = open_test_set(f"imagenet-9={tmp_path}")
    biases, _ = measure_heads("reader", reader(), sets, predict)
    gap = next(bias for bias in biases if bias.name == "background gap, shape and texture heads")
    assert gap.value == pytest.approx(3 / 5) and gap.images == 90


@dataclass(frozen=True)
class Told(StreamSet):
    """Real samples, with labels of mechanisms in their json."""

    told: tuple[dict[str, Any], ...] = ()

    def parameters(self, position: int) -> dict[str, Any]:
        return {"labels": self.told[position % len(self.told)]}


def test_each_head_is_set_against_the_labels_of_every_mechanism(reference: Path, tmp_path: Path) -> None:
    (one,) = open_test_set(f"shards={reference}:natural")
    # Of every four samples, the shape is 3 in all, the texture 3 in one and 4 in two, the background 5 in three.
    told = [(3, 3, 5), (3, 4, 5), (3, 4, 5), (3, 6, 0)]
    stream = Told(
        one.name, one.class_names, one.samples, told=tuple(dict(zip(HEADS, labels, strict=True)) for labels in told)
    )
    # Heads that always answer 3, 4 and 5.
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    add_heads(model, HEADS, "toy")
    answers = {f"1.head_{head}": 3 + place for place, head in enumerate(HEADS)}
    for name, answer in answers.items():
        head = model.get_submodule(name)
        nn.init.zeros_(head.weight)
        head.bias.data = 2 * nn.functional.one_hot(torch.tensor(answer), 10).float()
    whole = Preprocessing(None, 32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    classifier = Classifier("x", model.eval(), "toy", one.class_names, whole, "0" * 64, heads=HEADS)
    keeping = partial(predict_sets, cache=Cache(tmp_path / "c", {}))
    biases, found = measure_heads("x", classifier, [stream, one], keeping)
    assert biases == [] and len(found) == 9 and {entry.images for entry in found} == {60}
    assert {(entry.head, entry.label): entry.top1 for entry in found if entry.top1} == {
        ("shape", "shape"): 1.0,
        ("shape", "texture"): 0.25,
        ("texture", "texture"): 0.5,
        ("background", "background"): 0.75,
    }
    # A head gives its answer e^2 / (e^2 + 9) and any other 1 / (e^2 + 9).
    losses = {entry.head: entry.nll for entry in found if entry.nll is not None}
    total = math.log(math.exp(2) + 9)
    assert losses == pytest.approx({"shape": total - 2, "texture": total - 1, "background": total - 1.5}, abs=1e-5)
    # Kept apart from what the mean of the heads says.
    ((_, again),) = keeping(only_heads(classifier, ["texture"]), [one])
    assert set(again.top5[:, 0].tolist()) == {4}

    results = Results(checkpoints=[CheckpointEntry("x", "x", None, "toy", "0" * 64, 1, 0, "")], heads=found)
    save_results(tmp_path, results)
    assert load_results(tmp_path) == results
    page = write_report(tmp_path, results).read_text()
    assert "label of the texture" in page and "cross-entropy" in page and "n = 60" in page
    with pytest.raises(FormatError, match=r"labels\.shape: 10; expected a number below 10"):
        Told(one.name, one.class_names, one.samples, told=({"shape": 10},)).labelled_by("shape").labels(0)
