"""Exact directions, their file, and interventions along them."""

import zipfile
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from genint.manifests.directions import (
    Directions,
    coordinates,
    first_directions,
    fragility_warnings,
    intervene,
    load_directions,
    save_directions,
    sign_margins,
    value_margins,
)
from genint.manifests.errors import FormatError, GenintError, UsageError
from genint.manifests.randomness import normal, random_words
from genint.pipeline.biggan.generator import make_random_generator
from genint.pipeline.generators.directions import LATENT_STDEV, exact_directions
from pytorch_pretrained_biggan import BigGAN, BigGANConfig
from sklearn.decomposition import PCA

Z_DIM, CLASSES = 16, 5


@pytest.fixture(scope="module")
def model() -> BigGAN:
    config = BigGANConfig(
        output_dim=32,
        z_dim=Z_DIM,
        class_embed_dim=Z_DIM,
        channel_width=4,
        num_classes=CLASSES,
        layers=[(True, 16, 8), (True, 8, 4), (True, 4, 2), (False, 2, 1)],
        attention_layer_position=3,
    )
    return make_random_generator(config, seed=0)


@pytest.fixture(scope="module")
def directions(model: BigGAN) -> Directions:
    return exact_directions(model, 6)


def normal_latents(count: int, name: str) -> np.ndarray:
    return normal(random_words(0, name, count=count * Z_DIM)).reshape(count, Z_DIM)


@torch.no_grad()
def first_layer(model: BigGAN, latents: np.ndarray, class_label: int) -> np.ndarray:
    """Activations of `generator.gen_z` as the model itself computes them."""
    embedding = model.embeddings.weight[:, class_label].expand(len(latents), -1)
    condition = torch.cat((torch.from_numpy(latents).float(), embedding), dim=1)
    return model.generator.gen_z(condition).double().numpy()


def assert_equal_directions(one: Directions, other: Directions) -> None:
    for field in fields(Directions):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name), err_msg=field.name)


# Exact directions


def test_exact_directions_are_pca_of_the_activations_signs_included(model, directions):
    latents = normal_latents(500, "brute force")
    # Make the sample's covariance exactly that of the population, so that brute force has no sampling error.
    latents = np.linalg.qr(latents - latents.mean(0))[0] * LATENT_STDEV * np.sqrt(499)
    pca = PCA(6, svd_solver="full").fit(first_layer(model, latents, class_label=0))

    np.testing.assert_allclose(directions.activation, pca.components_, atol=1e-3)
    np.testing.assert_allclose(directions.activation_stdev, np.sqrt(pca.explained_variance_), rtol=1e-5)
    np.testing.assert_allclose(directions.variance_ratio, pca.explained_variance_ratio_, rtol=1e-4)
    np.testing.assert_allclose(directions.activation_mean, pca.mean_, atol=1e-5)
    regressed = np.linalg.lstsq(pca.transform(first_layer(model, latents, class_label=0)), latents, rcond=None)[0]
    regressed /= np.linalg.norm(regressed, axis=1, keepdims=True)
    np.testing.assert_allclose(directions.latent, regressed, atol=1e-3)


def test_each_step_moves_the_activations_along_its_component_alone(model, directions):
    still, moved = first_layer(model, np.zeros((1, Z_DIM)), 0), first_layer(model, directions.latent, 0)
    expected = directions.activation * (directions.activation_stdev / LATENT_STDEV)[:, None]
    np.testing.assert_allclose(moved - still, expected, atol=1e-5)


def test_directions_are_the_same_for_every_class_and_the_mean_is_not(model, directions):
    others = [exact_directions(model, 6, class_label) for class_label in range(1, CLASSES)]
    for class_label, other in enumerate(others, start=1):
        assert other.class_label == class_label
        np.testing.assert_array_equal(other.latent, directions.latent)
        np.testing.assert_array_equal(other.activation, directions.activation)
        np.testing.assert_allclose(
            other.activation_mean, first_layer(model, np.zeros((1, Z_DIM)), class_label)[0], atol=1e-5
        )
        assert np.abs(other.activation_mean - directions.activation_mean).max() > 0.01


def test_random_deviations_are_those_of_random_projections(model, directions):
    # Over all of D-space, the mean square along a random unit vector is the total variance / D.
    total = directions.activation_stdev[0] ** 2 / directions.variance_ratio[0]
    rms = np.sqrt((exact_directions(model, Z_DIM).random_stdevs ** 2).mean())
    assert rms == pytest.approx(np.sqrt(total / directions.activation.shape[1]), rel=0.2)


