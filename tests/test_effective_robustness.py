"""Effective robustness against numbers worked out by hand, and in the report."""

import math
from hashlib import sha256
from pathlib import Path

import pytest
from genint.evaluate.cli import main
from genint.evaluate.metrics.effective_robustness import effective_robustness, fit_line, predicted_accuracy
from genint.evaluate.report.report import write_report
from genint.evaluate.report.results import Accuracy, CheckpointEntry, Results, load_results, save_results
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


def test_a_line_goes_through_models_as_least_squares_of_logits() -> None:
    clean = [0.2, 0.5, 0.8, 0.9]
    exact = fit_line(clean, [predicted_accuracy(value, 2.0, -math.log(2)) for value in clean])
    assert (exact.slope, exact.intercept, exact.r2) == pytest.approx((2.0, -math.log(2), 1.0))
    assert exact.residual_sd == pytest.approx(0.0, abs=1e-9)
    # Logits -1, 0, 1 and 0, 3, 0: a level line at 1 that explains nothing, off by 0.2311, 0.2215 and 0.2311.
    sigmoid = [1 / (1 + math.exp(-logit)) for logit in (-1, 0, 1, 3)]
    level = fit_line(sigmoid[:3], [0.5, sigmoid[3], 0.5])
    assert (level.slope, level.intercept, level.r2) == pytest.approx((0.0, 1.0, 0.0), abs=1e-9)
    assert level.residual_sd == pytest.approx(100 * math.sqrt(2 * 0.231059**2 + 0.221515**2), abs=1e-3)
    for wrong in ([0.5, 0.6], [0.5, 0.5, 0.5]):
        with pytest.raises(ValueError, match="no line goes through them"):
            fit_line(wrong, wrong)


def measured(folder: Path, models: dict[str, tuple[float, float]], digest: str = "d") -> Path:
    """A folder of results: top-1 of each model on `test` and `shifted`."""

    def accuracy(name: str, test_set: str, top1: float) -> Accuracy:
        return Accuracy(name, test_set, "own", "own", digest, 50, top1, (0.0, 1.0), 1.0, (0.9, 1.0), "")

    found = Results(
        checkpoints=[CheckpointEntry(n, n, None, "resnet18", sha256(n.encode()).hexdigest(), 1, 0, "") for n in models],
        accuracy=[
            accuracy(name, test_set, top1)
            for name, pair in models.items()
            for test_set, top1 in zip(("test", "shifted"), pair, strict=True)
        ],
    )
    folder.mkdir()
    save_results(folder, found)
    return folder


def test_ones_own_line_is_fitted_by_a_command_and_stands_in_the_report(tmp_path: Path, run_main) -> None:
    on_line = {name: (c, predicted_accuracy(c, 1.5, -1.0)) for name, c in (("a", 0.3), ("b", 0.6), ("c", 0.9))}
    plain = measured(tmp_path / "plain", on_line | {"chance": (0.9, 0.0)})
    own = measured(tmp_path / "own", {"a": on_line["a"], "mine": (0.6, on_line["b"][1] + 0.1)})
    arguments = ("fit-line", "--results", plain, "--clean", "test", "--shifted", "shifted", "--out", own)
    found = run_main(main, *arguments)
    assert found.exit_code == 0, found.err
    assert "logit(shifted) = 1.5000 logit(test) -1.0000, through 3 checkpoints; R2 1.0000" in found.out
    page = (own / "index.html").read_text()
    assert "line of 3 models of your own" in page and "one of its models" in page
    assert ">effective</th>" in page and ">+10.00<" in page and "n = 50" in page
    assert run_main(main, *arguments).exit_code == 0
    (line,) = load_results(own).lines
    assert [model.checkpoint for model in line.through] == ["a", "b", "c"]

    others = measured(tmp_path / "others", {"d": (0.5, 0.4)}, digest="other")
    for extra, problem in (
        (("--results", others), "test: checkpoints were measured on 2 different sets of this name"),
        (("--row", "a", "--row", "b"), "2 checkpoints with an accuracy of 0.5 to 99.5 % on test"),
        (("--clean", "tests"), "no checkpoint was measured on 'tests'; sets in these results: shifted, test"),
        (("--clean", "shifted"), "--clean and --shifted are both 'shifted'"),
        (("--results", tmp_path), "no results.json in it; expected a folder of genint-evaluate run"),
    ):
        refused = run_main(main, *arguments, *extra)
        assert refused.exit_code == 2 and problem in refused.err
    # A row that was measured on other images of the same name has no place on the line.
    foreign = load_results(others)
    foreign.lines = [line]
    assert ">effective</th>" not in write_report(others, foreign).read_text()


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
