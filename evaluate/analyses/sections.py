"""The paper's analyses as commands run them: streams and classifiers in, a section of the report out."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ...manifests.dataset import load_dataset
from ...manifests.errors import UsageError
from ...manifests.manifest import load_manifest
from ...manifests.randomness import draw_without_replacement, random_words
from ...train.checkpoint import Classifier, Preprocessing
from ..report.page import save_figure
from ..report.results import Analysis
from .causal_bound import (
    BoundDifference,
    Reduction,
    Score,
    SweepPoint,
    compare_bounds,
    measure_sweep,
    share_tighter,
)
from .correlation import (
    CorrelationReport,
    CorrelationSettings,
    PredictorSettings,
    autoaugment_images,
    fit_stream_predictor,
    measure_correlations,
    mixup_images,
)
from .grad_cam import (
    Attention,
    column_scales,
    compare_attention,
    draw_sheet,
    measure_attention,
    predict_top1,
    save_sheet,
)
from .nuisances import DependenceReport, fit_nuisance_reader, measure_dependences, rank_agreement
from .plots import plot_bound_and_accuracy, plot_correlations, plot_dependences, plot_sweep
from .stream_images import StreamImages, load_stream, open_stream, read_stream

# The mini world's images as they are; any other size is resized to what ResNet-18 is used to.
SMALL = 64


def parse_stream(text: str) -> tuple[str, str]:
    """`DATASET:STREAM` to its parts. Raises UsageError."""
    location, _, stream = text.rpartition(":")
    if not location or "/" in stream or not stream:
        raise UsageError(f"{text}: expected DATASET:STREAM")
    return location, stream


def load_images(text: str, preprocessing: Preprocessing, limit: int | None = None, seed: int = 0) -> StreamImages:
    """Images of `DATASET:STREAM`, or `limit` of them drawn at random."""
    location, stream = parse_stream(text)
    samples = open_stream(load_dataset(location), stream)
    count = len(samples)
    if limit is None or limit >= count:
        return load_stream(samples, preprocessing)
    drawn = draw_without_replacement(count, random_words(seed, f"images of {stream}", count=limit))
    return load_stream(samples, preprocessing, np.sort(drawn).tolist())


def load_distributions(texts: Sequence[str], preprocessing: Preprocessing, limit: int) -> Iterator[StreamImages]:
    """Images of every `DATASET:STREAM`, all different. Where streams of several datasets share a name, each goes by
    what tells the datasets apart: `t1-k20-s2:interventional`."""
    repeated = [text for text in texts if texts.count(text) > 1]
    if repeated:
        raise UsageError(f"{repeated[0]}: given twice")
    names = [parse_stream(text)[1] for text in texts]
    for text, name in zip(texts, names, strict=True):
        images = load_images(text, preprocessing, limit)
        alike = [other for other, its_name in zip(texts, names, strict=True) if its_name == name]
        if len(alike) > 1:
            # Cut back to whole components; `commonpath` would take a URL for a path.
            folder, slash, _ = os.path.commonprefix(alike).rpartition("/")  # noqa: RUF071
            images = replace(images, stream=text.removeprefix(folder + slash))
        yield images


def stream_preprocessing(texts: Sequence[str]) -> Preprocessing:
    """How networks trained here see streams: small images as they are, others as ImageNet's."""
    sides = {_image_side(*parse_stream(text)) for text in texts}
    if len(sides) > 1:
        raise UsageError(f"streams of different image sizes {sorted(sides)}: {', '.join(texts)}")
    side = sides.pop()
    return Preprocessing(None, side) if side <= SMALL else Preprocessing()


def _image_side(location: str, stream: str) -> int:
    sample = next(iter(read_stream(open_stream(load_dataset(location), stream), [0])))
    return min(sample.picture.size)


