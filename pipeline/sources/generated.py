"""Render observational and interventional streams."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from ...manifests.sources.generated import GeneratedStream
from ...manifests.sources.stream import Sample
from ..networks.generator import Rendering
from .rendering import RenderContext, Rendered

# Latents computed together: their cost is that of numpy's calls, until they leave the processor's cache.
LATENTS_TOGETHER = 512


def render_generated(context: RenderContext, stream: GeneratedStream, samples: Sequence[Sample]) -> Iterator[Rendered]:
    """Render samples in batches of fixed members, so that floating point does not depend on the schedule."""
    generator = context.generator(stream.batch_norm_truncation)
    size = context.batch_size
    begun: tuple[Sequence[Sample], Rendering] | None = None
    together = size * -(-LATENTS_TOGETHER // size)
    for start in range(0, len(samples), size):
        if start % together == 0:
            indices = np.array([sample.index for sample in samples[start : start + together]])
            latents = torch.from_numpy(stream.latents(context.facts, indices))
        batch = samples[start : start + size]
        labels = torch.tensor([sample.class_label for sample in batch])
        # The next batch is begun before the last is waited for: a GPU has work while its pixels are brought back.
        following = batch, generator.begin(latents[start % together :][: len(batch)], labels)
        if begun is not None:
            yield from _finish(*begun)
        begun = following
    if begun is not None:
        yield from _finish(*begun)


def _finish(batch: Sequence[Sample], rendering: Rendering) -> Iterator[Rendered]:
    for sample, image, is_finite in zip(batch, *rendering.finish(), strict=True):
        if is_finite:
            yield Rendered(sample, image)
        else:
            yield Rendered(sample, failure="non-finite pixels", detail=f"latent {sample.index}")
