"""The folded generator makes the package's images, whatever stands beside a sample in its batch."""

import numpy as np
import pytest
import torch
from genint.manifests.errors import UsageError
from genint.pipeline.biggan.fast_generator import FastGenerator, Precision, batch_norm_statistics, fold
from genint.pipeline.biggan.generator import PUBLISHED_CONFIGS, make_random_generator
from pytorch_pretrained_biggan import BigGAN, BigGANConfig
from pytorch_pretrained_biggan.model import BigGANBatchNorm
from torch import Tensor

MINI = BigGANConfig(
    output_dim=32,
    z_dim=64,
    class_embed_dim=64,
    channel_width=16,
    num_classes=10,
    layers=[[True, 16, 8], [False, 8, 8], [True, 8, 4], [False, 4, 4], [True, 4, 2], [False, 2, 1]],
    attention_layer_position=3,
    eps=1e-4,
    n_stats=51,
)

# Halves channels in a block without upsampling, as no published configuration does, and holds 11 sets of statistics.
ODD = BigGANConfig(
    output_dim=16,
    z_dim=12,
    class_embed_dim=12,
    channel_width=8,
    num_classes=3,
    layers=[(False, 16, 8), (True, 8, 8), (False, 8, 4), (True, 4, 2), (False, 2, 1)],
    attention_layer_position=0,
    eps=1e-3,
    n_stats=11,
)


@pytest.fixture(scope="module")
def mini() -> BigGAN:
    return make_random_generator(MINI, seed=3)


@pytest.fixture(scope="module")
def fast(mini: BigGAN) -> FastGenerator:
    return fold(mini, 1.0, batch_size=4)


def samples(config: BigGANConfig, count: int) -> tuple[Tensor, Tensor]:
    """Latents [N, z_dim] within (-2, 2) and labels [N]."""
    generator = torch.Generator().manual_seed(11)
    latents = torch.randn(count, config.z_dim, generator=generator).clamp(-2, 2)
    return latents, torch.randint(config.num_classes, (count,), generator=generator)


def package_images(model: BigGAN, latents: Tensor, class_labels: Tensor, truncation: float) -> Tensor:
    """Images of the package's own forward pass, one at a time as the released code does it."""
    class_vectors = torch.eye(model.config.num_classes)[class_labels]
    with torch.inference_mode():
        images = [model(z[None], y[None], truncation) for z, y in zip(latents, class_vectors, strict=True)]
    return torch.cat(images)


@pytest.mark.parametrize("config", [MINI, ODD], ids=["mini", "odd"])
@pytest.mark.parametrize("truncation", [1.0, 0.5, 0.2])
def test_images_are_the_package_s(config: BigGANConfig, truncation: float) -> None:
    model = make_random_generator(config, seed=3)
    latents, class_labels = samples(config, 5)
    images = fold(model, truncation, batch_size=2)(latents * truncation, class_labels)
    assert images.shape == (5, 3, config.output_dim, config.output_dim)
    assert images.dtype == torch.float32
    expected = package_images(model, latents * truncation, class_labels, truncation)
    assert expected.std() > 0.2
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-4)


# The larger two have fewer channels, and one truncation, for time.
@pytest.mark.parametrize(
    ("name", "channel_width", "truncations", "count"),
    [
        ("biggan-deep-128", 128, (1.0, 0.5, 0.2), 2),
        ("biggan-deep-256", 64, (1.0,), 1),
        ("biggan-deep-512", 32, (1.0,), 1),
    ],
)
def test_images_of_the_published_configurations_are_the_package_s(
    name: str, channel_width: int, truncations: tuple[float, ...], count: int
) -> None:
    config = BigGANConfig(**(PUBLISHED_CONFIGS[name].to_dict() | {"channel_width": channel_width}))
    model = make_random_generator(config, seed=3)
    latents, class_labels = samples(config, count)
    for truncation in truncations:
        images = fold(model, truncation, batch_size=count)(latents * truncation, class_labels)
        expected = package_images(model, latents * truncation, class_labels, truncation)
        assert expected.std() > 0.2
        torch.testing.assert_close(images, expected, rtol=0, atol=1e-4)


