"""All sources of the mini world beside each other: is the object still there, and what do its nuisances say?

An intervention is of use where it frees nuisances of the label and keeps the object. Two readers, free of confounding
themselves, tell: a classifier of objects, and the network that reads nuisances. Where samples name the classes of
their mechanisms, the axioms of counterfactuals (Monteiro et al. 2023; Melistas et al. 2024) are checked too:
composition (three equal labels give a picture of that class back), effectiveness (the background reads as it was
set), minimality (what was not set stays), and realism (Fréchet distance to real pictures).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ...manifests.errors import FormatError, UsageError, shorten
from ...manifests.world import NUISANCES
from ...train.checkpoint import Classifier
from ..metrics.accuracy import accuracy
from ..metrics.bootstrap import bootstrap_over_clusters
from ..metrics.frechet import frechet_distance
from ..metrics.label_accuracy import answer_linearly, check_images, label_accuracy
from ..report.page import save_figure
from ..report.plots import WIDTH
from ..report.results import Analysis
from ..test_sets.streams import origins_of
from .distributions import load_distributions, load_images, stream_preprocessing
from .features import extract_features, predict_top1
from .nuisance_reader import NuisanceReader, fit_nuisance_reader, nuisance_sets, read_pictures
from .stream_images import StreamImages, check_same_classes

FIGURE = "sources.svg"
GROUPS = ("background", "pose", "all")


@dataclass(frozen=True)
class Fidelity:
    """Of one stream: the share of samples that are read as their label, which those are, and what nuisances say.

    interval: 95 %, bootstrap over latents, masks or photos where several images are of one, and else over images.
    label_from: accuracy of the label told from the nuisances of a group. frechet: to the real pictures that the readers
    learned from.
    """

    stream: str
    source: str
    images: int
    fidelity: float
    interval: tuple[float, float]
    unit: str
    label_from: dict[str, float]
    frechet: float
    sample_indices: tuple[int, ...]
    read_as: tuple[int, ...]  # class that each sample is read as


@dataclass(frozen=True)
class Axioms:
    """How often each reader answers with the label of each mechanism, in a stream whose samples have them.

    reads: by reader (object, background, pose) and mechanism. same: of the samples whose labels are all one class,
    their number and the share that each reader reads as it. real: the readers on real pictures, the best there is.
    """

    stream: str
    images: int
    reads: dict[str, dict[str, float]]
    same_images: int
    same: dict[str, float]
    real: dict[str, float]
    frechet: float


@dataclass(frozen=True, eq=False)
class Readers:
    """What reads a picture: the class of its object, and its nuisances, and from these the class that explains them.

    real: pictures free of confounding. reference: the natural, confounded training pictures with their read nuisances,
    from which the class of a background or pose is learned.
    """

    objects: Classifier
    nuisances: NuisanceReader
    real: StreamImages
    reference: StreamImages
    reference_read: NDArray[np.float64]

    def class_of(self, group: str, read: NDArray[np.float64]) -> NDArray[np.int64]:
        """The class [N] whose nuisances of a group are most like those read [N, nuisances]."""
        columns = nuisance_sets()[group]
        return answer_linearly(self.reference_read[:, columns], self.reference.class_labels, read[:, columns])

    def answers(self, images: StreamImages) -> dict[str, NDArray[np.int64]]:
        """Class [N] by reader."""
        read = read_pictures(self.nuisances, images.images)
        return {
            "object": predict_top1(self.objects, images.images),
            "background": self.class_of("background", read),
            "pose": self.class_of("pose", read),
        }


def measure_fidelity(readers: Readers, images: StreamImages, real_features: NDArray[np.float64]) -> Fidelity:
    """Whether a stream's objects are still read as their labels, and how much its nuisances say about these."""
    answers = predict_top1(readers.objects, images.images)
    hits = answers == images.class_labels
    source = str(images.parameters[0].get("source", ""))
    clusters = origins_of(source, images.parameters)
    if clusters is None:
        measured = accuracy(hits)
        interval, unit = (measured.low, measured.high), "image"
    else:
        interval, unit = bootstrap_over_clusters(hits, clusters.numbers), clusters.unit
    read, sets = read_pictures(readers.nuisances, images.images), nuisance_sets()
    return Fidelity(
        images.stream,
        source,
        len(images),
        float(hits.mean()),
        interval,
        unit,
        {group: label_accuracy(read[:, sets[group]], images.class_labels)[0] for group in GROUPS},
        frechet_distance(_features(readers, images), real_features),
        tuple(images.sample_indices.tolist()),
        tuple(answers.tolist()),
    )


