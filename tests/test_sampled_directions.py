"""Directions from samples: against the exact ones, against scikit-learn, and in bounded memory."""

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from genint.manifests.directions import Directions, load_directions, save_directions
from genint.manifests.errors import GenintError, UsageError
from genint.manifests.randomness import normal, random_words, truncated_normal
from genint.pipeline.biggan.generator import make_random_generator
from genint.pipeline.generators.directions import StreamedPca, exact_directions, sampled_directions
from pytorch_pretrained_biggan import BigGAN, BigGANConfig
from sklearn.decomposition import IncrementalPCA
from torch.utils._python_dispatch import TorchDispatchMode

Z_DIM = 16
GEN_Z, BLOCK, ATTENTION = "generator.gen_z", "generator.layers.0", "generator.layers.3"


@pytest.fixture(scope="module")
def model() -> BigGAN:
    config = BigGANConfig(
        output_dim=32,
        z_dim=Z_DIM,
        class_embed_dim=Z_DIM,
        channel_width=4,
        num_classes=5,
        layers=[(True, 16, 8), (True, 8, 4), (True, 4, 2), (False, 2, 1)],
        attention_layer_position=3,
    )
    model = make_random_generator(config, seed=0)
    # Random weights give near-equal singular values, whose directions no sample could tell apart.
    model.generator.gen_z.weight_orig[:, :Z_DIM] *= 0.8 ** torch.arange(Z_DIM)
    return model


@pytest.fixture(scope="module")
def block_directions(model: BigGAN) -> Directions:
    return sampled_directions(model, BLOCK, 4, samples=600, class_label=1, seed=3, batch_size=200)