def test_latent_class_and_truncation_change_the_image(mini: BigGAN, fast: FastGenerator) -> None:
    latents = samples(MINI, 2)[0]
    image = fast(latents[:1], torch.tensor([0]))
    for other in (
        fast(latents[1:], torch.tensor([0])),
        fast(latents[:1], torch.tensor([1])),
        fold(mini, 0.5, batch_size=4)(latents[:1], torch.tensor([0])),
    ):
        assert (image - other).abs().mean() > 0.05


def test_bf16_is_close_to_fp32(mini: BigGAN, fast: FastGenerator) -> None:
    """bf16 has 8 bits: a mean difference of 1 % of the range, where images of two samples differ by 20 %."""
    latents, class_labels = samples(MINI, 8)
    images = fold(mini, 1.0, batch_size=4, precision="bf16")(latents, class_labels)
    assert images.dtype == torch.float32
    difference = (images - fast(latents, class_labels)).abs()
    assert 0 < difference.mean() < 0.02
    assert difference.max() < 0.3


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_batch_gives_the_same_bits(mini: BigGAN, precision: Precision) -> None:
    latents, class_labels = samples(MINI, 6)
    first = fold(mini, 0.5, batch_size=4, precision=precision)(latents, class_labels)
    second = fold(mini, 0.5, batch_size=4, precision=precision)(latents, class_labels)
    assert torch.equal(first, second)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_image_does_not_depend_on_its_neighbours(mini: BigGAN, precision: Precision) -> None:
    generator = fold(mini, 1.0, batch_size=4, precision=precision)
    latents, class_labels = samples(MINI, 8)
    images = generator(latents, class_labels)
    assert torch.equal(generator(latents[4:], class_labels[4:]), images[4:])
    assert torch.equal(generator(latents[:3], class_labels[:3]), images[:3])  # a short batch
    assert torch.equal(generator(latents[:1], class_labels[:1]), images[:1])
    others = latents.flip(0).clone()
    others[2] = latents[2]
    other_labels = class_labels.flip(0).clone()
    other_labels[2] = class_labels[2]
    assert torch.equal(generator(others, other_labels)[2], images[2])


def test_no_samples_give_no_images(fast: FastGenerator) -> None:
    pixels, finite = fast.render(torch.empty(0, MINI.z_dim), torch.empty(0, dtype=torch.int64))
    assert pixels.shape == (0, 32, 32, 3)
    assert finite.shape == (0,)


def test_pixels_are_the_images_rounded(fast: FastGenerator) -> None:
    latents, class_labels = samples(MINI, 5)
    pixels, finite = fast.render(latents, class_labels)
    images = fast(latents, class_labels).permute(0, 2, 3, 1).double().numpy()
    assert pixels.dtype == np.uint8
    assert finite.dtype == np.bool_
    assert finite.all()
    assert np.abs(pixels - (images + 1) / 2 * 255).max() <= 0.5 + 1e-4


@pytest.mark.parametrize(("bias", "value"), [(50.0, 255), (-50.0, 0)])
def test_white_stays_white_and_black_black(bias: float, value: int) -> None:
    model = make_random_generator(MINI, seed=3)
    model.generator.conv_to_rgb.bias.data.fill_(bias)
    pixels, _ = fold(model, 1.0, batch_size=2).render(*samples(MINI, 2))
    assert (pixels == value).all()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_latent_that_is_not_finite_marks_its_sample_alone(mini: BigGAN, precision: Precision, value: float) -> None:
    generator = fold(mini, 1.0, batch_size=4, precision=precision)
    latents, class_labels = samples(MINI, 6)
    pixels, _ = generator.render(latents, class_labels)
    broken = latents.clone()
    broken[1, 5] = value
    broken_pixels, finite = generator.render(broken, class_labels)
    assert finite.tolist() == [True, False, True, True, True, True]
    assert (broken_pixels[finite] == pixels[finite]).all()


