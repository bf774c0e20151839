"""Render with a BigGAN-deep generator folded for one truncation: the same images for far less work.

Folding divides every weight by its spectral norm, turns each conditional batch norm into a scale and a shift that one
matrix product computes for all norms, merges biases into the norm that follows, and keeps 3 of conv_to_rgb's outputs.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_pretrained_biggan import BigGAN, BigGANConfig
from pytorch_pretrained_biggan.model import BigGANBatchNorm, GenBlock, SelfAttn
from torch import Tensor
from torch.nn import functional as F

from ...manifests.errors import UsageError
from ..networks.generator import DTYPES, Precision, Renderer, check_rendering

# Rows of the attention map in memory at a time: a whole map (4096 x 1024 a sample) leaves the cache and takes
# twice as long on a CPU.
_ATTENTION_ROWS = 512

# The largest activation that a CPU is given at once; batches beyond it only cost memory and page faults.
_CPU_ACTIVATION_BYTES = 2**26

# How the 4 rows (or columns) of a transposed convolution's kernel sum the 3 of a convolution after nearest upsampling.
_UPSAMPLED_TAPS = torch.tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class _Block:
    """A folded GenBlock; its batch norms' scales and shifts are given with each batch."""

    upsample: bool
    conv_0: Tensor  # [in, middle]
    conv_1: Tensor  # [middle, middle, 3, 3]; upsample: [middle, middle, 4, 4] of a transposed convolution
    conv_2: Tensor  # [middle, middle, 3, 3]
    conv_3: Tensor  # [middle, out]


@dataclass(frozen=True, eq=False)
class _Attention:
    """A folded SelfAttn."""

    projection: Tensor  # [in, in/8 + in/8 + in/2]: theta, phi and g
    projection_bias: Tensor
    output: Tensor  # [in/2, in]: o_conv times gamma


@dataclass(frozen=True, eq=False)
class FastGenerator(Renderer):
    """A generator folded for one truncation; made by `fold`. Activations are [N, H, W, C]."""

    config: BigGANConfig
    batch_size: int
    dtype: torch.dtype
    device: torch.device
    embedding: Tensor  # [num_classes, z_dim] float32
    gen_z: Tensor  # [2 * z_dim, 4 * 4 * 16 * channel_width] float32
    gen_z_bias: Tensor
    modulation: Tensor  # [2 * z_dim, all scales and shifts] float32
    modulation_bias: Tensor
    modulation_widths: list[int]  # scale, shift, scale, shift, ... in the order of use
    layers: list[_Block | _Attention]
    last_scale: Tensor  # [channel_width], of the batch norm without condition
    last_shift: Tensor
    conv_to_rgb: Tensor  # [3, channel_width, 3, 3]
    conv_to_rgb_bias: Tensor

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.config.z_dim, self.config.num_classes, self.config.output_dim

    def _forward(self, latents: Tensor, classes: Tensor) -> Tensor:
        embedded = self.embedding[classes] if classes.dim() == 1 else classes @ self.embedding
        condition = torch.cat([latents, embedded], dim=1)
        modulation = torch.addmm(self.modulation_bias, condition, self.modulation).to(self.dtype)
        modulations = iter(torch.split(modulation[:, None, None, :], self.modulation_widths, dim=-1))
        x = torch.addmm(self.gen_z_bias, condition, self.gen_z).to(self.dtype).view(len(condition), 4, 4, -1)
        for layer in self.layers:
            x = _run_block(layer, x, modulations) if isinstance(layer, _Block) else _run_attention(layer, x)
        x = _affine_relu_(x, self.last_scale, self.last_shift)
        rgb = F.conv2d(_channels_first(x), self.conv_to_rgb, self.conv_to_rgb_bias, padding=1)
        return rgb.float().tanh_()