def test_the_largest_entry_of_each_activation_component_is_positive(directions):
    largest = np.abs(directions.activation).argmax(1)
    assert (directions.activation[np.arange(6), largest] > 0).all()


def test_impossible_requests_name_both_numbers(model):
    with pytest.raises(UsageError, match="num_directions = 17: a latent of 16"):
        exact_directions(model, 17)
    with pytest.raises(UsageError, match="class_label = 5: the generator has classes 0 to 4"):
        exact_directions(model, 2, class_label=5)


def test_a_layer_of_low_rank_or_without_finite_weights_is_an_error():
    config = BigGANConfig(z_dim=4, class_embed_dim=4, channel_width=1, num_classes=2, layers=[])
    model = BigGAN(config).eval().requires_grad_(False)
    weight = model.generator.gen_z.weight_orig
    weight[:, 2:4] = 0.0
    assert exact_directions(model, 2).num_directions == 2
    with pytest.raises(GenintError, match="vary along 2 directions only, 3 were asked for"):
        exact_directions(model, 3)
    weight[0, 0] = float("nan")
    with pytest.raises(GenintError, match="not finite"):
        exact_directions(model, 2)


# Interventions


def test_intervention_sets_the_coordinate_and_leaves_the_rest(directions):
    latents = normal_latents(40, "intervention")
    direction, step_size = np.arange(40) % 6, np.linspace(-9, 9, 40)
    moved = intervene(latents, directions, direction, step_size)
    expected = coordinates(latents, directions)
    expected[np.arange(40), direction] = step_size
    np.testing.assert_allclose(coordinates(moved, directions), expected, atol=1e-12)
    orthogonal = np.eye(Z_DIM) - directions.latent.T @ directions.latent
    np.testing.assert_allclose(moved @ orthogonal, latents @ orthogonal, atol=1e-12)


def test_intervention_fixes_the_activation_coordinate_in_every_class(model, directions):
    latents, step_size = normal_latents(10, "classes"), 3.0
    moved = intervene(latents, directions, np.full(10, 2), np.full(10, step_size))
    for class_label in range(CLASSES):
        still = first_layer(model, np.zeros((1, Z_DIM)), class_label)
        change = (first_layer(model, moved, class_label) - still) @ directions.activation[2]
        np.testing.assert_allclose(change, step_size * directions.activation_stdev[2] / LATENT_STDEV, rtol=1e-4)


def test_intervention_is_idempotent_and_forgets_the_old_coordinate(directions):
    latents = normal_latents(5, "again")
    direction, step_size = np.full(5, 3), np.full(5, 1.5)
    once = intervene(latents, directions, direction, step_size)
    np.testing.assert_allclose(intervene(once, directions, direction, step_size), once, atol=1e-12)
    elsewhere = intervene(latents + 7.0 * directions.latent[3], directions, direction, step_size)
    np.testing.assert_allclose(elsewhere, once, atol=1e-12)


def test_step_sizes_count_in_latent_deviations_from_the_latent_mean():
    axes = Directions(
        latent=np.eye(2),
        latent_mean=np.array([10.0, 20.0]),
        latent_stdev=np.array([2.0, 4.0]),
        activation=np.eye(2, dtype=np.float32),
        activation_mean=np.zeros(2, np.float32),
        activation_stdev=np.ones(2),
        activation_shape=(2,),
        variance_ratio=np.full(2, 0.5),
        random_stdevs=np.ones(2),
        sign_margins=np.ones(2),
        value_margins=np.ones(2),
        layer=None,
        class_label=None,
        source="imported",
    )
    latents = np.array([[11.0, 22.0], [11.0, 22.0]])
    assert coordinates(latents, axes).tolist() == [[0.5, 0.5], [0.5, 0.5]]
    # Along its axis each latent ends at mu + delta * sd.
    assert intervene(latents, axes, np.array([0, 1]), np.array([3.0, -1.0])).tolist() == [[16.0, 22.0], [11.0, 16.0]]


def test_a_latent_moves_alike_in_any_company(directions):
    latents = normal_latents(33, "company")
    direction, step_size = np.arange(33) % 6, np.linspace(-5, 5, 33)
    together = intervene(latents, directions, direction, step_size)
    alone = [intervene(latents[[i]], directions, direction[[i]], step_size[[i]])[0] for i in range(33)]
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("direction", [-1, 6])
def test_a_direction_that_does_not_exist_is_refused(directions, direction):
    with pytest.raises(UsageError, match=f"no direction {direction}: there are 6"):
        intervene(np.zeros((2, Z_DIM)), directions, np.array([0, direction]), np.zeros(2))


