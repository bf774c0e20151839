"""Principal directions of a BigGAN layer: exactly for the first, from samples for any other."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_pretrained_biggan import BigGAN
from pytorch_pretrained_biggan.model import GenBlock
from torch import Tensor

from ...manifests.directions import Directions, component_signs, sign_margins, value_margins
from ...manifests.errors import GenintError, UsageError
from ...manifests.randomness import normal, random_words, truncated_normal
from ..networks.kernels import repeatable_kernels

FIRST_LAYER = "generator.gen_z"

# The package cuts the normal distribution at two standard deviations, then scales it by the truncation.
NORMAL_BOUND = 2.0
LATENT_STDEV = 0.8796256610342398  # of that distribution at truncation 1

# Singular values below this share of the first are rounding: they are roots of eigenvalues in double precision.
SMALLEST_SHARE = 1e-7


def exact_directions(model: BigGAN, num_directions: int, class_label: int = 0) -> Directions:
    """Principal directions of `generator.gen_z`, without sampling.

    The layer is linear, act = W_z z + W_c c(y) + b, and z isotropic: the components of its activations are the left
    singular vectors of W_z, the directions of z the right ones. They are the same for every class, as the paper's
    Theorem 1 asks; `class_label` selects only whose mean activation is given.
    """
    _check_request(model, num_directions, class_label)
    layer, z_dim = model.generator.gen_z, model.config.z_dim
    weight, u, v = (_to_numpy(tensor) for tensor in (layer.weight_orig, layer.weight_u, layer.weight_v))
    # Spectral norm as a forward pass in eval mode computes it: of the full matrix, by the stored vectors.
    weight = weight / (u @ (weight @ v))
    if not np.isfinite(weight).all():
        raise GenintError(f"{FIRST_LAYER}: weights that are not finite once divided by their spectral norm")
    w_z, w_c = weight[:, :z_dim], weight[:, z_dim:]
    # The Gram matrix has z_dim rows where W_z has 4 * 4 * 16 * channel_width.
    squares, vectors = np.linalg.eigh(w_z.T @ w_z)
    values = np.sqrt(np.maximum(squares[::-1], 0.0))
    _check_rank(FIRST_LAYER, values, num_directions)
    latent = vectors.T[::-1][:num_directions]
    activation = latent @ w_z.T / values[:num_directions, None]
    signs = component_signs(activation)[:, None]
    embedding = _to_numpy(model.embeddings.weight[:, class_label])
    return Directions(
        latent=latent * signs,
        latent_mean=np.zeros(z_dim),
        latent_stdev=np.ones(num_directions),
        activation=(activation * signs).astype(np.float32),
        activation_mean=(w_c @ embedding + _to_numpy(layer.bias)).astype(np.float32),
        activation_stdev=LATENT_STDEV * values[:num_directions],
        activation_shape=(len(weight),),
        variance_ratio=values[:num_directions] ** 2 / (values**2).sum(),
        random_stdevs=LATENT_STDEV * np.linalg.norm(_random_units(num_directions, len(weight)) @ w_z, axis=1),
        sign_margins=sign_margins(activation),
        value_margins=value_margins(values, num_directions),
        layer=FIRST_LAYER,
        class_label=class_label,
        source="exact",
    )


@torch.no_grad()
@repeatable_kernels()
def sampled_directions(
    model: BigGAN,
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
    many samples there are. The latents are those of the package (a normal cut at 2, times the truncation), keyed by
    seed, layer and batch. Runs on the model's device, in double precision beyond the model itself.
    """
    _check_request(model, num_directions, class_label)
    _check_sampling(model, layer, num_directions, samples, truncation)
    z_dim, device, dtype = model.config.z_dim, model.embeddings.weight.device, model.embeddings.weight.dtype

    def sample(stream: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of latents [B, z_dim] and activations [B, D], float64."""
        for batch, start in enumerate(range(0, samples, batch_size)):
            count = min(batch_size, samples - start)
            words = random_words(seed, f"{layer} {stream}", batch, count=count * z_dim)
            z = torch.from_numpy(truncation * truncated_normal(words, NORMAL_BOUND).reshape(count, z_dim)).to(device)
            activations = _run_to_layer(model, layer, z.to(dtype), class_label, truncation)
            if not activations.isfinite().all():
                raise GenintError(f"{layer}: activations that are not finite in samples {start}..{start + count - 1}")
            yield z, activations.flatten(1).double()

    origin = torch.zeros(1, z_dim, device=device, dtype=dtype)
    shape = tuple(_run_to_layer(model, layer, origin, class_label, truncation).shape[1:])

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


def _run_to_layer(model: BigGAN, layer: str, z: Tensor, class_label: int, truncation: float) -> Tensor:
    """Activations [N, ...] of `layer`: the generator's forward pass, stopped there."""
    generator = model.generator
    embedding = model.embeddings.weight[:, class_label].expand(len(z), -1)
    condition = torch.cat((z, embedding), dim=1)
    x: Tensor = generator.gen_z(condition)
    if layer == FIRST_LAYER:
        return x
    x = x.view(len(z), 4, 4, -1).permute(0, 3, 1, 2).contiguous()
    for block in generator.layers[: _layer_names(model).index(layer)]:
        x = block(x, condition, truncation) if isinstance(block, GenBlock) else block(x)
    return x


def _layer_names(model: BigGAN) -> list[str]:
    """Layers that can have directions, in the order of the forward pass."""
    return [FIRST_LAYER, *(f"generator.layers.{i}" for i in range(len(model.generator.layers)))]


def _random_units(count: int, size: int) -> NDArray[np.float64]:
    """Random vectors of length 1, [count, size], the same for every model."""
    units = np.stack([normal(random_words(0, "random units", i, count=size)) for i in range(count)])
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    return units


def _to_numpy(tensor: Tensor) -> NDArray[np.float64]:
    """The tensor in double precision on the CPU; it may share memory, so nothing writes to it."""
    array: NDArray[np.float64] = tensor.detach().cpu().double().numpy()
    return array


def _check_request(model: BigGAN, num_directions: int, class_label: int) -> None:
    if not 1 <= num_directions <= model.config.z_dim:
        raise UsageError(
            f"num_directions = {num_directions}: a latent of {model.config.z_dim} numbers has 1 to that many"
        )
    if not 0 <= class_label < model.config.num_classes:
        raise UsageError(f"class_label = {class_label}: the generator has classes 0 to {model.config.num_classes - 1}")


def _check_sampling(model: BigGAN, layer: str, num_directions: int, samples: int, truncation: float) -> None:
    if layer not in _layer_names(model):
        raise UsageError(f"no layer {layer!r} to take directions of; there are {', '.join(_layer_names(model))}")
    if samples <= num_directions:
        raise UsageError(f"samples = {samples}: {num_directions} directions need more samples than that")
    if not 0 < truncation <= 1:
        raise UsageError(f"truncation = {truncation}: the generator has statistics for above 0 to 1")
    if math.modf(truncation / (1.0 / (model.config.n_stats - 1)))[0] != 0:
        # Off its grid, by the package's own arithmetic, it interpolates with the weights the wrong way round.
        raise UsageError(f"truncation = {truncation}: the statistics read there would be wrong; take 1.0, 0.5 or 0.2")
    assert not model.training, "a forward pass in train mode moves the spectral-norm vectors"


def _check_rank(layer: str, values: NDArray[np.float64], num_directions: int) -> None:
    rank = int((values > SMALLEST_SHARE * values[0]).sum())
    if rank < num_directions:
        raise GenintError(f"{layer}: activations vary along {rank} directions only, {num_directions} were asked for")
