"""Measure what a mini-world generator can do, against real pictures it was not trained on."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ...manifests.randomness import random_words, truncated_normal
from ...manifests.sources.generated import PACKAGE_BOUND
from ...manifests.world import CLASSES, NUISANCES
from ..biggan.fast_generator import fold
from ..biggan.generator import load_generator
from .training import halving_layers, to_tensor
from .world import compose_pictures, load_objects

EPOCHS = 8
BATCH = 100
GENERATED_PER_CLASS = 200


class Reader(nn.Module):
    """Reads class and nuisances off pictures: [N, 3, 32, 32] to logits, nuisances and features."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *halving_layers((32, 64, 128)), nn.Flatten(), nn.Linear(128 * 16, 128), nn.ReLU()
        )  # fmt: skip
        self.class_head = nn.Linear(128, len(CLASSES))
        self.nuisance_head = nn.Linear(128, len(NUISANCES))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.body(images)
        return self.class_head(features), self.nuisance_head(features), features


@cache
def train_reader(confounding: float, seed: int = 0) -> Reader:
    """Train a reader on real pictures; without confounding it cannot take the background for the class."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        reader = Reader()
        count = len(load_objects("train").class_labels)
        pictures = compose_pictures("train", np.arange(count), confounding, confounding)
        images = to_tensor(pictures.images)
        labels = torch.from_numpy(pictures.class_labels)
        nuisances = torch.from_numpy(pictures.nuisances / _sd()).float()
        optimizer = torch.optim.AdamW(reader.parameters(), 2e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, EPOCHS * (count // BATCH))
        for _ in range(EPOCHS):
            for rows in torch.randperm(count).split(BATCH):
                logits, read, _ = reader(images[rows])
                loss = F.cross_entropy(logits, labels[rows]) + F.mse_loss(read, nuisances[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return reader.eval()


def measure_generator(folder: Path, confounding: float, device: str = "cpu") -> dict[str, Any]:
    """Recognition, within-class spread of each nuisance, and Fréchet distance of a generator's images at t = 1.

    - recognised: share of images whose class a classifier reads as asked for, trained on real pictures confounded as
      the generator's were; real: the same classifier on held-out real pictures;
    - recognised_by_object: the same by a classifier trained without confounding, to which the background says nothing;
    - spread: within-class standard deviation of each nuisance as read, over the real one read alike, with the
      reader's own error (R2 on real held-out pictures);
    - frechet: distance of Gaussians in the classifier's features (Heusel et al. 2017) to held-out real pictures, and
      that of two real halves as the floor. Spread and distance are read by the classifier without confounding.
    """
    reader, confounded_reader = train_reader(0.0), train_reader(confounding)
    real = compose_pictures("test", np.arange(len(load_objects("test").class_labels)), confounding, confounding)
    real_logits, real_read, real_features = read_images(reader, real.images)

    loaded = load_generator(folder)
    model = loaded.model
    generator = fold(model, 1.0, batch_size=BATCH, precision="fp32", device=device)
    labels = np.repeat(np.arange(len(CLASSES)), GENERATED_PER_CLASS)
    z_dim = model.config.z_dim
    words = random_words(0, "measure generator", count=len(labels) * z_dim).reshape(-1, z_dim)
    latents = truncated_normal(words, PACKAGE_BOUND)
    images, finite = generator.render(torch.from_numpy(latents), torch.from_numpy(labels))
    logits, read, features = read_images(reader, images)

    correct = logits.argmax(1) == labels
    confounded_correct = read_images(confounded_reader, images)[0].argmax(1) == labels
    confounded_real = read_images(confounded_reader, real.images)[0].argmax(1) == real.class_labels
    spread = _within_class_sd(read, labels) / _within_class_sd(real_read, real.class_labels)
    residual = real_read - real.nuisances / _sd()
    r2 = 1.0 - residual.var(0) / (real.nuisances / _sd()).var(0)
    half = np.arange(len(real_features)) // len(CLASSES) % 2 == 0
    return {
        "weights_sha256": loaded.weights_sha256,
        "images": len(labels),
        "non_finite": int((~finite).sum()),
        "recognised": round(float(confounded_correct.mean()), 4),
        "recognised_real": round(float(confounded_real.mean()), 4),
        "recognised_by_object": round(float(correct.mean()), 4),
        "recognised_by_object_real": round(float((real_logits.argmax(1) == real.class_labels).mean()), 4),
        "recognised_by_object_by_class": {
            name: round(float(correct[labels == c].mean()), 3) for c, name in enumerate(CLASSES)
        },
        "spread_over_real": {n.name: round(float(s), 3) for n, s in zip(NUISANCES, spread, strict=True)},
        "reader_r2": {n.name: round(float(s), 3) for n, s in zip(NUISANCES, r2, strict=True)},
        "frechet": round(frechet_distance(features, real_features), 3),
        "frechet_real_halves": round(frechet_distance(real_features[half], real_features[~half]), 3),
        "frechet_by_class": {
            name: round(frechet_distance(features[labels == c], real_features[real.class_labels == c]), 3)
            for c, name in enumerate(CLASSES)
        },
    }


def frechet_distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Squared Fréchet distance of the Gaussians fitted to features [N, D] and [M, D] (Heusel et al. 2017, eq. 6)."""
    mean = first.mean(0) - second.mean(0)
    a, b = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    # The trace of the root of a product is the sum of the roots of its eigenvalues, which are real and not negative.
    roots = np.sqrt(np.clip(np.linalg.eigvals(a @ b).real, 0.0, None))
    return float(mean @ mean + np.trace(a + b) - 2.0 * roots.sum())


def _within_class_sd(values: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    centred = np.concatenate([values[labels == c] - values[labels == c].mean(0) for c in range(len(CLASSES))])
    return np.asarray(centred.std(0))


def read_images(reader: Reader, images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], ...]:
    """Logits [N, classes], nuisances [N, nuisances] in their standard deviations and features [N, D] of images
    [N, 32, 32, 3]."""
    with torch.inference_mode():
        parts = [reader(batch) for batch in to_tensor(images).split(BATCH)]
    return tuple(torch.cat(column).double().numpy() for column in zip(*parts, strict=True))


def _sd() -> NDArray[np.float64]:
    return np.array([nuisance.sd for nuisance in NUISANCES])