def measure_axioms(
    readers: Readers, images: StreamImages, held_out: StreamImages, real_features: NDArray[np.float64]
) -> Axioms | None:
    """The axioms in one stream; None where its samples do not name the classes of their mechanisms.

    held_out: real pictures, confounded as the reference and unseen by the readers.
    """
    labels = mechanism_labels(images)
    if labels is None:
        return None
    answers = readers.answers(images)
    same = np.all([column == images.class_labels for column in labels.values()], axis=0)
    real = readers.answers(held_out)
    return Axioms(
        images.stream,
        len(images),
        {reader: {name: float((found == column).mean()) for name, column in labels.items()}
         for reader, found in answers.items()},
        int(same.sum()),
        {reader: float((found == images.class_labels)[same].mean()) for reader, found in answers.items()}
        if same.any() else {},
        {reader: float((found == held_out.class_labels).mean()) for reader, found in real.items()},
        frechet_distance(_features(readers, images), real_features),
    )  # fmt: skip


def mechanism_labels(images: StreamImages) -> dict[str, NDArray[np.int64]] | None:
    """Labels [N] of each mechanism, as the samples' json has them; None where the first has none.

    Raises FormatError where another lacks one.
    """
    first = images.parameters[0].get("labels")
    if not isinstance(first, dict):
        return None
    columns: dict[str, NDArray[np.int64]] = {}
    for mechanism in first:
        found = [_label_of(parameters.get("labels"), mechanism) for parameters in images.parameters]
        wrong = next((label for label in found if type(label) is not int), None)
        if None in found or wrong is not None:
            raise FormatError(f"stream {images.stream!r}: labels.{shorten(mechanism)}: a sample has no number there")
        columns[mechanism] = np.array(found, np.int64)
    return columns


def _label_of(labels: Any, mechanism: str) -> Any:
    return labels.get(mechanism) if isinstance(labels, dict) else None


def _features(readers: Readers, images: StreamImages) -> NDArray[np.float64]:
    features = extract_features(readers.objects, images).features.double().numpy()
    return np.asarray(features, np.float64)


# The sections of the report


def analyse_sources(
    objects: Classifier,
    reader: str,
    reference: str,
    held_out: str,
    streams: Sequence[str],
    gains: Mapping[str, float],
    limit: int,
    epochs: int,
    folder: Path,
    device: str = "cpu",
) -> dict[str, Analysis]:
    """Sections `sources` and, where streams name the labels of mechanisms, `axioms`.

    objects: a classifier trained on pictures free of confounding. gains: by stream, what training on it adds to the
    accuracy on the shifted background, in points. Raises UsageError where streams are too small or of other classes.
    """
    preprocessing = stream_preprocessing([reader, reference, held_out, *streams])
    if objects.preprocessing.crop != preprocessing.crop:
        raise UsageError(
            f"{objects.name}: takes pictures of {objects.preprocessing.crop} px, the streams are shown at "
            f"{preprocessing.crop}"
        )
    measured = list(load_distributions(streams, preprocessing, limit))
    for images in measured:
        check_images(images.class_labels, len(NUISANCES), f"stream {images.stream!r}")
    unknown = sorted(gains.keys() - {images.stream for images in measured})
    if unknown:
        known = ", ".join(images.stream for images in measured)
        raise UsageError(f"--brings {unknown[0]}: no such stream; known: {known}")
    real, natural = load_images(reader, preprocessing), load_images(reference, preprocessing, limit)
    unseen = load_images(held_out, preprocessing, limit)
    check_same_classes(real, natural, unseen, *measured)
    if objects.class_names != real.class_names:
        raise UsageError(f"{objects.name}: knows other classes than stream {real.stream!r}")
    nuisances = fit_nuisance_reader(real, epochs, device=device)
    objects.model.to(device)
    readers = Readers(objects, nuisances, real, natural, read_pictures(nuisances, natural.images))
    features = _features(readers, real)
    fidelities = [measure_fidelity(readers, images, features) for images in measured]
    axioms = [found for images in measured if (found := measure_axioms(readers, images, unseen, features)) is not None]
    best = accuracy(predict_top1(objects, unseen.images) == unseen.class_labels).value
    save_figure(plot_sources(fidelities, gains), folder / FIGURE)
    sections = {"sources": _describe_sources(fidelities, gains, objects.name, unseen.stream, best)}
    return sections | ({"axioms": _describe_axioms(axioms, unseen.stream)} if axioms else {})


