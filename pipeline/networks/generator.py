"""What all generators have in common: where one comes from, and rendering in batches of fixed members."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ...manifests.errors import UsageError
from .kernels import repeatable_kernels

Precision = Literal["fp32", "bf16"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class LoadedGenerator:
    """A generator ready for inference, and where it comes from.

    `model` is on the CPU, in eval mode, without gradients: a BigGAN, or a module of one's own that keeps the contract
    of generators/contract.py.
    """

    model: Any
    config_sha256: str
    weights_sha256: str
    class_names: tuple[str, ...] | None = None  # a key of ours in config.json; the published files have none
    code_sha256: str | None = None  # of the files that define the model's class; None: it is the package's own


class Renderer(ABC):
    """A generator on its device, ready to render.

    Samples are computed in batches of exactly `batch_size`, the last one padded with zeros: a sample's floating point
    then depends neither on how many samples were asked for nor on what the others are.
    """

    batch_size: int
    device: torch.device

    @property
    @abstractmethod
    def sizes(self) -> tuple[int, int, int]:
        """z_dim, num_classes and resolution."""

    @abstractmethod
    def _forward(self, latents: Tensor, classes: Tensor) -> Tensor:
        """Images [batch_size, 3, H, W] float32 of one batch: latents float32, labels int64 or class vectors float32."""

    def __call__(self, latents: Tensor, classes: Tensor) -> Tensor:
        """Images [N, 3, H, W] float32 in [-1, 1] of final latents [N, z_dim], that is, already truncated and moved.

        classes: labels [N] int64, or class vectors [N, num_classes] float, between which one may interpolate.
        """
        z_dim, num_classes, size = self.sizes
        classes = self._send(check_classes(latents, classes, z_dim, num_classes))
        latents = self._send(latents.float())
        images = torch.empty(len(latents), 3, size, size, device=self.device, memory_format=torch.channels_last)
        with torch.inference_mode(), repeatable_kernels():
            for start in range(0, len(latents), self.batch_size):
                members = slice(start, start + self.batch_size)
                count = len(latents[members])
                batch = self._forward(*(pad_rows(rows[members], self.batch_size) for rows in (latents, classes)))
                images[members] = batch[:count]
        return images

    def render(self, latents: Tensor, class_labels: Tensor) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Pixels [N, H, W, 3] of the images, and which samples [N] are finite; pixels of the others mean nothing."""
        return self.begin(latents, class_labels).finish()

    def begin(self, latents: Tensor, class_labels: Tensor) -> "Rendering":
        """`render`, without the wait for a GPU: what is begun next is computed while this is brought back."""
        images = self(latents, class_labels)
        finite = images.isfinite().flatten(1).all(dim=1)
        pixels = images.nan_to_num_(nan=-1.0).add_(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
        found = pixels.permute(0, 2, 3, 1), finite
        if self.device.type == "cpu":
            return Rendering(*found)
        # Into pinned memory: copies to any other wait for the GPU to finish.
        pinned = [torch.empty_like(part, device="cpu", pin_memory=True) for part in found]
        for part, copy in zip(found, pinned, strict=True):
            copy.copy_(part, non_blocking=True)
        return Rendering(pinned[0], pinned[1], torch.cuda.current_stream(self.device).record_event())

    def _send(self, rows: Tensor) -> Tensor:
        if self.device.type == "cuda" and rows.device.type == "cpu":
            return rows.pin_memory().to(self.device, non_blocking=True)
        return rows.to(self.device)


@dataclass(frozen=True, eq=False)
class Rendering:
    """Pixels and finiteness on their way to the CPU; `arrived` is recorded after them, where they come from a GPU."""

    pixels: Tensor
    finite: Tensor
    arrived: torch.Event | None = None

    def finish(self) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Wait for them."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.pixels.numpy(), self.finite.numpy()


def pad_rows(rows: Tensor, count: int) -> Tensor:
    """Rows [N, ...] followed by zeros, [count, ...]."""
    return F.pad(rows, (*(0, 0) * (rows.dim() - 1), 0, count - len(rows)))


def check_classes(latents: Tensor, classes: Tensor, z_dim: int, num_classes: int) -> Tensor:
    """Labels [N], or class vectors [N, num_classes] as float32, that fit latents [N, z_dim]; or a UsageError."""
    count = classes.shape[:1]
    if latents.shape != (*count, z_dim) or classes.shape not in (count, (*count, num_classes)):
        raise UsageError(
            f"latents of shape {list(latents.shape)} and class labels of shape {list(classes.shape)}: "
            f"this generator takes [N, {z_dim}] and [N], or class vectors [N, {num_classes}]"
        )
    if classes.dim() == 2:
        return classes.float()
    strangers = classes[(classes < 0) | (classes >= num_classes)]
    if len(strangers):
        raise UsageError(f"class label {int(strangers[0])}: this generator has classes 0 to {num_classes - 1}")
    return classes


def check_rendering(batch_size: int, precision: str, device: str | torch.device) -> torch.device:
    """The device, where a renderer can be made with these. Raises UsageError."""
    if precision not in DTYPES:
        raise UsageError(f"precision {precision!r}: not one of {', '.join(DTYPES)}")
    if batch_size < 1:
        raise UsageError(f"batch size {batch_size}: must be 1 or more")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without the device's kind
        raise UsageError(f"device {str(device)!r}: {str(error).splitlines()[0]}") from error
