"""Each loss of a CGN is its formula, and moves the mechanisms that it is meant for."""

from collections.abc import Sequence

import pytest
import torch
from genint.pipeline.cgn import losses
from torch import Tensor


def _masks(*values: float) -> Tensor:
    return torch.tensor(values).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2)


def test_reconstruction_is_the_mean_absolute_difference() -> None:
    generated = torch.tensor([0.5, -1.0, 0.0]).reshape(1, 3, 1, 1)
    target = torch.tensor([0.0, 1.0, 0.25]).reshape(1, 3, 1, 1)
    assert losses.reconstruction_loss(generated, target).item() == pytest.approx(2.75 / 3)


def test_style_compares_gram_matrices_layer_by_layer() -> None:
    def features(images: Tensor) -> Sequence[Tensor]:
        return [images, 2 * images, 3 * images]

    images = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).reshape(1, 2, 1, 2)
    target = torch.zeros(1, 2, 1, 2)
    # Gram of the images / (c h w) = diag(1, 4) / 4: mean of absolute values 5 / 16; of twice the images 4 times that.
    expected = 5e3 * (0.1**2 * 5 / 16 + 0.2**2 * 4 * 5 / 16)
    assert losses.style_loss(features, images, target, [0.1, 0.2, 0]).item() == pytest.approx(expected)
    assert losses.style_loss(features, images, images, [1, 1, 1]).item() == 0


def test_entropy_is_in_bits() -> None:
    assert losses.mask_entropy(_masks(0.5)).item() == pytest.approx(1.0)
    assert losses.mask_entropy(_masks(0.25)).item() == pytest.approx(0.811278)
    assert losses.mask_entropy(_masks(0.5, 0.25)).item() == pytest.approx((1 + 0.811278) / 2)


def test_mask_size_costs_outside_its_range_alone() -> None:
    assert losses.mask_size_loss(_masks(0.1, 0.5, 0.9), 0.1, 0.9).item() == 0
    # By picture: one too small and one too large do not make up for each other.
    assert losses.mask_size_loss(_masks(0.04, 0.96), 0.1, 0.9).item() == pytest.approx(0.06)


def test_background_loss_is_the_mean_saliency() -> None:
    assert losses.background_loss(_masks(0.2, 0.6)).item() == pytest.approx(0.4)


def test_least_squares() -> None:
    assert losses.lsgan_generator_loss(torch.tensor([1.0, 3.0])).item() == 2.0
    assert losses.lsgan_discriminator_loss(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0])).item() == 0.5 * (0.5 + 5)


def test_a_collage_holds_the_patches_of_its_mask_alone() -> None:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 2  # nowhere 0 or 1
    masks = torch.zeros(2, 1, 8, 8)
    images[0, :, 2:4, 5:7], masks[0, :, 2:4, 5:7] = 1.0, 1.0
    images[1, :, 6:8, 0:2], masks[1, :, 6:8, 0:2] = 0.0, 1.0
    draws = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(1))
    collage = losses.make_collage(images, masks, draws, side=8, patch=2, candidates=1)
    assert torch.equal(collage, torch.stack([torch.ones(3, 8, 8), torch.zeros(3, 8, 8)]))


def test_draws_pick_among_the_best_windows_and_keep_their_pixels_together() -> None:
    images = torch.arange(16.0).reshape(1, 1, 4, 4).expand(1, 3, 4, 4)
    masks = torch.zeros(1, 1, 4, 4)
    masks[0, 0, 0, :2], masks[0, 0, 3, 3] = 1.0, 0.5
    draws = torch.tensor([[[0.0, 0.6], [0.99, 0.4]]])
    one = losses.make_collage(images, masks, draws, side=4, patch=2, candidates=1)
    window = torch.tensor([[0.0, 1.0], [4.0, 5.0]])
    assert torch.equal(one[0, 0], window.repeat(2, 2))
    # The second best are the windows that hold one of the two pixels of the mask.
    two = losses.make_collage(images, masks, draws, side=4, patch=2, candidates=2)[0, 0]
    assert torch.equal(two[:2, :2], window)
    assert not torch.equal(two[:2, 2:], window)
    # With a threshold that one window alone reaches, it is all there is; and one is left where none reaches it.
    for threshold in (0.4, 0.9):
        least = losses.make_collage(images, masks, draws, side=4, patch=2, candidates=9, threshold=threshold)
        assert torch.equal(least, one)


def test_a_collage_has_the_image_s_size_whatever_its_tiles() -> None:
    images, masks = torch.rand(2, 3, 32, 32), torch.rand(2, 1, 32, 32)
    collage = losses.make_collage(images, masks, torch.rand(2, 6, 6), side=20, patch=3, candidates=100)
    assert collage.shape == images.shape


def test_nothing_flows_through_a_collage() -> None:
    images, masks = (torch.rand(1, channels, 8, 8, requires_grad=True) for channels in (3, 1))
    collage = losses.make_collage(images, masks, torch.rand(1, 2, 2), side=8, patch=4, candidates=3)
    assert not collage.requires_grad
