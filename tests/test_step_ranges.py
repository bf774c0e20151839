"""Step ranges: the released table, one's own, and what is refused."""

import numpy as np
import pytest
from genint.manifests.errors import UsageError
from genint.manifests.step_ranges import GENINT_STEP_RANGES, step_ranges


def test_released_ranges_are_those_of_the_method_notes():
    ranges = step_ranges("released", 60)
    assert ranges.shape == (60, 2)
    assert ranges[[0, 1, 4, 18, 44, 57, 59]].tolist() == [
        [-3, 3], [-4, 2], [-3, 5], [-5, 10], [-12, 8], [-12, 15], [-10, 12],
    ]  # fmt: skip
    assert np.count_nonzero(ranges[:, 0] != -ranges[:, 1]) == 27


def test_direction_51_is_one_sided_as_released_and_symmetric_on_request():
    released, symmetric = step_ranges("released", 60), step_ranges("released-51-symmetric", 60)
    assert released[51].tolist() == [6, 12]
    assert symmetric[51].tolist() == [-12, 12]
    assert np.array_equal(np.delete(released, 51, 0), np.delete(symmetric, 51, 0))
    assert GENINT_STEP_RANGES[51].tolist() == [6, 12]


def test_scale_multiplies_both_ends():
    assert step_ranges("released", 2, step_scale=1.5).tolist() == [[-4.5, 4.5], [-6, 3]]


def test_one_number_serves_every_direction_beyond_the_released_60():
    assert step_ranges(2.5, 100).tolist() == [[-2.5, 2.5]] * 100


def test_numbers_and_pairs_give_each_direction_its_own_range():
    assert step_ranges([1, 2, 3], 2).tolist() == [[-1, 1], [-2, 2]]
    assert step_ranges([[-1, 2], [0, 0]], 2, step_scale=0.5).tolist() == [[-0.5, 1], [0, 0]]


@pytest.mark.parametrize(
    ("spec", "num_directions", "step_scale", "message"),
    [
        ("released", 61, 1.0, "61 directions, but step ranges for 60"),
        ("published", 5, 1.0, "'published': known are 'released', 'released-51-symmetric'"),
        ([1.0, 2.0], 3, 1.0, "3 directions, but step ranges for 2"),
        ([[-1, 1], [2, 1]], 2, 1.0, "direction 1: from 2 to 1"),
        (-3.0, 2, 1.0, "direction 0: from 3 to -3"),
        ([1.0, float("nan")], 2, 1.0, "direction 1"),
        ([[-float("inf"), 1.0]], 1, 1.0, "direction 0: from -inf to 1"),
        ([1.0, [1.0, 2.0]], 2, 1.0, "not a mixture"),
        ([[1.0, 2.0, 3.0]], 1, 1.0, "shape (1, 3)"),
        ("released", 60, 0.0, "step_scale = 0.0"),
        ("released", 60, float("inf"), "step_scale = inf"),
        ("released", 0, 1.0, "num_directions = 0"),
    ],
)
def test_impossible_ranges_are_refused_by_name(spec, num_directions, step_scale, message):
    with pytest.raises(UsageError) as error:
        step_ranges(spec, num_directions, step_scale)
    assert message in str(error.value)