def analyse_correlation(
    predictor: str, distributions: Sequence[str], test: str, limit: int, epochs: int, folder: Path, device: str
) -> Analysis:
    """Figure 3. Streams are `DATASET:STREAM`; natural ones also count as mixed up and as auto-augmented."""
    preprocessing = stream_preprocessing([predictor, test, *distributions])
    location, name = parse_stream(predictor)
    dataset = load_dataset(location)
    generated = load_images(predictor, preprocessing)
    fitted = fit_stream_predictor(dataset, generated, preprocessing, PredictorSettings(epochs=epochs), device)
    found: list[StreamImages] = []
    for text, images in zip(distributions, load_distributions(distributions, preprocessing, limit), strict=True):
        found.append(images)
        if _is_natural(*parse_stream(text)):
            found += [mixup_images(images), autoaugment_images(images)]
    sizes = {len(images) for images in found}
    known = len(found[0].class_names)
    counts = tuple(count for count in (2, 5, 10, 20, 50, 100, 200, 500, 1000) if count <= known)
    report = measure_correlations(
        fitted, name, found, load_images(test, preprocessing), CorrelationSettings(class_counts=counts)
    )
    save_figure(plot_correlations(report), folder / "correlation.svg")
    texts = [
        "How well a classifier reads the label off the nuisances that a frozen predictor sees in an image, over chance "
        f"(1 = not at all): trained on each distribution, tested on {report.test_stream} (Figure 3). The predictor "
        f"learned from {report.predictor_images:,} images of {report.predictor_stream}; on latents it has not seen it "
        f"explains {100 * float(np.mean(report.predictor_r2)):.0f} % of the variance (R², mean over "
        f"{len(report.predictor_r2)} directions).",
        "Controls: a random z must give 1, the label itself as z must give the number of classes.",
    ]
    if len(sizes) > 1:
        texts.append(f"The distributions are of different sizes ({min(sizes):,} to {max(sizes):,} images).")
    return Analysis(
        "Correlation of nuisances and labels", texts,
        ["distribution", "images", *(f"{count} classes" for count in counts)], _correlation_rows(report, counts),
        asdict(report), {"correlation.svg": "Accuracy over chance, against the number of classes."},
    )  # fmt: skip


def _correlation_rows(report: CorrelationReport, counts: Sequence[int]) -> list[list[str]]:
    rows = []
    for name in dict.fromkeys(row.distribution for row in (*report.correlations, *report.controls)):
        of = {row.num_classes: row for row in (*report.correlations, *report.controls) if row.distribution == name}
        cells = [f"{of[n].correlation:.2f} ({of[n].interval[0]:.2f} to {of[n].interval[1]:.2f})" for n in counts]
        rows.append([name, f"{of[counts[0]].images:,}", *cells])
    return rows


def analyse_causal_bound(
    classifier: Classifier,
    datasets: Sequence[str],
    stream: str,
    queries: str,
    trained: Mapping[str, Classifier],
    score: Score,
    reduction: Reduction,
    dictionary_size: int,
    folder: Path,
) -> Analysis:
    """Figures 5 and 6, and Theorem 1's own bound, for `stream` of each dataset.

    `trained`, by dataset, are classifiers trained on it: their accuracy on the queries stands beside its bound.
    """
    asked = load_images(queries, classifier.preprocessing)
    accuracies = {
        location: float((predict_top1(own, asked.images) == asked.class_labels).mean())
        for location, own in trained.items()
    }
    points = measure_sweep(datasets, stream, classifier, asked, accuracies, score, reduction, dictionary_size)
    figures = {}
    bars = "bars: 95 % of the difference to the first dataset, class by class"
    drawn: list[tuple[str, Figure, str]] = [
        ("sweep.svg", plot_sweep(points), f"log P(x|z) against t, k and s; {bars}.")
    ]
    if any(point.accuracy is not None for point in points):
        drawn.append(
            ("bound-accuracy.svg", plot_bound_and_accuracy(points), f"Top-1 accuracy against log P(x|z); {bars}.")
        )
    for name, figure, caption in drawn:
        save_figure(figure, folder / name)
        figures[name] = caption
    best = max(points, key=lambda point: point.bound.log_likelihood)
    texts = [
        f"Mean log P(x|z) of {len(asked):,} images of {asked.stream} under dictionaries of {dictionary_size} images a "
        f"class (score {score}, reduction {reduction}; features of {classifier.name}). Higher is a tighter bound on "
        f"the causal effect; highest for {_setting(best)}.",
        "Theorem 1's bound on P(y|do(x)) of the true label, from P(x|z) normalised over the queries; its mean width is "
        "1 - 1/queries for any intervention, so interventions are compared query by query: the share of queries whose "
        "bound is tighter than the first dataset's.",
    ]
    agreement = rank_agreement(
        {point.dataset: point.bound.log_likelihood for point in points if point.accuracy is not None}, accuracies
    )
    if agreement:
        texts.append(
            f"Kendall's tau between log P(x|z) and the accuracy of training on the dataset, over {len(accuracies)} "
            f"datasets: {agreement.kendall:.2f} (p = {agreement.kendall_p_value:.2f} for no agreement)."
        )
    return Analysis(
        "Causal bound", texts,
        ["dataset", "t", "k", "s", "step ranges", "log P(x|z)", "accuracy, %", "lower", "upper",
         "tighter than the first", "log P(x|z) less the first's"],
        [_bound_row(point, points[0]) for point in points],
        [{**asdict(point), "theorem": asdict(point.theorem.summary())} for point in points],
        figures,
    )  # fmt: skip


