"""The one mechanism of a CGN that is not learned."""

from torch import Tensor


def compose(mask: Tensor, foreground: Tensor, background: Tensor) -> Tensor:
    """x = m f + (1 - m) b (Sauer & Geiger 2021): mask [N, 1, H, W] in [0, 1], the others [N, 3, H, W]."""
    return mask * foreground + (1 - mask) * background
