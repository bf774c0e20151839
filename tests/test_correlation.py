"""Correlation of nuisances and labels, against values that must come out."""

import numpy as np
import pytest
import torch
from genint.evaluate.analyses.correlation import (
    CorrelationReport,
    CorrelationSettings,
    autoaugment_images,
    control_correlations,
    correlate,
    correlation_interval,
    draw_classes,
    mixup_images,
    plot_correlations,
)
from genint.evaluate.analyses.nuisance_predictor import PredictorSettings, fit_predictor, read_nuisances
from genint.evaluate.analyses.stream_images import StreamImages
from genint.evaluate.metrics.variance import coefficients_of_determination
from genint.manifests.errors import UsageError
from genint.train.checkpoint import Preprocessing

FEW = CorrelationSettings(class_counts=(2, 6), subsets=3, epochs=5)
LABELS = np.arange(900) % 6


def stream(images: torch.Tensor, labels: np.ndarray) -> StreamImages:
    names = tuple(map(str, range(labels.max() + 1)))
    return StreamImages("tiny", names, images, labels, ({},) * len(labels), None)


def test_noise_gives_1_and_the_label_itself_gives_the_number_of_classes() -> None:
    noise, one_hot = control_correlations(LABELS, LABELS, 6, FEW)[:2], control_correlations(LABELS, LABELS, 6, FEW)[2:]
    assert all(row.interval[0] <= 1.0 <= row.interval[1] for row in noise)
    assert [row.correlation for row in one_hot] == [2.0, 6.0]
    assert [row.linear for row in one_hot] == [2.0, 6.0]


def test_a_nuisance_that_halves_the_choice_gives_2() -> None:
    z = np.stack([LABELS // 3, np.zeros(900)], 1).astype(float)
    result = correlate("halved", z, LABELS, z, LABELS, 6, CorrelationSettings((6,), subsets=2, epochs=10))[0]
    assert result.correlation == pytest.approx(2.0, abs=0.05)
    assert result.interval[0] < 2.0 < result.interval[1]


def test_the_network_sees_what_a_linear_classifier_cannot() -> None:
    rng = np.random.default_rng(0)
    z = rng.standard_normal((1200, 2))
    labels = (z[:, 0] * z[:, 1] > 0).astype(np.int64)
    settings = CorrelationSettings((2,), subsets=1, epochs=30)
    result = correlate("xor", z[:800], labels[:800], z[800:], labels[800:], 2, settings)[0]
    # 1.95 to 1.96 and 1.01 to 1.17 over four seeds.
    assert result.correlation > 1.7
    assert result.linear < 1.4


def test_subsets_of_classes_are_the_same_for_every_distribution() -> None:
    assert list(draw_classes(10, 3, 0, 1)) == list(draw_classes(10, 3, 0, 1))
    assert any(list(draw_classes(10, 3, 0, 0)) != list(draw_classes(10, 3, 0, s)) for s in range(1, 5))
    assert list(draw_classes(10, 10, 0, 4)) == list(range(10))
    with pytest.raises(UsageError, match="11 classes of 10"):
        draw_classes(10, 11, 0, 0)


def test_a_distribution_without_one_of_the_classes_is_refused() -> None:
    z = np.zeros((900, 1))
    with pytest.raises(UsageError, match="holey: no image of class 5"):
        correlate("holey", z[LABELS < 5], LABELS[LABELS < 5], z, LABELS, 6, FEW)


def test_the_interval_holds_the_error_of_the_test_images_and_of_the_subsets() -> None:
    # p = 0.5 of 100 images: 1.96 * 0.05 either way, times 2 classes.
    assert correlation_interval([0.5], 2, 100) == pytest.approx((1.0 - 0.196, 1.0 + 0.196))
    # Variance of the mean of (0.4, 0.6): 0.02 / 2 = 0.01.
    half = 1.96 * np.sqrt(0.01 + 0.0025) * 2
    assert correlation_interval([0.4, 0.6], 2, 100) == pytest.approx((1.0 - half, 1.0 + half))


def test_r2_by_hand() -> None:
    true = np.array([[0.0, 1.0], [2.0, 3.0]])
    # First column: residuals 1 and 0 against deviations 1 and 1. Second: exact.
    assert coefficients_of_determination(np.array([[1.0, 1.0], [2.0, 3.0]]), true) == pytest.approx([0.5, 1.0])


def test_the_predictor_reads_a_nuisance_off_images_of_latents_it_has_not_seen() -> None:
    rng = np.random.default_rng(0)
    brightness = rng.uniform(-2.0, 2.0, 240)
    grey = (127 + 50 * brightness)[:, None, None, None] + rng.normal(0.0, 5.0, (240, 3, 16, 16))
    images = torch.from_numpy(grey.clip(0, 255).astype(np.uint8))
    groups = np.arange(240) // 3
    settings = PredictorSettings(epochs=10, held_out=0.25)
    state = torch.get_rng_state()
    predictor = fit_predictor(images, brightness[:, None], groups, Preprocessing(None, 16), settings)
    assert torch.equal(state, torch.get_rng_state())
    assert (predictor.trained_on, predictor.held_out) == (180, 60)
    # 0.54 to 0.72 over four seeds; nothing is read at 0.
    assert predictor.r2[0] > 0.2
    assert not any(p.requires_grad for p in predictor.model.parameters())
    assert read_nuisances(predictor, images[:5]).shape == (5, 1)


def test_one_latent_alone_leaves_nothing_to_hold_out() -> None:
    images = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
    with pytest.raises(UsageError, match="1 latents: too few to hold out"):
        fit_predictor(images, np.zeros((4, 1)), np.zeros(4, np.int64), Preprocessing(None, 16))


def test_mixed_images_bear_the_label_of_the_larger_share() -> None:
    labels = np.arange(100) % 2
    images = torch.from_numpy(np.where(labels, 200, 100).astype(np.uint8)).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)
    mixed = mixup_images(stream(images, labels), seed=1)
    level = mixed.images[:, 0, 0, 0].numpy()
    assert len(np.unique(level)) > 5
    clear = level != 150
    assert ((level > 150).astype(int)[clear] == mixed.class_labels[clear]).all()
    assert mixed.images.equal(mixup_images(stream(images, labels), seed=1).images)


def test_autoaugment_changes_pictures_and_keeps_labels() -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (20, 3, 8, 8), dtype=np.uint8))
    augmented = autoaugment_images(stream(images, np.arange(20) % 2))
    assert augmented.images.shape == images.shape and augmented.images.dtype == torch.uint8
    assert (augmented.images != images).any()
    assert augmented.images.equal(autoaugment_images(stream(images, np.arange(20) % 2)).images)


def test_the_figure_has_a_line_for_each_distribution_and_one_for_chance() -> None:
    rows = tuple(control_correlations(LABELS, LABELS, 6, CorrelationSettings((2, 6), subsets=1, epochs=1)))
    axes = plot_correlations(CorrelationReport(rows, (), "test", "interventional", (0.5,), 1)).axes[0]
    assert [text.get_text() for text in axes.figure.legends[0].get_texts()] == ["chance", "random z", "one-hot y"]