def test_fewer_directions_are_the_leading_ones_and_more_are_refused(model, directions):
    fewer = exact_directions(model, 4)
    for field in fields(Directions):
        if isinstance(getattr(fewer, field.name), np.ndarray):
            leading = getattr(first_directions(directions, 4), field.name)
            np.testing.assert_allclose(leading, getattr(fewer, field.name), atol=1e-6, err_msg=field.name)
    with pytest.raises(UsageError, match="num_directions = 7: these directions number 6"):
        first_directions(directions, 7)


# Margins


def test_margins_by_hand_and_their_warnings(directions):
    components = np.array([[0.5, -1.0, 0.0], [2.0, 1.99, -1.0]])
    np.testing.assert_allclose(sign_margins(components), [0.5, 0.005])
    np.testing.assert_allclose(value_margins(np.array([10.0, 8.0, 7.9, 4.0]), 3), [0.2, 0.0125, 0.1 / 7.9])
    np.testing.assert_allclose(value_margins(np.array([3.0]), 1), [1.0])

    wide = replace(directions, sign_margins=np.full(6, 0.5), value_margins=np.full(6, 0.5))
    assert fragility_warnings(wide) == []
    narrow = replace(wide, sign_margins=np.array([0.5, 0.004, 0.5, 0.5, 0.5, 0.5]), value_margins=np.full(6, 0.01))
    assert len(fragility_warnings(replace(narrow, source="exact"))) == 1
    sign, value = fragility_warnings(replace(narrow, source="sampled"))
    assert "sign may flip: 1 (0.4%)" in sign
    assert "rotate" in value
    assert "5 (1.0%)" in value


def test_margins_that_warn_grow_as_samples_get_fewer(directions):
    # Margins of signs that were found to flip: at 20,000 samples, 100,000 and 500,000.
    for samples, margin in ((20_000, 0.086), (100_000, 0.051), (500_000, 0.01)):
        found = replace(directions, source="sampled", samples=samples, sign_margins=np.full(6, margin))
        assert any("the sign may flip: 0" in line for line in fragility_warnings(found))
    wide = np.full(6, 0.5)
    for samples in (None, 1_000_000):
        found = replace(
            directions, source="sampled", samples=samples, sign_margins=np.full(6, 0.021), value_margins=wide
        )
        assert fragility_warnings(found) == []


# The file


def test_number_of_samples_that_is_none_is_refused(directions, tmp_path):
    save_directions(replace(directions, samples=0), tmp_path / "none.npz")
    with pytest.raises(FormatError, match="samples = 0, expected 1 or more"):
        load_directions(tmp_path / "none.npz")


def test_file_returns_every_number_and_has_equal_bytes_each_time(directions, tmp_path):
    save_directions(directions, tmp_path / "one.npz")
    loaded = load_directions(tmp_path / "one.npz")
    assert_equal_directions(loaded, directions)
    save_directions(loaded, tmp_path / "two.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.npz", "two.npz"]


def test_file_has_the_shapes_that_ganspace_reads(directions, tmp_path):
    convolutional = replace(directions, activation_shape=(64, 4, 4), layer="generator.layers.0")
    save_directions(convolutional, tmp_path / "conv.npz")
    with np.load(tmp_path / "conv.npz", allow_pickle=False) as file:
        shapes = {key: file[key].shape for key in file.files}
    assert shapes["act_comp"] == (6, 1, 64, 4, 4)
    assert shapes["act_mean"] == (1, 64, 4, 4)
    assert shapes["lat_comp"] == (6, 1, Z_DIM)
    assert shapes["lat_mean"] == (1, Z_DIM)
    assert all(shapes[key] == (6,) for key in ("act_stdev", "lat_stdev", "var_ratio", "random_stdevs"))
    assert_equal_directions(load_directions(tmp_path / "conv.npz"), convolutional)


def ganspace_arrays(directions: Directions) -> dict[str, np.ndarray]:
    """What GANSpace writes: eight arrays in single precision."""
    return {
        "act_comp": directions.activation[:, None],
        "act_mean": directions.activation_mean[None],
        "act_stdev": directions.activation_stdev.astype(np.float32),
        "lat_comp": directions.latent[:, None].astype(np.float32),
        "lat_mean": np.full((1, Z_DIM), 0.001, np.float32),
        "lat_stdev": np.ones(6, np.float32),
        "var_ratio": directions.variance_ratio.astype(np.float32),
        "random_stdevs": directions.random_stdevs.astype(np.float32),
    }


