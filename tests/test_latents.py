"""Streams as arrays, and the latents behind their images."""

from pathlib import Path

import numpy as np
import pytest
from genint.evaluate.analyses.latents import final_coordinates, final_latents, latent_groups
from genint.evaluate.analyses.stream_images import (
    StreamImages,
    check_same_classes,
    load_stream,
    open_stream,
    true_nuisances,
)
from genint.manifests.dataset import Dataset, load_dataset
from genint.manifests.errors import UsageError
from genint.manifests.world import CLASSES, draw_nuisances
from genint.train.checkpoint import Preprocessing

AS_IT_IS = Preprocessing(resize=None, crop=32)


@pytest.fixture(scope="module")
def dataset(reference: Path) -> Dataset:
    return load_dataset(str(reference))


def load(dataset: Dataset, stream: str, preprocessing: Preprocessing = AS_IT_IS) -> StreamImages:
    return load_stream(open_stream(dataset, stream), preprocessing)


def test_an_intervened_coordinate_equals_the_step_in_the_samples_parameters(dataset: Dataset) -> None:
    images = load(dataset, "interventional")
    z = final_coordinates(dataset, "interventional", images.sample_indices)
    assert z.shape == (60, 6)
    for row, parameters in zip(z, images.parameters, strict=True):
        assert row[parameters["direction"]] == pytest.approx(parameters["step_size"], abs=1e-9)


def test_images_of_one_latent_differ_in_their_intervened_coordinates_alone(dataset: Dataset) -> None:
    indices = np.arange(60)
    groups = latent_groups(dataset, "interventional", indices)
    z = final_coordinates(dataset, "interventional", indices)
    assert len(np.unique(groups)) == 20 and (np.bincount(groups) == 3).all()
    first, second = z[groups == groups[0]][:2]
    assert (np.abs(first - second) > 1e-9).sum() == 2


def test_observational_latents_are_those_of_the_recipe_and_have_coordinates_along_all_directions(
    dataset: Dataset,
) -> None:
    indices = np.array([4, 0])
    z = final_latents(dataset, "observational", indices)
    assert np.array_equal(z[::-1], final_latents(dataset, "observational", indices[::-1]))
    assert np.abs(z).max() <= 2.0
    assert final_coordinates(dataset, "observational", indices).shape[1] >= 6
    assert final_coordinates(dataset, "observational", indices, 3).shape == (2, 3)


def test_natural_images_have_no_latents(dataset: Dataset) -> None:
    with pytest.raises(UsageError, match="'natural' is of source 'mini-world': its images have no latents"):
        final_latents(dataset, "natural", np.arange(2))


def test_a_stream_of_the_mini_world_comes_with_its_masks_and_true_nuisances(dataset: Dataset) -> None:
    images = load(dataset, "natural")
    assert images.images.shape == (60, 3, 32, 32) and images.class_names == CLASSES
    assert images.masks is not None and images.masks.shape == (60, 32, 32)
    assert 0.1 < images.masks.mean() < 0.6
    planned = draw_nuisances(images.class_labels, images.sample_indices, "train", 0.8, 0.8)
    assert true_nuisances(images) == pytest.approx(planned, abs=1e-8)


def test_masks_are_prepared_as_their_pictures(dataset: Dataset) -> None:
    small, whole = load(dataset, "natural", Preprocessing(resize=64, crop=32)), load(dataset, "natural")
    assert small.masks is not None and whole.masks is not None
    # Twice as large and cut to the central half: the object fills more of it.
    assert small.masks.shape == (60, 32, 32)
    assert small.masks.mean() > 1.3 * whole.masks.mean()


def test_generated_streams_have_no_masks_and_no_true_nuisances(dataset: Dataset) -> None:
    images = load(dataset, "observational")
    assert images.masks is None
    with pytest.raises(UsageError, match="'observational': samples have no true nuisances"):
        true_nuisances(images)


def test_rows_are_taken_in_order_with_all_that_belongs_to_them(dataset: Dataset) -> None:
    images = load(dataset, "natural")
    taken = images.take(np.array([7, 2]))
    assert len(taken) == 2
    assert list(taken.sample_indices) == list(images.sample_indices[[7, 2]])
    assert taken.images[0].equal(images.images[7])


def test_streams_of_other_classes_are_refused(dataset: Dataset) -> None:
    images = load(dataset, "natural")
    other = StreamImages("other", ("cat", "dog"), images.images, images.class_labels, images.parameters, None)
    with pytest.raises(UsageError, match="'natural' and 'other' are not of the same classes"):
        check_same_classes(images, other)
