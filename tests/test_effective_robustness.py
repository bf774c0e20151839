"""Effective robustness against numbers worked out by hand, and in the report."""

import math

import pytest
from genint.evaluate.metrics.effective_robustness import effective_robustness, predicted_accuracy
from genint.evaluate.report.report import write_report
from genint.evaluate.report.results import Accuracy, CheckpointEntry, Results
from genint.evaluate.report.robustness import lines, paper_points
from genint.evaluate.test_sets.masked import validation_of
from genint.evaluate.test_sets.test_set import FileSet
from genint.manifests.inputs import imagenet_wnids


def test_a_model_on_the_line_has_none() -> None:
    # logit 0.8 = ln 4; twice that less ln 2 is ln 8: 8 / 9.
    assert predicted_accuracy(0.8, 2.0, -math.log(2)) == pytest.approx(8 / 9)
    assert effective_robustness(8 / 9, 0.8, 2.0, -math.log(2)) == pytest.approx(0.0)
    assert effective_robustness(0.9, 0.5, 1.0, 0.0) == pytest.approx(0.4)
    for end in (0.0, 1.0):
        with pytest.raises(ValueError, match="logit is not finite"):
            predicted_accuracy(end, 1.0, 0.0)


def test_the_papers_gain_on_v2_is_its_accuracy() -> None:
    found = {
        line.test_set: {point.name: 100 * point.effective(line) for point in paper_points(line)} for line in lines()
    }
    assert [
        round(found[f"imagenet-v2/{variant}"]["resnet18 GenInt"], 2)
        for variant in ("top-images", "threshold0.7", "matched-frequency")
    ] == pytest.approx([-0.04, -0.49, 0.21], abs=0.011)
    assert found["imagenet-sketch"] == {}


def results(marked: str, protocol: str) -> Results:
    def accuracy(name: str, top1: float) -> Accuracy:
        return Accuracy("x", name, protocol, marked, "", 9, top1, (0.1, 0.9), 0.95, (0.2, 0.99), "")

    return Results(
        checkpoints=[CheckpointEntry("x", "x", None, "resnet18", "0" * 64, None, None, "")],
        accuracy=[accuracy("imagenet", 0.76), accuracy("imagenet-v2/matched-frequency", 0.65)],
    )


def test_the_report_shows_it_for_published_sets_that_are_whole(tmp_path) -> None:
    page = write_report(tmp_path, results("official", "own")).read_text()
    line = next(line for line in lines() if line.test_set == "imagenet-v2/matched-frequency")
    expected = 1 / (1 + math.exp(-(line.slope * math.log(0.76 / 0.24) + line.intercept)))
    assert "Effective robustness" in page and f"{100 * (0.65 - expected):+.2f}" in page
    assert "imagenet, n = 9" in page
    for other in (results("own", "own"), results("official", "own; incomplete: 9 images, published are 10")):
        assert "Effective robustness" not in write_report(tmp_path, other).read_text()


def test_the_clean_set_of_a_masked_one_has_its_classes_alone() -> None:
    wnids = imagenet_wnids()
    paths = tuple(f"{wnid}/0.png" for wnid in wnids)
    labels = tuple((label,) for label in range(1000))
    whole = FileSet("imagenet", "own", wnids, "/", paths, (1,) * 1000, labels, "official")
    clean = validation_of("imagenet-a", whole)
    assert (clean.name, len(clean)) == ("imagenet:imagenet-a-classes", 200)
    assert clean.allowed is not None and [labels for (labels,) in clean.path_labels] == list(clean.allowed)
    assert all(wnids[label] in path for path, (label,) in zip(clean.paths, clean.path_labels, strict=True))
