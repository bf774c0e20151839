"""The true dependence of nuisances and labels, against distributions whose answer is known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from genint.evaluate.analyses.agreement import analyse_agreement
from genint.evaluate.analyses.distributions import load_distributions
from genint.evaluate.analyses.nuisance_reader import NuisanceReader, fit_nuisance_reader, nuisance_sets
from genint.evaluate.analyses.nuisances import (
    DependenceReport,
    measure_dependence,
    measure_dependences,
    measure_reader,
    plot_dependences,
)
from genint.evaluate.analyses.stream_images import StreamImages
from genint.evaluate.cli import finish
from genint.evaluate.metrics.label_accuracy import check_images, label_accuracy
from genint.evaluate.metrics.rank_agreement import rank_agreement
from genint.evaluate.metrics.variance import within_class_sd
from genint.evaluate.report.results import Analysis, Results, load_results
from genint.manifests.errors import UsageError
from genint.manifests.world import CLASSES, NUISANCES, draw_nuisances
from genint.pipeline.mini.world import compose_pictures
from genint.train.checkpoint import Preprocessing
from scipy import stats


def pictures(name: str, indices: np.ndarray, confounding: float) -> StreamImages:
    """Composed pictures as their stream would hold them."""
    made = compose_pictures(name, indices, confounding, confounding)
    parameters = tuple(
        {"nuisances": {n.name: float(v) for n, v in zip(NUISANCES, row, strict=True)}} for row in made.nuisances
    )
    pixels = torch.from_numpy(made.images).permute(0, 3, 1, 2).contiguous()
    return StreamImages(f"{name}-{confounding}", CLASSES, pixels, made.class_labels, parameters, made.masks)


@pytest.fixture(scope="module")
def reader() -> NuisanceReader:
    return fit_nuisance_reader(pictures("train", np.arange(700), 0.0), epochs=5)


def test_two_normal_classes_are_told_apart_as_often_as_theory_says() -> None:
    labels = np.arange(4_000) % 2
    n = np.random.default_rng(0).standard_normal((4_000, 1)) + np.where(labels, 0.7, -0.7)[:, None]
    best, linear = label_accuracy(n, labels)
    assert linear == pytest.approx(stats.norm.cdf(0.7), abs=0.02)
    assert best == pytest.approx(stats.norm.cdf(0.7), abs=0.02)


def test_a_class_that_differs_in_spread_alone_is_found_by_the_curved_ones_only() -> None:
    labels = np.arange(2_000) % 2
    n = np.random.default_rng(0).standard_normal((2_000, 1)) * np.where(labels, 5.0, 0.5)[:, None]
    best, linear = label_accuracy(n, labels)
    assert best > 0.85 > 0.6 > linear


def test_nuisances_that_do_not_depend_on_the_label_say_nothing() -> None:
    labels = np.arange(800) % 4
    nuisances = np.random.default_rng(0).standard_normal((800, len(NUISANCES)))
    result = measure_dependence("free", "true", nuisances, labels, np.ones(len(NUISANCES)))
    # Fourteen accuracies of 800 images, each the best of three: chance, and little more.
    assert result.chance == 0.25 and max(result.accuracy.values()) < 0.25 + 4 * np.sqrt(0.25 * 0.75 / 800)
    assert list(result.accuracy) == [*(n.name for n in NUISANCES), "background", "pose", "all"]
    assert np.mean(list(result.spread_over_real.values())) == pytest.approx(1.0, abs=0.05)


def test_groups_hold_every_nuisance_once() -> None:
    sets = nuisance_sets()
    assert sorted(sets["background"] + sets["pose"]) == sets["all"] == list(range(len(NUISANCES)))


def test_spread_is_around_each_class_own_mean() -> None:
    values = np.array([[0.0], [2.0], [10.0], [14.0]])
    # Deviations 1, 1, 2, 2: their mean square is 2.5.
    assert within_class_sd(values, np.array([0, 0, 1, 1])) == pytest.approx([np.sqrt(2.5)])


def test_the_spread_of_the_confounded_world_is_the_one_it_was_composed_with() -> None:
    labels = np.arange(3_000) % 10
    nuisances = draw_nuisances(labels, np.arange(3_000), "train", 0.8, 0.8)
    expected = 0.6 * np.array([n.sd for n in NUISANCES])
    assert within_class_sd(nuisances, labels) == pytest.approx(expected, rel=0.06)


def test_a_reader_reads_backgrounds_and_its_error_is_measured_where_classes_say_nothing(
    reader: NuisanceReader,
) -> None:
    error = measure_reader(reader, pictures("test", np.arange(400), 0.0))
    # 0.76 to 0.88 over five seeds.
    assert min(error.r2[n.name] for n in NUISANCES if n.name.startswith("background")) > 0.5
    assert max(error.class_share.values()) < 0.25
    # R2 and error say the same, in other units.
    sd = {n.name: n.sd for n in NUISANCES}
    assert all(error.rmse[name] == pytest.approx(sd[name] * np.sqrt(1 - r2), rel=0.15) for name, r2 in error.r2.items())


def test_streams_of_real_pictures_get_a_row_as_read_and_one_as_composed(reader: NuisanceReader) -> None:
    confounded, free = (pictures("validation", np.arange(300), a) for a in (0.8, 0.0))
    report = measure_dependences(reader, "free", confounded, [free], [confounded])
    read, true = report.streams
    assert (read.source, true.source) == ("read", "true")
    assert true.accuracy["all"] > 0.8 > 0.5 > true.accuracy["light"] > true.chance
    # What a reader says is the truth and an error: it tells the label less often. Over CPUs and seeds 0.757 to 0.810.
    assert 0.5 < read.accuracy["background"] < true.accuracy["background"]
    assert set(true.spread_over_real.values()) == {1.0}
    assert [error.stream for error in report.reader] == [free.stream]
    figure = plot_dependences(DependenceReport("free", "natural", (), (read,)))
    assert len(figure.axes) == 2 and len(figure.axes[0].patches) == len(nuisance_sets())


def test_pictures_of_another_size_are_refused() -> None:
    images = pictures("validation", np.arange(10), 0.0)
    cut = StreamImages("cut", CLASSES, images.images[..., :16, :16], images.class_labels, images.parameters, None)
    with pytest.raises(UsageError, match="images of 16 px"):
        fit_nuisance_reader(cut)


def test_orders_of_streams_are_compared() -> None:
    indirect = {"natural": 5.2, "observational": 4.5, "interventional": 4.3, "free": 1.6}
    same = rank_agreement(indirect, {"natural": 0.96, "observational": 0.95, "interventional": 0.9, "free": 0.1})
    assert same and (same.spearman, same.kendall) == (1.0, 1.0)
    swapped = rank_agreement(indirect, {"natural": 0.96, "observational": 0.98, "interventional": 0.9, "free": 0.1})
    # One of six pairs disagrees: (5 - 1) / 6; squared rank differences sum to 2: 1 - 6 * 2 / 60.
    assert swapped and swapped.kendall == pytest.approx(4 / 6) and swapped.spearman == pytest.approx(0.8)
    opposite = rank_agreement(indirect, {name: -value for name, value in indirect.items()})
    assert opposite and opposite.kendall == -1.0


def test_measures_of_other_streams_are_not_compared_and_one_value_for_all_orders_nothing() -> None:
    with pytest.raises(UsageError, match="one measure has a, b, c, the other a, b, d"):
        rank_agreement({"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 1.0, "b": 2.0, "d": 3.0})
    assert rank_agreement({"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 1.0, "b": 1.0, "c": 1.0}) is None
    assert rank_agreement({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 2.0}) is None


def analysis(**data: object) -> Analysis:
    return Analysis("", [], [], [], data)


def correlation_rows(**of_ten_classes: float) -> Analysis:
    rows = [{"distribution": name, "num_classes": n, "correlation": value * n / 10}
            for name, value in of_ten_classes.items() for n in (2, 10)]  # fmt: skip
    return analysis(correlations=rows)


def dependence_rows(**of_all_nuisances: float) -> Analysis:
    rows = [{"stream": name, "source": source, "accuracy": {"all": value - (source == "true") * 0.5}}
            for name, value in of_all_nuisances.items() for source in ("read", "true")]  # fmt: skip
    return analysis(streams=rows)


def test_the_report_compares_the_two_measures_on_the_streams_that_both_saw() -> None:
    correlation = correlation_rows(natural=5.2, mixup=4.0, observational=4.5, interventional=4.3)
    agreement = analyse_agreement(correlation, dependence_rows(natural=0.96, observational=0.98, interventional=0.9))
    assert agreement is not None
    assert agreement.data["kendall"] == pytest.approx(1 / 3)  # one of three pairs disagrees
    assert [row[0] for row in agreement.rows] == ["observational", "natural", "interventional"]
    assert agreement.rows[1] == ["natural", "96.0", "5.20"]
    assert analyse_agreement(correlation, dependence_rows(natural=0.96, observational=0.98)) is None
    assert analyse_agreement(correlation, dependence_rows(natural=0.9, observational=0.9, interventional=0.9)) is None


def test_the_agreement_joins_the_report_once_both_measures_are_there(tmp_path: Path) -> None:
    correlation = correlation_rows(natural=5.2, observational=4.5, interventional=4.3)
    results = Results(analyses={"correlation": correlation})
    finish(tmp_path, results)
    assert "rank-agreement" not in load_results(tmp_path).analyses
    results.analyses["nuisances"] = dependence_rows(natural=0.98, observational=0.96, interventional=0.9)
    finish(tmp_path, results)
    assert load_results(tmp_path).analyses["rank-agreement"].data["kendall"] == pytest.approx(1.0)
    assert "Kendall&#39;s tau of the two orders is 1.00" in (tmp_path / "index.html").read_text()


def test_streams_of_one_name_go_by_their_dataset_too(reference: Path, tmp_path: Path) -> None:
    for name in ("mine", "yours"):
        (tmp_path / name).symlink_to(reference)
    texts = [f"{tmp_path}/mine:interventional", f"{tmp_path}/yours:interventional", f"{tmp_path}/mine:natural"]
    names = [images.stream for images in load_distributions(texts, Preprocessing(None, 32), 2)]
    assert names == ["mine:interventional", "yours:interventional", "natural"]
    with pytest.raises(UsageError, match="mine:natural: given twice"):
        list(load_distributions([texts[2], texts[2]], Preprocessing(None, 32), 2))


def test_too_few_images_are_refused_before_a_reader_is_trained() -> None:
    check_images(np.arange(34) % 2, 10, "enough")
    with pytest.raises(
        UsageError, match="few: 14 images of class 0, 3 classes; telling labels from 10 nuisances takes 15"
    ):
        check_images(np.arange(42) % 3, 10, "few")
    for labels, problem in [
        (np.array([0, 0, 0, 0, 1, 1, 1]), "few: 3 images of class 1"),
        (np.zeros(100, int), "1 classes"),
        (np.arange(20) % 2, "few: 20 images; telling labels from nuisances takes 34"),
    ]:
        with pytest.raises(UsageError, match=problem):
            check_images(labels, 1, "few")
