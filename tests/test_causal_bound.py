"""The causal bound, against closed forms and numbers worked out by hand."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from genint.evaluate.analyses.causal_bound import (
    compare_bounds,
    draw_dictionary,
    load_dictionary,
    measure_causal_bound,
    measure_sweep,
    measure_theorem_bound,
    plot_bound_and_accuracy,
    plot_sweep,
)
from genint.evaluate.analyses.features import ImageFeatures, extract_features
from genint.evaluate.analyses.latents import read_intervention
from genint.evaluate.analyses.stream_images import StreamImages, load_stream, open_stream
from genint.evaluate.metrics.bootstrap import bootstrap_over_clusters
from genint.evaluate.metrics.likelihood import (
    SCORES,
    best_of,
    class_log_likelihoods,
    cosine_score,
    cross_entropy_score,
    log_likelihoods,
    log_mean_exp,
    released_score,
)
from genint.evaluate.metrics.theorem1 import causal_interval, normalized_likelihoods, share_tighter
from genint.manifests.dataset import load_dataset
from genint.manifests.errors import UsageError
from genint.manifests.world import CLASSES
from genint.train.checkpoint import Classifier, Preprocessing, make_model
from scipy import stats
from torch import Tensor


def gaussian_score(queries: Tensor, dictionary: Tensor) -> Tensor:
    """Log density of each query under a normal of standard deviation 0.5 around each entry, in one dimension."""
    return -0.5 * ((queries - dictionary.T) / 0.5) ** 2 - math.log(0.5 * math.sqrt(2 * math.pi))


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.manual_seed(0)
    model = make_model("resnet18", len(CLASSES)).eval()
    return Classifier("random", model, "resnet18", CLASSES, Preprocessing(None, 32), "0" * 64)


@pytest.fixture(scope="module")
def queries(reference: Path) -> StreamImages:
    return load_stream(open_stream(load_dataset(str(reference)), "natural"), Preprocessing(None, 32))


@pytest.fixture(scope="module")
def asked(classifier: Classifier, queries: StreamImages) -> ImageFeatures:
    return extract_features(classifier, queries)


def dictionary(reference: Path, classifier: Classifier, per_class: int) -> ImageFeatures:
    dataset = load_dataset(str(reference))
    return extract_features(classifier, load_dictionary(dataset, "interventional", classifier, per_class))


def test_a_mixture_of_gaussians_has_its_analytic_density() -> None:
    # Entries are the quantiles of N(0, 1), each spread by N(0, 0.25): the mixture is N(0, 1.25).
    entries = torch.from_numpy(stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000))[:, None]
    x = torch.linspace(-2.5, 2.5, 11, dtype=torch.float64)[:, None]
    density = log_likelihoods(x, entries, gaussian_score, log_mean_exp)
    assert density == pytest.approx(stats.norm.logpdf(x[:, 0].numpy(), 0.0, math.sqrt(1.25)), abs=1e-3)
    # For x from N(0.3, 0.5), the mean of log N(x; 0, 1.25) is -log(2 pi 1.25) / 2 - (0.5 + 0.09) / 2.5.
    draws = torch.from_numpy(stats.norm.ppf((np.arange(2_000) + 0.5) / 2_000, 0.3, math.sqrt(0.5)))[:, None]
    mean = log_likelihoods(draws, entries[::10], gaussian_score, log_mean_exp).mean()
    assert mean == pytest.approx(-0.5 * math.log(2 * math.pi * 1.25) - 0.59 / 2.5, abs=2e-3)


def test_the_best_entry_alone_is_the_nearest_gaussian() -> None:
    entries = torch.tensor([[0.0], [3.0]], dtype=torch.float64)
    best = log_likelihoods(torch.tensor([[2.5]], dtype=torch.float64), entries, gaussian_score, best_of)
    assert best == pytest.approx([stats.norm.logpdf(2.5, 3.0, 0.5)])


def test_scores_by_hand() -> None:
    x, entry = torch.tensor([[3.0, 4.0]]).double(), torch.tensor([[4.0, 3.0]]).double()
    assert cosine_score(x, entry).item() == pytest.approx(math.log(24 / 25))
    # The released normalisation divides by 25 twice over: 24 / 625.
    assert released_score(x, entry).item() == pytest.approx(math.log(24 / 625))
    p, q = 1 / (1 + math.e), 1 / (1 + math.exp(-1))  # softmax of (3, 4) is (p, q), of (4, 3) it is (q, p)
    assert cross_entropy_score(x, entry).item() == pytest.approx(p * math.log(q) + q * math.log(p))


def test_features_at_right_angles_score_the_floor_and_not_infinity() -> None:
    x, entry = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[0.0, 1.0]]).double()
    assert cosine_score(x, entry).item() == pytest.approx(math.log(1e-100))


def test_cross_entropy_is_largest_for_the_query_itself() -> None:
    features = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).double()
    assert cross_entropy_score(features, features).argmax(1).tolist() == list(range(6))


def test_many_queries_in_pieces_give_what_each_gives_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    x, entries = torch.randn(2_500, 4, generator=generator), torch.randn(30, 4, generator=generator)
    whole = log_likelihoods(x, entries, cross_entropy_score, log_mean_exp)
    assert whole[[0, 1_500, 2_499]] == pytest.approx(
        [log_likelihoods(x[i : i + 1], entries, cross_entropy_score, log_mean_exp)[0] for i in (0, 1_500, 2_499)]
    )


def test_a_query_is_compared_with_its_own_class_alone() -> None:
    entries = torch.tensor([[0.0], [10.0]], dtype=torch.float64)
    x, labels = torch.tensor([[9.0], [9.0]], dtype=torch.float64), np.array([0, 1])
    values = class_log_likelihoods(x, labels, entries, np.array([0, 1]), gaussian_score, best_of)
    assert values == pytest.approx(stats.norm.logpdf(9.0, [0.0, 10.0], 0.5))
    with pytest.raises(UsageError, match="no image of class 1"):
        class_log_likelihoods(x, labels, entries[:1], np.array([0]), gaussian_score, best_of)


def test_dictionaries_have_one_size_are_seeded_and_refused_where_a_class_is_short() -> None:
    labels = np.array([0] * 10 + [1] * 4)
    rows = draw_dictionary(labels, 4, seed=3)
    assert list(labels[rows]) == [0] * 4 + [1] * 4 and len(set(rows)) == 8
    assert list(rows) == list(draw_dictionary(labels, 4, seed=3)) != list(draw_dictionary(labels, 4, seed=4))
    with pytest.raises(UsageError, match="class 1: 4 generated images, a dictionary takes 5"):
        draw_dictionary(labels, 5, seed=3)


def test_the_bootstrap_draws_classes() -> None:
    labels = np.repeat([0, 1], 50)
    # Every class mean is 2: whichever classes are drawn, so is theirs, although the values vary.
    assert bootstrap_over_clusters(np.tile([1.0, 3.0], 50), labels, seed=0) == pytest.approx((2.0, 2.0))
    # Of two classes, both draws fall on the same one half of the time.
    assert bootstrap_over_clusters(labels.astype(float), labels, seed=0) == pytest.approx((0.0, 1.0))


def test_theorem_1_by_hand() -> None:
    lower, upper = causal_interval(np.array([0.5]), np.array([0.2]))
    assert (lower[0], upper[0]) == pytest.approx((0.1, 0.9))


def test_normalised_likelihoods_sum_to_1_over_the_queries() -> None:
    generator = torch.Generator().manual_seed(0)
    x, entries = torch.randn(40, 4, generator=generator), torch.randn(7, 4, generator=generator)
    assert normalized_likelihoods(x, entries, SCORES["xent"]).sum() == pytest.approx(1.0)
    # Two queries and one entry: exp(score) as shares.
    x, entry = torch.tensor([[0.0], [1.0]]).double(), torch.tensor([[0.0]]).double()
    shares = normalized_likelihoods(x, entry, gaussian_score)
    assert shares == pytest.approx(np.array([1.0, math.exp(-2.0)]) / (1.0 + math.exp(-2.0)))


def test_theorem_1_on_streams(reference: Path, classifier: Classifier, asked: ImageFeatures) -> None:
    values = measure_theorem_bound(asked, dictionary(reference, classifier, 4))
    summary = values.summary()
    assert (values.lower <= values.upper).all() and values.lower.min() >= 0 and values.upper.max() <= 1
    assert summary.upper - summary.lower == pytest.approx(summary.width)
    assert summary.width == pytest.approx(1.0 - 1.0 / 60)  # of any intervention: see TheoremBound
    assert summary.log_likelihood <= -math.log(60)
    assert share_tighter(values, values) == 0.5


def test_features_are_the_output_of_the_average_pooling(classifier: Classifier, queries: StreamImages) -> None:
    seen = extract_features(classifier, queries.take(np.arange(3)))
    assert seen.features.shape == (3, 512)
    with torch.inference_mode():
        logits = classifier.model(classifier.preprocessing.normalize(queries.images[:3]))
        assert torch.allclose(classifier.model.fc(seen.features), logits, atol=1e-5)  # type: ignore[operator]
    labels = torch.from_numpy(queries.class_labels[:3])
    probabilities = logits.softmax(1).gather(1, labels[:, None])[:, 0]
    assert seen.label_probabilities == pytest.approx(probabilities.numpy(), rel=1e-4)
    with pytest.raises(UsageError, match="no layer 'pool'"):
        extract_features(classifier, queries, "pool")


def test_the_bound_of_real_images_by_themselves_is_the_largest(
    reference: Path, classifier: Classifier, asked: ImageFeatures
) -> None:
    generated = dictionary(reference, classifier, 6)
    own, other = measure_causal_bound(asked, asked), measure_causal_bound(asked, generated)
    assert own.log_likelihood > other.log_likelihood
    assert other.interval[0] <= other.log_likelihood <= other.interval[1]
    assert np.mean(other.per_class) == pytest.approx(other.log_likelihood)  # classes are balanced here
    assert measure_causal_bound(asked, generated, reduction="logmeanexp").log_likelihood < other.log_likelihood


def test_bounds_are_compared_class_by_class_and_only_where_that_is_fair(
    reference: Path, classifier: Classifier, asked: ImageFeatures
) -> None:
    bounds = [measure_causal_bound(asked, entries) for entries in (asked, dictionary(reference, classifier, 6))]
    difference = compare_bounds(bounds[0], bounds[1])
    assert difference.difference == pytest.approx(bounds[0].log_likelihood - bounds[1].log_likelihood)
    assert 0.0 < difference.interval[0] < difference.difference < difference.interval[1]
    with pytest.raises(UsageError, match="cannot be compared: dictionary_size 6 and 5"):
        compare_bounds(bounds[0], measure_causal_bound(asked, dictionary(reference, classifier, 5)))


def test_a_dictionary_with_more_images_of_one_class_than_of_another_is_refused(
    classifier: Classifier, queries: StreamImages, asked: ImageFeatures
) -> None:
    rows = np.flatnonzero(queries.class_labels < 2)[1:]  # 6 images of each class, but for the first
    uneven = extract_features(classifier, queries.take(rows))
    with pytest.raises(UsageError, match="5 to 6 images a class, expected equally many"):
        measure_causal_bound(uneven, uneven)


def test_a_sweep_reads_t_k_and_s_from_the_datasets(
    reference: Path, classifier: Classifier, queries: StreamImages
) -> None:
    dataset = load_dataset(str(reference))
    assert read_intervention(dataset, "observational") == (1.0, 0, 0.0, "0")
    with pytest.raises(UsageError, match="'natural' is of source 'mini-world'"):
        read_intervention(dataset, "natural")
    location = str(reference)
    points = measure_sweep([location], "interventional", classifier, queries, {location: 0.4}, dictionary_size=4)
    assert [(p.truncation, p.num_directions, p.step_scale, p.accuracy) for p in points] == [(1.0, 6, 1.0, 0.4)]
    assert points[0].bound.dictionary_size == 4 and len(points[0].theorem.likelihood) == len(queries)
    panels = plot_sweep(
        [points[0], replace(points[0], step_scale=2.0), replace(points[0], step_ranges="by direction")]
    ).axes
    # Ranges of its own make a point no neighbour of the other two, which differ in s alone.
    assert [len(axes.containers) for axes in panels] == [0, 0, 1]
    assert plot_bound_and_accuracy(points).axes[0].get_xlabel() == "log P(x|z)"
