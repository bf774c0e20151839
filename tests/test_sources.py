"""All sources beside each other: fidelity, label from nuisances and the axioms, on pictures that say what they are."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from genint.evaluate.analyses.nuisance_reader import nuisance_sets, read_pictures
from genint.evaluate.analyses.sources import (
    Readers,
    analyse_sources,
    measure_axioms,
    measure_fidelity,
    mechanism_labels,
    plot_sources,
)
from genint.evaluate.analyses.stream_images import StreamImages
from genint.evaluate.cli import main
from genint.evaluate.metrics.frechet import frechet_distance
from genint.evaluate.report.means import row_gains
from genint.evaluate.report.report import write_report
from genint.evaluate.report.results import Accuracy, Analysis, CheckpointEntry, Results, load_results, save_results
from genint.manifests.errors import FormatError, UsageError
from genint.manifests.world import CLASSES, NUISANCES
from genint.pipeline.cli import cli
from genint.train.checkpoint import Classifier, Preprocessing, make_model
from numpy.typing import NDArray
from torch import Tensor, nn

FOUR = ("a", "b", "c", "d")
PLAIN = Preprocessing(None, 32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
SETS = nuisance_sets()


def show(objects: NDArray[np.int64], backgrounds: NDArray[np.int64], poses: NDArray[np.int64]) -> Tensor:
    """Pictures [N, 3, 32, 32] whose first row holds the class of the object, and second row the nuisances: one of the
    background and one of the pose stands out by class, from noise."""
    images = np.zeros((len(objects), 3, 32, 32), np.uint8)
    images[:, 0, 0, 0] = objects
    images[:, 0, 1, : len(NUISANCES)] = np.random.default_rng(0).integers(0, 20, (len(objects), len(NUISANCES)))
    for group, classes in (("background", backgrounds), ("pose", poses)):
        images[np.arange(len(objects)), 0, 1, np.array(SETS[group])[classes]] += 200
    return torch.from_numpy(images)


class FirstRow(nn.Module):
    """The class that is written; as in the other, a parameter says where it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.avgpool = nn.Flatten()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, images: Tensor) -> Tensor:
        return self.avgpool(self.scale * nn.functional.one_hot((images[:, 0, 0, 0] * 255).round().long(), 4))


