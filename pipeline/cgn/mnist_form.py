"""The CGN of the MNIST worlds (Sauer & Geiger 2021): small mechanisms in the layout of the official checkpoints."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RESOLUTION = 32
MASK_RANGE = (1e-4, 0.9999)


class MnistCgn(nn.Module):
    """Three mechanisms with one label embedding, [u, e(y)] to pictures; names are those of the official files.

    width: channels of the last hidden layer; the first ones have twice as many.
    """

    def __init__(self, num_classes: int = 10, z_dim: int = 32, width: int = 32) -> None:
        super().__init__()
        self.num_classes, self.z_dim, self.width = num_classes, z_dim, width
        self.label_emb = nn.Embedding(num_classes, num_classes)
        self.f_shape = nn.Sequential(
            *_first(z_dim + num_classes, 2 * width),
            nn.InstanceNorm2d(2 * width),
            *_upsampled(2 * width, width),
            nn.InstanceNorm2d(width),
            *_upsampled(width, 1),
            nn.InstanceNorm2d(1),
        )
        self.f_text1 = _texture(z_dim + num_classes, width)
        self.f_text2 = _texture(z_dim + num_classes, width)

    def shape(self, latents: Tensor, class_vectors: Tensor) -> Tensor:
        """Masks [N, 1, 32, 32]; latents [N, z_dim] standard normal, class vectors [N, num_classes]."""
        mask: Tensor = self.f_shape(self._condition(latents, class_vectors))
        return mask.clamp(*MASK_RANGE)

    def texture(self, latents: Tensor, class_vectors: Tensor, windows: Tensor) -> Tensor:
        """Textures of the object [N, 3, 32, 32] in [-1, 1]; `windows` as `shuffle` takes them."""
        return shuffle(self.f_text1(self._condition(latents, class_vectors)), windows)

    def background(self, latents: Tensor, class_vectors: Tensor, windows: Tensor) -> Tensor:
        """Backgrounds, likewise."""
        return shuffle(self.f_text2(self._condition(latents, class_vectors)), windows)

    def _condition(self, latents: Tensor, class_vectors: Tensor) -> Tensor:
        return torch.cat([latents, class_vectors @ self.label_emb.weight], 1)


def shuffle(images: Tensor, windows: Tensor) -> Tensor:
    """Tile each picture 2 x 2 and cut its own window of one picture's size: no pixel keeps its place.

    windows: [N, 2] int64, row and column of the window's corner, from 0 to the picture's side.
    """
    count, _, height, width = images.shape
    windows = windows.to(images.device)
    rows = (windows[:, :1] + torch.arange(height, device=images.device)) % height
    columns = (windows[:, 1:] + torch.arange(width, device=images.device)) % width
    samples = torch.arange(count, device=images.device)
    return images[samples[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _texture(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        *_first(inputs, 2 * width),
        *_upsampled(2 * width, 2 * width),
        *_upsampled(2 * width, width),
        nn.Conv2d(width, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.Tanh(),
    )


def _first(inputs: int, channels: int) -> list[nn.Module]:
    side = RESOLUTION // 4
    return [nn.Linear(inputs, channels * side**2), nn.Unflatten(1, (channels, side, side))]


def _upsampled(inputs: int, outputs: int) -> list[nn.Module]:
    return [
        nn.Upsample(scale_factor=2),
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.2),
    ]


def one_hot(class_labels: Tensor, num_classes: int) -> Tensor:
    """Class vectors [N, num_classes] float32 of labels [N]."""
    return F.one_hot(class_labels, num_classes).float()
