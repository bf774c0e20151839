"""Train the mini world's generator: a small network of the package's own BigGAN class, saved in its two files."""

import copy
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_pretrained_biggan import BigGAN, BigGANConfig
from pytorch_pretrained_biggan.model import BigGANBatchNorm
from torch import Tensor
from torch.nn import functional as F

from ...manifests.errors import UsageError
from ...manifests.world import CLASSES, IMAGE_SIZE, SLICES
from ..networks.generator import LoadedGenerator
from .discriminator import Discriminator
from .world import compose_pictures

CONFIG: dict[str, Any] = {
    "output_dim": IMAGE_SIZE,
    "z_dim": 64,
    "class_embed_dim": 64,
    "channel_width": 16,
    "num_classes": len(CLASSES),
    "layers": [[True, 16, 8], [False, 8, 8], [True, 8, 4], [False, 4, 4], [True, 4, 2], [False, 2, 1]],
    "attention_layer_position": 3,
    "eps": 1e-4,
    "n_stats": 51,
}
STATE_NAME = "training.pt"
SAVE_EVERY = 250
# Steps in which the critic alone learns where the generator is fitted already: a fresh critic would only unteach it.
HEAD_START = 100


@dataclass(frozen=True)
class FitSettings:
    """What the weights depend on, recorded beside them."""

    seed: int = 0
    steps: int = 5_000
    batch_size: int = 64
    group: int = 4
    learning_rate_generator: float = 2e-4
    learning_rate_discriminator: float = 4e-4
    ema_decay: float = 0.999
    confounding: float = 0.8
    num_objects: int = SLICES["train"]
    statistics_batches: int = 8
    start_sha256: str | None = None  # of the weights that training started from; None: fresh ones


@dataclass(frozen=True)
class FitProgress:
    """One finished step: its number (1-based) and the two hinge losses."""

    step: int
    loss_generator: float
    loss_discriminator: float


class BatchStatisticsNorm(BigGANBatchNorm):  # type: ignore[misc]  # the package has no types
    """The package's batch norm, normalising by the batch at hand and remembering its statistics.

    The published class cannot train: its statistics are buffers that nothing updates.
    """

    def forward(self, x: Tensor, truncation: float, condition_vector: Tensor | None = None) -> Tensor:
        if not torch.is_grad_enabled():
            variance, mean = torch.var_mean(x, (0, 2, 3), unbiased=False)
            self.batch_mean, self.batch_variance = mean, variance
        if not self.conditional:
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        normalised = F.batch_norm(x, None, None, training=True, eps=self.eps)
        weight = 1 + self.scale(condition_vector)[:, :, None, None]
        out: Tensor = normalised * weight + self.offset(condition_vector)[:, :, None, None]
        return out


def make_generator(settings: FitSettings) -> BigGAN:
    """An untrained generator of the mini configuration whose batch norms use the batch's statistics."""
    torch.manual_seed(settings.seed)  # the layers' own initialisation offers no generator argument
    model = BigGAN(BigGANConfig.from_dict(CONFIG))
    torch.nn.init.ones_(model.generator.bn.weight)
    torch.nn.init.zeros_(model.generator.bn.bias)
    for module in model.modules():
        if isinstance(module, BigGANBatchNorm):
            # Same parameters and buffers, another forward: the state dict keeps the package's layout.
            module.__class__ = BatchStatisticsNorm
    return model


