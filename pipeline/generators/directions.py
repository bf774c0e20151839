"""Principal directions of a generator's layer: exactly where it is linear in the latents, else from samples."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...manifests.directions import Directions, component_signs, sign_margins, value_margins
from ...manifests.errors import GenintError, UsageError
from ...manifests.randomness import normal, random_words, truncated_normal
from ...manifests.recipe import FIRST_LAYER
from ..networks.kernels import repeatable_kernels
from .network import Network, as_network, check_layer, placement, run_to_layer

# The package cuts the normal distribution at two standard deviations, then scales it by the truncation.
NORMAL_BOUND = 2.0
LATENT_STDEV = 0.8796256610342398  # of that distribution at truncation 1

# Singular values below this share of the first are rounding: they are roots of eigenvalues in double precision.
SMALLEST_SHARE = 1e-7


def exact_directions(
    model: nn.Module, num_directions: int, class_label: int = 0, layer: str = FIRST_LAYER
) -> Directions:
    """Principal directions of a layer that is linear in the latents, without sampling.

    act = W_z z + m(y), and z is isotropic: the components of the activations are the left singular vectors of W_z, the
    directions of z the right ones. They are the same for every class where the class only adds, as in BigGAN and as the
    paper's Theorem 1 asks; `class_label` says whose activations are looked at. Raises UsageError where the layer is not
    linear.
    """
    network = as_network(model)
    z_dim = network.z_dim
    _check_request(network, num_directions, class_label)
    check_layer(network, layer)
    linear = network.linear_layer(layer, class_label)
    w_z = linear.weight
    if not np.isfinite(w_z).all():
        raise GenintError(f"{layer}: weights that are not finite (divided by their spectral norm, where they have one)")
    # The Gram matrix has z_dim rows where W_z of BigGAN has 4 * 4 * 16 * channel_width.
    squares, vectors = np.linalg.eigh(w_z.T @ w_z)
    values = np.sqrt(np.maximum(squares[::-1], 0.0))
    _check_rank(layer, values, num_directions)
    latent = vectors.T[::-1][:num_directions]
    activation = latent @ w_z.T / values[:num_directions, None]
    signs = component_signs(activation)[:, None]
    return Directions(
        latent=latent * signs,
        latent_mean=np.zeros(z_dim),
        latent_stdev=np.ones(num_directions),
        activation=(activation * signs).astype(np.float32),
        activation_mean=linear.mean.astype(np.float32),
        activation_stdev=LATENT_STDEV * values[:num_directions],
        activation_shape=(len(w_z),),
        variance_ratio=values[:num_directions] ** 2 / (values**2).sum(),
        random_stdevs=LATENT_STDEV * np.linalg.norm(_random_units(num_directions, len(w_z)) @ w_z, axis=1),
        sign_margins=sign_margins(activation),
        value_margins=value_margins(values, num_directions),
        layer=layer,
        class_label=class_label,
        source="exact",
    )


@torch.no_grad()
@repeatable_kernels()
def sampled_directions(
    model: nn.Module,
    layer: str,
    num_directions: int,
    samples: int,
    class_label: int = 0,
    *,
    seed: int = 0,
    batch_size: int = 500,
    truncation: float = 1.0,
) -> Directions:
    """Principal directions of any layer for one class, from samples (GANSpace, Harkonen et al. 2020).

    A first stream of `samples` latents gives the principal components of the layer's activations, a second one the
    least-squares regression from coordinates along them back to z. Memory holds a batch and the components, however
    many samples there are. The latents are those of streams (a normal cut at 2, times the truncation), keyed by
    seed, layer and batch. Runs on the model's device, in double precision beyond the model itself.
    """
    network = as_network(model)
    _check_request(network, num_directions, class_label)
    _check_sampling(network, layer, num_directions, samples, truncation)
    z_dim, (device, dtype) = network.z_dim, placement(model)

    def sample(stream: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of latents [B, z_dim] and activations [B, D], float64."""
        for batch, start in enumerate(range(0, samples, batch_size)):
            count = min(batch_size, samples - start)
            words = random_words(seed, f"{layer} {stream}", batch, count=count * z_dim)
            z = torch.from_numpy(truncation * truncated_normal(words, NORMAL_BOUND).reshape(count, z_dim)).to(device)
            activations = run_to_layer(network, layer, z.to(dtype), class_label, truncation)
            if not activations.isfinite().all():
                raise GenintError(f"{layer}: activations that are not finite in samples {start}..{start + count - 1}")
            yield z, activations.flatten(1).double()

    origin = torch.zeros(1, z_dim, device=device, dtype=dtype)
    shape = tuple(run_to_layer(network, layer, origin, class_label, truncation).shape[1:])

    # First stream: the principal components of the activations.
    # A rank of twice what is asked for: what each update cuts off then lies well below the last component kept.
    pca = StreamedPca(2 * num_directions, math.prod(shape), device)
    for _, activations in sample("components"):
        pca.update(activations)
    values = pca.scaled_components.norm(dim=1)
    _check_rank(layer, _to_numpy(values), num_directions)
    components = pca.scaled_components[:num_directions] / values[:num_directions, None]
    components *= torch.from_numpy(component_signs(_to_numpy(components))).to(device)[:, None]
    stdev = values[:num_directions] / math.sqrt(samples - 1)

    # Second stream: the normal equations of z on the coordinates, which are white and so well conditioned.
    units = torch.from_numpy(_random_units(num_directions, math.prod(shape))).to(device)
    gram = values.new_zeros(num_directions, num_directions)
    cross = values.new_zeros(num_directions, z_dim)
    latent_sum = values.new_zeros(z_dim)
    unit_squares = values.new_zeros(num_directions)
    for z, activations in sample("regression"):
        centred = activations - pca.mean
        coordinates = centred @ components.T / stdev
        gram += coordinates.T @ coordinates
        cross += coordinates.T @ z
        latent_sum += z.sum(0)
        unit_squares += (centred @ units.T).square().sum(0)
    latent = torch.linalg.solve(gram, cross)

    activation = _to_numpy(components)
    return Directions(
        latent=_to_numpy(latent / latent.norm(dim=1, keepdim=True)),
        latent_mean=_to_numpy(latent_sum / samples),
        latent_stdev=np.ones(num_directions),
        activation=activation.astype(np.float32),
        activation_mean=_to_numpy(pca.mean).astype(np.float32),
        activation_stdev=_to_numpy(stdev),
        activation_shape=shape,
        variance_ratio=_to_numpy(values[:num_directions].square() / pca.total),
        random_stdevs=_to_numpy((unit_squares / samples).sqrt()),
        sign_margins=sign_margins(activation),
        value_margins=value_margins(_to_numpy(values), num_directions),
        layer=layer,
        class_label=class_label,
        source="sampled",
        samples=samples,
    )


