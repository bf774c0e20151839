"""The critic that `fit-generator` trains a small BigGAN against."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm


class DownBlock(nn.Module):
    """Pre-activation residual block that halves the resolution (Miyato et al. 2018)."""

    def __init__(self, channels_in: int, channels_out: int, activate_first: bool = True) -> None:
        super().__init__()
        self.activate_first = activate_first
        self.conv_0 = spectral_norm(nn.Conv2d(channels_in, channels_out, 3, padding=1))
        self.conv_1 = spectral_norm(nn.Conv2d(channels_out, channels_out, 3, padding=1))
        self.shortcut = spectral_norm(nn.Conv2d(channels_in, channels_out, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(x) if self.activate_first else x
        h = self.conv_1(F.relu(self.conv_0(h)))
        out: Tensor = F.avg_pool2d(h, 2) + self.shortcut(F.avg_pool2d(x, 2))
        return out


class Discriminator(nn.Module):
    """Spectrally normalised residual critic with class projection (Miyato & Koyama 2018).

    It sees samples in groups of one class and, beside each sample's features, their spread within the group: a
    generator that sharpens the tie between class and background gives itself away (minibatch standard deviation,
    Karras et al. 2018, here per feature and within a class).

    images [N, 3, 32, 32] in [-1, 1] and class labels [N] to logits [N]; rows [i * group, (i + 1) * group) are of one
    class.
    """

    def __init__(self, num_classes: int, group: int, width: int = 32) -> None:
        super().__init__()
        self.group = group
        self.blocks = nn.Sequential(
            DownBlock(3, width, activate_first=False),
            DownBlock(width, 2 * width),
            DownBlock(2 * width, 4 * width),
        )
        self.last = spectral_norm(nn.Conv2d(4 * width, 4 * width, 3, padding=1))
        self.score = spectral_norm(nn.Linear(8 * width, 1))
        self.projection = spectral_norm(nn.Embedding(num_classes, 4 * width))

    def forward(self, images: Tensor, class_labels: Tensor) -> Tensor:
        h = self.blocks(images)
        h = F.relu(h + self.last(F.relu(h))).sum((2, 3))
        variance = h.unflatten(0, (-1, self.group)).var(1, unbiased=False)
        spread = torch.sqrt(variance + 1e-8).repeat_interleave(self.group, 0)
        logits: Tensor = self.score(torch.cat((h, spread), 1))[:, 0] + (self.projection(class_labels) * h).sum(1)
        return logits
