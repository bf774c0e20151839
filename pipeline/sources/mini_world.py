"""Compose the mini world's real pictures."""

from collections.abc import Iterator, Sequence

import numpy as np

from ...manifests.sources.mini_world import MiniWorldStream
from ...manifests.sources.stream import Sample
from ..images.encode import encode_mask
from ..mini.world import BATCH, compose_pictures
from .rendering import RenderContext, Rendered


def compose_mini_world(
    context: RenderContext, stream: MiniWorldStream, samples: Sequence[Sample]
) -> Iterator[Rendered]:
    """Compose samples; each brings its object mask as `mask.png`."""
    for start in range(0, len(samples), BATCH):
        batch = samples[start : start + BATCH]
        pictures = compose_pictures(
            stream.objects,
            np.array([sample.index for sample in batch]),
            stream.background_confounding,
            stream.pose_confounding,
        )
        for sample, image, mask in zip(batch, pictures.images, pictures.masks, strict=True):
            yield Rendered(sample, image, members={"mask.png": encode_mask(mask)})