def test_a_file_of_ganspace_loads_without_our_keys(directions, tmp_path):
    np.savez_compressed(tmp_path / "ganspace.npz", **ganspace_arrays(directions))
    imported = load_directions(tmp_path / "ganspace.npz")
    assert (imported.source, imported.layer, imported.class_label) == ("imported", None, None)
    np.testing.assert_allclose(imported.latent, directions.latent, atol=1e-7)
    np.testing.assert_allclose(np.linalg.norm(imported.latent, axis=1), 1.0, atol=1e-15)
    np.testing.assert_allclose(imported.latent_mean, 0.001)
    np.testing.assert_array_equal(imported.sign_margins, sign_margins(directions.activation))
    # The seventh singular value is not in the file, and so bounds no margin.
    np.testing.assert_allclose(imported.value_margins[:5], directions.value_margins[:5], atol=1e-5)
    save_directions(imported, tmp_path / "ours.npz")
    assert_equal_directions(load_directions(tmp_path / "ours.npz"), imported)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("lat_mean", None, "no lat_mean; directions need act_comp"),
        ("lat_comp", np.ones((6, Z_DIM)), "lat_comp has shape (6, 16), expected [directions, 1,"),
        ("lat_comp", np.ones((5, 1, Z_DIM)), "lat_comp has shape (5, 1, 16), expected (6, 1, 16)"),
        ("lat_comp", np.ones((6, 1, Z_DIM)), "rows of lat_comp have lengths 4 to 4, not 1"),
        ("act_mean", np.zeros((1, 7)), "act_mean has shape (1, 7), expected (1, 1024)"),
        ("act_stdev", np.zeros(6), "act_stdev holds 0.0; standard deviations are positive"),
        ("var_ratio", np.full(6, np.nan), "var_ratio (float64) holds values that are not finite"),
        ("var_ratio", np.full(6, "x"), "var_ratio (<U1) holds values that are not finite numbers"),
        ("sign_margins", np.ones(3), "sign_margins has shape (3,), expected (6,)"),
        ("lat_stdev", np.array([object()] * 6), "not a readable .npz of directions: Object arrays cannot be loaded"),
    ],
)
def test_a_malformed_file_is_refused_in_one_line(directions, tmp_path, key, value, message):
    arrays = ganspace_arrays(directions)
    if value is None:
        del arrays[key]
    else:
        arrays[key] = value
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(FormatError) as error:
        load_directions(tmp_path / "bad.npz")
    assert message in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "bad.npz"))
    assert "\n" not in str(error.value)


def test_a_cut_or_foreign_file_is_refused_and_a_missing_one_named(directions, tmp_path):
    path = tmp_path / "directions.npz"
    with pytest.raises(UsageError, match="no such file of directions"):
        load_directions(path)
    save_directions(directions, path)
    whole = path.read_bytes()
    middle = len(whole) // 2
    altered = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for content in (whole[:middle], altered, b"", b"not a zip file"):
        path.write_bytes(content)
        with pytest.raises(FormatError, match="not a readable"):
            load_directions(path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(FormatError, match="one array where"):
        load_directions(path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda members: members.update({"layer.npy": b"hello"}), "layer is no array"),
        *(
            (lambda members, key=key: members.pop(f"{key}.npy"), f"no {key}; a file that `genint-pipeline directions`")
            for key in ("source", "sign_margins", "value_margins", "layer")
        ),
        (lambda members: members.update({"layer.npy": members["class_label.npy"]}), "layer .* no short text"),
        (lambda members: members.update({"x.npy": bytes(2**20)}), "unpacks to .* bytes, limit 1,000,000"),
    ],
)
def test_a_file_of_directions_is_looked_at_before_it_is_believed(
    spoil: Callable[..., object],
    message: str,
    directions: Directions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("genint.manifests.directions.LARGEST_FILE", 1_000_000)
    path = tmp_path / "d.npz"
    save_directions(directions, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
        spoil(members)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(FormatError, match=message):
        load_directions(path)


def test_a_member_of_an_unknown_compression_is_refused(directions: Directions, tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    save_directions(directions, path)
    content = bytearray(path.read_bytes())
    for mark, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        place = content.find(mark) + at
        content[place : place + 2] = (99).to_bytes(2, "little")
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"not a readable \.npz of directions: That compression method"):
        load_directions(path)
