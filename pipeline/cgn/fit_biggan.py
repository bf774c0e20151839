"""Train the ImageNet form: three copies of a generator become shape, texture and background."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...manifests.randomness import integers_below, random_words, truncated_normal, uniform
from ...manifests.sources.generated import PACKAGE_BOUND
from ..biggan.fast_generator import fold
from ..networks.generator import LoadedGenerator
from ..networks.kernels import repeatable_kernels
from .composition import compose
from .fit import check_finite, draw_grid, rate_factor
from .losses import (
    Features,
    background_loss,
    make_collage,
    mask_entropy,
    mask_size_loss,
    reconstruction_loss,
    style_loss,
)
from .mechanisms import CONFIG_NAME, WEIGHTS_NAME, BigGanCgn
from .mnist_form import MASK_RANGE
from .saliency import Saliency
from .settings import BigGanFit

SHEET_CLASSES = 10


class BigGanLearner:
    """The learner of `fit` for this form. Latents, labels and patches are keyed by seed, update and pass."""

    def __init__(
        self,
        settings: BigGanFit,
        generator: LoadedGenerator,
        saliency: Saliency,
        features: Features,
        device: str = "cpu",
    ) -> None:
        self.settings, self.features, self.device = settings, features, device
        self.steps = settings.steps
        self.class_names = generator.class_names
        config = generator.model.config
        self.target = fold(generator.model, settings.truncation, batch_size=settings.batch_size, device=device)
        self.networks = BigGanCgn(config, saliency)
        rates = {"shape": settings.lr_shape, "texture": settings.lr_texture, "background": settings.lr_background}
        self.mechanisms: dict[str, nn.Module] = {
            "shape": self.networks.f_shape,
            "texture": self.networks.f_text,
            "background": self.networks.f_bg,
        }
        for mechanism in self.mechanisms.values():
            mechanism.load_state_dict(generator.model.state_dict())
        # In eval mode, the spectral norms' vectors stay as stored, as the batch norms' statistics do (which this class
        # never takes from a batch): step 0 composes exactly the target, and what is trained is what is rendered.
        self.networks.eval().to(device)
        self.rates = rates
        self.optimizers = {
            name: torch.optim.Adam(mechanism.parameters(), rates[name], (settings.betas[0], settings.betas[1]))
            for name, mechanism in self.mechanisms.items()
        }
        self.parts: Mapping[str, Any] = {
            **self.mechanisms,
            **{f"optimizer of {name}": optimizer for name, optimizer in self.optimizers.items()},
        }

    def learn(self, step: int) -> dict[str, float]:
        settings = self.settings
        factor = rate_factor(step, settings.steps, settings.warmup, settings.decay)
        for name, optimizer in self.optimizers.items():
            optimizer.param_groups[0]["lr"] = self.rates[name] * factor
            optimizer.zero_grad()
        sums: dict[str, float] = {}
        for turn in range(settings.accumulate):
            with torch.autocast("cuda", torch.bfloat16, enabled=self._is_mixed()), repeatable_kernels():
                losses, state = self._pass(*self._draw(step, turn))
            numbers = check_finite(losses, step)
            torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
            for name, value in {**numbers, **state}.items():
                sums[name] = sums.get(name, 0.0) + value / settings.accumulate
        for name, mechanism in self.mechanisms.items():
            if settings.clip is not None:
                nn.utils.clip_grad_norm_(mechanism.parameters(), settings.clip)
            self.optimizers[name].step()
        return sums

    def losses(
        self, target: Tensor, mask: Tensor, foreground: Tensor, background: Tensor, draws: Tensor
    ) -> dict[str, Tensor]:
        """Every loss with its weight; `draws` pick the collage's patches."""
        settings, collage = self.settings, self.settings.collage
        generated = compose(mask, foreground, background)
        carpet = make_collage(
            target,
            mask,
            draws,
            side=collage.side,
            patch=collage.patch,
            candidates=collage.candidates,
            threshold=collage.threshold,
        )
        return {
            "l1": settings.l1 * reconstruction_loss(generated, target),
            "style": style_loss(self.features, generated, target, settings.style),
            "binary": settings.binary * mask_entropy(mask),
            "size": settings.size * mask_size_loss(mask, settings.size_range[0], settings.size_range[1]),
            "texture": style_loss(self.features, foreground, carpet, settings.texture),
            "background": settings.background * background_loss(self.networks.saliency(background)),
        }

    def draw_sheet(self) -> NDArray[np.uint8]:
        """A column a class; rows: the shape's picture, mask, texture, background, composition, target, and a
        counterfactual with the texture of the class 3 further on and the background of the one 7 further on."""
        num_classes = self.networks.config.num_classes
        count = min(SHEET_CLASSES, num_classes)
        labels = torch.from_numpy(np.arange(count) * num_classes // count)
        latents, _, _ = self._draw_words("sheet", 0, 0, count)
        latents, vectors = latents.to(self.device), _one_hot(labels, num_classes).to(self.device)
        truncation = self.settings.truncation
        with torch.no_grad():
            premask = self.networks.f_shape(latents, vectors, truncation)
            mask = self.networks.saliency(premask).clamp(*MASK_RANGE)
            foreground = self.networks.texture(latents, vectors, truncation)
            background = self.networks.background(latents, vectors, truncation)
            other = self.networks.texture(latents, vectors.roll(-3, 0), truncation)
            place = self.networks.background(latents, vectors.roll(-7, 0), truncation)
        rows = [premask, mask * 2 - 1, foreground, background, compose(mask, foreground, background)]
        return draw_grid([*rows, self.target(latents, labels).clone(), compose(mask, other, place)])

    def save(self, out: Path) -> None:
        """Write `cgn.pth` and `config.json`, which `load_cgn` reads."""
        settings, config = self.settings, self.networks.config
        rows = settings.truncation * (config.n_stats - 1)
        keep = slice(None) if settings.all_statistics else slice(round(rows), round(rows) + 1)
        dtype = torch.float16 if settings.store == "fp16" else torch.float32
        state = {}
        for name, value in self.networks.state_dict().items():
            kept = value[keep] if name.endswith(("running_means", "running_vars")) else value
            state[name] = (kept.to(dtype) if kept.is_floating_point() else kept).cpu().clone()
        torch.save(state, out / WEIGHTS_NAME)
        names = {"class_names": self.class_names} if self.class_names else {}
        description = {**config.to_dict(), **names, "saliency": self.networks.saliency.describe()}
        (out / CONFIG_NAME).write_text(json.dumps(description, indent=2) + "\n")

    def _pass(
        self, latents: Tensor, labels: Tensor, vectors: Tensor, draws: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        truncation = self.settings.truncation
        target = self.target(latents, labels).clone()  # outside of inference mode, so that losses may keep it
        mask = self.networks.shape(latents, vectors, truncation)
        foreground = self.networks.texture(latents, vectors, truncation).float()
        background = self.networks.background(latents, vectors, truncation).float()
        losses = self.losses(target, mask, foreground, background, draws)
        with torch.no_grad():
            means = mask.mean((1, 2, 3))
            found, wanted = mask > 0.5, self.networks.saliency(target) > 0.5
            either = (found | wanted).sum((1, 2, 3)).clamp(min=1)
            state = {
                "mask mean": float(means.mean()),
                "mask spread": float(means.std(unbiased=False)),
                "mask entropy": float(mask_entropy(mask)),
                "mask IoU with the target's": float(((found & wanted).sum((1, 2, 3)) / either).mean()),
                "background saliency": float(losses["background"].detach()) / (self.settings.background or 1.0),
            }
        return losses, state

    def _draw(self, step: int, turn: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        count, num_classes = self.settings.batch_size, self.networks.config.num_classes
        latents, labels, draws = self._draw_words("passes", step, turn, count)
        if self.settings.one_class_a_batch:
            labels = labels[:1].expand(count)
        vectors = _one_hot(labels, num_classes)
        return latents.to(self.device), labels.to(self.device), vectors.to(self.device), draws.to(self.device)

    def _draw_words(self, name: str, step: int, turn: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, labels and the draws of patches; the name keeps the sheet's apart."""
        config, tiles = self.networks.config, self.settings.collage.tiles
        sizes = (config.z_dim, 1, tiles**2)
        words = random_words(self.settings.seed, f"fit-cgn {name}", step, turn, count=count * sum(sizes))
        first, second, third = np.split(words.reshape(count, -1), np.cumsum(sizes)[:-1], axis=1)
        latents = self.settings.truncation * truncated_normal(first, PACKAGE_BOUND)
        draws = uniform(third).reshape(count, tiles, tiles)
        labels = integers_below(config.num_classes, second[:, 0])
        return torch.from_numpy(latents).float(), torch.from_numpy(labels), torch.from_numpy(draws).float()

    def _is_mixed(self) -> bool:
        return self.settings.precision == "bf16" and torch.device(self.device).type == "cuda"


def _one_hot(labels: Tensor, num_classes: int) -> Tensor:
    return torch.eye(num_classes)[labels]
