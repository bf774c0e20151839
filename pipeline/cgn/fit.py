"""Train a CGN of either form: step after step, to be stopped anywhere and go on exactly."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ...manifests.errors import GenintError, UsageError
from ...manifests.weights import load_weights_file
from ..style.vgg import Vgg
from .losses import Features

STATE_NAME, SETTINGS_NAME = "training.pt", "settings.json"
SHEETS, EVENTS = "sheets", "tensorboard"


@dataclass(frozen=True)
class FitProgress:
    """One finished update: its number (1-based), that of all, what was measured by name, and the sheet if drawn."""

    step: int
    steps: int
    measures: Mapping[str, float]
    sheet: Path | None = None

    def describe(self) -> str:
        """The measures in one line."""
        return ", ".join(f"{name} {value:.3g}" for name, value in self.measures.items())


class Learner(Protocol):
    """A training of one form. `parts` hold all its state; a step's draws depend on seed and step alone."""

    steps: int
    parts: Mapping[str, Any]

    def learn(self, step: int) -> dict[str, float]:
        """Make update number `step` (0-based); every loss with its weight, and what tells of collapse."""
        ...

    def draw_sheet(self) -> NDArray[np.uint8]:
        """A picture [H, W, 3] of what the mechanisms make of fixed latents."""
        ...

    def save(self, out: Path) -> None:
        """Write the network's files."""
        ...


def fit(
    out: Path, learner: Learner, identity: Mapping[str, Any], sheet_every: int = 100, save_every: int = 100
) -> Iterator[FitProgress]:
    """Train and write the network into `out`; the same call continues an interrupted one.

    identity: everything that decides the weights, as JSON: settings and digests. Raises UsageError where `out` holds a
    training of another, GenintError where a loss is not finite: nothing is updated then.
    """
    from torch.utils.tensorboard import SummaryWriter  # takes seconds to import

    first = _load_state(out, learner, identity)
    (out / SHEETS).mkdir(parents=True, exist_ok=True)
    (out / SETTINGS_NAME).write_text(json.dumps(identity, indent=2) + "\n")
    with SummaryWriter(str(out / EVENTS), purge_step=first + 1) as events:
        for step in range(first, learner.steps):
            measures = learner.learn(step)
            for name, value in measures.items():
                events.add_scalar(name, value, step + 1)
            sheet = None
            if step == 0 or (step + 1) % sheet_every == 0 or step + 1 == learner.steps:
                sheet = out / SHEETS / f"step-{step + 1:08d}.png"
                Image.fromarray(learner.draw_sheet()).save(sheet)
            if (step + 1) % save_every == 0 or step + 1 == learner.steps:
                _save_state(out, learner, identity, step + 1)
            yield FitProgress(step + 1, learner.steps, measures, sheet)
    learner.save(out)


def check_finite(losses: Mapping[str, Tensor], step: int) -> dict[str, float]:
    """The losses as numbers. Raises GenintError where one is none."""
    numbers = {name: float(loss.detach()) for name, loss in losses.items()}
    broken = [f"{name} {value}" for name, value in numbers.items() if not math.isfinite(value)]
    if broken:
        raise GenintError(
            f"update {step + 1}: the loss is not finite ({', '.join(broken)}); nothing was updated; "
            "a lower rate (--set) may help"
        )
    return numbers


def make_features(encoder: Vgg, layers: list[int], normalise: bool) -> Features:
    """Outputs after the ReLU of an encoder's convolutions, numbered from 1, of images in [-1, 1].

    normalise: give it images as it was trained on; the official code gives it [-1, 1] as it is.
    """

    def features(images: Tensor) -> list[Tensor]:
        outputs = encoder((images + 1) / 2) if normalise else encoder.read(images)
        found = []
        for number, output in enumerate(outputs, 1):
            if number in layers:
                found.append(F.relu(output))
            if number == layers[-1]:
                break
        return found

    return features


def draw_grid(rows: list[Tensor]) -> NDArray[np.uint8]:
    """Rows of pictures [N, 3 or 1, H, W] in [-1, 1] as one picture [rows * H, N * W, 3]."""
    tall = torch.cat([torch.cat(list(row.expand(-1, 3, -1, -1).float()), dim=2) for row in rows], dim=1)
    pixels = tall.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy())


def rate_factor(step: int, steps: int, warmup: int, decay: bool) -> float:
    """What a rate is multiplied with: a linear warm-up; constant for 60 % of the training, then linear to a tenth."""
    factor = min(1.0, (step + 1) / warmup) if warmup else 1.0
    return factor * min(1.0, 1.0 - 0.9 * (step / steps - 0.6) / 0.4) if decay else factor


def _save_state(out: Path, learner: Learner, identity: Mapping[str, Any], step: int) -> None:
    state = {name: part.state_dict() for name, part in learner.parts.items()}
    temporary = out / f"{STATE_NAME}.tmp"
    torch.save({"parts": state, "identity": json.dumps(identity), "step": step}, temporary)
    os.replace(temporary, out / STATE_NAME)


def _load_state(out: Path, learner: Learner, identity: Mapping[str, Any]) -> int:
    path = out / STATE_NAME
    if not path.exists():
        return 0
    state, _ = load_weights_file(path, partial(torch.load, map_location="cpu", weights_only=True))
    found, wanted = json.loads(state["identity"]), json.loads(json.dumps(identity))
    changed = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
    if changed:
        raise UsageError(f"{path}: of a training with another {', '.join(changed)}; choose another folder")
    for name, part in learner.parts.items():
        part.load_state_dict(state["parts"][name])
    return int(state["step"])
