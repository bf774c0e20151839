"""Render observational and interventional streams."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from ...manifests.sources.generated import GeneratedStream
from ...manifests.sources.stream import Sample
from .rendering import RenderContext, Rendered


def render_generated(context: RenderContext, stream: GeneratedStream, samples: Sequence[Sample]) -> Iterator[Rendered]:
    """Render samples in batches of fixed members, so that floating point does not depend on the schedule."""
    generator = context.generator(stream.statistics_truncation)
    for start in range(0, len(samples), context.batch_size):
        batch = samples[start : start + context.batch_size]
        latents = stream.latents(context.facts, np.array([sample.index for sample in batch]))
        labels = np.array([sample.class_label for sample in batch])
        images, finite = generator.render(torch.from_numpy(latents), torch.from_numpy(labels))
        for sample, image, is_finite in zip(batch, images, finite, strict=True):
            if is_finite:
                yield Rendered(sample, image)
            else:
                yield Rendered(sample, failure="non-finite pixels", detail=f"latent {sample.index}")
