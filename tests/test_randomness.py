import numpy as np
import pytest
from genint.manifests.randomness import (
    Permutation,
    draw_without_replacement,
    integers_below,
    normal_quantile,
    random_rows,
    random_words,
    truncated_normal,
    uniform,
)
from scipy.special import ndtri
from scipy.stats import kstest, truncnorm


def test_words_are_the_same_on_every_machine_and_version():
    # Written down once: a change here changes every dataset.
    words = random_words(10319, "interventional", 3, 7, count=3)
    assert [int(word) for word in words] == [8545918681998003552, 8324101443548178753, 10989965037806642419]


def test_every_part_of_the_key_matters():
    keys = [(1, "a", 0, 0), (2, "a", 0, 0), (1, "b", 0, 0), (1, "a", 1, 0), (1, "a", 0, 1)]
    first = {int(random_words(seed, name, i, j, count=1)[0]) for seed, name, i, j in keys}
    assert len(first) == len(keys)


@pytest.mark.parametrize("count", [1, 4, 10, 129])
def test_rows_of_words_are_those_of_each_counter_alone(count):
    first, second = np.array([0, 3, 2**40, 2**63 - 1]), np.array([7, 0, 5, 2**63 - 1])
    alone = [random_words(2**63 - 1, "a", int(i), int(j), 1, count=count) for i, j in zip(first, second, strict=True)]
    assert np.array_equal(random_rows(2**63 - 1, "a", first, second, 1, count=count), alone)
    assert random_rows(1, "a", first[:0], second[:0], count=count).shape == (0, count)


def test_rows_that_fill_the_cache_many_times_are_the_same_rows():
    counters = np.arange(40_000)
    rows = random_rows(1, "a", counters, count=5)
    for i in (0, 8191, 8192, 39_999):
        assert np.array_equal(rows[i], random_words(1, "a", i, count=5))


def test_normal_quantile_agrees_with_scipy_to_1e_12():
    p = np.concatenate([np.logspace(-300, -1, 500), np.linspace(0.0011, 0.9989, 999)])
    np.testing.assert_allclose(normal_quantile(p), ndtri(p), rtol=1e-12, atol=1e-15)


def test_truncated_normal_has_the_distribution_of_its_name():
    draws = truncated_normal(random_words(0, "test", count=20_000), 2.0)
    assert np.abs(draws).max() <= 2.0
    assert draws.std() == pytest.approx(0.8796, abs=0.01)
    assert kstest(draws, truncnorm(-2, 2).cdf).pvalue > 0.001


def test_uniform_never_reaches_its_ends():
    extremes = uniform(np.array([0, 2**64 - 1], np.uint64))
    assert 0 < extremes[0] < extremes[1] < 1


def test_draws_without_replacement_are_different_and_uniform():
    counts = np.zeros(6, int)
    for i in range(2000):
        drawn = draw_without_replacement(6, random_words(0, "test", i, count=3))
        assert len(set(drawn)) == 3
        counts[drawn] += 1
    assert np.abs(counts / 2000 - 0.5).max() < 0.05


def test_a_longer_draw_only_appends():
    words = random_words(0, "test", count=5)
    assert list(draw_without_replacement(9, words[:3])) == list(draw_without_replacement(9, words))[:3]


def test_rows_are_drawn_without_replacement_as_each_alone():
    words = random_rows(0, "test", np.arange(50), count=6)
    assert np.array_equal(draw_without_replacement(6, words), [draw_without_replacement(6, row) for row in words])


def test_integers_may_each_have_a_bound_of_their_own():
    words = random_words(0, "test", count=3)
    bounds = np.array([5, 1000, 2**31])
    alone = [int(integers_below(int(bound), words[i : i + 1])[0]) for i, bound in enumerate(bounds)]
    assert integers_below(bounds, words).tolist() == alone


def test_integers_below_a_bound_cover_it():
    drawn = integers_below(10, random_words(0, "test", count=2000))
    assert set(drawn) == set(range(10))


@pytest.mark.parametrize("size", [1, 2, 3, 17, 64, 1000, 4097])
def test_permutation_is_one_and_has_its_inverse(size):
    permutation = Permutation(size, 5, "test")
    order = permutation(np.arange(size))
    assert sorted(order) == list(range(size))
    assert (permutation.inverse(order) == np.arange(size)).all()


def test_permutation_of_a_slice_is_the_slice_of_the_permutation():
    permutation = Permutation(10_000, 5, "test")
    whole = permutation(np.arange(10_000))
    assert (permutation(np.arange(500, 600)) == whole[500:600]).all()
    # Mixed: neighbours in the order are far apart, and another seed gives another order.
    assert np.abs(np.diff(whole)).mean() > 2500
    assert (Permutation(10_000, 6, "test")(np.arange(10_000)) != whole).mean() > 0.99
