"""Equation 1: one forward pass over the images of all terms, one mean cross-entropy a term, a weighted sum.

With heads (Sauer & Geiger 2021) counterfactuals give one mean cross-entropy for each head; whatever has one label
trains the mean of the heads' logits.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..manifests.randomness import random_words
from .configuration import Stage
from .stream_images import UNKNOWN
from .streams import Term
from .vision import v2


def loss_weights(stage: Stage, terms: Iterable[Term], heads: Mapping[str, float]) -> dict[str, float]:
    """Weight of each part of the loss, by name: a term, or `counterfactual_HEAD`."""
    weights: dict[str, float] = {}
    for term in terms:
        weight = stage.weight(term)
        assert weight is not None
        if term == "counterfactual" and heads:
            weights |= {f"{term}_{head}": weight * own for head, own in heads.items()}
        else:
            weights[term] = weight
    return weights


def term_losses(
    logits: Tensor,
    labels: Mapping[Term, Tensor],
    global_counts: Mapping[Term, int],
    heads: Iterable[str] = (),
    label_smoothing: float = 0.0,
) -> dict[str, Tensor]:
    """This part's share of each mean cross-entropy: its sum, over the images of the term in the whole step.

    `logits` [N, C], or of each head [N, heads, C], are of the terms' images in the order of `labels`, whose entries are
    class labels [n], distributions [n, C], or labels by head [n, heads] (UNKNOWN adds nothing). Shares add up, over
    ranks and over the parts of an accumulated step, to the means of the whole batch, also where the parts are of
    different sizes.
    """
    shares: dict[str, Tensor] = {}
    for (term, own), part in zip(
        labels.items(), logits.float().split([len(of) for of in labels.values()]), strict=True
    ):
        if own.ndim == 2 and not own.is_floating_point():
            each = {f"{term}_{head}": (part[:, i], own[:, i]) for i, head in enumerate(heads)}
        else:
            each = {term: (part.mean(1) if part.ndim == 3 else part, own)}
        for name, (said, label) in each.items():
            total = functional.cross_entropy(
                said, label, reduction="sum", ignore_index=UNKNOWN, label_smoothing=label_smoothing
            )
            shares[name] = total / global_counts[term]
    return shares


def equation_1(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """L = CE(natural) + lambda_int CE(int) + lambda_transfer CE(transfer), of the parts that there are, and of
    counterfactuals in the same way."""
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()


def as_released(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """The loss of the released code, for ablation: `loss_1 + loss_2 * lambda_transfer + loss_3 + lambda_int`.

    In its training with three loaders lambda_int is added, a constant without gradient: generated images weigh 1,
    whatever lambda_int says. With two loaders it is equation 1.
    """
    if not {"natural", "int", "transfer"} <= losses.keys():
        return equation_1(losses, weights)
    return equation_1(losses, {**weights, "int": 1.0}) + weights["int"]


def mix_images(
    images: Tensor, labels: Tensor, num_classes: int, stage: Stage, seed: int, step: int
) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2018) or CutMix (Yun et al. 2019) of neighbours in the batch, or one of the two at random.

    The share is one Beta(alpha, alpha) draw a step. `images` are floats [N, 3, H, W]; labels [N] become distributions
    [N, num_classes]. The draws are a function of (seed, step); on several ranks each mixes its own images, all with the
    same draws.
    """
    ways = [v2.MixUp(alpha=stage.mixup, num_classes=num_classes)] if stage.mixup else []
    ways += [v2.CutMix(alpha=stage.cutmix, num_classes=num_classes)] if stage.cutmix else []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(random_words(seed, "mixup", step, count=1)[0] >> 1))
        mix = ways[0] if len(ways) == 1 else v2.RandomChoice(ways)
        mixed: tuple[Tensor, Tensor] = mix(images, labels)
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