def _describe_sources(
    found: Sequence[Fidelity], gains: Mapping[str, float], objects: str, held_out: str, best: float
) -> Analysis:
    rows = [
        [
            one.stream,
            f"{one.images:,}",
            f"{100 * one.fidelity:.1f} ({100 * one.interval[0]:.1f} to {100 * one.interval[1]:.1f}, over {one.unit}s)",
            *(f"{100 * one.label_from[group]:.1f}" for group in GROUPS),
            f"{one.frechet:.1f}",
            f"{gains[one.stream]:+.2f}" if one.stream in gains else "–",
        ]
        for one in found
    ]
    texts = [
        f"Object recognised: share in percent of a stream's samples that {objects}, which confounding has not taught, "
        f"reads as their label ({100 * best:.1f} % of {held_out}), with its 95 % interval. Label from nuisances: "
        "accuracy of a classifier that is given what is read of the background, of the pose, or of both. Fréchet "
        "distance to the pictures free of confounding, in the classifier's features. Gain: accuracy on the shifted "
        "background of the row that was trained with the stream, less the first row's, in points."
    ]
    columns = [
        "stream", "n", "object recognised, %", "label from background, %", "label from pose, %", "label from all, %",
        "Fréchet distance", "gain, points",
    ]  # fmt: skip
    data = {"object_reader": objects, "streams": [asdict(one) for one in found], "gains": dict(gains)}
    caption = (
        "All sources: what the background says about the label, against what is left of the object. The area is what "
        "training with the source adds to the accuracy on the shifted background; hollow where it adds nothing or was "
        "not measured."
    )
    return Analysis("Sources compared", texts, columns, rows, data, {FIGURE: caption})


def _describe_axioms(found: Sequence[Axioms], held_out: str) -> Analysis:
    mechanisms = list(dict.fromkeys(name for one in found for reads in one.reads.values() for name in reads))
    rows = []
    for one in found:
        for reader, reads in one.reads.items():
            same = f"{100 * one.same[reader]:.1f} (n = {one.same_images:,})" if one.same else "–"
            rows.append(
                [
                    one.stream,
                    reader,
                    f"{one.images:,}",
                    *(f"{100 * reads[name]:.1f}" if name in reads else "–" for name in mechanisms),
                    same,
                    f"{100 * one.real[reader]:.1f}",
                ]
            )
    distances = "; ".join(f"{one.stream}: {one.frechet:.1f}" for one in found)
    texts = [
        "How often, in percent, what is read of object, background and pose is the label that was set for each "
        "mechanism. Effectiveness: the object reads as the shape's label, the background as the background's. "
        "Minimality: they do not read as the others', of which chance is one class. Composition: where all labels are "
        f"one class, all read as it. The last column is the same readers on real pictures ({held_out}). Realism: "
        f"Fréchet distance to real pictures, {distances}."
    ]
    columns = ["stream", "read", "n", *(f"label of the {name}" for name in mechanisms), "labels alike", "real pictures"]
    return Analysis("Axioms of counterfactuals", texts, columns, rows, [asdict(one) for one in found])


def plot_sources(found: Sequence[Fidelity], gains: Mapping[str, float]) -> Figure:
    """x: label from the background's nuisances; y: object recognised; area: gain on the shifted background."""
    figure = Figure(figsize=(WIDTH, 4.5), layout="constrained")
    axes = figure.add_subplot()
    largest = max([gain for gain in gains.values() if gain > 0], default=1.0)
    for number, one in enumerate(found):
        gain = gains.get(one.stream, 0.0)
        x, y = 100 * one.label_from["background"], 100 * one.fidelity
        area, color = max(30.0, 600.0 * gain / largest), f"C{number % 10}"
        axes.scatter([x], [y], s=area, facecolors=color if gain > 0 else "none", edgecolors=color, alpha=0.7)
        said = f"{one.stream} ({gain:+.1f})" if one.stream in gains else one.stream
        axes.annotate(said, (x, y), textcoords="offset points", xytext=(8, 6), fontsize="small")
    axes.set_xlabel("label from background nuisances, %")
    axes.set_ylabel("object recognised, %")
    axes.margins(0.2)
    return figure
