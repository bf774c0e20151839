"""Saliency networks: how much of a picture's pixels is its object. Frozen parts of a CGN, and scissors of their own."""

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ...manifests.errors import FormatError, UsageError
from ..networks.weights import fit_weights, load_weights
from ..style.vgg import MEAN, STANDARD_DEVIATION
from .u2net import U2Net

TINY_CHANNELS = (16, 32, 64)


class TinyUNet(nn.Module):
    """A U-Net (Ronneberger et al. 2015) for small pictures: two convolutions a level; pictures to logits [N, 1, H, W].

    channels: of its levels, each at half the side of the one before.
    """

    def __init__(self, channels: Sequence[int] = TINY_CHANNELS) -> None:
        super().__init__()
        self.channels = tuple(channels)
        inputs = [3, *channels[:-1]]
        self.down = nn.ModuleList(_two_convolutions(a, b) for a, b in zip(inputs, channels, strict=True))
        self.up = nn.ModuleList(_two_convolutions(upper + lower, upper) for upper, lower in pairwise(channels))
        self.head = nn.Conv2d(channels[0], 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = images
        passed = []
        for level, convolutions in enumerate(self.down):
            x = convolutions(F.max_pool2d(x, 2) if level else x)
            passed.append(x)
        for level in range(len(self.up) - 1, -1, -1):
            x = F.interpolate(x, passed[level].shape[-2:], mode="nearest")
            x = self.up[level](torch.cat([passed[level], x], 1))
        logits: Tensor = self.head(x)
        return logits


class Saliency(nn.Module):
    """A network of either kind as one function: pictures [N, 3, H, W] in [-1, 1] to saliency [N, 1, H, W] in (0, 1).

    normalise: by ImageNet's mean and deviation, as U2-Net was trained. The official CGN gives it [-1, 1] as it is,
    which loses objects.
    """

    def __init__(self, network: U2Net | TinyUNet, normalise: bool = True) -> None:
        super().__init__()
        self.network = network
        self.normalise = normalise

    def forward(self, images: Tensor) -> Tensor:
        x = images
        if self.normalise:
            mean, deviation = (images.new_tensor(values)[:, None, None] for values in (MEAN, STANDARD_DEVIATION))
            x = ((x + 1) / 2 - mean) / deviation
        return torch.sigmoid(self.network(x.to(next(self.network.parameters()).dtype)).float())

    def describe(self) -> dict[str, Any]:
        """What `make_saliency` needs to make the same network."""
        network = self.network
        kind = {"kind": "u2net"} if isinstance(network, U2Net) else {"kind": "tiny", "channels": list(network.channels)}
        return {**kind, "normalise": self.normalise}


def fold_saliency(saliency: Saliency, device: torch.device, dtype: torch.dtype) -> Saliency:
    """The same function for less work: batch norms become part of the convolutions before them."""
    folded = copy.deepcopy(saliency).eval()
    for module in list(folded.network.modules()):
        for (name, first), (next_name, second) in pairwise(list(module.named_children())):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                module.add_module(name, fuse_conv_bn_eval(first, second))
                module.add_module(next_name, nn.Identity())
    folded.requires_grad_(False).to(device, dtype)
    for module in folded.network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.to(memory_format=torch.channels_last)
    return folded


def make_saliency(description: Mapping[str, Any], origin: str) -> Saliency:
    """An untrained network as `Saliency.describe` says; `origin` names the file in errors."""
    match dict(description):
        case {"kind": "u2net", "normalise": bool(normalise)}:
            return Saliency(U2Net(), normalise)
        case {"kind": "tiny", "channels": [int(), *_] as channels, "normalise": bool(normalise)}:
            if all(type(c) is int and 0 < c <= 1024 for c in channels):
                return Saliency(TinyUNet(channels), normalise)
    raise FormatError(f"{origin}: not the description of a saliency network: {str(dict(description))[:100]}")


def load_saliency(path: str | Path, normalise: bool = True, expected: str | None = None) -> tuple[Saliency, str]:
    """A frozen network from a file, and the file's sha256: the published `u2net.pth`, or one of `fit-saliency`.

    normalise: of the published file, which says nothing of it. Raises UsageError where there is no file, FormatError
    where it is something else, or not the file of the sha256 that is `expected`.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(
            f"{path}: no such file; expected u2net.pth (176 MB, 44.0 M parameters, full U2NET of "
            "github.com/xuebinqin/U-2-Net; not the smaller u2netp.pth), "
            "or a saliency.pth of fit-saliency"
        )
    weights, sha256 = load_weights(path, expected)
    if "stage1.rebnconvin.conv_s1.weight" in weights:
        saliency = Saliency(U2Net(), normalise)
        fit_weights(saliency.network, weights, f"{path}: not the full U2NET")
    else:
        channels = tiny_channels(weights)
        if not channels:
            raise FormatError(
                f"{path}: no saliency network; expected u2net.pth (stage1.rebnconvin.conv_s1.weight, ...) or "
                "a saliency.pth of fit-saliency (down.0.0.weight, ...)"
            )
        saliency = Saliency(TinyUNet(channels))
        fit_weights(saliency.network, weights, f"{path}: not a saliency network")
    return saliency.eval().requires_grad_(False), sha256


def tiny_channels(weights: Mapping[str, Any]) -> list[int]:
    """Channels of the levels of a TinyUNet, read off its weights; none where they are of something else."""
    channels: list[int] = []
    while isinstance(weight := weights.get(f"down.{len(channels)}.0.weight"), Tensor) and weight.dim() == 4:
        channels.append(len(weight))
    return channels


def _two_convolutions(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
