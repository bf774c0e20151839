"""The true dependence of nuisances and labels in the mini world, next to which the indirect measure can be judged.

The backgrounds and poses of the mini world's real pictures are known. A reader trained on them reads the same ten
numbers off generated images; what they say about the label, and how widely they spread within a class, is what an
intervention changes. The reader must have learned from a stream without confounding (`background_confounding = 0`,
`pose_confounding = 0`): elsewhere it may read the object and answer with the class's mean. Its error on held-out
real pictures, confounded or not, is part of every result.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from ...manifests.errors import UsageError
from ...manifests.world import IMAGE_SIZE, NUISANCES
from .correlation import coefficients_of_determination
from .stream_images import StreamImages, check_same_classes, true_nuisances

BATCH = 100
FOLDS = 4
NEIGHBOURS = 25
LARGEST_LEARNING_RATE = 4e-3


# Reading nuisances off pictures


class NuisanceReader(nn.Module):
    """Reads the nuisances, in units of their standard deviations, off pictures: [N, 3, 32, 32] to [N, nuisances]."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels_in, channels_out in ((3, 32), (32, 64), (64, 128)):
            layers += [
                nn.Conv2d(channels_in, channels_out, 3, padding=1, stride=2, bias=False),
                nn.BatchNorm2d(channels_out),
                nn.ReLU(),
                nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels_out),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * (IMAGE_SIZE // 8) ** 2, 128), nn.ReLU())
        self.head = nn.Linear(128, len(NUISANCES))

    def forward(self, images: Tensor) -> Tensor:
        read: Tensor = self.head(self.body(images.float() / 127.5 - 1.0))
        return read


def fit_nuisance_reader(images: StreamImages, epochs: int = 8, seed: int = 0, device: str = "cpu") -> NuisanceReader:
    """Train a reader on real pictures of the mini world, 32 px, from a stream without confounding."""
    if images.images.shape[-1] != IMAGE_SIZE:
        raise UsageError(f"stream {images.stream!r}: images of {images.images.shape[-1]} px, the mini world has 32")
    targets = torch.from_numpy(true_nuisances(images) / _sd()).float()
    with torch.random.fork_rng(devices=[device] if device != "cpu" else []):
        torch.manual_seed(seed)
        reader = NuisanceReader().to(device).train()
        optimizer = torch.optim.AdamW(reader.parameters())
        steps = epochs * math.ceil(len(images) / BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LARGEST_LEARNING_RATE, steps)
        for _ in range(epochs):
            for rows in torch.randperm(len(images)).split(BATCH):
                loss = F.mse_loss(reader(images.images[rows].to(device)), targets[rows].to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return reader.eval().requires_grad_(False)


def read_pictures(reader: NuisanceReader, images: Tensor) -> NDArray[np.float64]:
    """Nuisances [N, nuisances] as read off images uint8 [N, 3, 32, 32], in the units of `NUISANCES`."""
    device = next(reader.parameters()).device
    with torch.inference_mode():
        read = torch.cat([reader(batch.to(device)).cpu() for batch in images.split(BATCH)])
    return np.asarray(read.double().numpy()) * _sd()


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


def within_class_sd(values: NDArray[np.float64], class_labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Standard deviation [columns] around each class's own mean, all classes together."""
    centred = np.concatenate(
        [values[class_labels == c] - values[class_labels == c].mean(0) for c in np.unique(class_labels)]
    )
    return np.asarray(np.sqrt(np.square(centred).mean(0)))


def by_name(values: NDArray[np.float64]) -> dict[str, float]:
    """One number a nuisance, by its name."""
    return {nuisance.name: float(value) for nuisance, value in zip(NUISANCES, values, strict=True)}


# What nuisances say about the label


def nuisance_sets() -> dict[str, list[int]]:
    """Columns to predict the label from: each nuisance by itself, each group, and all of them."""
    singles = {nuisance.name: [i] for i, nuisance in enumerate(NUISANCES)}
    groups = {group: [i for i, n in enumerate(NUISANCES) if n.group == group] for group in ("background", "pose")}
    return {**singles, **groups, "all": list(range(len(NUISANCES)))}


def label_accuracy(
    nuisances: NDArray[np.float64], class_labels: NDArray[np.int64], seed: int = 0
) -> tuple[float, float]:
    """Cross-validated accuracy of telling the label from nuisances [N, columns]: the best of three, and linear.

    The three: logistic regression, exact where classes differ in their means alone, as in the real pictures; quadratic
    discriminants, where they differ in their spread too; and nearest neighbours, for any other shape. Taking the best
    favours dependence by what three draws of the same chance differ in.
    """
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    models = (
        LogisticRegression(max_iter=500),
        # A hundredth of the identity: two nuisances read off few images may be collinear within a class.
        QuadraticDiscriminantAnalysis(reg_param=0.01),
        KNeighborsClassifier(NEIGHBOURS),
    )
    accuracies = [
        accuracy_score(
            class_labels, cross_val_predict(make_pipeline(StandardScaler(), model), nuisances, class_labels, cv=folds)
        )
        for model in models
    ]
    return float(max(accuracies)), float(accuracies[0])


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


# Do the indirect and the true measure rank datasets alike?


@dataclass(frozen=True)
class RankAgreement:
    """Agreement of two measures on the order of the same streams; 1 is the same order, -1 the opposite one."""

    streams: tuple[str, ...]
    spearman: float
    kendall: float
    kendall_p_value: float  # of no agreement, two-sided; exact for few streams without ties


def rank_agreement(first: Mapping[str, float], second: Mapping[str, float]) -> RankAgreement | None:
    """Compare two measures by stream. None where they order nothing: fewer than 3 streams, or one value for all.

    Raises UsageError unless both have the same streams.
    """
    names = sorted(first)
    if names != sorted(second):
        raise UsageError(f"one measure has {', '.join(names)}, the other {', '.join(sorted(second))}")
    values = [[measure[name] for name in names] for measure in (first, second)]
    if len(names) < 3 or any(len(set(column)) == 1 for column in values):
        return None
    kendall = stats.kendalltau(*values)
    return RankAgreement(
        tuple(names), float(stats.spearmanr(*values).statistic), float(kendall.statistic), float(kendall.pvalue)
    )


def _sd() -> NDArray[np.float64]:
    return np.array([nuisance.sd for nuisance in NUISANCES])
