"""Worst-group and mean-group accuracy: groups of a table and of a stream's json, against numbers worked out by hand."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from genint.evaluate.metrics.groups import group_accuracies, mean_over_groups, worst_group
from genint.evaluate.prediction import predict
from genint.evaluate.report.report import accuracy_lines, write_report
from genint.evaluate.report.results import CheckpointEntry, Results, load_results, save_results
from genint.evaluate.run import measure_groups, open_test_sets
from genint.evaluate.test_sets import open_test_set
from genint.evaluate.test_sets.streams import StreamSet
from genint.manifests.errors import FormatError, UsageError
from genint.train.checkpoint import Classifier, Preprocessing
from PIL import Image
from torch import Tensor, nn

BIRDS = ("landbird", "waterbird")
PLAIN = Preprocessing(None, 2, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class Background(nn.Module):
    """Takes what is on water (blue) for a waterbird, whatever the bird (red) is."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.one_hot((images[:, 2, 0, 0] > 0.5).long(), 2).float()


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """A table of the four groups of Waterbirds: 8 and 2 landbirds, 1 and 9 waterbirds, on land and water."""
    rows = ["img_id,path,label,group"]
    for bird, place, count in ((0, "land", 8), (0, "water", 2), (1, "land", 1), (1, "water", 9)):
        for number in range(count):
            path = tmp_path / "images" / f"{bird}-{place}-{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (2, 2), (bird, 0, 255 if place == "water" else 0)).save(path)
            rows.append(f'{len(rows)},images/{path.name},{BIRDS[bird]},"{BIRDS[bird]}, {place}"')
    table = tmp_path / "birds.csv"
    table.write_text("\n".join(rows) + "\n")
    return table


def test_the_worst_group_shows_what_the_mean_hides() -> None:
    hits = np.array([1, 1, 1, 1, 1, 0, 0, 1, 0, 0], bool)
    measured = group_accuracies(hits, np.array([0, 0, 0, 0, 0, 0, 1, 1, 2, 2]))
    assert [(group.hits, group.count) for group in measured] == [(5, 6), (1, 2), (0, 2)]
    assert worst_group(measured) == 2
    assert mean_over_groups(measured) == pytest.approx((5 / 6 + 1 / 2 + 0) / 3)
    # Of equally bad ones the larger is named.
    assert worst_group(group_accuracies(np.zeros(5, bool), np.array([0, 0, 1, 1, 1]))) == 1


def test_groups_of_a_table_are_told_apart(birds: Path, tmp_path: Path) -> None:
    (one,) = open_test_set(f"groups={birds}")
    assert (one.name, len(one), one.class_names) == ("birds", 20, BIRDS)
    found = predict(Classifier("background", Background().eval(), "toy", BIRDS, PLAIN, "0" * 64), one)
    grouping = one.grouping()
    assert grouping is not None
    groups = measure_groups("x", one.name, grouping, found.hit1)
    # On the usual places always right, elsewhere never: 17 of 20 images, half of the groups.
    assert found.hit1.sum() == 17
    assert {group.group: (group.images, group.top1) for group in groups.groups} == {
        "landbird, land": (8, 1.0),
        "landbird, water": (2, 0.0),
        "waterbird, land": (1, 0.0),
        "waterbird, water": (9, 1.0),
    }
    assert (groups.worst, groups.mean) == ("landbird, water", 0.5)

    # Another seed, whose worst group is another: the mean of worst groups, and both names.
    better = replace(
        groups, checkpoint="y", groups=[replace(g, top1=0.5) for g in groups.groups[:1]] + groups.groups[1:]
    )
    better = replace(better, groups=[*better.groups[:1], *(replace(g, top1=1.0) for g in better.groups[1:])])
    better = replace(better, worst="landbird, land", mean=0.875)
    entries = [CheckpointEntry(name, "row", None, "toy", "0" * 64, None, None, "") for name in "xy"]
    results = Results(checkpoints=entries, groups=[groups, better])
    save_results(tmp_path / "out", results)
    assert load_results(tmp_path / "out") == results
    assert accuracy_lines(results)[-1] == (
        "birds: row: worst group 25.00 (landbird, water, n = 2; landbird, land, n = 8), mean over 4 groups 68.75"
    )
    page = write_report(tmp_path / "out", results).read_text()
    assert "birds, 4 groups" in page and "waterbird, land, n = 1" in page
    assert ">25.00<" in page and "landbird, water, n = 2; landbird, land, n = 8" in page
    assert ">68.75<" in page  # mean over groups: 0.5 and 0.875


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"path,label\n", "line 1: no column group; expected path, label, group, found path, label"),
        (b"path,label,group\n", "no image in it"),
        (b"path,label,group\na.png,landbird,\n", "line 2: no group"),
        (b"path,label,group\na.png,landbird,land\n", "line 2: no file a.png"),
        (b"path,label,group\nbirds.csv,a,b\nbirds.csv,a,c\n", "line 3: birds.csv stands there twice"),
        (b"path,label,group\n\xff,a,b\n", "no CSV: "),
        (b'path,label,group\n"a', "line 2: no label"),
        (b"", "line 1: no column path"),
    ],
)
def test_damaged_table_is_named_with_its_line(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "birds.csv").write_bytes(content)
    with pytest.raises(FormatError) as caught:
        open_test_set(f"groups={tmp_path / 'birds.csv'}")
    assert str(caught.value).startswith(f"{tmp_path / 'birds.csv'}: {problem}")


def test_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file; expected a CSV with the columns path, label, group"):
        open_test_set(f"groups={tmp_path / 'birds.csv'}")


def test_a_stream_is_grouped_by_any_key_of_its_json(reference: Path) -> None:
    (one,) = open_test_sets([f"shards={reference}:interventional"], "direction")
    grouping = one.grouping()
    assert grouping is not None and set(grouping.names) <= set("012345")
    told = [str(one.parameters(position)["direction"]) for position in range(len(one))]
    assert [grouping.names[number] for number in grouping.numbers] == told
    (plain,) = open_test_sets([f"shards={reference}:interventional"])
    assert plain.grouping() is None
    for key, problem in (
        ("labels.shape", "no 'labels.shape' in their json; it has "),
        ("step_size", "expected a text"),
    ):
        (wrong,) = open_test_sets([f"shards={reference}:interventional"], key)
        with pytest.raises((UsageError, FormatError), match=problem):
            wrong.grouping()


def test_a_sample_may_say_its_groups_itself(reference: Path) -> None:
    @dataclass(frozen=True)
    class Told(StreamSet):
        values: tuple[Any, ...] = ()

        def parameters(self, position: int) -> dict[str, Any]:
            return {"groups": self.values[position % len(self.values)]}

    (one,) = open_test_set(f"shards={reference}:natural")

    def told(*values: Any) -> Told:
        return Told(one.name, one.class_names, one.samples, values=values)

    assert told("water", "land").grouping().names == ("land", "water")
    assert told({"place": "land", "male": True}).grouping().names == ("male = True, place = land",)
    for values, problem in (
        ((1, None), "groups: None; expected a text"),
        ((0.5,), "groups: 0.5; expected a text"),
        (({},), "expected a text"),
        (("x" * 101,), "at most 100 characters"),
        ((" ",), "expected the name of a group"),
    ):
        with pytest.raises((UsageError, FormatError), match=problem):
            told(*values).grouping()
    assert torch.equal(torch.from_numpy(told("a", "b").grouping().numbers[:3]), torch.tensor([0, 1, 0]))
