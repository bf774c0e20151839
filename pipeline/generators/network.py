"""Two kinds of generators, BigGAN-deep and those of one's own, behind what rendering and directions need of one."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_pretrained_biggan import BigGAN
from torch import Tensor, nn

from ...manifests.errors import FormatError, GenintError, UsageError
from ...manifests.randomness import normal, random_words
from ...manifests.recipe import FIRST_LAYER
from ..biggan.fast_generator import fold
from ..networks.generator import DTYPES, Precision, Renderer, check_rendering
from ..networks.kernels import repeatable_kernels

# Relative to the largest activation: fp32 sums of a thousand terms agree to 1e-5.
LINEAR = 1e-3
LONGEST_LIST = 12


@dataclass(frozen=True)
class LinearLayer:
    """Activations of latents z in double precision: weight [D, z_dim] times z, and `mean` [D], those of z = 0."""

    weight: NDArray[np.float64]
    mean: NDArray[np.float64]


class Network(Protocol):
    """What rendering and directions need of a generator."""

    z_dim: int
    num_classes: int
    resolution: int
    model: nn.Module

    @property
    def layers(self) -> list[str]:
        """Layers that can have directions."""

    def renderer(
        self, truncation: float, *, batch_size: int, precision: Precision, device: str | torch.device
    ) -> Renderer:
        """Ready to render latents of a truncation."""

    def linear_layer(self, layer: str, class_label: int) -> LinearLayer:
        """The layer as a linear map of latents. Raises UsageError where it is none."""

    def check_truncation(self, truncation: float) -> None:
        """Raise UsageError where no activations are to be had for latents of a truncation."""

    def run(self, latents: Tensor, class_label: int, truncation: float) -> object:
        """A forward pass of one class; what it gives does not matter."""


def as_network(model: Any) -> Network:
    """A BigGAN, or a module that keeps the contract, as the pipeline uses it."""
    return BigGanNetwork(model) if isinstance(model, BigGAN) else OwnNetwork(model)


def placement(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where a model computes, and in what."""
    for tensor in chain(model.parameters(), model.buffers()):
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.float32


def run_to_layer(network: Network, layer: str, latents: Tensor, class_label: int, truncation: float) -> Tensor:
    """Activations [N, ...] of a layer: a forward pass that is left there."""

    def leave(_module: nn.Module, _arguments: object, output: object) -> None:
        raise _Reached(output)

    hook = network.model.get_submodule(layer).register_forward_hook(leave)
    try:
        network.run(latents, class_label, truncation)
    except _Reached as reached:
        output = reached.output
    else:
        raise UsageError(f"directions.layer = {layer!r}: no forward pass of this generator runs it")
    finally:
        hook.remove()
    if not isinstance(output, Tensor) or output.shape[:1] != latents.shape[:1] or output.dim() < 2:
        found = f"a tensor {list(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise UsageError(f"directions.layer = {layer!r}: it gives {found}; expected a tensor [{len(latents)}, ...]")
    return output


class _Reached(Exception):
    """Not an error: it ends a forward pass where its activations are known."""

    def __init__(self, output: object) -> None:
        self.output = output


def check_layer(network: Network, layer: str) -> None:
    """Raise UsageError where a generator has no such layer."""
    known = network.layers
    if layer not in known:
        more = f", and {len(known) - LONGEST_LIST} more" if len(known) > LONGEST_LIST else ""
        raise UsageError(f"no layer {layer!r} to take directions of; there are {', '.join(known[:LONGEST_LIST])}{more}")


def _not_linear(layer: str) -> UsageError:
    return UsageError(
        f'layer {layer!r} is not linear: its directions are found from samples; give directions.method = "sampled", in '
        "Python samples=1_000_000"
    )


def _to_numpy(tensor: Tensor) -> NDArray[np.float64]:
    """The tensor in double precision on the CPU; it may share memory, so nothing writes to it."""
    array: NDArray[np.float64] = tensor.detach().cpu().double().numpy()
    return array


class BigGanNetwork:
    """A BigGAN-deep: folded to render, its first layer read off the weights."""

    def __init__(self, model: BigGAN) -> None:
        self.model = model
        self.z_dim: int = model.config.z_dim
        self.num_classes: int = model.config.num_classes
        self.resolution: int = model.config.output_dim

    @property
    def layers(self) -> list[str]:
        return [FIRST_LAYER, *(f"generator.layers.{i}" for i in range(len(self.model.generator.layers)))]

    def renderer(
        self, truncation: float, *, batch_size: int, precision: Precision, device: str | torch.device
    ) -> Renderer:
        return fold(self.model, truncation, batch_size=batch_size, precision=precision, device=device)

    def linear_layer(self, layer: str, class_label: int) -> LinearLayer:
        """act = W_z z + W_c c(y) + b."""
        if layer != FIRST_LAYER:
            raise _not_linear(layer)
        gen_z = self.model.generator.gen_z
        weight, u, v = (_to_numpy(tensor) for tensor in (gen_z.weight_orig, gen_z.weight_u, gen_z.weight_v))
        # Spectral norm as a forward pass in eval mode computes it: of the full matrix, by the stored vectors.
        weight = weight / (u @ (weight @ v))
        embedding = _to_numpy(self.model.embeddings.weight[:, class_label])
        return LinearLayer(weight[:, : self.z_dim], weight[:, self.z_dim :] @ embedding + _to_numpy(gen_z.bias))

    def check_truncation(self, truncation: float) -> None:
        if not 0 < truncation <= 1:
            raise UsageError(f"truncation = {truncation}: the generator has statistics for above 0 to 1")
        if (truncation / (1.0 / (self.model.config.n_stats - 1))) % 1 != 0:
            # Off its grid, by the package's own arithmetic, it interpolates with the weights the wrong way round.
            raise UsageError(
                f"truncation = {truncation}: the statistics read there would be wrong; take 1.0, 0.5 or 0.2"
            )

    def run(self, latents: Tensor, class_label: int, truncation: float) -> object:
        embedding = self.model.embeddings.weight[:, class_label].expand(len(latents), -1)
        return self.model.generator(torch.cat((latents, embedding), dim=1), truncation)


