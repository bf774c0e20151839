"""The leading convolutions of a VGG (Simonyan & Zisserman 2015), whose outputs measure content and style."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from ...manifests.errors import FormatError, GenintError
from ...manifests.lock import one_after_another
from ..networks.weights import cache_folder, load_weights

VGG16_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
VGG19_URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
CONVOLUTIONS = 5
# Of the images that torchvision's weights were trained on.
MEAN, STANDARD_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Precision = Literal["fp32", "bf16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Vgg:
    """Convolutions with padding 1; a ReLU follows each, then 2 x 2 max pooling where `pooled` says so.

    No layer past the last convolution, and no gradient to weights: neither is needed to change an image.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    pooled: tuple[bool, ...]

    def __call__(self, images: Tensor) -> Iterator[Tensor]:
        """Output of each convolution, before its ReLU, of images [N, 3, H, W] in [0, 1]."""
        mean, deviation = (images.new_tensor(values)[:, None, None] for values in (MEAN, STANDARD_DEVIATION))
        return self.read((images - mean) / deviation)

    def read(self, x: Tensor) -> Iterator[Tensor]:
        """The same of an input that is taken as it is."""
        x = x.to(self.weights[0].dtype)
        for weight, bias, pooled in zip(self.weights, self.biases, (*self.pooled, False), strict=True):
            x = F.conv2d(x, weight, bias, padding=1)
            yield x
            x = F.relu(x)
            if pooled:
                x = F.max_pool2d(x, 2)

    def to(self, device: str | torch.device, dtype: torch.dtype) -> Self:
        """The same network elsewhere, or in another precision."""
        return replace(
            self,
            weights=tuple(_place(weight, device, dtype) for weight in self.weights),
            biases=tuple(bias.to(device, dtype) for bias in self.biases),
        )


def _place(weight: Tensor, device: str | torch.device, dtype: torch.dtype) -> Tensor:
    # Channels last: a fifth faster on CPUs, measured; features follow the weights.
    return weight.detach().to(device, dtype, memory_format=torch.channels_last)


def load_vgg(path: str | Path, convolutions: int = CONVOLUTIONS, sha256: str | None = None) -> Vgg:
    """Load a state dict with the names that torchvision gives a VGG without batch norm: `features.N.weight`.

    Raises FormatError where the file is anything else, or not the one of that sha256.
    """
    state, _ = load_weights(Path(path), sha256)
    return make_vgg(state, str(path), convolutions)


def make_vgg(state: Mapping[str, Any], origin: str, convolutions: int = CONVOLUTIONS) -> Vgg:
    """A network of the first convolutions in a state dict, with the file's channels; `origin` names it in errors.

    A ReLU follows each convolution, so numbers that grow by 3 instead of 2 tell of a pooling in between.
    """
    found = (re.fullmatch(r"features\.(\d+)\.weight", str(name)) for name in state)
    numbers = sorted(int(match[1]) for match in found if match)[:convolutions]
    gaps = [b - a for a, b in pairwise(numbers)]
    names = [f"features.{number}" for number in numbers]
    if len(numbers) < convolutions or not set(gaps) <= {2, 3} or any(f"{name}.bias" not in state for name in names):
        raise FormatError(
            f"{origin}: not a VGG: expected weight and bias of {convolutions} convolutions, numbered as torchvision's "
            f"vgg19 (features.0, .2, .5, .7, .10); found features {numbers}"
        )
    channels = 3
    for name in names:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        shapes = [list(value.shape) if isinstance(value, Tensor) else None for value in (weight, bias)]
        outputs = weight.shape[0] if isinstance(weight, Tensor) and weight.ndim else 0
        if shapes != [[outputs, channels, 3, 3], [outputs]]:
            raise FormatError(
                f"{origin}: {name}: weight and bias of shapes {shapes}, expected [n, {channels}, 3, 3] and [n]"
            )
        channels = outputs
    return Vgg(
        tuple(_place(state[f"{name}.weight"], "cpu", torch.float32) for name in names),
        tuple(state[f"{name}.bias"].float() for name in names),
        tuple(gap == 3 for gap in gaps),
    )


def make_random_vgg(channels: tuple[int, ...] = (64, 64, 128, 128, 256), seed: int = 0) -> Vgg:
    """A network with random weights, of VGG-19's shape by default: the same cost, for timings and tests."""
    state = random_state(channels, seed)
    return make_vgg(state, "random weights")


def random_state(channels: tuple[int, ...], seed: int) -> dict[str, Tensor]:
    """A state dict of torchvision's names: VGG-19's first five convolutions, with these output channels.

    Scaled as He et al. (2015), so that activations neither grow nor vanish.
    """
    generator = torch.Generator().manual_seed(seed)
    state = {}
    inputs = 3
    for number, outputs in zip((0, 2, 5, 7, 10), channels, strict=True):
        scale = (2.0 / (9 * inputs)) ** 0.5
        state[f"features.{number}.weight"] = scale * torch.randn(outputs, inputs, 3, 3, generator=generator)
        state[f"features.{number}.bias"] = torch.zeros(outputs)
        inputs = outputs
    return state


def vgg_place(url: str) -> Path:
    """Where torchvision's weights are once they have been downloaded: in torch's own cache."""
    return cache_folder() / url.rpartition("/")[2]


def download_vgg(url: str) -> Path:
    """torchvision's weights, downloaded once."""
    path = vgg_place(url)
    name, digest = path.stem.split("-")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with one_after_another(path.with_name(f"{path.name}.lock")):
                if not path.exists():  # another process may have fetched it meanwhile
                    # Checks the digest that the name ends with, and renames only what is whole.
                    torch.hub.download_url_to_file(url, str(path), hash_prefix=digest, progress=False)
        except (OSError, RuntimeError) as error:
            raise GenintError(
                f"{name}: cannot download {url} (about 540 MB): {error}; put the file on this machine and give it with "
                f"--input {name}=FILE"
            ) from error
    return path
