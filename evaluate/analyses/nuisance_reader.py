"""A network that reads the mini world's nuisances off pictures, learned from real ones, whose nuisances are known."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ...manifests.errors import UsageError
from ...manifests.world import IMAGE_SIZE, NUISANCES
from .stream_images import StreamImages, true_nuisances

BATCH = 100
LARGEST_LEARNING_RATE = 4e-3


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


def nuisance_sets() -> dict[str, list[int]]:
    """Columns to predict the label from: each nuisance by itself, each group, and all of them."""
    singles = {nuisance.name: [i] for i, nuisance in enumerate(NUISANCES)}
    groups = {group: [i for i, n in enumerate(NUISANCES) if n.group == group] for group in ("background", "pose")}
    return {**singles, **groups, "all": list(range(len(NUISANCES)))}


def by_name(values: NDArray[np.float64]) -> dict[str, float]:
    """One number a nuisance, by its name."""
    return {nuisance.name: float(value) for nuisance, value in zip(NUISANCES, values, strict=True)}


def _sd() -> NDArray[np.float64]:
    return np.array([nuisance.sd for nuisance in NUISANCES])
