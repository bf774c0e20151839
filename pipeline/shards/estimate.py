"""What a recipe will cost: samples, shards, bytes and device time, from a short timing on the device at hand."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...manifests.console import format_seconds
from ...manifests.dataset import Dataset
from ...manifests.sources.stream import Rehearsal, StreamPlan
from ...manifests.storage import Storage
from ..biggan.directions import exact_directions
from ..images.encode import encode_image
from ..release.close import RecordStore
from ..sources import RENDERERS, WORK
from ..sources.rendering import RenderContext
from .settle import Ingredients

# Measured: JPEG quality 95, 4:4:4, of photographs at 256 px. For weights that are not at hand.
TYPICAL_BYTES_PER_PIXEL = 0.73
# Of one core with AVX-512 in fp32 convolutions, measured: good to a factor of two or three.
CPU_FLOP_PER_SECOND = 8e10


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
        rehearsal = stream.rehearsal(device == "cpu")
        rehearsed = rehearsal.stream
        count = _timed_samples(rehearsal, context)
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
        if rehearsal.side is not None:
            size = TYPICAL_BYTES_PER_PIXEL * rehearsal.side**2
        # Each tar member costs a header and padding: three members, about 2.5 kB.
        yield StreamEstimate(
            name,
            plan.count,
            plan.num_shards,
            plan.count * (size + 2500),
            plan.count * rehearsal.factor * seconds / len(samples),
        )


def warn_of_long_work(dataset: Dataset, names: Sequence[str], device: str, workers: int) -> Iterator[str]:
    """One line for each stream whose missing shards would take CPU workers more than an hour of optimisation."""
    if device != "cpu":
        return
    store = RecordStore(dataset.storage)
    for name in names:
        plan = dataset.plan(name)
        missing = store.missing_shards(name, plan.num_shards)
        count = sum(plan.shard_size(int(index)) for index in missing)
        flop = count * WORK[plan.stream.source](plan.stream, dataset.roots) if plan.stream.source in WORK else 0.0
        seconds = flop / CPU_FLOP_PER_SECOND / workers
        if seconds > 3600:
            yield (
                f"stream {name}: {count:,} images by optimisation are {format_flop(flop)}, about "
                f"{format_seconds(seconds)} for {workers} CPU workers; --dry-run measures, and a GPU is far faster"
            )


def format_flop(flop: float) -> str:
    """`2.0 EFLOP`."""
    for prefix in "GTPE":
        flop /= 1000 if prefix != "G" else 1e9
        if flop < 1000 or prefix == "E":
            break
    return f"{flop:.1f} {prefix}FLOP"


def _timed_samples(rehearsal: Rehearsal, context: RenderContext) -> int:
    if not rehearsal.stream.uses_generator:
        return rehearsal.samples
    assert context.facts.generator is not None
    if context.device != "cpu":
        return context.batch_size
    return context.batch_size if context.facts.generator.resolution <= 64 else 2
