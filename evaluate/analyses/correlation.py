"""How well nuisances predict labels in a training distribution: the paper's indirect measure (section 3.1, Figure 3).

A ResNet learns to read the coordinates z of the latent off intervened images. It then reads them off the images of
any distribution, a small classifier learns z -> y there, and its accuracy on natural test images, over chance, is
the correlation of that distribution. The nuisance predictor never sees a label: the released encoder takes the class
as a second input, by which z-hat of a natural image would tell its class.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from ...manifests.dataset import Dataset
from ...manifests.errors import UsageError
from ...manifests.randomness import draw_without_replacement, random_words
from ...train.checkpoint import Preprocessing
from ...train.vision import models, v2
from .latents import final_coordinates, latent_groups
from .stream_images import StreamImages, check_same_classes

HIDDEN = 512
LEARNING_RATE = 1e-3  # of z -> y
BATCH = 100
NORMAL_95 = 1.96


# x -> z


@dataclass(frozen=True)
class PredictorSettings:
    """How the nuisance predictor is trained. The paper's scale: 224 px and more, learning rate 1e-4, 90 epochs."""

    epochs: int = 6
    learning_rate: float = 1e-3
    held_out: float = 0.1  # share of the latents that only the reported error sees
    seed: int = 0


@dataclass(frozen=True, eq=False)
class NuisancePredictor:
    """A frozen ResNet-18 from images to z, and how well it reads z off images of latents it has not seen."""

    model: nn.Module  # normalised images [N, 3, S, S] to [N, k]
    preprocessing: Preprocessing
    r2: tuple[float, ...]  # of each component, on held-out latents
    trained_on: int  # images
    held_out: int


