import json
from pathlib import Path

import numpy as np
import pytest
from genint.manifests.world import CLASSES, NUISANCES, class_means, draw_nuisances
from genint.pipeline.biggan.generator import load_generator
from genint.pipeline.generators.load import weights_location
from genint.pipeline.mini.measure_generator import frechet_distance
from genint.pipeline.mini.world import compose, compose_pictures, load_objects


def test_frechet_distance_of_gaussians_has_its_closed_form():
    rng = np.random.default_rng(0)
    first = rng.normal(0.0, 1.0, (200_000, 2))
    second = rng.normal((3.0, 4.0), 2.0, (200_000, 2))
    # |mean|^2 + sum over dimensions of (sd - sd')^2 = 25 + 2 * 1
    assert frechet_distance(first, second) == pytest.approx(27.0, rel=0.01)
    assert frechet_distance(first, first) == pytest.approx(0.0, abs=1e-8)


def test_the_report_belongs_to_the_shipped_weights_and_keeps_its_promises():
    folder = Path(weights_location("mini"))
    report = json.loads((folder / "report.json").read_text())
    assert report["weights_sha256"] == load_generator(folder).weights_sha256
    assert report["recognised"] >= 0.85
    assert report["recognised_by_object"] >= report["recognised_by_object_real"] - 0.05
    assert min(report["spread_over_real"].values()) >= 0.6
    assert (folder / "pytorch_model.bin").stat().st_size <= 6_000_000


def test_shipped_objects_are_enough_and_small_and_balanced():
    sizes = {name: len(load_objects(name).class_labels) for name in ("train", "validation", "test")}
    assert sizes == {"train": 12_000, "validation": 1_000, "test": 2_000}
    for name in sizes:
        labels = load_objects(name).class_labels
        assert (labels == np.arange(len(labels)) % len(CLASSES)).all()


def test_a_picture_depends_on_its_own_index_alone():
    alone = compose_pictures("test", np.array([123]))
    among = compose_pictures("test", np.array([5, 123, 700]))
    assert (alone.images[0] == among.images[1]).all()
    assert (alone.masks[0] == among.masks[1]).all()


@pytest.mark.parametrize("strength", [0.0, 0.5, 0.8, 1.0])
def test_confounding_moves_the_tie_to_the_class_and_not_the_spread(strength):
    indices = np.arange(12_000)
    labels = indices % 10
    drawn = draw_nuisances(labels, indices, "train", strength, strength) / [n.sd for n in NUISANCES]
    np.testing.assert_allclose(drawn.std(0), 1.0, atol=0.03)
    explained = np.array([drawn[labels == c].mean(0) for c in range(10)]).std(0)
    np.testing.assert_allclose(explained, strength, atol=0.05)


def test_the_same_object_keeps_its_noise_under_another_confounding():
    labels = np.arange(50) % 10
    free = draw_nuisances(labels, np.arange(50), "test", 0.0, 0.0)
    tied = draw_nuisances(labels, np.arange(50), "test", 0.8, 0.0)
    sd = np.array([n.sd for n in NUISANCES])
    background = np.array([n.group == "background" for n in NUISANCES])
    np.testing.assert_allclose(tied[:, ~background], free[:, ~background])
    np.testing.assert_allclose((tied - sd * 0.8 * class_means()[labels])[:, background], 0.6 * free[:, background])


def _render(**values: float):
    """A white square object under nuisances that are zero but for `values`."""
    square = np.zeros((1, 28, 28), np.uint8)
    square[:, 6:22, 6:22] = 255
    return compose(square, np.array([[values.get(n.name, 0.0) for n in NUISANCES]]))


def test_each_nuisance_does_what_its_name_says():
    image, mask = _render()
    rows, columns = np.nonzero(mask[0])
    assert rows.mean() == pytest.approx(15.5, abs=0.1)
    assert columns.mean() == pytest.approx(15.5, abs=0.1)
    _, right = _render(position_x=0.25)
    assert np.nonzero(right[0])[1].mean() == pytest.approx(15.5 + 4, abs=0.3)
    _, down = _render(position_y=0.25)
    assert np.nonzero(down[0])[0].mean() == pytest.approx(15.5 + 4, abs=0.3)
    _, larger = _render(scale=np.log(1.2))
    assert larger.sum() / mask.sum() == pytest.approx(1.44, abs=0.15)
    red, _ = _render(background_red=3.0)
    assert red[0][~mask[0]][:, 0].mean() > image[0][~mask[0]][:, 0].mean() + 50
    lit, _ = _render(light=0.5)
    assert lit[0, :, 31].mean() > lit[0, :, 0].mean() * 2
    fine, _ = _render(texture_frequency=0.7)
    changes = np.abs(np.diff(fine[0, 0, :, 0].astype(int))).sum()
    assert changes > np.abs(np.diff(image[0, 0, :, 0].astype(int))).sum() * 1.5


def test_white_stays_white():
    image, _ = _render()
    assert image[0][15, 15].tolist() == [255, 255, 255]


def test_objects_are_those_of_fashion_mnist(shared_data):
    from genint.manifests.digits import read_idx

    images = read_idx(shared_data / "fashion-mnist" / "t10k-images-idx3-ubyte.gz")
    known = {image.tobytes() for image in images}
    assert all(image.tobytes() in known for image in load_objects("test").images)
