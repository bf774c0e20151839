"""Failure points: the strength at which a sample is first misread, on streams of one shift's strengths."""

from pathlib import Path

import numpy as np
import pytest
import torch
from genint.evaluate.failure_points import analyse_failure_points
from genint.evaluate.metrics.failure_point import distribute_failures, failure_points
from genint.evaluate.report.report import write_report
from genint.evaluate.report.results import Results
from genint.evaluate.test_sets.strength_axis import open_strength_axis
from genint.manifests.errors import UsageError
from genint.manifests.pictures import decode_picture
from genint.manifests.world import CLASSES
from genint.pipeline.cli import cli
from genint.train.checkpoint import Classifier, Preprocessing
from torch import Tensor, nn

STREAM = """
[[streams]]
name = "{name}"
source = "mini-world"
split = "test"
objects = "test"
num_samples = {samples}
samples_per_shard = 12
image_format = "png"
background_confounding = {background}
pose_confounding = {pose}
"""


def build(folder: Path, recipe: str) -> Path:
    folder.mkdir()
    (folder / "recipe.toml").write_text(recipe)
    out = folder / "dataset"
    arguments = ["build-shards", str(folder / "recipe.toml"), "--out", str(out), "--workers", "1", "--device", "cpu"]
    cli(arguments, standalone_mode=False)
    return out


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mini world's same 20 objects (one stream has 16 of them) under falling confounding."""
    rows = (("s8", 20, 0.8, 0.8), ("s4", 16, 0.4, 0.8), ("s0", 20, 0.0, 0.8), ("all0", 20, 0.0, 0.0))
    streams = "".join(STREAM.format(name=n, samples=s, background=b, pose=p) for n, s, b, p in rows)
    return build(tmp_path_factory.mktemp("world") / "w", f'name = "world"\nseed = 1\n{streams}')


def test_a_sample_fails_at_the_first_strength_at_which_it_is_misread() -> None:
    # By sample: never; from the second strength on; at the first alone; at the third.
    hits = np.array([[1, 1, 0, 1], [1, 0, 1, 1], [1, 0, 1, 0]], bool)
    assert failure_points(hits).tolist() == [3, 1, 0, 2]
    found = distribute_failures(hits)
    assert (found.first, found.never, found.misread) == ((0.25, 0.25, 0.25), 0.25, (0.25, 0.25, 0.5))
    assert found.median == 1
    assert distribute_failures(hits[:, [0, 0, 0, 1]]).median is None
    assert distribute_failures(~hits[:, :1]).median == 0


def test_samples_are_matched_by_number_and_the_shift_grows_as_confounding_falls(world: Path) -> None:
    axis = open_strength_axis([f"{world}:{name}" for name in ("s0", "s8", "s4")])
    assert (axis.key, axis.values) == ("background_confounding", (0.8, 0.4, 0.0))
    assert axis.positions.shape == (3, 16) and axis.left_out == 4
    indices = [
        [one.parameters(place)["sample_index"] for place in places]
        for one, places in zip(axis.sets, axis.positions.tolist(), strict=True)
    ]
    assert indices == [list(range(16))] * 3


class Told(nn.Module):
    """Answers as told, picture after picture."""

    def __init__(self, answers: dict[str, int]) -> None:
        super().__init__()
        self.answers = answers

    def forward(self, images: Tensor) -> Tensor:
        return torch.eye(10)[[self.answers[image.numpy().tobytes()] for image in images]]


def test_the_distribution_of_failure_points_is_that_of_the_predictions(world: Path, tmp_path: Path) -> None:
    axis = open_strength_axis([f"{world}:s8", f"{world}:s4", f"{world}:s0"])
    plain = Preprocessing(None, 32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    answers = {}
    for strength, one in enumerate(axis.sets):
        for position in range(len(one)):
            label, index = one.labels(position)[0], one.parameters(position)["sample_index"]
            # Samples 0 to 3 fail at the first strength, 4 to 5 at the second, 6 at the third; the rest never.
            wrong = index < (4, 6, 7)[strength]
            picture = plain.prepare(decode_picture(one.read(position)))
            answers[plain.normalize(picture[None])[0].numpy().tobytes()] = (label + wrong) % 10
    told = Classifier("told", Told(answers).eval(), "toy", CLASSES, plain, "0" * 64)
    found = analyse_failure_points([("told", told)], axis, tmp_path)
    data = found.data["checkpoints"]["told"]
    assert data["first"] == (4 / 16, 2 / 16, 1 / 16) and data["never"] == 9 / 16
    assert data["misread"] == pytest.approx((4 / 16, 6 / 16, 7 / 16)) and data["median"] is None
    assert found.rows == [["told", "16", "25.0", "12.5", "6.2", found.rows[0][5], "–"]]
    low, high = data["never_interval"]
    assert low < 9 / 16 < high
    assert found.columns[2:5] == [f"background_confounding = {value}" for value in ("0.8", "0.4", "0")]
    page = write_report(tmp_path, Results(analyses={"failure-points": found})).read_text()
    assert "4 samples that lack at one of the strengths are left out" in page


def test_step_scale_is_the_axis_of_interventions(reference: Path, tmp_path: Path) -> None:
    recipe = (reference / "recipe.toml").read_text()
    alone = recipe[: recipe.index("[[streams]]")] + recipe[recipe.rindex("[[streams]]") :]
    other = build(tmp_path / "stronger", alone.replace("step_scale = 1.0", "step_scale = 2.0"))
    axis = open_strength_axis([f"{other}:interventional", f"{reference}:interventional"])
    assert (axis.key, axis.values, axis.left_out) == ("step_scale", (1.0, 2.0), 0)
    first, second = (
        [one.parameters(place) for place in places]
        for one, places in zip(axis.sets, axis.positions.tolist(), strict=True)
    )
    for weak, strong in zip(first, second, strict=True):
        assert weak["direction"] == strong["direction"] and 2 * weak["step_size"] == pytest.approx(strong["step_size"])


@pytest.mark.parametrize(
    ("streams", "problem"),
    [
        (("s8",), "takes two streams or more"),
        (("s8", "s8"), "nothing differs in the streams' recipes"),
        (("s8", "s0", "s0"), "two streams have background_confounding = 0"),
        (("s8", "s0", "all0"), "differ in background_confounding and pose_confounding; expected one number alone"),
    ],
)
def test_streams_that_are_no_axis_are_refused(world: Path, streams: tuple[str, ...], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        open_strength_axis([f"{world}:{name}" for name in streams])


def test_keys_that_move_together_are_one_strength(world: Path) -> None:
    axis = open_strength_axis([f"{world}:all0", f"{world}:s8"])
    assert (axis.key, axis.values) == ("background_confounding and pose_confounding", (0.8, 0.0))
