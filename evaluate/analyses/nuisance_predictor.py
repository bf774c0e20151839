"""A network that reads the coordinates z of the latent off intervened images (paper, section 3.1).

It never sees a label: the released encoder takes the class as a second input, by which z-hat of a natural image would
tell its class.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ...manifests.dataset import Dataset
from ...manifests.errors import UsageError
from ...manifests.randomness import draw_without_replacement, random_words
from ...train.checkpoint import Preprocessing
from ...train.vision import models
from ..metrics.variance import coefficients_of_determination
from .latents import final_coordinates, latent_groups
from .stream_images import StreamImages

BATCH = 100


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


def read_nuisances(predictor: NuisancePredictor, images: Tensor) -> NDArray[np.float64]:
    """z-hat [N, k] of images uint8 [N, 3, S, S]."""
    return _read(predictor.model, predictor.preprocessing, images)


def _read(network: nn.Module, preprocessing: Preprocessing, images: Tensor) -> NDArray[np.float64]:
    device = next(network.parameters()).device
    with torch.inference_mode():
        parts = [network(preprocessing.normalize(batch.to(device))).cpu() for batch in images.split(BATCH)]
    return np.asarray(torch.cat(parts).double().numpy())


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