class StreamedPca:
    """Principal components of rows seen a batch at a time, in the memory of `rank` rows (Ross et al. 2008).

    The algorithm of scikit-learn's IncrementalPCA, which the tests compare it with. Here it runs on the rows' device,
    and decomposes the small Gram matrix of the rows in hand: 7 times as fast at 500 rows of 8,192 on one core. The Gram
    matrix squares the condition number, hence double precision.
    """

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        self.rank = rank
        self.count = 0
        self.mean = torch.zeros(size, dtype=torch.float64, device=device)
        self.total = 0.0  # squared deviations from the mean, summed over all rows and entries
        # [<= rank, size]: component i times singular value i, in falling order.
        self.scaled_components = torch.zeros(0, size, dtype=torch.float64, device=device)

    def update(self, rows: Tensor) -> None:
        """Take in `rows` [B, size], float64."""
        count = self.count + len(rows)
        step = rows.mean(0) - self.mean
        # One row more makes up for centring old and new rows on their own means.
        correction = math.sqrt(self.count * len(rows) / count) * step
        new = torch.cat((rows - rows.mean(0), correction[None]))
        self.total += float(new.square().sum())
        stack = torch.cat((self.scaled_components, new))
        _, vectors = torch.linalg.eigh(stack @ stack.T)
        self.scaled_components = vectors.flip(1)[:, : self.rank].T @ stack
        self.mean += step * (len(rows) / count)
        self.count = count


def _random_units(count: int, size: int) -> NDArray[np.float64]:
    """Random vectors of length 1, [count, size], the same for every model."""
    units = np.stack([normal(random_words(0, "random units", i, count=size)) for i in range(count)])
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    return units


def _to_numpy(tensor: Tensor) -> NDArray[np.float64]:
    """The tensor in double precision on the CPU; it may share memory, so nothing writes to it."""
    array: NDArray[np.float64] = tensor.detach().cpu().double().numpy()
    return array


def _check_request(network: Network, num_directions: int, class_label: int) -> None:
    if not 1 <= num_directions <= network.z_dim:
        raise UsageError(f"num_directions = {num_directions}: a latent of {network.z_dim} numbers has 1 to that many")
    if not 0 <= class_label < network.num_classes:
        raise UsageError(f"class_label = {class_label}: the generator has classes 0 to {network.num_classes - 1}")


def _check_sampling(network: Network, layer: str, num_directions: int, samples: int, truncation: float) -> None:
    check_layer(network, layer)
    if samples <= num_directions:
        raise UsageError(f"samples = {samples}: {num_directions} directions need more samples than that")
    network.check_truncation(truncation)
    assert not network.model.training, "a forward pass in train mode moves statistics and spectral-norm vectors"


def _check_rank(layer: str, values: NDArray[np.float64], num_directions: int) -> None:
    rank = int((values > SMALLEST_SHARE * values[0]).sum())
    if rank < num_directions:
        raise GenintError(f"{layer}: activations vary along {rank} directions only, {num_directions} were asked for")
