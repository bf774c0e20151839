"""Train the mini world's saliency network on the masks of its natural pictures."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ...manifests.world import CLASSES, SLICES
from ..cgn.saliency import Saliency, TinyUNet, load_saliency
from ..mini.training import to_tensor
from ..mini.world import Pictures, compose_pictures

FILE_NAME = "saliency.pth"
BATCH = 250  # pictures measured together


@dataclass(frozen=True)
class SaliencySettings:
    """What the weights depend on, recorded beside them.

    confounding: of the training pictures; that of the natural stream, whose masks are the truth.
    """

    seed: int = 0
    steps: int = 600
    batch_size: int = 64
    learning_rate: float = 5e-3
    confounding: float = 0.8
    num_objects: int = SLICES["train"]


@dataclass(frozen=True)
class SaliencyProgress:
    """One finished step: its number (1-based) and the binary cross entropy."""

    step: int
    loss: float


def fit_saliency(out: Path, settings: SaliencySettings) -> Iterator[SaliencyProgress]:
    """Train and write `saliency.pth` and the settings into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)  # the layers' own initialisation offers no generator argument
        saliency = Saliency(TinyUNet())
    pictures = compose_pictures("train", np.arange(settings.num_objects), settings.confounding, settings.confounding)
    images, masks = to_tensor(pictures.images), torch.from_numpy(pictures.masks)[:, None].float()
    optimizer = torch.optim.AdamW(saliency.parameters(), settings.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, settings.steps)
    rng = torch.Generator().manual_seed(settings.seed)
    order = torch.empty(0, dtype=torch.int64)
    for step in range(1, settings.steps + 1):
        if len(order) < settings.batch_size:
            order = torch.cat([order, torch.randperm(len(images), generator=rng)])
        rows, order = order[: settings.batch_size], order[settings.batch_size :]
        loss = F.binary_cross_entropy(saliency(images[rows]), masks[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        yield SaliencyProgress(step, loss.item())
    torch.save(saliency.network.state_dict(), out / FILE_NAME)
    (out / "settings.json").write_text(json.dumps(asdict(settings), indent=2) + "\n")


def measure_saliency(folder: Path, confounding: float) -> dict[str, Any]:
    """Intersection over union, per picture, with the true masks of held-out pictures, confounded and not."""
    saliency, sha256 = load_saliency(folder / FILE_NAME)
    natural = compose_pictures("test", np.arange(SLICES["test"]), confounding, confounding)
    shifted = compose_pictures("test", np.arange(SLICES["test"]), 0.0, 0.0)
    iou = intersection_over_union(find_masks(saliency, natural), natural.masks)
    return {
        "weights_sha256": sha256,
        "parameters": sum(parameter.numel() for parameter in saliency.parameters()),
        "iou": round(float(iou.mean()), 4),
        "iou_shifted": round(float(intersection_over_union(find_masks(saliency, shifted), shifted.masks).mean()), 4),
        "iou_by_class": {
            name: round(float(iou[natural.class_labels == c].mean()), 3) for c, name in enumerate(CLASSES)
        },
    }


def find_masks(saliency: Saliency, pictures: Pictures) -> NDArray[np.bool_]:
    """Masks [N, H, W] of pictures."""
    with torch.inference_mode():
        parts = [saliency(batch) for batch in to_tensor(pictures.images).split(BATCH)]
    return np.asarray(torch.cat(parts)[:, 0].numpy() > 0.5)


def intersection_over_union(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Of two masks [N, H, W] each, [N]; two empty ones are equal."""
    both, either = (first & second).sum((1, 2)), (first | second).sum((1, 2))
    return np.where(either == 0, 1.0, both / np.maximum(either, 1))
