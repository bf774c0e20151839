"""A CGN loads in either form, and its mechanisms are those of the published networks."""

import json
from pathlib import Path

import pytest
import torch
from genint.manifests.errors import FormatError, GenintError, UsageError
from genint.pipeline.biggan.generator import make_random_generator
from genint.pipeline.cgn.composition import compose
from genint.pipeline.cgn.mechanisms import BigGanCgn, fold_cgn, load_cgn, make_random_cgn
from genint.pipeline.cgn.mnist_form import MnistCgn, shuffle
from genint.pipeline.cgn.saliency import fold_saliency, load_saliency, make_saliency
from genint.pipeline.cgn.u2net import U2Net
from pytorch_pretrained_biggan import BigGANConfig
from torch import Tensor, nn

CONFIG = BigGANConfig(
    output_dim=16,
    z_dim=8,
    class_embed_dim=8,
    channel_width=8,
    num_classes=3,
    layers=[[True, 16, 8], [False, 8, 4], [True, 4, 2], [False, 2, 1]],
    attention_layer_position=2,
    eps=1e-4,
    n_stats=51,
)
OFFICIAL = ("colored", "double_colored", "wildlife")


@pytest.fixture(scope="module")
def latents() -> Tensor:
    return torch.randn(5, 8, generator=torch.Generator().manual_seed(0)).clamp(-2, 2)


def test_composition_is_a_weighted_sum_by_the_mask() -> None:
    mask = torch.tensor([0.0, 0.25, 1.0]).reshape(1, 1, 1, 3)
    foreground, background = torch.full((1, 3, 1, 3), 1.0), torch.full((1, 3, 1, 3), -1.0)
    assert compose(mask, foreground, background)[0, 0, 0].tolist() == [-1.0, -0.5, 1.0]


def test_folded_mechanisms_are_the_package_s_own(latents: Tensor) -> None:
    loaded = make_random_cgn(config=CONFIG, seed=1)
    labels = torch.tensor([0, 1, 2, 1, 0])
    vectors = torch.eye(3)[labels]
    cgn = fold_cgn(loaded, 0.5, batch_size=2)
    networks = loaded.networks
    assert isinstance(networks, BigGanCgn)
    with torch.no_grad():
        premask = networks.f_shape(latents, vectors, 0.5)
        expected_mask = networks.saliency(premask).clamp(1e-4, 0.9999)
        expected = compose(expected_mask, networks.f_text(latents, vectors, 0.5), networks.f_bg(latents, vectors, 0.5))
    mask = cgn.shape(latents, labels)
    rendered = compose(mask, cgn.texture(latents, labels), cgn.background(latents, labels))
    assert mask.shape == (5, 1, 16, 16)
    assert expected.std() > 0.1
    torch.testing.assert_close(mask, expected_mask, atol=1e-4, rtol=0)
    torch.testing.assert_close(rendered, expected, atol=1e-4, rtol=0)
    assert (expected - compose(mask, cgn.background(latents, labels), cgn.texture(latents, labels))).abs().max() > 0.1


@pytest.mark.parametrize("form", ["biggan", "mnist"])
def test_a_sample_does_not_depend_on_its_company(form: str) -> None:
    loaded = make_random_cgn(form, CONFIG)
    facts = loaded.facts
    cgn = fold_cgn(loaded, batch_size=4)
    noise = torch.randn(6, facts.z_dim, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(6) % facts.num_classes
    windows = torch.arange(12).reshape(6, 2) if facts.windows else None
    alone = windows[5:] if windows is not None else None
    assert torch.equal(cgn.shape(noise, labels)[5:], cgn.shape(noise[5:], labels[5:]))
    assert torch.equal(cgn.texture(noise, labels, windows)[5:], cgn.texture(noise[5:], labels[5:], alone))
    assert torch.equal(cgn.background(noise, labels, windows)[5:], cgn.background(noise[5:], labels[5:], alone))
    assert cgn.shape(noise[:0], labels[:0]).shape == (0, 1, facts.resolution, facts.resolution)


@pytest.mark.parametrize("form", ["biggan", "mnist"])
def test_class_vectors_say_what_labels_say_and_what_lies_between(form: str) -> None:
    loaded = make_random_cgn(form, CONFIG)
    facts = loaded.facts
    cgn = fold_cgn(loaded, batch_size=2)
    noise = torch.randn(2, facts.z_dim, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1])
    one_hot = torch.eye(facts.num_classes)[labels]
    torch.testing.assert_close(cgn.shape(noise, one_hot), cgn.shape(noise, labels), atol=1e-5, rtol=0)
    between = cgn.shape(noise, (one_hot + one_hot.flip(0)) / 2)
    assert (between - cgn.shape(noise, labels)).abs().max() > 1e-3


@pytest.mark.parametrize("form", ["biggan", "mnist"])
def test_a_label_out_of_range_is_refused(form: str) -> None:
    loaded = make_random_cgn(form, CONFIG)
    cgn = fold_cgn(loaded, batch_size=2)
    noise = torch.zeros(2, loaded.facts.z_dim)
    last = loaded.facts.num_classes - 1
    with pytest.raises(UsageError, match=rf"class label {last + 1}: this generator has classes 0 to {last}"):
        cgn.shape(noise, torch.tensor([0, last + 1]))
    with pytest.raises(UsageError, match="takes"):
        cgn.shape(noise, torch.zeros(2, 17))


