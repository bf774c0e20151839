"""Render transferred and stylized streams."""

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ...manifests.pictures import PictureError, damage_named, decode_picture
from ...manifests.sources.stream import Sample
from ...manifests.sources.transfer import ADAIN_INPUTS, TransferredStream, TransferStream
from ..images.pictures import fit_picture, fit_thumbnail
from ..style.adain import AdainNetwork, load_adain, make_random_adain
from ..style.gatys import LossWeights, Pair, evaluation_flop, transfer_styles
from ..style.vgg import DTYPES, Precision, Vgg, load_vgg, make_random_vgg
from .ahead import map_ahead
from .references import read_referred
from .rendering import RenderContext, Rendered

# Counted as "39 of 4,000 samples ...".
DIVERGED = "ended with a larger loss than they began with"

# Threads that read and decode contents and styles (Pillow releases the GIL), and how many samples ahead.
READERS = 8
READ_AHEAD = 64

# Of the largest activation of a batch: on a CPU, larger batches cost more an image, measured.
CPU_ACTIVATION_BYTES = 1 << 24


@dataclass(frozen=True)
class Source:
    """A sample that can be made: content and style [3, H, W] in [0, 1], and where the sample stands in its shard."""

    position: int
    sample: Sample
    content: Tensor
    style: Tensor


def render_transferred(
    context: RenderContext, stream: TransferredStream, samples: Sequence[Sample]
) -> Iterator[Rendered]:
    """Transfer styles, in the samples' order; what cannot be read becomes a failure and takes no place in a batch."""
    done: dict[int, Rendered] = {}
    sources = _read_sources(context, stream, samples, done)
    if isinstance(stream, TransferStream) and stream.method == "gatys":
        made = _optimise(context, stream, sources)
    else:
        made = _feed_forward(context, stream, sources)
    following = 0
    for position, rendered in made:
        done[position] = rendered
        while following in done:
            yield done.pop(following)
            following += 1
    for _, late in sorted(done.items()):
        yield late


def _optimise(
    context: RenderContext, stream: TransferStream, sources: Iterator[Source]
) -> Iterator[tuple[int, Rendered]]:
    """Gatys transfer, with the final losses of each image; positions come with the results."""
    if context.stand_ins and stream.encoder not in context.roots:
        network = make_random_vgg().to(context.device, DTYPES[stream.precision])
    else:
        path, sha256 = context.roots[stream.encoder], context.digests.get(stream.encoder)
        network = _vgg(path, sha256, context.device, stream.precision)
    waiting: dict[int, Source] = {}

    def pairs() -> Iterator[Pair]:
        for number, source in enumerate(sources):
            waiting[number] = source
            yield Pair(source.content, source.style, source.sample.parameters["evaluations"])

    num_slots = _fit_batch(stream, context.device, len(network.weights[0]))
    weights = LossWeights(stream.content_weight, stream.style_weight)
    for result in transfer_styles(network, pairs(), num_slots, weights, keep_best=stream.keep == "best"):
        source = waiting.pop(result.position)
        losses = {"content_loss": result.content_loss, "style_loss": result.style_loss}
        rendered = _finish(source.sample, result.image, stream.crop, losses)
        yield source.position, replace(rendered, remark=DIVERGED) if result.diverged else rendered


def optimisation_flop(stream: TransferStream, roots: Mapping[str, str]) -> float:
    """FLOP of a sample by optimisation, on average; one forward pass (AdaIN) counts as none."""
    if stream.method != "gatys":
        return 0.0
    return stream.mean_evaluations * evaluation_flop(
        _vgg(roots[stream.encoder], None, "cpu", "fp32"), stream.working_side
    )


