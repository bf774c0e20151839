"""The true dependence of nuisances and labels in the mini world, next to which the indirect measure can be judged.

The backgrounds and poses of the mini world's real pictures are known. A reader trained on them reads the same ten
numbers off generated images; what they say about the label, and how widely they spread within a class, is what an
intervention changes. The reader must have learned from a stream without confounding (`background_confounding = 0`,
`pose_confounding = 0`): elsewhere it may read the object and answer with the class's mean. Its error on held-out
real pictures, confounded or not, is part of every result.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ...manifests.world import NUISANCES
from ..metrics.label_accuracy import check_images, label_accuracy
from ..metrics.variance import coefficients_of_determination, within_class_sd
from ..report.page import save_figure
from ..report.plots import LEGEND, WIDTH, draw_bars, legend_beside
from ..report.results import Analysis
from .distributions import load_distributions, load_images, parse_stream, stream_preprocessing
from .nuisance_reader import NuisanceReader, by_name, fit_nuisance_reader, nuisance_sets, read_pictures
from .stream_images import StreamImages, check_same_classes, true_nuisances


@dataclass(frozen=True)
class ReaderError:
    """How far a reader is off on real pictures, per nuisance; `class_share` is of the error's variance."""

    stream: str
    images: int
    r2: dict[str, float]
    rmse: dict[str, float]  # in the units of `NUISANCES`
    class_share: dict[str, float]  # explained by the class: 0 where the reader errs alike for every class


def measure_reader(reader: NuisanceReader, images: StreamImages) -> ReaderError:
    """Error of a reader on held-out real pictures; give a confounded and an unconfounded stream."""
    true, read = true_nuisances(images), read_pictures(reader, images.images)
    error = read - true
    return ReaderError(
        images.stream,
        len(images),
        by_name(coefficients_of_determination(read, true)),
        by_name(np.sqrt(np.square(error).mean(0))),
        by_name(1.0 - np.square(within_class_sd(error, images.class_labels)) / error.var(0)),
    )


# What nuisances say about the label


@dataclass(frozen=True)
class Dependence:
    """How much nuisances say about labels in one stream."""

    stream: str
    source: str  # "read" off the images, or "true" as composed
    images: int
    chance: float  # accuracy of always answering the largest class
    accuracy: dict[str, float]  # label from each nuisance, from each group, and from "all"
    linear: dict[str, float]  # the same by logistic regression
    within_class_sd: dict[str, float]  # in the units of `NUISANCES`
    spread_over_real: dict[str, float]  # within-class spread over the reference stream's, read alike


def measure_dependence(
    stream: str,
    source: str,
    nuisances: NDArray[np.float64],
    class_labels: NDArray[np.int64],
    reference_sd: NDArray[np.float64],
    seed: int = 0,
) -> Dependence:
    """Dependence of nuisances [N, nuisances] and labels [N]; `reference_sd` is the real within-class spread."""
    scores = {
        name: label_accuracy(nuisances[:, columns], class_labels, seed) for name, columns in nuisance_sets().items()
    }
    sd = within_class_sd(nuisances, class_labels)
    return Dependence(
        stream=stream,
        source=source,
        images=len(nuisances),
        chance=float(np.bincount(class_labels).max() / len(class_labels)),
        accuracy={name: best for name, (best, _) in scores.items()},
        linear={name: linear for name, (_, linear) in scores.items()},
        within_class_sd=by_name(sd),
        spread_over_real=by_name(sd / reference_sd),
    )


@dataclass(frozen=True)
class DependenceReport:
    """The true dependence in every stream, with the error of the reader it rests on."""

    reader_stream: str
    reference_stream: str
    reader: tuple[ReaderError, ...]
    streams: tuple[Dependence, ...]


def measure_dependences(
    reader: NuisanceReader,
    reader_stream: str,
    reference: StreamImages,
    held_out: Sequence[StreamImages],
    streams: Sequence[StreamImages],
    seed: int = 0,
) -> DependenceReport:
    """Dependence of nuisances and labels in each stream, next to which the indirect measure can be judged.

    `reference` is the real training stream whose within-class spread the others' are compared with. `held_out` are
    real streams the reader has not seen: its error is measured there. Streams of real pictures get a second row,
    from their true nuisances, which shows what reading costs.
    """
    check_same_classes(reference, *held_out, *streams)
    reference_read = within_class_sd(read_pictures(reader, reference.images), reference.class_labels)
    reference_true = within_class_sd(true_nuisances(reference), reference.class_labels)
    rows = []
    for images in streams:
        read = read_pictures(reader, images.images)
        rows.append(measure_dependence(images.stream, "read", read, images.class_labels, reference_read, seed))
        if "nuisances" in images.parameters[0]:
            true = true_nuisances(images)
            rows.append(measure_dependence(images.stream, "true", true, images.class_labels, reference_true, seed))
    errors = tuple(measure_reader(reader, images) for images in held_out)
    return DependenceReport(reader_stream, reference.stream, errors, tuple(rows))


# The section of the report


def analyse_nuisances(
    reader: str, reference: str, held_out: Sequence[str], streams: Sequence[str], limit: int, epochs: int, folder: Path,
    device: str = "cpu",
) -> Analysis:  # fmt: skip
    """The true dependence of nuisances and labels in streams of the mini world."""
    preprocessing = stream_preprocessing([reader, reference, *held_out, *streams])
    measured = list(load_distributions(streams, preprocessing, limit))
    for images in measured:
        check_images(images.class_labels, len(NUISANCES), f"stream {images.stream!r}")
    compared = load_images(reference, preprocessing, limit)
    unseen = [load_images(text, preprocessing) for text in held_out]
    check_same_classes(compared, *unseen, *measured)
    fitted = fit_nuisance_reader(load_images(reader, preprocessing), epochs, device=device)
    report = measure_dependences(fitted, parse_stream(reader)[1], compared, unseen, measured)
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


def plot_dependences(report: DependenceReport) -> Figure:
    """Accuracy from nuisance to label, and within-class spread, for each stream and nuisance, as read."""
    rows = [row for row in report.streams if row.source == "read"]
    figure = Figure(figsize=(WIDTH + LEGEND, 6.0), layout="constrained")
    upper, lower = figure.subplots(2, 1)
    draw_bars(upper, {row.stream: {k: v / row.chance for k, v in row.accuracy.items()} for row in rows})
    upper.set_ylabel("label from nuisance,\naccuracy over chance")
    draw_bars(lower, {row.stream: row.spread_over_real for row in rows})
    lower.set_ylabel(f"within-class spread\nover {report.reference_stream}")
    legend_beside(figure)
    return figure
