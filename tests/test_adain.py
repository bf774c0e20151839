"""AdaIN with files of the public layout: the formula, the two networks, and what is said of files that do not fit."""

from pathlib import Path

import pytest
import torch
from genint.manifests.errors import FormatError
from genint.pipeline.style.adain import AdainNetwork, adain, load_adain, make_random_adain
from torch import Tensor, nn
from torch.nn import functional as F

ENCODER, DECODER = (3, 4, 4, 6, 6, 8, 8, 8, 8, 10), (8, 8, 8, 8, 6, 6, 4, 4, 3)


@pytest.fixture
def network() -> AdainNetwork:
    return make_random_adain(ENCODER, DECODER)


@pytest.fixture
def files(network: AdainNetwork, tmp_path: Path) -> tuple[Path, Path]:
    """The two files; the encoder's goes on past relu4_1, as the public one does."""
    encoder = {**network.encoder.state_dict(), "32.weight": torch.ones(10, 10, 3, 3), "32.bias": torch.ones(10)}
    torch.save(encoder, tmp_path / "vgg_normalised.pth")
    torch.save(network.decoder.state_dict(), tmp_path / "decoder.pth")
    return tmp_path / "vgg_normalised.pth", tmp_path / "decoder.pth"


def pictures(seed: int, size: int = 32) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_statistics_of_the_content_become_those_of_the_style() -> None:
    content, style = torch.randn(2, 5, 16, 16), 3 * torch.randn(2, 5, 8, 8) + 7
    mixed = adain(content, style)
    torch.testing.assert_close(mixed.mean((2, 3)), style.mean((2, 3)), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mixed.std((2, 3)), style.std((2, 3)), atol=1e-3, rtol=1e-3)
    # What is left is the content's: the pattern within each channel.
    torch.testing.assert_close(F.instance_norm(mixed), F.instance_norm(content), atol=1e-3, rtol=1e-3)


def by_hand(encoder: dict[str, Tensor], decoder: dict[str, Tensor], content: Tensor, style: Tensor, alpha: float):
    """The public port's forward pass, spelled out with the numbers of its files."""

    def conv(state: dict[str, Tensor], number: int, x: Tensor) -> Tensor:
        weight, bias = state[f"{number}.weight"], state[f"{number}.bias"]
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect") if weight.shape[-1] == 3 else x, weight, bias)

    def encode(x: Tensor) -> Tensor:
        x = conv(encoder, 0, x)
        for number in (2, 5, 9, 12, 16, 19, 22, 25, 29):
            x = F.relu(conv(encoder, number, x))
            if number in (5, 12, 25):
                x = F.max_pool2d(x, 2, ceil_mode=True)
        return x

    c, s = encode(content), encode(style)
    deviations = [(f.flatten(2).var(2) + 1e-5).sqrt()[..., None, None] for f in (c, s)]
    means = [f.flatten(2).mean(2)[..., None, None] for f in (c, s)]
    x = alpha * ((c - means[0]) / deviations[0] * deviations[1] + means[1]) + (1 - alpha) * c
    for number in (1, 5, 8, 11, 14, 18, 21, 25, 28):
        x = conv(decoder, number, x)
        x = F.relu(x) if number != 28 else x
        if number in (1, 14, 21):
            x = F.interpolate(x, scale_factor=2, mode="nearest")
    return x.clamp(0, 1)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_images_are_those_of_the_formula(files: tuple[Path, Path], alpha: float) -> None:
    encoder, decoder = (torch.load(path, weights_only=True) for path in files)
    content, style = pictures(1), pictures(2)
    found = load_adain(*files).transfer(content, style, alpha)
    torch.testing.assert_close(found, by_hand(encoder, decoder, content, style, alpha), atol=1e-5, rtol=1e-5)
    assert found.std() > 0.01


def test_networks_have_the_sizes_of_the_public_files() -> None:
    network = make_random_adain()
    parameters = [sum(p.numel() for p in part.parameters()) for part in (network.encoder, network.decoder)]
    assert parameters == [3_505_740, 3_505_219]
    assert list(network.encoder.state_dict())[-2:] == ["29.weight", "29.bias"]
    assert list(network.decoder.state_dict())[-2:] == ["28.weight", "28.bias"]
    assert not any(p.requires_grad for part in (network.encoder, network.decoder) for p in part.parameters())


@pytest.mark.parametrize("size", [16, 20, 33])
def test_images_keep_the_size_of_the_content(network: AdainNetwork, size: int) -> None:
    assert network.transfer(pictures(1, size), pictures(2, size), 1.0).shape == (2, 3, size, size)


def test_files_in_the_wrong_order_are_refused(files: tuple[Path, Path]) -> None:
    with pytest.raises(FormatError, match=r"decoder\.pth: no convolution '0\.weight'"):
        load_adain(files[1], files[0])


def test_decoder_of_another_width_is_refused(files: tuple[Path, Path]) -> None:
    torch.save(make_random_adain((*ENCODER[:-1], 12), DECODER).decoder.state_dict(), files[1])
    with pytest.raises(FormatError, match=r"decoder\.pth: 1\.weight \[8, 12, 3, 3\], expected \[8, 10, 3, 3\]"):
        load_adain(*files)


def test_file_with_code_in_it_is_refused(files: tuple[Path, Path]) -> None:
    torch.save(nn.Linear(2, 2), files[0])
    with pytest.raises(FormatError, match="refused, it holds more than tensors"):
        load_adain(*files)