def _setting(point: SweepPoint) -> str:
    return (
        f"t = {point.truncation:g}, k = {point.num_directions}, s = {100 * point.step_scale:g} % of {point.step_ranges}"
    )


def _difference(found: BoundDifference) -> str:
    return f"{found.difference:+.3f} ({found.interval[0]:+.3f} to {found.interval[1]:+.3f})"


def _bound_row(point: SweepPoint, first: SweepPoint) -> list[str]:
    bound, theorem = point.bound, point.theorem.summary()
    return [
        point.dataset,
        f"{point.truncation:g}",
        str(point.num_directions),
        f"{100 * point.step_scale:g} %",
        point.step_ranges,
        f"{bound.log_likelihood:.3f} ({bound.interval[0]:.3f} to {bound.interval[1]:.3f})",
        "–" if point.accuracy is None else f"{100 * point.accuracy:.2f}",
        f"{theorem.lower:.2g}",
        f"{theorem.upper:.6f}",
        "–" if point is first else f"{100 * share_tighter(point.theorem, first.theorem):.1f} %",
        "–" if point is first else _difference(compare_bounds(bound, first.bound)),
    ]


def analyse_nuisances(
    reader: str, reference: str, held_out: Sequence[str], streams: Sequence[str], limit: int, epochs: int, folder: Path
) -> Analysis:
    """The true dependence of nuisances and labels in streams of the mini world."""
    preprocessing = stream_preprocessing([reader, reference, *held_out, *streams])
    fitted = fit_nuisance_reader(load_images(reader, preprocessing), epochs)
    report = measure_dependences(
        fitted,
        parse_stream(reader)[1],
        load_images(reference, preprocessing, limit),
        [load_images(text, preprocessing) for text in held_out],
        list(load_distributions(streams, preprocessing, limit)),
    )
    save_figure(plot_dependences(report), folder / "nuisances.svg")
    errors = "; ".join(
        f"{error.stream}: {100 * float(np.mean(list(error.r2.values()))):.0f} % of the variance explained"
        for error in report.reader
    )
    texts = [
        "Accuracy of a classifier that is given the nuisances alone, and the spread of each nuisance within a class "
        f"over that of {report.reference_stream}. Nuisances are read off the images by a network trained on "
        f"{report.reader_stream} ({errors}); where the stream is of real pictures, a second row has the true ones."
    ]
    return Analysis(
        "True dependence of nuisances and labels", texts,
        ["stream", "nuisances", "images", "chance, %", "label from all, %", "from background, %", "from pose, %",
         "mean spread"],
        _dependence_rows(report), asdict(report),
        {"nuisances.svg": "Label from each nuisance, and within-class spread, as read."},
    )  # fmt: skip