def test_the_shuffler_s_window_is_the_sample_s_own() -> None:
    images = torch.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4).float()
    tiled = images.repeat(1, 1, 2, 2)
    shuffled = shuffle(images, torch.tensor([[1, 3], [4, 0]]))
    assert torch.equal(shuffled[0], tiled[0, :, 1:5, 3:7])
    assert torch.equal(shuffled[1], tiled[1, :, 4:8, 0:4])
    cgn = fold_cgn(make_random_cgn("mnist"), batch_size=2)
    noise, labels = torch.zeros(2, 32), torch.zeros(2, dtype=torch.int64)
    for windows, complaint in ((None, "none"), (torch.tensor([[0, 0], [0, 33]]), "0 to 33, expected 0 to 32")):
        with pytest.raises(UsageError, match=complaint):
            cgn.texture(noise, labels, windows)


def _reference(weights: dict[str, Tensor]) -> dict[str, nn.Module]:
    """The published layout, layer by layer in plain torch.nn, filled name by name."""

    def up(a: int, b: int) -> list[nn.Module]:
        up = nn.Upsample(scale_factor=2, mode="nearest")
        return [up, nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(0.2)]

    first = [nn.Linear(42, 4096), nn.Unflatten(1, (64, 8, 8))]
    norm = nn.InstanceNorm2d
    shape = nn.Sequential(*first, norm(64), *up(64, 32), norm(32), *up(32, 1), norm(1))
    parts: dict[str, nn.Module] = {"label_emb": nn.Embedding(10, 10), "f_shape": shape}
    for name in ("f_text1", "f_text2"):
        first = [nn.Linear(42, 4096), nn.Unflatten(1, (64, 8, 8))]
        last = [nn.Conv2d(32, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Tanh()]
        parts[name] = nn.Sequential(*first, *up(64, 64), *up(64, 32), *last)
    for name, part in parts.items():
        part.load_state_dict({k.removeprefix(f"{name}."): v for k, v in weights.items() if k.startswith(f"{name}.")})
        part.eval()
    return parts


@pytest.mark.parametrize("variant", OFFICIAL)
def test_official_mnist_checkpoints_render_as_their_layout_prescribes(shared_data: Path, variant: str) -> None:
    path = shared_data / "cgn" / f"cgn_{variant}_MNIST.pth"
    weights = torch.load(path, weights_only=True, map_location="cpu")
    loaded = load_cgn(path)
    facts = loaded.facts
    assert (facts.form, facts.z_dim, facts.num_classes, facts.resolution) == ("mnist", 32, 10, 32)
    assert loaded.networks.state_dict().keys() == weights.keys()
    cgn = fold_cgn(loaded, batch_size=8)
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(20, 32, generator=rng)
    labels = torch.arange(20) % 10
    windows = torch.randint(33, (2, 20, 2), generator=rng)
    reference = _reference(weights)
    with torch.no_grad():
        condition = torch.cat([noise, reference["label_emb"](labels)], 1)
        mask = reference["f_shape"](condition).clamp(1e-4, 0.9999)
        pictures = []
        for name, corners in zip(("f_text1", "f_text2"), windows.tolist(), strict=True):
            tiled = reference[name](condition).repeat(1, 1, 2, 2)
            cuts = [image[:, r : r + 32, c : c + 32] for image, (r, c) in zip(tiled, corners, strict=True)]
            pictures.append(torch.stack(cuts))
    texture, background = cgn.texture(noise, labels, windows[0]), cgn.background(noise, labels, windows[1])
    torch.testing.assert_close(cgn.shape(noise, labels), mask, atol=1e-5, rtol=0)
    torch.testing.assert_close(texture, pictures[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(background, pictures[1], atol=1e-5, rtol=0)
    composed = compose(cgn.shape(noise, labels), texture, background)
    torch.testing.assert_close(composed, mask * pictures[0] + (1 - mask) * pictures[1], atol=1e-5, rtol=0)
    assert 0.02 < float(mask.mean()) < 0.6


def test_a_folder_of_ours_loads_with_one_row_of_statistics_in_half_precision(tmp_path: Path, latents: Tensor) -> None:
    loaded = make_random_cgn(config=CONFIG, seed=3)
    networks = loaded.networks
    assert isinstance(networks, BigGanCgn)
    weights = {
        name: (value[-1:] if name.endswith(("running_means", "running_vars")) else value).half()
        for name, value in networks.state_dict().items()
    }
    torch.save(weights, tmp_path / "cgn.pth")
    names = ["a", "b", "c"]
    description = {**CONFIG.to_dict(), "class_names": names, "saliency": networks.saliency.describe()}
    (tmp_path / "config.json").write_text(json.dumps(description))
    again = load_cgn(tmp_path)
    assert again.facts.class_names == ("a", "b", "c")
    assert set(again.facts.digests) == {"cgn", "config"}
    labels = torch.tensor([0, 1, 2, 1, 0])
    masks = [fold_cgn(one, 1.0, batch_size=5).shape(latents, labels) for one in (loaded, again)]
    torch.testing.assert_close(masks[0], masks[1], atol=0.02, rtol=0)
    assert torch.equal(
        fold_cgn(again, 0.3, batch_size=5).texture(latents, labels),
        fold_cgn(again, 1.0, batch_size=5).texture(latents, labels),
    )


def test_the_official_imagenet_file_loads_without_its_frozen_generator(
    tmp_path: Path, latents: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genint.pipeline.cgn import mechanisms

    monkeypatch.setattr(mechanisms, "PUBLISHED_CONFIGS", {"biggan-deep-256": CONFIG})
    parts = {name: make_random_generator(CONFIG, seed) for seed, name in enumerate(("biggan_GT", "f_shape", "f_bg"))}
    parts["f_text"] = parts["f_bg"]
    official = {f"module.{name}.{k}": v for name, part in parts.items() for k, v in part.state_dict().items()}
    u2net = U2Net().state_dict()
    torch.save({**official, **{f"module.u2net.{k}": v for k, v in u2net.items()}}, tmp_path / "cgn.pth")
    loaded = load_cgn(tmp_path / "cgn.pth")
    networks = loaded.networks
    assert isinstance(networks, BigGanCgn)
    assert not networks.saliency.normalise
    assert load_cgn(tmp_path, normalise=True).networks.saliency.normalise  # type: ignore[union-attr]
    assert torch.equal(networks.f_bg.embeddings.weight, parts["f_bg"].embeddings.weight)
    assert torch.equal(networks.saliency.network.get_parameter("outconv.weight"), u2net["outconv.weight"])


def _error(kind: type[GenintError], path: Path) -> str:
    with pytest.raises(kind) as caught:
        load_cgn(path)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    return message


def test_what_is_no_cgn_says_what_it_should_be(tmp_path: Path) -> None:
    assert "no file" in _error(UsageError, tmp_path)
    file = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(3)}, file)
    assert "expected an official file of the MNIST form" in _error(FormatError, file)
    weights = MnistCgn().state_dict()
    torch.save({**weights, "label_emb.weight": torch.zeros(50, 50)}, file)
    assert "label_emb.weight" in _error(FormatError, file)
    del weights["f_text2.10.bias"]
    torch.save(weights, file)
    assert "1 missing (f_text2.10.bias)" in _error(FormatError, file)
    torch.save({"f_shape.generator.gen_z.bias": torch.zeros(1)}, tmp_path / "cgn.pth")
    (tmp_path / "config.json").write_text(CONFIG.to_json_string())
    assert "no table 'saliency'" in _error(FormatError, tmp_path)


def test_u2net_has_the_published_names_and_size(tmp_path: Path) -> None:
    network = U2Net().eval()
    assert sum(p.numel() for p in network.parameters()) == 44_009_869
    names = network.state_dict()
    assert names["stage1.rebnconv7.conv_s1.weight"].shape == (32, 32, 3, 3)
    assert names["stage5d.rebnconv3d.bn_s1.running_var"].shape == (256,)
    assert names["stage1d.rebnconv1d.conv_s1.weight"].shape == (64, 32, 3, 3)
    assert names["side6.weight"].shape == (1, 512, 3, 3)
    path = tmp_path / "u2net.pth"
    # Files of old versions do not count batches.
    torch.save({k: v for k, v in names.items() if "num_batches" not in k}, path)
    saliency, _ = load_saliency(path)
    assert not any(p.requires_grad for p in saliency.parameters())
    pictures = torch.rand(1, 3, 70, 50) * 2 - 1
    with torch.no_grad():
        found = saliency(pictures)
        folded = fold_saliency(saliency, torch.device("cpu"), torch.float32)(pictures)
    torch.testing.assert_close(folded, found, atol=1e-4, rtol=0)
    assert found.shape == (1, 1, 70, 50)
    assert 0 < found.min() < found.max() < 1


def test_normalisation_is_imagenet_s_unless_the_official_way_is_asked_for() -> None:
    saliency = make_saliency({"kind": "tiny", "channels": [4, 8], "normalise": True}, "").eval()
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    by_hand = ((images + 1) / 2 - mean.reshape(3, 1, 1)) / deviation.reshape(3, 1, 1)
    official = make_saliency({**saliency.describe(), "normalise": False}, "").eval()
    official.load_state_dict(saliency.state_dict())
    torch.testing.assert_close(saliency(images), official(by_hand))
    assert (saliency(images) - official(images)).abs().max() > 1e-4


def test_an_absent_saliency_file_says_what_to_get(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such file; expected u2net.pth \(176 MB"):
        load_saliency(tmp_path / "u2net.pth")
    torch.save({"stage1.rebnconvin.conv_s1.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "u2netp.pth")
    with pytest.raises(FormatError, match="not the full U2NET"):
        load_saliency(tmp_path / "u2netp.pth")
    torch.save({"x": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(FormatError, match="no saliency network"):
        load_saliency(tmp_path / "x.pth")
