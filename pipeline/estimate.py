"""What a recipe will cost: samples, shards, bytes and device time, from a short timing on the device at hand."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ..manifests.sources.stream import Stream, StreamPlan
from ..manifests.sources.transfer import TransferredStream
from ..manifests.storage import Storage
from .directions import exact_directions
from .encode import encode_image
from .rendering import RenderContext
from .settle import Ingredients
from .sources import RENDERERS

# Measured: JPEG quality 95, 4:4:4, of photographs at 256 px. For weights that are not at hand.
TYPICAL_BYTES_PER_PIXEL = 0.73


@dataclass(frozen=True)
class StreamEstimate:
    """One stream's cost. device_seconds is for one device of the kind at hand."""

    name: str
    samples: int
    shards: int
    bytes: float
    device_seconds: float


def estimate_streams(
    ingredients: Ingredients, storage: Storage, device: str, names: list[str]
) -> Iterator[StreamEstimate]:
    """Time a few samples of each stream, after one untimed pass, and scale up."""
    facts = ingredients.facts
    model = ingredients.model
    if model is not None and any(stream.uses_directions for stream in ingredients.recipe.streams):
        # Any directions do for timing; sampled ones would take minutes.
        facts = replace(facts, directions=exact_directions(model, model.config.z_dim))
    recipe = ingredients.recipe
    context = RenderContext(recipe, facts, storage, device, model, ingredients.roots, stand_ins=True)
    for name in names:
        stream = recipe.stream(name)
        plan = StreamPlan(stream, facts)
        count = _timed_samples(stream, context)
        rehearsed, factor = stream.rehearsal()
        samples = rehearsed.samples(facts, np.arange(min(count, plan.count)))
        if stream.uses_generator and device == "cpu":
            # A whole batch of a large generator takes minutes on a CPU.
            assert recipe.generator is not None
            smaller = recipe.generator.model_copy(update={"batch_size": count})
            context.recipe = recipe.model_copy(update={"generator": smaller})
        for _ in range(2):
            started = time.perf_counter()
            results = list(RENDERERS[stream.source](context, rehearsed, samples))
            images = [encode_image(r.image, stream) if r.image is not None else r.encoded for r in results]
            seconds = time.perf_counter() - started
        made = [image for image in images if image is not None]
        size = sum(map(len, made)) / max(len(made), 1)
        if stream.uses_generator and ingredients.generator is None:
            assert facts.generator is not None
            size = TYPICAL_BYTES_PER_PIXEL * facts.generator.resolution**2
        if isinstance(stream, TransferredStream):
            size = TYPICAL_BYTES_PER_PIXEL * stream.crop**2  # stand-ins are noise
        # Each tar member costs a header and padding: three members, about 2.5 kB.
        yield StreamEstimate(
            name, plan.count, plan.num_shards, plan.count * (size + 2500), plan.count * factor * seconds / len(samples)
        )


def _timed_samples(stream: Stream, context: RenderContext) -> int:
    if isinstance(stream, TransferredStream):
        return 2 if context.device == "cpu" else 2 * stream.batch_size
    if not stream.uses_generator:
        return 32
    assert context.facts.generator is not None
    if context.device != "cpu":
        return context.batch_size
    return context.batch_size if context.facts.generator.resolution <= 64 else 2
