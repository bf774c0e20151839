"""Compose counterfactuals of a CGN's mechanisms, rendered for each sample or recombined from a bank."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...manifests.errors import GenintError
from ...manifests.sources.counterfactual import MECHANISMS, SWAPPED, CounterfactualStream
from ...manifests.sources.stream import Sample
from ..cgn.composition import compose
from ..cgn.mechanisms import Cgn, fold_cgn
from ..cgn.mnist_form import shuffle
from ..cgn.network_files import cgn_place, make_stand_in, open_cgn
from ..images.encode import encode_mask
from ..networks.generator import Precision
from .rendering import RenderContext, Rendered

# Composed together: enough for vectors, little enough for memory at 256 px.
MAX_PIXELS = 1 << 19


@dataclass(frozen=True)
class Composition:
    """What counterfactuals are composed of: masks [N, 1, H, W] in (0, 1), textures and backgrounds [N, 3, H, W] in
    [-1, 1]."""

    masks: Tensor
    textures: Tensor
    backgrounds: Tensor

    def compose(self) -> Tensor:
        """The counterfactuals [N, 3, H, W] in [-1, 1]."""
        return compose(self.masks, self.textures, self.backgrounds)

    def contrast(self) -> Tensor:
        """|f - b| of pictures in [0, 1], averaged over the mask, [N]: how far objects stand out."""
        difference = (self.textures - self.backgrounds).abs().mean(1, keepdim=True) / 2
        return (self.masks * difference).sum((1, 2, 3)) / self.masks.sum((1, 2, 3))


def render_counterfactuals(
    context: RenderContext, stream: CounterfactualStream, samples: Sequence[Sample]
) -> Iterator[Rendered]:
    """Compose samples; each brings its mask as `mask.png`. What does not pass the stream's bounds becomes a failure."""
    resolution = context.facts.cgns[stream.cgn].resolution
    # Whole render batches, so that each has fixed members.
    size = stream.batch_size * max(1, MAX_PIXELS // resolution**2 // stream.batch_size)
    for start in range(0, len(samples), size):
        batch = samples[start : start + size]
        parts = Composition(*(make_part(context, stream, mechanism, batch) for mechanism in MECHANISMS))
        images = parts.compose()
        finite = images.isfinite().all((1, 2, 3)).tolist()
        means = parts.masks.mean((1, 2, 3)).tolist()
        contrasts = parts.contrast().tolist()
        pixels, masks = to_pixels(images), mask_pixels(parts.masks)
        for row, sample in enumerate(batch):
            measured = {"mean_mask": round(means[row], 6), "contrast": round(contrasts[row], 6)}
            failure = "" if finite[row] else "non-finite pixels"
            failure = failure or out_of_bounds(stream, means[row], contrasts[row])
            if failure:
                detail = f"{sample.key}: mean mask {means[row]:.3f}, contrast {contrasts[row]:.3f}"
                yield Rendered(sample, failure=failure, detail=detail)
            else:
                members = {"mask.png": encode_mask(masks[row])}
                yield Rendered(sample, pixels[row], members=members, parameters=measured)


def out_of_bounds(stream: CounterfactualStream, mean_mask: float, contrast: float) -> str:
    """Why a sample is none that the stream asks for; nothing if it is."""
    low, high = stream.mask_range or (0.0, 1.0)
    if not low <= mean_mask <= high:
        return "mean mask outside mask_range"
    if contrast < (stream.min_contrast or 0.0):
        return "contrast below min_contrast"
    return ""


def make_part(
    context: RenderContext, stream: CounterfactualStream, mechanism: str, samples: Sequence[Sample]
) -> Tensor:
    """Masks [N, 1, H, W] in (0, 1), or textures or backgrounds [N, 3, H, W] in [-1, 1], of samples.

    Raises GenintError where the network is not on this machine.
    """
    labels = np.array([sample.parameters["labels"][mechanism] for sample in samples])
    members = np.array([sample.parameters["latent_index"][mechanism] for sample in samples])
    if stream.bank is None:
        pictures = _render(context, stream, mechanism, labels, members)
    else:
        bank, starts = _bank(context, stream, mechanism)
        pictures = bank[torch.from_numpy(starts[labels] + members)].float()
    if mechanism in SWAPPED and context.facts.cgns[stream.cgn].windows:
        windows = torch.tensor([sample.parameters["windows"][mechanism] for sample in samples])
        pictures = shuffle(pictures, windows)
    return pictures


def _bank(context: RenderContext, stream: CounterfactualStream, mechanism: str) -> tuple[Tensor, NDArray[np.int64]]:
    """A mechanism's pictures [classes * bank, C, H, W] in half precision, and where those of a class label begin."""
    assert stream.bank is not None
    key = f"bank of {mechanism}: {stream.model_dump_json()}"
    if key not in context.kept:
        labels = np.array(stream.bank_labels(context.facts, mechanism))
        starts = np.zeros(labels.max() + 1, np.int64)
        starts[labels] = stream.bank * np.arange(len(labels))
        every, members = np.repeat(labels, stream.bank), np.tile(np.arange(stream.bank), len(labels))
        # Pieces of whole render batches: all of them in single precision at once would double the memory.
        step = 8 * stream.batch_size
        pieces = [
            _render(context, stream, mechanism, every[i : i + step], members[i : i + step]).half()
            for i in range(0, len(every), step)
        ]
        context.kept[key] = torch.cat(pieces), starts
    found: tuple[Tensor, NDArray[np.int64]] = context.kept[key]
    return found


def _render(
    context: RenderContext,
    stream: CounterfactualStream,
    mechanism: str,
    labels: NDArray[np.int64],
    members: NDArray[np.int64],
) -> Tensor:
    """Pictures of one mechanism on the CPU; those of the MNIST form before the shuffler."""
    cgn = find_mechanisms(context, stream.cgn, stream.truncation, stream.batch_size, stream.precision, stream.normalise)
    latents = torch.from_numpy(stream.draw_latents(context.facts, mechanism, labels, members))
    return render_mechanism(cgn, mechanism, latents, torch.from_numpy(labels)).cpu()


def render_mechanism(cgn: Cgn, mechanism: str, latents: Tensor, classes: Tensor) -> Tensor:
    """Pictures of one mechanism by its name; of the MNIST form before the shuffler."""
    if mechanism == "shape":
        return cgn.shape(latents, classes)
    windows = torch.zeros(len(latents), 2, dtype=torch.int64) if cgn.facts.windows else None
    return (cgn.texture if mechanism == "texture" else cgn.background)(latents, classes, windows)


def find_mechanisms(
    context: RenderContext, name: str, truncation: float, batch_size: int, precision: Precision, normalise: bool | None
) -> Cgn:
    """A network of the recipe, or where only time is of interest its stand-in.

    Raises GenintError where it is not on this machine, or where its files are not those of the build.
    """
    place = Path(context.roots[name]) if name in context.roots else cgn_place(name)
    if place is None and not context.stand_ins:
        raise GenintError(f"input {name}: not on this machine; give it with --input {name}=PATH")
    cgn = open_mechanisms(name, place, truncation, batch_size, precision, normalise, context.device)
    if place is not None and cgn.facts.digests != context.facts.cgns[name].digests:
        raise GenintError(f"input {name}: {place}: other files than those that the dataset is rendered with")
    return cgn


# Loaded once a worker.
@lru_cache(maxsize=2)
def open_mechanisms(
    name: str,
    path: Path | None,
    truncation: float,
    batch_size: int,
    precision: Precision,
    normalise: bool | None,
    device: str,
) -> Cgn:
    """A network ready to render; without a place, one of random weights stands for it."""
    loaded = make_stand_in(name) if path is None else open_cgn(name, path, normalise)
    return fold_cgn(loaded, truncation, batch_size=batch_size, precision=precision, device=device)


def to_pixels(images: Tensor) -> NDArray[np.uint8]:
    """Images [N, 3, H, W] in [-1, 1] to [N, H, W, 3] uint8."""
    pixels = images.nan_to_num(nan=-1.0).add_(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
    array: NDArray[np.uint8] = pixels.permute(0, 2, 3, 1).contiguous().numpy()
    return array


def mask_pixels(masks: Tensor) -> NDArray[np.uint8]:
    """Masks [N, 1, H, W] in [0, 1] to [N, H, W] uint8."""
    pixels: NDArray[np.uint8] = masks[:, 0].nan_to_num(nan=0.0).mul(255).round_().to(torch.uint8).numpy()
    return pixels