def _dependence_rows(report: DependenceReport) -> list[list[str]]:
    return [
        [
            row.stream,
            row.source,
            f"{row.images:,}",
            f"{100 * row.chance:.1f}",
            *(f"{100 * row.accuracy[name]:.1f}" for name in ("all", "background", "pose")),
            f"{np.mean(list(row.spread_over_real.values())):.2f}",
        ]
        for row in report.streams
    ]


def analyse_agreement(correlation: Analysis, nuisances: Analysis) -> Analysis | None:
    """Do figure 3's indirect measure and the true dependence order the streams that both saw alike?

    The indirect one counts at the largest number of classes it was measured for, the true one as read off the images.
    None where fewer than three streams have both, or one of them is the same for all.
    """
    found = correlation.data["correlations"]
    largest = max(row["num_classes"] for row in found)
    indirect = {row["distribution"]: row["correlation"] for row in found if row["num_classes"] == largest}
    true = {row["stream"]: row["accuracy"]["all"] for row in nuisances.data["streams"] if row["source"] == "read"}
    common = sorted(indirect.keys() & true.keys(), key=lambda name: -true[name])
    indirect, true = {name: indirect[name] for name in common}, {name: true[name] for name in common}
    agreement = rank_agreement(indirect, true)
    if agreement is None:
        return None
    texts = [
        f"Kendall's tau of the two orders is {agreement.kendall:.2f} (p = {agreement.kendall_p_value:.2f} for no "
        f"agreement), Spearman's rho {agreement.spearman:.2f}: 1 is the same order, -1 the opposite one."
    ]
    return Analysis(
        "Do the indirect and the true measure agree?", texts,
        ["stream", "label from nuisances read, %", f"indirect correlation, {largest} classes"],
        [[name, f"{100 * true[name]:.1f}", f"{indirect[name]:.2f}"] for name in common],
        {"indirect": indirect, "true": true, **asdict(agreement)},
    )  # fmt: skip


def analyse_attention(
    classifiers: Sequence[tuple[str, Classifier]], streams: Sequence[str], limit: int, count: int, folder: Path
) -> Analysis:
    """Figure 7: where the first classifier and each other one look, on images that only the other gets right; and the
    share of the maps on the object."""
    if len(classifiers) < 2:
        raise UsageError("grad-cam compares classifiers: give --checkpoint twice or more")
    rows: list[list[str]] = []
    found: list[dict[str, Any]] = []
    figures: dict[str, str] = {}
    for text in streams:
        for name, classifier in classifiers:
            images = load_images(text, classifier.preprocessing, limit)
            if images.masks is not None:
                attention = measure_attention(classifier, images)
                found.append({"checkpoint": name, **asdict(attention)})
                rows.append(_attention_row(name, attention))
        (base_name, base), *others = classifiers
        for name, classifier in others:
            sheet_rows = compare_attention(base, classifier, load_images(text, base.preprocessing, limit), count)
            if sheet_rows:
                file = f"grad-cam-{len(figures)}.png"
                scales = column_scales(sheet_rows)
                save_sheet(draw_sheet(sheet_rows, [base_name, name], scales=scales), folder / file)
                figures[file] = f"{text}: images that {name} classifies rightly and {base_name} does not."
    texts = [
        "Grad-CAM for each classifier's own top-1 class. A classifier's maps are coloured on one scale, up to what one "
        "in a hundred of their pixels exceeds (the paper's sheets: 0.5, for the last layer at full size). Where object "
        "masks are known: share of the map's positive mass that lies on the object, beside the object's share of the "
        "area."
    ]
    columns = ["checkpoint", "stream", "layer", "images", "mass on the object, %", "area of the object, %"]
    return Analysis("Where classifiers look", texts, columns, rows, found, figures)


def _attention_row(name: str, attention: Attention) -> list[str]:
    low, high = attention.interval
    return [
        name,
        attention.stream,
        attention.layer,
        f"{attention.images:,}",
        f"{100 * attention.mass_share:.1f} ({100 * low:.1f} to {100 * high:.1f})",
        f"{100 * attention.object_area:.1f}",
    ]


def _is_natural(location: str, stream: str) -> bool:
    return load_manifest(load_dataset(location).storage).stream(stream).role == "natural"