def fold(
    model: BigGAN,
    truncation: float,
    *,
    batch_size: int,
    precision: Precision = "fp32",
    device: str | torch.device = "cpu",
) -> FastGenerator:
    """Fold a generator for the batch-norm statistics of one truncation, in (0, 1].

    That is the truncation the latents are drawn with, or 1.0 where they are drawn by threshold. Statistics between two
    stored truncations are interpolated linearly; the package swaps the two weights, so there its images differ.

    batch_size: samples computed together; on a CPU at most as many as measured to pay (8 at 128 px in fp32).
    """
    if not 0 < truncation <= 1:
        raise UsageError(f"truncation {truncation}: batch-norm statistics are stored for truncations in (0, 1] only")
    device = check_rendering(batch_size, precision, device)
    if device.type == "cpu":
        largest = model.config.output_dim**2 * model.config.channel_width * DTYPES[precision].itemsize
        batch_size = min(batch_size, max(1, _CPU_ACTIVATION_BYTES // largest))
    with torch.no_grad():
        return _fold(model, truncation, batch_size, device, DTYPES[precision])


def _fold(model: BigGAN, truncation: float, batch_size: int, device: torch.device, dtype: torch.dtype) -> FastGenerator:
    generator = model.generator

    def place(weight: Tensor) -> Tensor:
        memory_format = torch.channels_last if weight.dim() == 4 else torch.contiguous_format
        return weight.to(device, dtype, memory_format=memory_format)

    # The biases of gen_z and conv_to_rgb are added; every other one is left out and made good by the norm that follows.
    norms = []
    layers: list[_Block | _Attention] = []
    left_out = torch.zeros(16 * model.config.channel_width, dtype=torch.float64)
    for layer in generator.layers:
        if isinstance(layer, SelfAttn):
            layers.append(_fold_attention(layer, left_out, place))
            continue
        norms += [
            _fold_norm(layer.bn_0, truncation, left_out),
            _fold_norm(layer.bn_1, truncation, layer.conv_0.bias),
            _fold_norm(layer.bn_2, truncation, layer.conv_1.bias),
            _fold_norm(layer.bn_3, truncation, layer.conv_2.bias),
        ]
        layers.append(_fold_block(layer, place))
        left_out = left_out[: layer.conv_3.out_channels] + layer.conv_3.bias

    mean, variance = batch_norm_statistics(generator.bn, truncation)
    last_scale = generator.bn.weight * torch.rsqrt(variance + generator.bn.eps)
    return FastGenerator(
        config=model.config,
        batch_size=batch_size,
        dtype=dtype,
        device=device,
        embedding=model.embeddings.weight.t().to(device).contiguous(),
        gen_z=_normalised(generator.gen_z).t().float().to(device).contiguous(),
        gen_z_bias=generator.gen_z.bias.to(device),
        modulation=torch.cat([weight for weight, _ in norms], dim=1).float().to(device),
        modulation_bias=torch.cat([bias for _, bias in norms]).float().to(device),
        modulation_widths=[len(bias) // 2 for _, bias in norms for _ in range(2)],
        layers=layers,
        last_scale=place(last_scale),
        last_shift=place(generator.bn.bias + (left_out - mean) * last_scale),
        conv_to_rgb=place(_normalised(generator.conv_to_rgb)[:3]),
        conv_to_rgb_bias=place(generator.conv_to_rgb.bias[:3]),
    )


def batch_norm_statistics(norm: BigGANBatchNorm, truncation: float) -> tuple[Tensor, Tensor]:
    """Running mean and variance [C] float64 at a truncation, interpolated between the two stored nearest to it."""
    position = truncation * (len(norm.running_means) - 1)
    if abs(position - round(position)) < 1e-6:  # 0.58 of 51 is 28.999999999999996
        position = round(position)
    below, above = math.floor(position), math.ceil(position)
    mean, variance = (
        torch.lerp(rows[below].double(), rows[above].double(), position - below)
        for rows in (norm.running_means, norm.running_vars)
    )
    return mean, variance


def _fold_norm(norm: BigGANBatchNorm, truncation: float, left_out: Tensor) -> tuple[Tensor, Tensor]:
    """Weight [condition, 2C] and bias [2C] float64 that give a conditional norm's scale | shift from the condition.

    left_out: [C] the bias that the norm's input should have had.
    """
    mean, variance = batch_norm_statistics(norm, truncation)
    inverse_std = torch.rsqrt(variance + norm.eps)
    scale = _normalised(norm.scale) * inverse_std[:, None]
    shift = _normalised(norm.offset) + scale * (left_out - mean)[:, None]
    return torch.cat([scale, shift]).t(), torch.cat([inverse_std, (left_out - mean) * inverse_std])


def _fold_block(block: GenBlock, place: Callable[[Tensor], Tensor]) -> _Block:
    conv_1 = _normalised(block.conv_1)
    if block.up_sample:
        # Nearest upsampling and a 3 x 3 convolution read 2 x 2 different pixels: 4 products an output instead of 9.
        conv_1 = torch.einsum("oiyx,vy,hx->iovh", conv_1, _UPSAMPLED_TAPS, _UPSAMPLED_TAPS)
    return _Block(
        upsample=block.up_sample,
        conv_0=place(_normalised(block.conv_0).flatten(1).t()),
        conv_1=place(conv_1),
        conv_2=place(_normalised(block.conv_2)),
        conv_3=place(_normalised(block.conv_3).flatten(1).t()),
    )


def _fold_attention(attention: SelfAttn, left_out: Tensor, place: Callable[[Tensor], Tensor]) -> _Attention:
    convolutions = attention.snconv1x1_theta, attention.snconv1x1_phi, attention.snconv1x1_g
    projection = torch.cat([_normalised(convolution) for convolution in convolutions]).flatten(1)
    return _Attention(
        projection=place(projection.t()),
        projection_bias=place(projection @ left_out),
        output=place((_normalised(attention.snconv1x1_o_conv).flatten(1) * attention.gamma).t()),
    )


def _normalised(module: Any) -> Tensor:
    """The module's weight over its spectral norm, float64, as an eval-mode forward pass computes it."""
    weight: Tensor = module.weight_orig.double()
    norm: Tensor = module.weight_u.double() @ weight.flatten(1) @ module.weight_v.double()
    return weight / norm


def _run_block(block: _Block, x: Tensor, modulations: Iterator[Tensor]) -> Tensor:
    """x: [N, H, W, in] contiguous, may be overwritten; the result is [N, H', W', out] contiguous."""
    h = _affine_relu(x, next(modulations), next(modulations)) @ block.conv_0
    h = _affine_relu_(h, next(modulations), next(modulations))
    channels = block.conv_3.shape[1]  # the residual drops the others
    if block.upsample:
        h = _channels_last(F.conv_transpose2d(_channels_first(h), block.conv_1, stride=2, padding=1))
        count, height, width, _ = x.shape
        x = (
            x[:, :, None, :, None, :channels]
            .expand(count, height, 2, width, 2, channels)
            .reshape(*h.shape[:3], channels)
        )
    else:
        h = _channels_last(F.conv2d(_channels_first(h), block.conv_1, padding=1))
        x = x[..., :channels].contiguous()
    h = _affine_relu_(h, next(modulations), next(modulations))
    h = _channels_last(F.conv2d(_channels_first(h), block.conv_2, padding=1))
    h = _affine_relu_(h, next(modulations), next(modulations))
    # One product adds to the residual in place.
    x.view(-1, channels).addmm_(h.reshape(-1, h.shape[-1]), block.conv_3)
    return x


def _run_attention(attention: _Attention, x: Tensor) -> Tensor:
    """Self-attention over pixels, with keys and values max-pooled 2 x 2 (Zhang et al. 2019); x is overwritten."""
    channels = x.shape[-1]
    projected = torch.addmm(attention.projection_bias, x.view(-1, channels), attention.projection).view(
        *x.shape[:3], -1
    )
    theta = projected[..., : channels // 8].flatten(1, 2)
    pooled = _channels_last(F.max_pool2d(_channels_first(projected[..., channels // 8 :]), 2)).flatten(1, 2)
    phi, g = torch.split(pooled, [channels // 8, channels // 2], dim=2)
    attended = torch.cat(
        [
            torch.softmax(queries @ phi.transpose(1, 2), dim=2) @ g
            for queries in torch.split(theta, _ATTENTION_ROWS, dim=1)
        ],
        dim=1,
    )
    x.view(-1, channels).addmm_(attended.view(-1, channels // 2), attention.output)
    return x


def _affine_relu(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return torch.addcmul(shift, x, scale).relu_()


def _affine_relu_(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """`_affine_relu` in place."""
    return torch.addcmul(shift, x, scale, out=x).relu_()


def _channels_first(x: Tensor) -> Tensor:
    """[N, H, W, C] seen as [N, C, H, W] in channels_last memory format, as convolutions take it."""
    return x.permute(0, 3, 1, 2)


def _channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)
