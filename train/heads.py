"""Heads: a linear layer for each mechanism of an image, on one trunk (invariant classifier, Sauer & Geiger 2021)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..manifests.errors import UsageError


class Heads(nn.Module):
    """A linear layer for each name in place of a classifier's last one.

    Features [N, F] to the mean of the heads' logits [N, C]; in training mode to the logits of each head, [N, heads, C],
    as torchvision's classifiers with auxiliary heads do.
    """

    def __init__(self, names: Sequence[str], features: int, classes: int, bias: bool = True) -> None:
        super().__init__()
        self.names = tuple(names)
        for name in self.names:
            self.add_module(_module_name(name), nn.Linear(features, classes, bias))

    def forward(self, features: Tensor) -> Tensor:
        each = torch.stack([self.get_submodule(_module_name(name))(features) for name in self.names], 1)
        return each if self.training else each.mean(1)


def _module_name(head: str) -> str:
    """With a prefix, so that no head can have the name of something that every module has."""
    return f"head_{head}"


def add_heads(model: nn.Module, names: Sequence[str], arch: str) -> None:
    """Put fresh heads in the place of a classifier's last layer. Raises UsageError where that is not linear."""
    path, last = list(model.named_modules())[-1]
    if not isinstance(last, nn.Linear):
        raise UsageError(f"arch {arch}: does not end with a linear layer, so that it can have no heads; choose another")
    model.set_submodule(path, Heads(names, last.in_features, last.out_features, last.bias is not None))


def find_heads(model: nn.Module) -> tuple[str, Heads] | None:
    """The heads of a classifier with the name of their module; None where it has one last layer."""
    return next(((path, module) for path, module in model.named_modules() if isinstance(module, Heads)), None)


def head_logits(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Logits [N, C] of each head, by its name, for normalised images [N, 3, H, W]; `model` is in evaluation mode."""
    found = find_heads(model)
    if found is None:
        raise ValueError("a classifier without heads")
    _, heads = found
    heads.train()
    try:
        each: Tensor = model(images)
    finally:
        heads.eval()
    return dict(zip(heads.names, each.unbind(1), strict=True))