def _feed_forward(
    context: RenderContext, stream: TransferredStream, sources: Iterator[Source]
) -> Iterator[tuple[int, Rendered]]:
    """AdaIN, in batches of fixed size; the last one is filled up with zeros. Positions come with the results."""
    if context.stand_ins and any(name not in context.roots for name in ADAIN_INPUTS):
        network = make_random_adain().to(context.device)
    else:
        encoder, decoder = ((context.roots[name], context.digests.get(name)) for name in ADAIN_INPUTS)
        network = _adain(encoder, decoder, context.device)
    size = _fit_batch(stream, context.device, network.width)
    while batch := list(islice(sources, size)):
        contents, styles = torch.zeros(2, size, 3, stream.crop, stream.crop, device=context.device)
        for row, source in enumerate(batch):
            contents[row], styles[row] = source.content, source.style
        images = network.transfer(contents, styles, batch[0].sample.parameters["alpha"])
        for source, image in zip(batch, images, strict=False):
            yield source.position, _finish(source.sample, image, stream.crop, {})


def _fit_batch(stream: TransferredStream, device: str, channels: int) -> int:
    """Images computed together: the recipe's number, on a CPU at most as many as pay."""
    if device != "cpu":
        return stream.batch_size
    return min(stream.batch_size, max(1, CPU_ACTIVATION_BYTES // (channels * stream.working_side**2 * 4)))


def _finish(sample: Sample, image: Tensor, side: int, losses: dict[str, float]) -> Rendered:
    """A sample's pixels, shrunk to `side` where it was computed larger."""
    if not image.isfinite().all() or not all(map(math.isfinite, losses.values())):
        return Rendered(sample, failure="non-finite pixels", detail=sample.key)
    pixels = image.mul(255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    if len(pixels) != side:
        pixels = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS))
    return Rendered(sample, pixels, parameters=losses)


def _read_sources(
    context: RenderContext, stream: TransferredStream, samples: Sequence[Sample], done: dict[int, Rendered]
) -> Iterator[Source]:
    """Content and style of each sample, read ahead of their use; what is lost goes to `done`."""

    def read(sample: Sample) -> list[NDArray[np.uint8]] | PictureError:
        try:
            return [
                _fit_side(read_reference(context, stream, sample.parameters[part]), stream.working_side)
                for part in ("content", "style")
            ]
        except PictureError as error:
            return error

    with ThreadPoolExecutor(READERS) as readers:
        for position, found in enumerate(map_ahead(readers, read, samples, READ_AHEAD)):
            sample = samples[position]
            if isinstance(found, PictureError):
                done[position] = Rendered(sample, failure=found.reason, detail=f"{found.name}: {found.detail}")
            else:
                yield Source(position, sample, *(_to_tensor(pixels, context.device) for pixels in found))


def read_reference(context: RenderContext, stream: TransferredStream, reference: Mapping[str, Any]) -> Image.Image:
    """The picture that a sample's `content` or `style` refers to, of the stream's geometry.

    Raises PictureError where it cannot be read, GenintError where its input is not on this machine.
    """
    if context.stand_ins and "stream" in reference:
        noise = np.random.default_rng(0).integers(0, 256, (stream.crop, stream.crop, 3), np.uint8)
        return Image.fromarray(noise)
    found = read_referred(context, reference)
    with damage_named(found.name):
        picture = decode_picture(found.image)
        if isinstance(stream, TransferStream) and stream.geometry == "released":
            return fit_thumbnail(picture, stream.resize, stream.crop)
        return fit_picture(picture, stream.resize, stream.crop)


def _fit_side(picture: Image.Image, side: int) -> NDArray[np.uint8]:
    if picture.width != side:
        picture = picture.resize((side, side), Image.Resampling.BILINEAR)
    return np.array(picture)


def _to_tensor(pixels: NDArray[np.uint8], device: str) -> Tensor:
    return torch.from_numpy(pixels).to(device).permute(2, 0, 1).float() / 255


# Loaded once a worker.
@lru_cache(maxsize=1)
def _vgg(path: str, sha256: str | None, device: str, precision: Precision) -> Vgg:
    return load_vgg(path, sha256=sha256).to(device, DTYPES[precision])


@lru_cache(maxsize=1)
def _adain(encoder: tuple[str, str | None], decoder: tuple[str, str | None], device: str) -> AdainNetwork:
    """Each a path and a digest."""
    return load_adain(Path(encoder[0]), Path(decoder[0]), (encoder[1], decoder[1])).to(device)
