import math

import pytest
import torch
from genint.train.configuration import Stage
from genint.train.objective import NaturalStatistics, as_released, equation_1, loss_weights, mix_images, term_losses
from torch import nn

LABELS = {"natural": torch.tensor([0, 1]), "int": torch.tensor([1]), "transfer": torch.tensor([0, 0, 1])}
# Logits of which exp gives odds by hand: class 1 is three times as likely as class 0, in every row.
LOGITS = torch.tensor([[0.0, math.log(3.0)]]).expand(6, 2)
COUNTS = {"natural": 2, "int": 1, "transfer": 3}
NATURAL = (math.log(4) + math.log(4 / 3)) / 2
INT = math.log(4 / 3)
TRANSFER = (2 * math.log(4) + math.log(4 / 3)) / 3


def test_each_term_is_the_mean_over_its_own_images():
    losses = term_losses(LOGITS, LABELS, COUNTS)
    assert [float(loss) for loss in losses.values()] == pytest.approx([NATURAL, INT, TRANSFER])


def test_equation_1_by_hand():
    weights = loss_weights(Stage(steps=1, lambda_int=0.05, lambda_transfer=2.0), LABELS, {})
    losses = term_losses(LOGITS, LABELS, COUNTS)
    assert float(equation_1(losses, weights)) == pytest.approx(NATURAL + 0.05 * INT + 2.0 * TRANSFER)
    generated = loss_weights(Stage(steps=1, natural=False, lambda_int=0.5), ["int"], {})
    assert float(equation_1({"int": losses["int"]}, generated)) == pytest.approx(0.5 * INT)


def test_the_released_loss_adds_lambda_int_and_gives_generated_images_weight_1():
    weights = {"natural": 1.0, "int": 0.05, "transfer": 2.0}
    logits = LOGITS.clone().requires_grad_()
    loss = as_released(term_losses(logits, LABELS, COUNTS), weights)
    assert float(loss.detach()) == pytest.approx(NATURAL + 2.0 * TRANSFER + INT + 0.05)
    (released,) = torch.autograd.grad(loss, logits)
    same = {**weights, "int": 1.0}
    (expected,) = torch.autograd.grad(equation_1(term_losses(logits, LABELS, COUNTS), same), logits)
    assert torch.equal(released, expected)


def test_the_released_loss_of_two_terms_is_equation_1():
    weights = {"natural": 1.0, "int": 0.05}
    losses = {"natural": torch.tensor(1.0), "int": torch.tensor(2.0)}
    assert float(as_released(losses, weights)) == float(equation_1(losses, weights)) == pytest.approx(1.1)


def test_shares_of_uneven_parts_add_up_to_the_losses_of_the_whole_batch():
    torch.manual_seed(0)
    logits, labels = torch.randn(116 + 3, 10), torch.randint(10, (116 + 3,))
    counts = {"natural": 116, "int": 3}
    whole = term_losses(logits, {"natural": labels[:116], "int": labels[116:]}, counts)
    totals = {"natural": 0.0, "int": 0.0}
    for rank in range(8):  # 116 on 8 ranks: 14 or 15 each; and 3 images on 8 ranks leave most without one
        natural = range(116 * rank // 8, 116 * (rank + 1) // 8)
        generated = range(116 + 3 * rank // 8, 116 + 3 * (rank + 1) // 8)
        part = {"natural": labels[list(natural)], "int": labels[list(generated)]}
        for term, share in term_losses(logits[[*natural, *generated]], part, counts).items():
            totals[term] += float(share)
    assert totals == pytest.approx({term: float(loss) for term, loss in whole.items()}, rel=1e-5)


def test_mixup_is_a_function_of_seed_and_step_and_leaves_torchs_generator_alone():
    images, labels = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 2, 2), torch.tensor([0, 1, 2, 3])
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    stage = Stage(steps=1, mixup=0.4)
    mixed, soft = mix_images(images, labels, 4, stage, seed=7, step=5)
    assert torch.equal(torch.rand(1), expected)
    again, _ = mix_images(images, labels, 4, stage, seed=7, step=5)
    other, _ = mix_images(images, labels, 4, stage, seed=7, step=6)
    assert torch.equal(mixed, again) and not torch.equal(mixed, other)
    # Image 1 is the share s of itself and 1 - s of image 0, and so are the labels.
    share = float(mixed[1, 0, 0, 0])
    assert 0 < share < 1
    assert soft[1].tolist() == pytest.approx([1 - share, share, 0, 0])


def test_cutmix_pastes_a_rectangle_of_the_neighbour_and_its_share_of_the_label():
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 8, 8)
    labels = torch.tensor([0, 1, 2, 3])
    mixed, soft = mix_images(images, labels, 4, Stage(steps=1, cutmix=1.0), seed=7, step=5)
    pasted = (mixed[1] == images[0]).float().mean()
    assert set(mixed[1].unique().tolist()) <= {0.0, 1.0}
    assert 0 < pasted < 1 and soft[1].tolist() == pytest.approx([float(pasted), 1 - float(pasted), 0, 0])


def test_beside_mixup_cutmix_takes_its_turn_by_step():
    images, labels = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    stage = Stage(steps=1, mixup=0.4, cutmix=1.0)
    whole = [float(mix_images(images, labels, 4, stage, 7, step)[0][1].std()) == 0 for step in range(40)]
    assert 8 < sum(whole) < 32  # mixup leaves an image of one value one of one value


def test_label_smoothing_by_hand_for_every_part():
    labels = {"natural": torch.tensor([1]), "int": torch.tensor([[0.0, 1.0]])}
    logits = torch.tensor([[0.0, math.log(3.0)]]).expand(2, 2)
    losses = term_losses(logits, labels, {"natural": 1, "int": 1}, label_smoothing=0.2)
    assert float(losses["natural"]) == pytest.approx(0.9 * math.log(4 / 3) + 0.1 * math.log(4))
    assert float(losses["int"]) == pytest.approx(float(losses["natural"]))


def test_natural_statistics_see_natural_images_alone_while_all_are_normalised_together():
    model = nn.BatchNorm2d(1, momentum=0.5)
    statistics = NaturalStatistics(model)
    # Two natural images of values 1 and 3, one other of value 8: a mean of 2 (variance 2, unbiased), and of 4 in all.
    images = torch.tensor([1.0, 3.0, 8.0]).view(3, 1, 1, 1)
    with statistics.of_leading(2):
        normalised = model(images)
    assert normalised.flatten().tolist() == pytest.approx([x / math.sqrt(26 / 3) for x in (-3, -1, 4)], rel=1e-4)
    assert (float(model.running_mean), float(model.running_var)) == pytest.approx((0.5 * 2, 0.5 * 1 + 0.5 * 2))
    assert int(model.num_batches_tracked) == 1
    model.eval()
    with torch.no_grad():
        expected = (images - 1.0) / math.sqrt(1.5 + model.eps)
        assert torch.allclose(model(images), expected)
    assert int(model.num_batches_tracked) == 1


def test_natural_statistics_of_a_natural_batch_are_those_of_torch():
    torch.manual_seed(0)
    ours, theirs = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    statistics = NaturalStatistics(ours)
    for _ in range(3):
        images = torch.randn(4, 3, 2, 2)
        with statistics.of_leading(4):
            ours(images)
        theirs(images)
    assert all(torch.equal(a, b) for a, b in zip(ours.buffers(), theirs.buffers(), strict=True))
    before = ours.state_dict()["running_mean"].clone()
    with statistics.of_leading(0):
        ours(torch.randn(4, 3, 2, 2))
    assert torch.equal(ours.running_mean, before)