def fit_predictor(
    images: Tensor,
    coordinates: NDArray[np.float64],
    groups: NDArray[np.int64],
    preprocessing: Preprocessing,
    settings: PredictorSettings = PredictorSettings(),
    device: str = "cpu",
) -> NuisancePredictor:
    """Train images uint8 [N, 3, S, S] -> coordinates [N, k] by mean squared error.

    `groups` [N] tell images of one latent, which are never on both sides of the held-out split.
    """
    known = np.unique(groups)
    count = math.ceil(settings.held_out * len(known))
    if not 0 < count < len(known):
        raise UsageError(f"{len(known)} latents: too few to hold out a share of {settings.held_out}")
    words = random_words(settings.seed, "held-out latents", count=count)
    held = np.isin(groups, known[draw_without_replacement(len(known), words)])
    train, test = (torch.from_numpy(np.flatnonzero(rows)) for rows in (~held, held))
    targets = torch.from_numpy(coordinates).float()

    with torch.random.fork_rng(devices=[device] if device != "cpu" else []):
        torch.manual_seed(settings.seed)
        network = models.resnet18(weights=None, num_classes=coordinates.shape[1]).to(device).train()
        optimizer = torch.optim.Adam(network.parameters(), settings.learning_rate, fused=True)
        steps = settings.epochs * math.ceil(len(train) / BATCH)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(settings.epochs):
            for rows in train[torch.randperm(len(train))].split(BATCH):
                loss = F.mse_loss(network(preprocessing.normalize(images[rows].to(device))), targets[rows].to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    network.eval().requires_grad_(False)
    read = _read(network, preprocessing, images[test])
    errors = coefficients_of_determination(read, coordinates[held])
    return NuisancePredictor(network, preprocessing, tuple(errors.tolist()), len(train), len(test))


def coefficients_of_determination(read: NDArray[np.float64], true: NDArray[np.float64]) -> NDArray[np.float64]:
    """R2 [k] of each column: 1 - residual sum of squares over that around the mean."""
    residual = np.square(true - read).sum(0)
    around_mean = np.square(true - true.mean(0)).sum(0)
    r2: NDArray[np.float64] = 1.0 - residual / around_mean
    return r2


def read_nuisances(predictor: NuisancePredictor, images: Tensor) -> NDArray[np.float64]:
    """z-hat [N, k] of images uint8 [N, 3, S, S]."""
    return _read(predictor.model, predictor.preprocessing, images)


def _read(network: nn.Module, preprocessing: Preprocessing, images: Tensor) -> NDArray[np.float64]:
    device = next(network.parameters()).device
    with torch.inference_mode():
        parts = [network(preprocessing.normalize(batch.to(device))).cpu() for batch in images.split(BATCH)]
    return np.asarray(torch.cat(parts).double().numpy())


# z -> y


def classify_by_network(
    train: NDArray[np.float64],
    train_labels: NDArray[np.int64],
    test: NDArray[np.float64],
    test_labels: NDArray[np.int64],
    seed: int = 0,
    epochs: int = 20,
) -> float:
    """Top-1 accuracy of a fully connected classifier with one hidden layer, trained on z [N, k] and labels [N]."""
    known, targets = np.unique(train_labels, return_inverse=True)
    inputs, queries = (torch.from_numpy(values).float() for values in standardize(train, test))
    labels = torch.from_numpy(targets)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(train.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, len(known)))
        optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
        for _ in range(epochs):
            for rows in torch.randperm(len(inputs)).split(BATCH):
                loss = F.cross_entropy(network(inputs[rows]), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    with torch.inference_mode():
        chosen = network(queries).argmax(1).numpy()
    return float((known[chosen] == test_labels).mean())


def classify_linearly(
    train: NDArray[np.float64],
    train_labels: NDArray[np.int64],
    test: NDArray[np.float64],
    test_labels: NDArray[np.int64],
) -> float:
    """Top-1 accuracy of a logistic regression z -> y, as a check on the network."""
    inputs, queries = standardize(train, test)
    return float(LogisticRegression(max_iter=1000).fit(inputs, train_labels).score(queries, test_labels))


def standardize(train: NDArray[np.float64], test: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Both in units of the training part's mean and standard deviation, column by column."""
    mean, sd = train.mean(0), train.std(0)
    sd = np.where(sd > 0, sd, 1.0)
    return (train - mean) / sd, (test - mean) / sd


# Accuracy over chance


@dataclass(frozen=True)
class CorrelationSettings:
    """Which numbers of classes are tried, with how many random choices of them."""

    class_counts: tuple[int, ...] = (2, 5, 10)
    subsets: int = 5
    epochs: int = 20
    seed: int = 0


@dataclass(frozen=True)
class Correlation:
    """How many times better than chance z tells n classes; 1 is no correlation, n is a perfect one."""

    distribution: str
    num_classes: int
    correlation: float  # accuracy times n, mean over the subsets
    interval: tuple[float, float]  # 95 %
    values: tuple[float, ...]  # of each subset
    linear: float  # the same mean by logistic regression
    images: int  # of the training distribution, all classes
    test_images: int


def draw_classes(known: int, count: int, seed: int, subset: int) -> NDArray[np.int64]:
    """`count` of the `known` class labels at random, sorted; the same for every distribution."""
    if not 2 <= count <= known:
        raise UsageError(f"{count} classes of {known}: choose from 2 to {known}")
    return np.sort(draw_without_replacement(known, random_words(seed, "classes", count, subset, count=count)))


def correlation_interval(accuracies: Sequence[float], num_classes: int, test_images: int) -> tuple[float, float]:
    """95 % interval of the mean correlation: spread over subsets and sampling error of the test images, added.

    Conservative: where subsets differ in their classes, part of the second is in the first.
    """
    values = np.array(accuracies)
    mean = values.mean()
    variance = (values.var(ddof=1) / len(values) if len(values) > 1 else 0.0) + mean * (1.0 - mean) / test_images
    half = NORMAL_95 * math.sqrt(variance)
    return float((mean - half) * num_classes), float((mean + half) * num_classes)


def correlate(
    distribution: str,
    train: NDArray[np.float64],
    train_labels: NDArray[np.int64],
    test: NDArray[np.float64],
    test_labels: NDArray[np.int64],
    known_classes: int,
    settings: CorrelationSettings = CorrelationSettings(),
) -> list[Correlation]:
    """Correlation of nuisances z [N, k] and labels of one distribution, for each number of classes (Figure 3).

    A classifier is trained on the distribution's z and tested on z of natural images, `test`.
    """
    results = []
    for count in settings.class_counts:
        accuracies, linear, tested = [], [], []
        for subset in range(settings.subsets):
            classes = draw_classes(known_classes, count, settings.seed, subset)
            rows, queries = np.isin(train_labels, classes), np.isin(test_labels, classes)
            missing = [int(label) for label in classes if not (train_labels == label).any()]
            if missing or not queries.any():
                raise UsageError(f"{distribution}: no image of class {missing[0] if missing else list(classes)}")
            arrays = train[rows], train_labels[rows], test[queries], test_labels[queries]
            accuracies.append(classify_by_network(*arrays, settings.seed + subset, settings.epochs))
            linear.append(classify_linearly(*arrays))
            tested.append(int(queries.sum()))
        results.append(
            Correlation(
                distribution=distribution,
                num_classes=count,
                correlation=float(np.mean(accuracies)) * count,
                interval=correlation_interval(accuracies, count, min(tested)),
                values=tuple(accuracy * count for accuracy in accuracies),
                linear=float(np.mean(linear)) * count,
                images=len(train),
                test_images=min(tested),
            )
        )
    return results


# The distributions that are no streams


def mixup_images(images: StreamImages, alpha: float = 0.4, seed: int = 0) -> StreamImages:
    """Each image mixed with another one (Zhang et al. 2018), under the label of the larger share."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        order = torch.randperm(len(images))
        share = torch.distributions.Beta(alpha, alpha).sample((len(images),))
    weights = share.view(-1, 1, 1, 1)
    mixed = (weights * images.images.float() + (1.0 - weights) * images.images[order].float()).round().to(torch.uint8)
    labels = torch.from_numpy(images.class_labels)
    dominant = torch.where(share >= 0.5, labels, labels[order]).numpy()
    return _as_distribution(images, "mixup", mixed, dominant)


def autoaugment_images(images: StreamImages, seed: int = 0) -> StreamImages:
    """Each image under one draw of AutoAugment's ImageNet policy (Cubuk et al. 2018)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = v2.AutoAugment()
        augmented = torch.stack([policy(image) for image in images.images])
    return _as_distribution(images, "autoaugment", augmented, images.class_labels)


def _as_distribution(images: StreamImages, name: str, pixels: Tensor, labels: NDArray[np.int64]) -> StreamImages:
    return StreamImages(f"{name} of {images.stream}", images.class_names, pixels, labels, images.parameters, None)


# All of Figure 3


@dataclass(frozen=True)
class CorrelationReport:
    """Figure 3 with the error of the predictor it rests on, and its two controls."""

    correlations: tuple[Correlation, ...]
    controls: tuple[Correlation, ...]  # "random z" must give 1, "one-hot y" must give n
    test_stream: str
    predictor_stream: str
    predictor_r2: tuple[float, ...]  # of each component, on held-out latents
    predictor_images: int


def fit_stream_predictor(
    dataset: Dataset,
    intervened: StreamImages,
    preprocessing: Preprocessing,
    settings: PredictorSettings = PredictorSettings(),
    device: str = "cpu",
) -> NuisancePredictor:
    """The nuisance predictor of a dataset, trained on `intervened`, images of one of its interventional streams."""
    indices = intervened.sample_indices
    return fit_predictor(
        intervened.images,
        final_coordinates(dataset, intervened.stream, indices),
        latent_groups(dataset, intervened.stream, indices),
        preprocessing,
        settings,
        device,
    )


def measure_correlations(
    predictor: NuisancePredictor,
    predictor_stream: str,
    distributions: Sequence[StreamImages],
    test: StreamImages,
    settings: CorrelationSettings = CorrelationSettings(),
) -> CorrelationReport:
    """Correlation of nuisances and labels in each training distribution, tested on natural images (Figure 3).

    Give distributions of equal size: a classifier that has seen more images reads z better.
    """
    check_same_classes(test, *distributions)
    known = len(test.class_names)
    test_z = read_nuisances(predictor, test.images)
    correlations: list[Correlation] = []
    for images in distributions:
        z = read_nuisances(predictor, images.images)
        correlations += correlate(images.stream, z, images.class_labels, test_z, test.class_labels, known, settings)
    return CorrelationReport(
        tuple(correlations),
        tuple(control_correlations(distributions[0].class_labels, test.class_labels, known, settings)),
        test.stream,
        predictor_stream,
        predictor.r2,
        predictor.trained_on,
    )


def control_correlations(
    train_labels: NDArray[np.int64],
    test_labels: NDArray[np.int64],
    known_classes: int,
    settings: CorrelationSettings = CorrelationSettings(),
) -> list[Correlation]:
    """What the measure must say of a z that is noise (1) and of one that is the label (n)."""
    rng = np.random.Generator(np.random.Philox(settings.seed))
    noise = [rng.standard_normal((len(labels), known_classes)) for labels in (train_labels, test_labels)]
    one_hot = [np.eye(known_classes)[labels] for labels in (train_labels, test_labels)]
    return [
        *correlate("random z", noise[0], train_labels, noise[1], test_labels, known_classes, settings),
        *correlate("one-hot y", one_hot[0], train_labels, one_hot[1], test_labels, known_classes, settings),
    ]
