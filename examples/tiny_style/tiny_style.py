"""A small style-based generator, as an example of one's own: it keeps the contract of genint.pipeline.api.Generator."""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F


class TinyStyle(nn.Module):
    """Images [N, 3, resolution, resolution] of latents and labels, by a mapping and a synthesis network (Karras 2019).

    The first layer is linear in the latents; the class only adds to it.
    """

    def __init__(self, z_dim: int, num_classes: int, resolution: int, width: int) -> None:
        super().__init__()
        self.z_dim, self.num_classes, self.resolution = z_dim, num_classes, resolution
        self.first = nn.Linear(z_dim, 128)
        self.classes = nn.Embedding(num_classes, 128)
        self.mapping = nn.Sequential(nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU())
        self.constant = nn.Linear(1, width * 16)
        doublings = (resolution // 4).bit_length() - 1
        channels = [max(width >> i, 16) for i in range(doublings + 1)]
        self.blocks = nn.ModuleList(StyledBlock(*pair, 128) for pair in pairwise(channels))
        self.to_rgb = nn.Conv2d(channels[-1], 3, 1)

    def forward(self, latents: Tensor, class_labels: Tensor) -> Tensor:
        style = self.mapping(self.first(latents) + self.classes(class_labels))
        x = self.constant(latents.new_ones(len(latents), 1)).unflatten(1, (-1, 4, 4))
        for block in self.blocks:
            x = block(x, style)
        return self.to_rgb(x).tanh()


class StyledBlock(nn.Module):
    """Doubled resolution, and two convolutions, each followed by an adaptive instance norm."""

    def __init__(self, inputs: int, outputs: int, style: int) -> None:
        super().__init__()
        self.conv_0 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv_1 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.style_0 = nn.Linear(style, 2 * outputs)
        self.style_1 = nn.Linear(style, 2 * outputs)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        x = _modulate(self.conv_0(F.interpolate(x, scale_factor=2)), self.style_0(style))
        return _modulate(self.conv_1(x), self.style_1(style))


def _modulate(x: Tensor, style: Tensor) -> Tensor:
    scale, shift = style[:, :, None, None].chunk(2, dim=1)
    return F.leaky_relu(F.instance_norm(x) * (1 + scale) + shift, 0.2)