def subspace_cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Cosines of the principal angles between the spans of orthonormal rows."""
    return np.linalg.svd(np.linalg.qr(one.T)[0].T @ np.linalg.qr(other.T)[0], compute_uv=False)


def activations_by_hook(model: BigGAN, layer: str, latents: np.ndarray, class_label: int) -> np.ndarray:
    """Activations [N, D] of a layer in a whole forward pass of the package."""
    caught: list[torch.Tensor] = []
    hook = model.get_submodule(layer).register_forward_hook(lambda _module, _inputs, output: caught.append(output))
    class_vectors = torch.nn.functional.one_hot(torch.full((len(latents),), class_label), 5).float()
    with torch.no_grad():
        model(torch.from_numpy(latents).float(), class_vectors, 1.0)
    hook.remove()
    return caught[0].flatten(1).double().numpy()


def test_sampling_the_first_layer_converges_to_the_exact_directions(model):
    exact = exact_directions(model, 4)
    errors = []
    for samples in (250, 16_000):
        sampled = sampled_directions(model, GEN_Z, 4, samples)
        cosines = (sampled.latent * exact.latent).sum(1)
        errors.append(1.0 - np.abs(cosines).min())
        assert 1.0 - subspace_cosines(sampled.latent, exact.latent).min() < errors[-1]
        # Sampling may turn a direction round, but only where the margin gave warning.
        assert (exact.sign_margins[cosines < 0] < sampled.fragile_margin).all()
    assert errors[0] < 0.2
    assert errors[1] < 0.003
    assert 1.0 - subspace_cosines(sampled.activation, exact.activation).min() < 0.003
    np.testing.assert_allclose(sampled.activation_stdev, exact.activation_stdev, rtol=0.02)
    np.testing.assert_allclose(sampled.variance_ratio, exact.variance_ratio, rtol=0.03)
    np.testing.assert_allclose(sampled.random_stdevs, exact.random_stdevs, rtol=0.02)
    np.testing.assert_allclose(sampled.activation_mean, exact.activation_mean, atol=0.02)
    np.testing.assert_allclose(sampled.latent_mean, 0.0, atol=4 * 0.88 / np.sqrt(16_000))
    assert (sampled.activation_shape, sampled.layer, sampled.source) == ((1024,), GEN_Z, "sampled")


def test_sampling_a_block_agrees_with_incremental_pca_and_lstsq(model, block_directions):
    def batches(stream):
        for batch in range(3):
            words = random_words(3, f"{BLOCK} {stream}", batch, count=200 * Z_DIM)
            latents = truncated_normal(words, 2.0).reshape(200, Z_DIM)
            yield latents, activations_by_hook(model, BLOCK, latents, class_label=1)

    pca = IncrementalPCA(n_components=8)
    for _, activations in batches("components"):
        pca.partial_fit(activations)
    streams = list(zip(*batches("regression"), strict=True))
    latents, activations = np.concatenate(streams[0]), np.concatenate(streams[1])
    regressed = np.linalg.lstsq(pca.transform(activations)[:, :4], latents, rcond=None)[0]
    regressed /= np.linalg.norm(regressed, axis=1, keepdims=True)

    ours = block_directions
    np.testing.assert_allclose(ours.activation, pca.components_[:4], atol=1e-5)
    np.testing.assert_allclose(ours.activation_mean, pca.mean_, atol=1e-5)
    np.testing.assert_allclose(ours.activation_stdev, np.sqrt(pca.explained_variance_[:4]), rtol=1e-5)
    np.testing.assert_allclose(ours.variance_ratio, pca.explained_variance_ratio_[:4], rtol=1e-5)
    np.testing.assert_allclose(ours.latent, regressed, atol=1e-5)
    np.testing.assert_allclose(ours.latent_mean, latents.mean(0), atol=1e-12)
    assert ours.activation_shape == (32, 8, 8)


@pytest.mark.parametrize("layer", [ATTENTION, "generator.layers.4"])
def test_any_later_layer_has_directions_too(model, layer):
    directions = sampled_directions(model, layer, 2, samples=60, batch_size=30)
    np.testing.assert_allclose(np.linalg.norm(directions.latent, axis=1), 1.0)
    np.testing.assert_allclose(directions.activation @ directions.activation.T, np.eye(2), atol=1e-5)
    # The mean over the stream is that of the layer in the package's own forward pass.
    words = [random_words(0, f"{layer} components", batch, count=30 * Z_DIM) for batch in range(2)]
    latents = truncated_normal(np.concatenate(words), 2.0).reshape(60, Z_DIM)
    expected = activations_by_hook(model, layer, latents, class_label=0).mean(0)
    np.testing.assert_allclose(directions.activation_mean, expected, atol=1e-4 * np.abs(expected).max())


def test_same_seed_same_directions_other_seed_or_class_others(model, block_directions):
    again = sampled_directions(model, BLOCK, 4, samples=600, class_label=1, seed=3, batch_size=200)
    np.testing.assert_array_equal(again.latent, block_directions.latent)
    other_seed = sampled_directions(model, BLOCK, 4, samples=600, class_label=1, seed=4, batch_size=200)
    assert np.abs(other_seed.latent - block_directions.latent).max() > 1e-3
    other_class = sampled_directions(model, BLOCK, 4, samples=600, class_label=2, seed=3, batch_size=200)
    assert np.abs(other_class.activation_mean - block_directions.activation_mean).max() > 1e-3


def test_truncation_shrinks_the_deviations_it_samples(model):
    whole = sampled_directions(model, GEN_Z, 3, samples=300, truncation=1.0)
    half = sampled_directions(model, GEN_Z, 3, samples=300, truncation=0.5)
    np.testing.assert_allclose(half.activation_stdev, 0.5 * whole.activation_stdev, rtol=1e-5)
    np.testing.assert_allclose(half.latent, whole.latent, atol=1e-4)


def test_sampled_directions_survive_their_file(block_directions, tmp_path):
    save_directions(block_directions, tmp_path / "block.npz")
    loaded = load_directions(tmp_path / "block.npz")
    np.testing.assert_array_equal(loaded.latent, block_directions.latent)
    assert (loaded.layer, loaded.class_label, loaded.activation_shape) == (BLOCK, 1, (32, 8, 8))
    assert loaded.samples == block_directions.samples and loaded.samples


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of the tensors that operations have made and nobody has dropped yet."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            # An operation in place returns its own argument, which is counted already.
            if isinstance(tensor, torch.Tensor) and not any(tensor is argument for argument in args):
                size = tensor.nbytes
                self.live += size
                self.peak = max(self.peak, self.live)
                weakref.finalize(tensor, self._drop, size)
        return out

    def _drop(self, size: int) -> None:
        self.live -= size


def test_memory_does_not_grow_with_the_number_of_samples(model):
    peaks = []
    for samples in (150, 1200):
        with LiveTensors() as memory:
            sampled_directions(model, BLOCK, 2, samples, batch_size=50)
        peaks.append(memory.peak)
    assert peaks[0] > 50 * 2048 * 8  # a batch of activations is seen at all
    assert peaks[1] <= peaks[0]


def test_streamed_pca_of_batches_is_the_pca_of_all_rows_when_the_rank_suffices():
    basis = normal(random_words(0, "basis", count=5 * 40)).reshape(5, 40)
    rows = 3.0 + normal(random_words(0, "rows", count=97 * 5)).reshape(97, 5) @ basis
    pca = StreamedPca(rank=5, size=40, device=torch.device("cpu"))
    for batch in np.array_split(rows, [1, 4, 40, 41]):
        pca.update(torch.from_numpy(batch))
    centred = rows - rows.mean(0)
    _, values, components = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(pca.scaled_components.norm(dim=1), values[:5], rtol=1e-9)
    ours = pca.scaled_components.numpy() / values[:5, None]
    np.testing.assert_allclose(np.abs((ours * components[:5]).sum(1)), 1.0, atol=1e-9)
    np.testing.assert_allclose(pca.mean, rows.mean(0), atol=1e-12)
    assert pca.total == pytest.approx((centred**2).sum())
    assert pca.count == 97


def test_unknown_layer_lists_the_known_ones(model):
    with pytest.raises(UsageError) as error:
        sampled_directions(model, "generator.layers.5", 2, samples=10)
    assert str(error.value) == (
        "no layer 'generator.layers.5' to take directions of; there are generator.gen_z, generator.layers.0, "
        "generator.layers.1, generator.layers.2, generator.layers.3, generator.layers.4"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_directions": 17}, "num_directions = 17: a latent of 16"),
        ({"samples": 3}, "samples = 3: 3 directions need more"),
        ({"class_label": -1}, "class_label = -1"),
        ({"truncation": 0.0}, "truncation = 0.0"),
        ({"truncation": 1.2}, "truncation = 1.2"),
        ({"truncation": 0.51}, "truncation = 0.51: the statistics read there would be wrong"),
        ({"truncation": 0.58}, "truncation = 0.58: the statistics read there would be wrong"),
    ],
)
def test_impossible_samplings_are_refused(model, arguments, message):
    with pytest.raises(UsageError, match=message):
        sampled_directions(model, **{"layer": BLOCK, "num_directions": 3, "samples": 10, **arguments})


def test_activations_that_are_not_finite_are_an_error(model):
    weight = model.generator.layers[0].conv_3.bias
    kept = weight.clone()
    weight[0] = float("inf")
    try:
        with pytest.raises(GenintError, match=r"generator.layers.0: activations that are not finite in samples 0..49"):
            sampled_directions(model, BLOCK, 2, samples=100, batch_size=50)
    finally:
        weight.copy_(kept)