def fit_generator(
    out: Path, settings: FitSettings, device: str = "cpu", start: LoadedGenerator | None = None
) -> Iterator[FitProgress]:
    """Train and write `config.json` and `pytorch_model.bin` into `out`; the same call continues an interrupted one.

    `start` is a generator of the mini configuration to begin with instead of fresh weights. Raises UsageError when it
    is of another configuration, or when `out` holds a training of other settings.
    """
    out.mkdir(parents=True, exist_ok=True)
    settings = replace(settings, start_sha256=start.weights_sha256 if start else None)
    generator = make_generator(settings).to(device).to(memory_format=torch.channels_last)
    if start:
        config = start.model.config.to_dict()
        if any(config[key] != value for key, value in CONFIG.items()):
            raise UsageError("the generator to start from is not of the mini configuration")
        generator.load_state_dict(start.model.state_dict())
    average = copy.deepcopy(generator)
    discriminator = Discriminator(len(CLASSES), settings.group).to(device)
    betas = (0.0, 0.999)
    optimizer_g = torch.optim.Adam(generator.parameters(), settings.learning_rate_generator, betas)
    optimizer_d = torch.optim.Adam(discriminator.parameters(), settings.learning_rate_discriminator, betas)
    rng = torch.Generator().manual_seed(settings.seed)
    parts = {
        "generator": generator,
        "average": average,
        "discriminator": discriminator,
        "optimizer_g": optimizer_g,
        "optimizer_d": optimizer_d,
    }
    first = _load_state(out, settings, parts, rng)

    # The real pictures, sorted by class so that a group of one class is a row of `members`.
    pictures = compose_pictures("train", np.arange(settings.num_objects), settings.confounding, settings.confounding)
    images = torch.from_numpy(pictures.images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    members = [torch.from_numpy(np.flatnonzero(pictures.class_labels == c)) for c in range(len(CLASSES))]

    def draw_labels() -> Tensor:
        groups = torch.randint(len(CLASSES), (settings.batch_size // settings.group,), generator=rng)
        return groups.repeat_interleave(settings.group)

    def draw_fake(labels: Tensor) -> Tensor:
        latents = torch.randn(len(labels), CONFIG["z_dim"], generator=rng).to(device)
        class_vectors = F.one_hot(labels, len(CLASSES)).float().to(device)
        fake: Tensor = generator(latents, class_vectors, 1.0)
        return fake

    for step in range(first, settings.steps):
        for optimizer, rate in (
            (optimizer_g, settings.learning_rate_generator),
            (optimizer_d, settings.learning_rate_discriminator),
        ):
            optimizer.param_groups[0]["lr"] = rate * _decay(step, settings.steps)

        # Discriminator: hinge loss on real and generated samples of the same classes.
        labels = draw_labels()
        picks = torch.stack(
            [members[c][torch.randint(len(members[c]), (1,), generator=rng)[0]] for c in labels.tolist()]
        )
        with torch.no_grad():
            fake = draw_fake(labels)
        on_device = labels.to(device)
        loss_d = (
            F.relu(1.0 - discriminator(images[picks.to(device)], on_device)).mean()
            + F.relu(1.0 + discriminator(fake, on_device)).mean()
        )
        optimizer_d.zero_grad()
        loss_d.backward()
        optimizer_d.step()

        # Generator.
        discriminator.requires_grad_(False)
        labels = draw_labels()
        with torch.set_grad_enabled(not start or step >= HEAD_START):
            loss_g = -discriminator(draw_fake(labels), labels.to(device)).mean()
        if loss_g.requires_grad:
            optimizer_g.zero_grad()
            loss_g.backward()
            optimizer_g.step()
        discriminator.requires_grad_(True)

        # A young average forgets faster, or it would remember the initial noise.
        decay = min(settings.ema_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, value in zip(average.parameters(), generator.parameters(), strict=True):
                mean.lerp_(value, 1.0 - decay)
            for mean, value in zip(average.buffers(), generator.buffers(), strict=True):
                mean.copy_(value)
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == settings.steps:
            _save_state(out, settings, parts, rng, step + 1)
        yield FitProgress(step + 1, loss_g.item(), loss_d.item())

    store_statistics(average, settings)
    save_generator(average, out, settings)


def store_statistics(model: BigGAN, settings: FitSettings) -> None:
    """Measure every batch norm's statistics at each truncation of the package's grid and store them."""
    rng = torch.Generator().manual_seed(settings.seed)
    device = next(model.parameters()).device
    labels = torch.arange(settings.batch_size) % len(CLASSES)
    class_vectors = F.one_hot(labels, len(CLASSES)).float().to(device)
    shape = (settings.statistics_batches, settings.batch_size, CONFIG["z_dim"])
    uniform = torch.rand(shape, generator=rng, dtype=torch.float64)
    tail = torch.special.ndtr(torch.tensor(-2.0, dtype=torch.float64))
    latents = torch.special.ndtri(tail + uniform * (1.0 - 2.0 * tail)).float().to(device)
    norms = [m for m in model.modules() if isinstance(m, BatchStatisticsNorm)]
    with torch.no_grad():
        model.train()
        for _ in range(20):  # let the averaged weights' own spectral norms converge
            model(latents[0, :16], class_vectors[:16], 1.0)
        model.eval()
        for index in range(CONFIG["n_stats"]):
            means, squares = [], []
            for batch in latents * (index / (CONFIG["n_stats"] - 1)):
                model(batch, class_vectors, 1.0)
                means.append([norm.batch_mean for norm in norms])
                squares.append([norm.batch_variance + norm.batch_mean**2 for norm in norms])
            for norm, mean, square in zip(norms, zip(*means, strict=True), zip(*squares, strict=True), strict=True):
                norm.running_means[index] = torch.stack(mean).mean(0)
                norm.running_vars[index] = torch.stack(square).mean(0) - norm.running_means[index] ** 2


def save_generator(model: BigGAN, out: Path, settings: FitSettings) -> None:
    """Write the package's two files and the settings that made them."""
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    torch.save(state, out / "pytorch_model.bin")
    # The package ignores keys it does not know; ours names the classes.
    (out / "config.json").write_text(json.dumps({**CONFIG, "class_names": CLASSES}, indent=2) + "\n")
    (out / "settings.json").write_text(json.dumps(asdict(settings), indent=2) + "\n")


def _decay(step: int, steps: int) -> float:
    """Constant for 60 % of the training, then linear to a tenth."""
    return min(1.0, 1.0 - 0.9 * (step / steps - 0.6) / 0.4)


def _save_state(out: Path, settings: FitSettings, parts: dict[str, Any], rng: torch.Generator, step: int) -> None:
    state = {name: part.state_dict() for name, part in parts.items()}
    temporary = out / f"{STATE_NAME}.tmp"
    torch.save({**state, "rng": rng.get_state(), "settings": asdict(settings), "step": step}, temporary)
    os.replace(temporary, out / STATE_NAME)


def _load_state(out: Path, settings: FitSettings, parts: dict[str, Any], rng: torch.Generator) -> int:
    if not (out / STATE_NAME).exists():
        return 0
    state = torch.load(out / STATE_NAME, weights_only=True)
    if state["settings"] != asdict(settings):
        changed = [key for key, value in asdict(settings).items() if state["settings"].get(key) != value]
        raise UsageError(f"{out / STATE_NAME}: made with another {', '.join(changed)}; choose another folder")
    for name, part in parts.items():
        part.load_state_dict(state[name])
    rng.set_state(state["rng"])
    return int(state["step"])