@pytest.mark.parametrize(
    ("truncation", "expected"),
    [
        (1.0, [(50, 1.0)]),
        (0.02, [(1, 1.0)]),
        (0.58, [(29, 1.0)]),  # 0.58 / 0.02 is 28.999999999999996: the package takes entry 28
        (0.94, [(47, 1.0)]),
        (0.505, [(25, 0.75), (26, 0.25)]),
        (0.005, [(0, 0.75), (1, 0.25)]),
        (0.999, [(49, 0.05), (50, 0.95)]),
    ],
)
def test_statistics_between_stored_truncations_are_weighted_by_nearness(
    truncation: float, expected: list[tuple[int, float]]
) -> None:
    norm = BigGANBatchNorm(3, condition_vector_dim=4)
    generator = torch.Generator().manual_seed(2)
    norm.running_means.normal_(generator=generator)
    norm.running_vars.uniform_(0.5, 2, generator=generator)
    mean, variance = batch_norm_statistics(norm, truncation)
    for statistic, rows in ((mean, norm.running_means), (variance, norm.running_vars)):
        by_hand = sum(weight * rows[index].numpy().astype(np.float64) for index, weight in expected)
        np.testing.assert_allclose(statistic.numpy(), by_hand, rtol=0, atol=1e-9)


def test_images_off_the_grid_use_the_interpolated_statistics(mini: BigGAN) -> None:
    """0.51 is half way between two entries, where the package's swapped weights are right too; 0.515 is not."""
    latents, class_labels = samples(MINI, 2)
    half_way = fold(mini, 0.51, batch_size=2)(latents * 0.51, class_labels)
    expected = package_images(mini, latents * 0.51, class_labels, 0.51)
    torch.testing.assert_close(half_way, expected, rtol=0, atol=1e-4)
    quarter = fold(mini, 0.515, batch_size=2)(latents * 0.515, class_labels)
    swapped = package_images(mini, latents * 0.515, class_labels, 0.505)
    torch.testing.assert_close(quarter, swapped, rtol=0, atol=1e-4)


def test_a_cpu_takes_a_batch_in_parts_that_fit_it() -> None:
    wide = BigGANConfig(**(MINI.to_dict() | {"channel_width": 64}))
    model = make_random_generator(wide, seed=3)
    assert fold(model, 1.0, batch_size=64).batch_size == 64
    assert fold(model, 1.0, batch_size=1000).batch_size == 256


@pytest.mark.parametrize("truncation", [0.0, -0.5, 1.5, float("nan")])
def test_a_truncation_without_statistics_is_refused(mini: BigGAN, truncation: float) -> None:
    with pytest.raises(UsageError, match=r"truncations in \(0, 1\]"):
        fold(mini, truncation, batch_size=1)


def test_requests_that_cannot_be_met_are_refused(mini: BigGAN, fast: FastGenerator) -> None:
    with pytest.raises(UsageError, match="'fp16': not one of fp32, bf16"):
        fold(mini, 1.0, batch_size=1, precision="fp16")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="batch size 0"):
        fold(mini, 1.0, batch_size=0)
    with pytest.raises(UsageError, match="device 'gpu'"):
        fold(mini, 1.0, batch_size=1, device="gpu")
    latents, class_labels = samples(MINI, 2)
    with pytest.raises(UsageError, match=r"takes \[N, 64\] and \[N\]"):
        fast(latents[:, :60], class_labels)
    with pytest.raises(UsageError, match=r"takes \[N, 64\] and \[N\]"):
        fast(latents, class_labels[:1])
    with pytest.raises(UsageError, match="class label 10: this generator has classes 0 to 9"):
        fast(latents, torch.tensor([3, 10]))
