"""What a recipe will cost: samples, shards, bytes and device time, from a short timing on the device at hand."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ...manifests.console import format_seconds
from ...manifests.dataset import Dataset
from ...manifests.directions import axis_directions
from ...manifests.sources.stream import Rehearsal, StreamPlan
from ...manifests.storage import Storage
from ..images.encode import encode_image, make_mark
from ..release.close import RecordStore
from ..sources import RENDERERS, WORK
from ..sources.rendering import RenderContext
from .settle import Ingredients

# Measured: JPEG quality 95, 4:4:4, of photographs at 256 px. For weights that are not at hand.
TYPICAL_BYTES_PER_PIXEL = 0.73
# Of one core with AVX-512 in fp32 convolutions, measured: good to a factor of two or three.
CPU_FLOP_PER_SECOND = 8e10
# A rehearsal's bounds: pixels of a batch (64 pictures of 256 px), side of a picture, seconds of a pass, and seconds
# after which a pass is as good as one that another went before.
MOST_PIXELS = 1 << 22
LARGEST_SIDE = {"cpu": 256, "gpu": 512}
LONGEST_PASS = 10.0
LONG_PASS = 2.0


@dataclass(frozen=True)
class StreamEstimate:
    """One stream's cost. device_seconds is for one device of the kind at hand (a CPU: one worker, one core) that does
    nothing else; busy_seconds for one that others use as they did while it was timed."""

    name: str
    samples: int
    shards: int
    bytes: float
    device_seconds: float
    busy_seconds: float


def estimate_streams(
    ingredients: Ingredients, storage: Storage, device: str, names: Sequence[str]
) -> Iterator[StreamEstimate]:
    """Time a few samples of each stream, after one untimed pass where that is short, and scale up."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a worker has
    try:
        yield from _estimate_streams(ingredients, storage, device, names)
    finally:
        torch.set_num_threads(threads)


def _estimate_streams(
    ingredients: Ingredients, storage: Storage, device: str, names: Sequence[str]
) -> Iterator[StreamEstimate]:
    facts = ingredients.facts
    network = ingredients.network
    if network is not None and facts.directions is None:
        # Any directions do for timing; sampled ones would take minutes.
        facts = replace(facts, directions=axis_directions(network.z_dim))
    recipe = ingredients.recipe
    context = RenderContext(recipe, facts, storage, device, network, ingredients.roots, stand_ins=True)
    for name in names:
        stream = recipe.stream(name)
        plan = StreamPlan(stream, facts)
        mark = make_mark(recipe, stream)
        context.recipe = recipe
        rehearsal, scale = _within_bounds(stream.rehearsal(device == "cpu"), device == "cpu")
        rehearsed = rehearsal.stream
        count = _timed_samples(rehearsal, context)
        samples = rehearsed.samples(facts, np.arange(min(count, plan.count)))
        if stream.uses_generator:
            assert recipe.generator is not None
            # A whole batch of a large generator takes minutes on a CPU, and one of any size takes any time.
            smaller = recipe.generator.model_copy(update={"batch_size": min(count, recipe.generator.batch_size)})
            context.recipe = recipe.model_copy(update={"generator": smaller})
        for _ in range(2):
            images: list[bytes | None] = []
            started, worked = time.perf_counter(), time.process_time()
            for r in RENDERERS[stream.source](context, rehearsed, samples):
                images.append(encode_image(r.image, stream, mark) if r.image is not None else r.encoded)
                seconds = time.perf_counter() - started
                # What others take of this machine meanwhile is none of a CPU's work.
                own_seconds = min(seconds, time.process_time() - worked) if device == "cpu" else seconds
                if seconds > LONGEST_PASS:
                    break
            if seconds > LONG_PASS:
                break
        made = [image for image in images if image is not None]
        size = scale * sum(map(len, made)) / max(len(made), 1)
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
            *(plan.count * rehearsal.factor * scale * each / len(images) for each in (own_seconds, seconds)),
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


def _within_bounds(rehearsal: Rehearsal, on_cpu: bool) -> tuple[Rehearsal, float]:
    """A rehearsal of few and small enough pictures, and by how many times the stream's own are larger."""
    stream, scale = rehearsal.stream, 1.0
    sides = {key: side for key in ("crop", "resize") if (side := getattr(stream, key, None)) is not None}
    largest = LARGEST_SIDE["cpu" if on_cpu else "gpu"]
    side = next(iter(sides.values()), largest)
    update: dict[str, int] = {}
    if side > largest:
        scale = (side / largest) ** 2
        update = {key: max(largest, value * largest // side) for key, value in sides.items()}
    count = min(rehearsal.samples, max(1, MOST_PIXELS // min(side, largest) ** 2))
    if getattr(stream, "batch_size", 0) > count:
        update["batch_size"] = count
    return replace(rehearsal, stream=stream.model_copy(update=update), samples=count), scale


def _timed_samples(rehearsal: Rehearsal, context: RenderContext) -> int:
    if not rehearsal.stream.uses_generator:
        return rehearsal.samples
    assert context.facts.generator is not None
    resolution = context.facts.generator.resolution
    assert context.recipe.generator is not None
    if context.device == "cpu":
        return min(context.recipe.generator.batch_size, 64 if resolution <= 64 else 1)
    return min(context.recipe.generator.batch_size, max(1, MOST_PIXELS // resolution**2))
