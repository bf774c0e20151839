"""What the mini world's small networks have in common: pictures as tensors, layers, and a training by epochs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

# From numbers of pictures [n] to their mean loss.
Loss = Callable[[Tensor], Tensor]


class EpochSettings(Protocol):
    """What a training by epochs needs to know; the learning rate is the highest of one cycle."""

    @property
    def seed(self) -> int: ...
    @property
    def epochs(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...


@dataclass(frozen=True)
class EpochProgress:
    """One finished step: its number (1-based), the number of all, and the loss."""

    step: int
    steps: int
    loss: float


def to_tensor(images: NDArray[np.uint8]) -> Tensor:
    """[N, H, W, 3] uint8 to [N, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def halving_layers(widths: Sequence[int]) -> list[nn.Module]:
    """From pictures of 3 channels: of each width two convolutions, of which the second halves the sides."""
    layers: list[nn.Module] = []
    for channels_in, channels_out in zip((3, *widths), widths, strict=False):
        layers += [
            nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
            nn.Conv2d(channels_out, channels_out, 3, padding=1, stride=2, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
        ]
    return layers


def train_epochs(
    parameters: Iterable[Tensor], count: int, settings: EpochSettings, begin: Callable[[int], Loss]
) -> Iterator[EpochProgress]:
    """Train on `count` pictures; `begin` is given each epoch's number, and gives the loss of its pictures."""
    steps = settings.epochs * -(-count // settings.batch_size)
    optimizer = torch.optim.AdamW(parameters, settings.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, steps)
    rng = torch.Generator().manual_seed(settings.seed)
    step = 0
    for epoch in range(settings.epochs):
        loss_of = begin(epoch)
        for rows in torch.randperm(count, generator=rng).split(settings.batch_size):
            loss = loss_of(rows)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            yield EpochProgress(step, steps, loss.item())
