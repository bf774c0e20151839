"""Equation 1: one forward pass over the images of all terms, one mean cross-entropy a term, a weighted sum."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..manifests.randomness import random_words
from .configuration import TERMS, Stage
from .streams import Term
from .vision import v2


def term_losses(logits: Tensor, labels: Mapping[Term, Tensor], global_counts: Mapping[Term, int]) -> dict[Term, Tensor]:
    """This part's share of each term's mean cross-entropy: its sum, over the images of the term in the whole step.

    `logits` [N, C] are of the terms' images in the order of `labels`, whose entries are class labels [n] or
    distributions [n, C]. Shares add up, over ranks and over the parts of an accumulated step, to the means of the
    whole batch, also where the parts are of different sizes.
    """
    parts = logits.float().split([len(part) for part in labels.values()])
    return {
        term: functional.cross_entropy(part, labels[term], reduction="sum") / global_counts[term]
        for term, part in zip(labels, parts, strict=True)
    }


def equation_1(losses: Mapping[Term, Tensor], stage: Stage) -> Tensor:
    """L = CE(natural) + lambda_int CE(int) + lambda_transfer CE(transfer), of the terms that take part."""
    return torch.stack([_weight(stage, term) * loss for term, loss in losses.items()]).sum()


def as_released(losses: Mapping[Term, Tensor], stage: Stage) -> Tensor:
    """The loss of the released code, for ablation: `loss_1 + loss_2 * lambda_transfer + loss_3 + lambda_int`.

    In its training with three loaders lambda_int is added, a constant without gradient: generated images weigh 1,
    whatever lambda_int says. With two loaders it is equation 1.
    """
    if len(losses) < len(TERMS):
        return equation_1(losses, stage)
    return losses["natural"] + losses["transfer"] * _weight(stage, "transfer") + losses["int"] + _weight(stage, "int")


def _weight(stage: Stage, term: Term) -> float:
    weight = stage.weight(term)
    assert weight is not None
    return weight


def mix_up(
    images: Tensor, labels: Tensor, num_classes: int, alpha: float, seed: int, step: int
) -> tuple[Tensor, Tensor]:
    """Convex combinations of neighbours in the batch, one Beta(alpha, alpha) draw a step (Zhang et al. 2018).

    `images` are floats [N, 3, H, W]; labels [N] become distributions [N, num_classes]. The draw is a function of
    (seed, step); on several ranks each mixes its own images, all with the same draw.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(random_words(seed, "mixup", step, count=1)[0] >> 1))
        mixed: tuple[Tensor, Tensor] = v2.MixUp(alpha=alpha, num_classes=num_classes)(images, labels)
    return mixed


class NaturalStatistics:
    """Batch norm whose running statistics see the natural images alone, as with bn_statistics = "natural".

    In training every layer normalises by mean and variance of the whole batch, as always. Its running mean and
    variance, which evaluation uses, are updated once a forward pass by the layer's inputs of the leading
    `num_natural` images alone (those inputs come from earlier layers that were normalised by the whole batch). This is
    what DataParallel did to the released code on two GPUs: it keeps the first device's statistics, and the first device
    had natural images only; but there that device also normalised by them.
    """

    def __init__(self, model: nn.Module) -> None:
        self.num_natural: int | None = None
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                # In training, torch then leaves the running statistics alone; evaluation uses them all the same.
                module.track_running_stats = False
                module.register_forward_pre_hook(self._update)

    @contextmanager
    def of_leading(self, num_natural: int) -> Iterator[None]:
        """Forward passes in here begin with so many natural images."""
        self.num_natural = num_natural
        try:
            yield
        finally:
            self.num_natural = None

    @torch.no_grad()
    def _update(self, module: nn.Module, inputs: Sequence[Tensor]) -> None:
        assert isinstance(module, nn.modules.batchnorm._BatchNorm)
        if not module.training or not self.num_natural:
            return
        assert module.num_batches_tracked is not None
        module.num_batches_tracked.add_(1)
        momentum = module.momentum if module.momentum is not None else 1 / float(module.num_batches_tracked)
        functional.batch_norm(
            inputs[0][: self.num_natural], module.running_mean, module.running_var, training=True, momentum=momentum
        )