class SecondRow(nn.Module):
    """The nuisances as they are written."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.01))

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * images[:, 0, 1, : len(NUISANCES)].float()


def stream(name: str, shown: Tensor, labels: NDArray[np.int64], parameters: list[dict[str, Any]]) -> StreamImages:
    told = tuple({"sample_index": n} | own for n, own in enumerate(parameters))
    return StreamImages(name, FOUR, shown, labels, told, None)


@pytest.fixture
def readers() -> Readers:
    """Readers of such pictures; in the reference, background and pose are those of the class."""
    labels = np.arange(80) % 4
    reference = stream("natural", show(labels, labels, labels), labels, [{}] * 80)
    classifier = Classifier("objects", FirstRow().eval(), "toy", FOUR, PLAIN, "0" * 64)
    nuisances = SecondRow()
    return Readers(classifier, nuisances, reference, reference, read_pictures(nuisances, reference.images))  # type: ignore[arg-type]


def test_frechet_distance_of_normals_with_known_moments() -> None:
    # Means 0 and 3, variances 1 and 4: 9 + 1 + 4 - 2 * 2.
    assert frechet_distance(np.array([[-1.0], [0.0], [1.0]]), np.array([[1.0], [3.0], [5.0]])) == pytest.approx(10.0)
    square = np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    # Each variance 4 / 3 and 9 times that: twice 4/3 + 12 - 2 * 4.
    assert frechet_distance(square, 3 * square) == pytest.approx(2 * (4 / 3 + 12 - 8))
    assert frechet_distance(square, square) == pytest.approx(0.0, abs=1e-12)


def test_fidelity_and_what_the_background_says(readers: Readers) -> None:
    labels = np.arange(80) % 4
    # A tenth of the objects reads as the next class; backgrounds are of the class, poses of any.
    objects = np.where(np.arange(80) % 10 == 0, (labels + 1) % 4, labels)
    # Two images of each latent.
    parameters = [
        {"source": "interventional", "class_label": int(labels[n]), "latent_index": n // 8} for n in range(80)
    ]
    images = stream("interventional", show(objects, labels, (np.arange(80) // 4) % 4), labels, parameters)
    features = np.eye(4)[labels]
    found = measure_fidelity(readers, images, features)
    assert found.fidelity == pytest.approx(0.9) and (found.unit, found.images) == ("latent", 80)
    assert found.interval[0] < 0.9 < found.interval[1]
    assert found.label_from["background"] == 1.0 and found.label_from["pose"] < 0.5
    assert found.read_as == tuple(objects.tolist()) and found.sample_indices == tuple(range(80))
    assert found.frechet < 0.1


def test_axioms_of_counterfactuals(readers: Readers) -> None:
    numbers = np.arange(64)
    # All pairs of shape and background, each four times; the texture's label is the shape's in half of them.
    shapes, backgrounds = numbers % 4, (numbers // 4) % 4
    textures = np.where(numbers < 32, shapes, (shapes + 1) % 4)
    told = [
        {"labels": {"shape": int(s), "texture": int(t), "background": int(b)}}
        for s, t, b in zip(shapes, textures, backgrounds, strict=True)
    ]
    images = stream("counterfactual", show(shapes, backgrounds, shapes), shapes, told)
    held_out = stream("validation", show(shapes, shapes, (shapes + numbers // 32) % 4), shapes, [{}] * 64)
    found = measure_axioms(readers, images, held_out, np.eye(4)[shapes])
    assert found is not None
    # Effectiveness on the diagonal, minimality beside it: the background's label is the shape's in one of four.
    assert found.reads["object"] == {"shape": 1.0, "texture": 0.5, "background": 0.25}
    assert found.reads["background"] == {"shape": 0.25, "texture": 0.25, "background": 1.0}
    assert found.reads["pose"] == {"shape": 1.0, "texture": 0.5, "background": 0.25}
    # Composition: shape, texture and background agree in 8; on real pictures half of the poses are of the class.
    assert (found.same_images, found.same) == (8, {"object": 1.0, "background": 1.0, "pose": 1.0})
    assert found.real == {"object": 1.0, "background": 1.0, "pose": 0.5}
    assert measure_axioms(readers, held_out, held_out, np.eye(4)[shapes]) is None
    broken = stream("broken", images.images, shapes, [*told[:-1], {"labels": {"shape": 1, "texture": None}}])
    with pytest.raises(FormatError, match=r"labels\.texture: a sample has no number"):
        mechanism_labels(broken)


def test_gains_are_over_the_first_row() -> None:
    entries = [
        CheckpointEntry(n, n.partition("/")[0], None, "toy", "0" * 64, 1, 0, "") for n in ("erm/0", "erm/1", "x/0")
    ]
    accuracy = [
        Accuracy(entry.name, "mini/test-background", "", "own", "", 9, top1, (0.0, 1.0), 1.0, (0.0, 1.0), "")
        for entry, top1 in zip(entries, (0.3, 0.4, 0.5), strict=True)
    ]
    results = Results(checkpoints=entries, accuracy=accuracy)
    assert row_gains(results, "mini/test-background", {"transfer": "x"}) == pytest.approx({"transfer": 15.0})
    with pytest.raises(UsageError, match="row 'y' was not measured on 'mini/test-background'; rows that were: erm, x"):
        row_gains(results, "mini/test-background", {"transfer": "y"})


def test_streams_of_a_dataset_are_compared_in_one_figure(reference: Path, tmp_path: Path) -> None:
    streams = "".join(
        f'[[streams]]\nname = "{name}"\nsource = "mini-world"\nobjects = "train"\nnum_samples = 160\n'
        f'samples_per_shard = 160\nimage_format = "png"\nbackground_confounding = {a}\npose_confounding = {a}\n'
        for name, a in (("natural", 0.9), ("free", 0.0))
    )
    (tmp_path / "recipe.toml").write_text(f'name = "world"\nseed = 1\n{streams}')
    world = tmp_path / "dataset"
    arguments = [
        "build-shards",
        str(tmp_path / "recipe.toml"),
        "--out",
        str(world),
        "--workers",
        "1",
        "--device",
        "cpu",
    ]
    cli(arguments, standalone_mode=False)
    torch.manual_seed(0)
    plain = Preprocessing(None, 32)
    objects = Classifier("objects", make_model("resnet18", 10).eval(), "resnet18", CLASSES, plain, "0" * 64)

    def analyse(distributions: list[str], gains: dict[str, float]) -> dict[str, Analysis]:
        free, natural = f"{world}:free", f"{world}:natural"
        return analyse_sources(objects, free, natural, natural, distributions, gains, 160, 4, tmp_path)

    found = analyse([f"{world}:natural", f"{world}:free"], {"free": 2.5})
    assert set(found) == {"sources"}  # no stream here names labels of mechanisms
    section = found["sources"]
    assert [row[0] for row in section.rows] == ["natural", "free"]
    assert [row[-1] for row in section.rows] == ["–", "+2.50"]
    assert all("over images" in row[2] for row in section.rows)
    natural, free = section.data["streams"]
    assert natural["label_from"]["background"] > free["label_from"]["background"] + 0.2
    assert len(free["read_as"]) == 160 and sorted(free["sample_indices"]) == list(range(160))
    results = Results(analyses=found)
    save_results(tmp_path, results)
    assert load_results(tmp_path).analyses["sources"].rows == section.rows
    assert "Sources compared" in write_report(tmp_path, results).read_text()
    with pytest.raises(UsageError, match="--brings transfer: no such stream; known: natural"):
        analyse([f"{world}:natural"], {"transfer": 1.0})
    with pytest.raises(UsageError, match="3 images of class 0, 10 classes; telling labels from 10 nuisances takes 15"):
        analyse([f"{reference}:observational"], {})


def test_a_source_and_its_row_are_given_as_a_pair(run_main, tmp_path: Path) -> None:
    needed = [
        part
        for name in ("object-reader", "reader", "reference", "held-out", "distribution")
        for part in (f"--{name}", "x")
    ]
    found = run_main(main, "sources", *needed, "--brings", "transfer", "--out", tmp_path / "out")
    assert found.exit_code == 2 and "--brings transfer: expected STREAM=ROW" in found.err


def test_a_bubble_is_hollow_where_a_source_brings_nothing(readers: Readers) -> None:
    labels = np.arange(80) % 4
    found = [
        measure_fidelity(readers, stream(name, show(labels, labels, labels), labels, [{}] * 80), np.eye(4)[labels])
        for name in ("good", "bad", "unknown")
    ]
    axes = plot_sources(found, {"good": 2.0, "bad": -1.0}).axes[0]
    areas = [float(bubble.get_sizes()[0]) for bubble in axes.collections]
    assert areas == [600.0, 30.0, 30.0]
    assert [text.get_text() for text in axes.texts] == ["good (+2.0)", "bad (-1.0)", "unknown"]
