"""The losses that make three copies of a generator into mechanisms (Sauer & Geiger 2021, section 3 and appendix A).

One formula a function. Images are [N, 3, H, W] in [-1, 1], masks [N, 1, H, W] in (0, 1).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..style.gatys import gram_matrix

# Features of images, from which Gram matrices are made: one [N, C, H, W] a layer.
Features = Callable[[Tensor], Sequence[Tensor]]
STYLE_SCALE = 5e3


def reconstruction_loss(generated: Tensor, target: Tensor) -> Tensor:
    """L1: the mean absolute difference."""
    return (generated - target).abs().mean()


def style_loss(features: Features, images: Tensor, target: Tensor, weights: Sequence[float]) -> Tensor:
    """The perceptual loss: sum over layers of 5,000 w^2 mean |Gram - Gram'|; layers of weight 0 are left out."""
    with torch.no_grad():
        wanted = features(target)
    total = images.new_zeros(())
    for weight, own, other in zip(weights, features(images), wanted, strict=True):
        if weight:
            total = total + STYLE_SCALE * weight**2 * (_gram(own) - _gram(other)).abs().mean()
    return total


def _gram(features: Tensor) -> Tensor:
    """The Gram matrix in float32, under autocast too: three digits would hide what is left to match."""
    with torch.autocast(features.device.type, enabled=False):
        return gram_matrix(features.float())


def mask_entropy(mask: Tensor) -> Tensor:
    """The binary loss: mean entropy of the mask's pixels in bits, 0 where each is 0 or 1."""
    return (-mask * torch.log2(mask) - (1 - mask) * torch.log2(1 - mask)).mean()


def mask_size_loss(mask: Tensor, smallest: float, largest: float) -> Tensor:
    """The mask loss: how far each mask's mean is below `smallest` or above `largest`, averaged."""
    mean = mask.mean((1, 2, 3))
    return (F.relu(smallest - mean) + F.relu(mean - largest)).mean()


def background_loss(saliency: Tensor) -> Tensor:
    """Mean saliency of what should be background."""
    return saliency.mean()


def lsgan_generator_loss(validity: Tensor) -> Tensor:
    """Least squares (Mao et al. 2017): mean (D(x_gen) - 1)^2."""
    return (validity - 1).square().mean()


def lsgan_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Least squares: half of mean (D(x) - 1)^2 and mean D(x_gen)^2."""
    return ((real - 1).square().mean() + fake.square().mean()) / 2


def make_collage(
    images: Tensor,
    masks: Tensor,
    draws: Tensor,
    *,
    side: int,
    patch: int,
    candidates: int,
    threshold: float | None = None,
) -> Tensor:
    """A carpet of each image's object: the target of its texture. Neither image nor mask gets a gradient.

    Image and mask are resized to `side` (bicubic); of all windows of `patch` x `patch` pixels the `candidates` of the
    highest mean mask stay, and with a `threshold` only those that reach it, at least one; `draws` pick among them, with
    replacement, and the picks are tiled and resized to the image's own size.

    draws: [N, tiles, tiles] uniform in [0, 1).
    """
    own_side = images.shape[-1]
    images, masks = images.detach(), masks.detach()
    if own_side != side:
        images, masks = (F.interpolate(x, (side, side), mode="bicubic", align_corners=False) for x in (images, masks))
    means = F.avg_pool2d(masks, patch, stride=1)
    width = means.shape[-1]
    best = means.flatten(1).topk(min(candidates, width**2), dim=1)  # the best first
    allowed = torch.full((len(images),), best.indices.shape[1], device=images.device)
    if threshold is not None:
        allowed = (best.values >= threshold).sum(1).clamp(min=1)
    picks = (draws.flatten(1) * allowed[:, None]).long()
    corners = best.indices.gather(1, picks)

    # Pixels of the collage: tile, then pixel within it, in rows and columns.
    tiles = draws.shape[1]
    within = torch.arange(patch, device=images.device)
    rows = (corners // width).view(-1, tiles, 1, tiles, 1) + within.view(1, 1, patch, 1, 1)
    columns = (corners % width).view(-1, tiles, 1, tiles, 1) + within.view(1, 1, 1, 1, patch)
    samples = torch.arange(len(images), device=images.device).view(-1, 1, 1, 1, 1)
    size = tiles * patch
    collage = images.permute(0, 2, 3, 1)[samples, rows, columns].reshape(len(images), size, size, 3).permute(0, 3, 1, 2)
    if size != own_side:
        collage = F.interpolate(collage, (own_side, own_side), mode="bicubic", align_corners=False)
    return collage.contiguous()