class OwnNetwork:
    """A module that keeps the contract: called as it is."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.z_dim, self.num_classes, self.resolution = contract_sizes(model)

    @property
    def layers(self) -> list[str]:
        return [name for name, _ in self.model.named_modules() if name]

    def renderer(
        self, truncation: float, *, batch_size: int, precision: Precision, device: str | torch.device
    ) -> Renderer:
        device = check_rendering(batch_size, precision, device)
        sizes = self.z_dim, self.num_classes, self.resolution
        model = copy.deepcopy(self.model).to(device, DTYPES[precision])
        return _OwnRenderer(model, sizes, batch_size, device, DTYPES[precision])

    @torch.no_grad()
    @repeatable_kernels()
    def linear_layer(self, layer: str, class_label: int) -> LinearLayer:
        """Read off the activations of 0 and of the unit vectors, and tried on other latents."""
        device, dtype = placement(self.model)
        words = random_words(0, "latents to try a layer on", count=8 * self.z_dim)
        tries = normal(words).reshape(8, self.z_dim)
        latents = torch.from_numpy(np.concatenate([np.zeros((1, self.z_dim)), np.eye(self.z_dim), tries]))
        found = run_to_layer(self, layer, latents.to(device, dtype), class_label, 1.0)
        activations = _to_numpy(found.flatten(1))
        if not np.isfinite(activations).all():
            raise GenintError(f"{layer}: activations that are not finite")
        mean, units, tried = activations[0], activations[1 : self.z_dim + 1], activations[self.z_dim + 1 :]
        weight = (units - mean).T
        largest = np.abs(tried - mean).max()
        if np.abs(tries @ weight.T + mean - tried).max() > LINEAR * largest:
            raise _not_linear(layer)
        return LinearLayer(weight, mean)

    def check_truncation(self, truncation: float) -> None:
        if truncation <= 0:
            raise UsageError(f"truncation = {truncation}: expected a number above 0")

    def run(self, latents: Tensor, class_label: int, truncation: float) -> object:
        labels = torch.full((len(latents),), class_label, device=latents.device)
        return self.model(latents, labels)


class _OwnRenderer(Renderer):
    def __init__(
        self,
        model: nn.Module,
        sizes: tuple[int, int, int],
        batch_size: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._model, self._sizes, self._dtype = model, sizes, dtype
        self.batch_size, self.device = batch_size, device

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self._sizes

    def _forward(self, latents: Tensor, classes: Tensor) -> Tensor:
        if classes.dim() != 1:
            raise UsageError("class vectors: a generator of one's own takes labels [N] alone")
        images: Tensor = self._model(latents.to(self._dtype), classes)
        return images.float()


def contract_sizes(model: nn.Module) -> tuple[int, int, int]:
    """z_dim, num_classes and resolution of a module. Raises FormatError where one is no positive integer."""
    sizes = []
    for name in ("z_dim", "num_classes", "resolution"):
        value = getattr(model, name, None)
        if not isinstance(value, int) or value < 1:
            found = f"{name} = {value!r:.80}" if hasattr(model, name) else f"no {name}"
            raise FormatError(f"generator {type(model).__qualname__}: {found}; expected a positive integer")
        sizes.append(value)
    z_dim, num_classes, resolution = sizes
    return z_dim, num_classes, resolution


def check_contract(model: nn.Module) -> None:
    """Render two latents twice. Raises FormatError where that does not give what the contract says."""
    name = f"generator {type(model).__qualname__}"
    z_dim, num_classes, resolution = contract_sizes(model)
    latents = torch.from_numpy(normal(random_words(0, "latents to try a generator on", count=2 * z_dim)).clip(-2, 2))
    device, dtype = placement(model)
    latents = latents.reshape(2, z_dim).to(device, dtype)
    labels = torch.tensor([0, num_classes - 1], device=device)
    with torch.inference_mode(), repeatable_kernels():
        images, again = (_call(model, latents, labels, name) for _ in range(2))
    expected = [2, 3, resolution, resolution]
    if not isinstance(images, Tensor) or list(images.shape) != expected or not images.is_floating_point():
        found = f"{images.dtype} {list(images.shape)}" if isinstance(images, Tensor) else f"a {type(images).__name__}"
        raise FormatError(f"{name}: gives {found} for two latents; expected floating-point numbers {expected}")
    if not torch.equal(images.nan_to_num(), again.nan_to_num()):
        raise FormatError(
            f"{name}: two calls with one latent give two images; an image must follow from latent and label"
        )


def _call(model: Callable[..., Any], latents: Tensor, labels: Tensor, name: str) -> Any:
    try:
        return model(latents, labels)
    except (TypeError, ValueError, RuntimeError, LookupError, AttributeError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise FormatError(
            f"{name}: cannot be called with latents {list(latents.shape)} and labels [2]: {reason}"
        ) from error
