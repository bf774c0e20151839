"""Style transfer in one forward pass: adaptive instance normalisation (Huang & Belongie 2017)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...manifests.errors import FormatError
from ..networks.kernels import repeatable_kernels
from ..networks.weights import load_weights

# Layer by layer as the two public files number them; "conv" is reflection padding, 3 x 3 convolution and ReLU.
ENCODER_LAYERS = ("pointwise", *["conv"] * 2, "pool", *["conv"] * 2, "pool", *["conv"] * 4, "pool", "conv")
DECODER_LAYERS = ("conv", "upsample", *["conv"] * 4, "upsample", *["conv"] * 2, "upsample", "conv", "last conv")
# Output channels of the two files' convolutions.
ENCODER_CHANNELS = (3, 64, 64, 128, 128, 256, 256, 256, 256, 512)
DECODER_CHANNELS = (256, 256, 256, 256, 128, 128, 64, 64, 3)

PORT = "https://github.com/naoto0804/pytorch-AdaIN/releases/tag/v0.0.0"
EPSILON = 1e-5


def adain(content: Tensor, style: Tensor) -> Tensor:
    """Match channel mean and standard deviation of content to style, both [N, C, H, W] (equation 8)."""
    content_mean, content_deviation = _statistics(content)
    style_mean, style_deviation = _statistics(style)
    return style_deviation * (content - content_mean) / content_deviation + style_mean


def _statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(features, dim=(2, 3), keepdim=True)
    return mean, (variance + EPSILON).sqrt()


@dataclass(frozen=True)
class AdainNetwork:
    """Encoder up to relu4_1, and the decoder that makes images of what it gives."""

    encoder: nn.Sequential
    decoder: nn.Sequential

    @property
    def width(self) -> int:
        """Channels at full resolution."""
        last = self.decoder[-1]
        assert isinstance(last, nn.Conv2d)
        return last.in_channels

    def transfer(self, contents: Tensor, styles: Tensor, alpha: float) -> Tensor:
        """Images [N, 3, H, W] in [0, 1] of contents and styles alike; alpha: 0 keeps the content, 1 is full style."""
        with torch.inference_mode(), repeatable_kernels():
            content = self.encoder(contents)
            mixed = torch.lerp(content, adain(content, self.encoder(styles)), alpha)
            images: Tensor = self.decoder(mixed)
            # Three poolings, each rounded up, and three doublings: sides that are no multiple of 8 have grown.
            return images[..., : contents.shape[2], : contents.shape[3]].clamp(0, 1)

    def to(self, device: str | torch.device) -> "AdainNetwork":
        return AdainNetwork(self.encoder.to(device), self.decoder.to(device))


def load_adain(encoder: Path, decoder: Path, digests: tuple[str | None, str | None] = (None, None)) -> AdainNetwork:
    """Load `vgg_normalised.pth` and `decoder.pth`, or files of the same layout with other channels.

    Raises FormatError where a file is anything else, or not the one of its sha256 in `digests`.
    """
    first = _load_sequential(encoder, ENCODER_LAYERS, 3, digests[0])
    encoded = [module.out_channels for module in first if isinstance(module, nn.Conv2d)]
    return AdainNetwork(first, _load_sequential(decoder, DECODER_LAYERS, encoded[-1], digests[1]))


def make_random_adain(
    encoder_channels: Sequence[int] = ENCODER_CHANNELS,
    decoder_channels: Sequence[int] = DECODER_CHANNELS,
    seed: int = 0,
) -> AdainNetwork:
    """Networks with random weights, of the public files' shapes by default: the same cost, for timings and tests."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AdainNetwork(
            _make_sequential(ENCODER_LAYERS, 3, encoder_channels),
            _make_sequential(DECODER_LAYERS, encoder_channels[-1], decoder_channels),
        )


def _make_sequential(layers: Sequence[str], inputs: int, channels: Sequence[int]) -> nn.Sequential:
    modules: list[nn.Module] = []
    widths = iter(channels)
    for layer in layers:
        if layer == "pool":
            modules.append(nn.MaxPool2d(2, ceil_mode=True))
            continue
        if layer == "upsample":
            modules.append(nn.Upsample(scale_factor=2, mode="nearest"))
            continue
        outputs = next(widths)
        if layer == "pointwise":
            modules.append(nn.Conv2d(inputs, outputs, 1))
        else:
            modules += [nn.ReflectionPad2d(1), nn.Conv2d(inputs, outputs, 3)]
            if layer == "conv":
                modules.append(nn.ReLU())
        inputs = outputs
    return nn.Sequential(*modules).eval().requires_grad_(False)


def _load_sequential(path: Path, layers: Sequence[str], inputs: int, sha256: str | None) -> nn.Sequential:
    """A network whose channels are those of the file, which may go on where `layers` end (the public encoder does)."""
    weights, _ = load_weights(path, sha256)
    names = _convolution_names(layers)
    shapes = [_shape(weights.get(name)) for name in names]
    if any(len(shape) != 4 for shape in shapes):
        absent = next(name for name, shape in zip(names, shapes, strict=True) if len(shape) != 4)
        raise FormatError(f"{path}: no convolution {absent!r}; expected the layout of the files at {PORT}")
    network = _make_sequential(layers, inputs, [shape[0] for shape in shapes])
    state = network.state_dict()
    for name, tensor in state.items():
        if _shape(weights.get(name)) != list(tensor.shape):
            raise FormatError(f"{path}: {name} {_shape(weights.get(name))}, expected {list(tensor.shape)}")
    network.load_state_dict({name: weights[name] for name in state})
    return network


def _convolution_names(layers: Sequence[str]) -> list[str]:
    channels = [1] * len(layers)
    return [name for name in _make_sequential(layers, 1, channels).state_dict() if name.endswith("weight")]


def _shape(value: Any) -> list[int]:
    return list(value.shape) if isinstance(value, Tensor) else []
