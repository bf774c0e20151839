"""The mini world's reader of objects, shipped with the package: a small network that backgrounds tell nothing."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from ...manifests.kernels import hold_kernels
from ...manifests.world import CLASSES, IMAGE_SIZE
from ..networks.weights import fit_weights, load_weights
from .training import halving_layers, to_tensor

MINI_READER = "mini-reader"
FILE_NAME = "reader.pth"
BATCH = 250


class ObjectCnn(nn.Module):
    """Images [N, 3, 32, 32] in [-1, 1] to logits [N, num_classes]."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*halving_layers((24, 48, 96)), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(4 * 96, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images))
        return logits


class MiniReader:
    """A `LabelReader` of the mini world's classes; pictures of another size are resized to 32 x 32 px."""

    name = MINI_READER
    class_names = CLASSES

    def __init__(self, network: ObjectCnn, sha256: str, device: str) -> None:
        self._network = network.eval().to(device)
        self._device = device
        self.sha256 = sha256

    def read(self, pictures: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Probabilities [N, 10] of RGB pictures."""
        side = (IMAGE_SIZE, IMAGE_SIZE)
        fitting = [p if p.size == side else p.resize(side, Image.Resampling.BILINEAR) for p in pictures]
        return self.read_pixels(np.stack([np.asarray(picture) for picture in fitting]))

    def read_pixels(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities [N, 10] of images [N, 32, 32, 3]."""
        with torch.inference_mode(), hold_kernels(torch.backends):
            parts = [self._network(batch.to(self._device)).softmax(1).cpu() for batch in to_tensor(images).split(BATCH)]
        return np.asarray(torch.cat(parts).numpy(), np.float32)


def load_reader(path: Path | None = None, device: str = "cpu") -> MiniReader:
    """The reader of a file of `fit-reader`; by default the shipped one. Raises FormatError where it is damaged."""
    path = path or Path(str(files("genint.pipeline") / "data" / MINI_READER / FILE_NAME))
    weights, sha256 = load_weights(path)
    network = ObjectCnn(len(CLASSES))
    fit_weights(network, weights, f"{path}: not a reader of the mini world")
    return MiniReader(network, sha256, device)
