"""What the host makes of a GPU: images/s of finished shards at 256 px, and how busy the GPU is, with a clock for a GPU.

A batch occupies the clock for the time it would take, after what was begun before it; its pixels are there when that is
over. `--encode MS` simulates the encoders' cores too: a sleep, which holds no GIL, for each JPEG; 0 encodes. With
`--workers-per-device N` as many processes share the GPU, a clock of an N-th of its rate for each; they need N cores.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier

import numpy as np
from bench_plan import make_directions
from genint.manifests.dataset import Dataset, PlanEntry
from genint.manifests.inputs import imagenet_wnids
from genint.manifests.manifest import Fingerprint
from genint.manifests.recipe import load_recipe
from genint.manifests.sources.generated import InterventionalStream
from genint.manifests.sources.stream import Facts, GeneratorFacts
from genint.manifests.storage import Storage
from genint.pipeline.shards import worker
from genint.pipeline.shards.worker import Task, Worker
from genint.pipeline.sources.rendering import RenderContext
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

SIDE = 256


@dataclass
class Clock:
    """A generator that takes its time: `rate` images a second."""

    rate: float
    pictures: NDArray[np.uint8]
    free_at: float = 0.0
    busy: float = 0.0

    def begin(self, latents: Tensor, class_labels: Tensor) -> "Batch":
        seconds = len(latents) / self.rate
        self.free_at = max(self.free_at, time.perf_counter()) + seconds
        self.busy += seconds
        return Batch(self.free_at, self.pictures[: len(latents)])

    def render(self, latents: Tensor, class_labels: Tensor) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        return self.begin(latents, class_labels).finish()


@dataclass(frozen=True)
class Batch:
    ready_at: float
    pictures: NDArray[np.uint8]

    def finish(self) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        time.sleep(max(0.0, self.ready_at - time.perf_counter()))
        return self.pictures, np.ones(len(self.pictures), bool)


@dataclass
class ClockContext(RenderContext):
    """Renders with a clock."""

    clock: Clock = field(default_factory=lambda: Clock(1.0, np.zeros((0, SIDE, SIDE, 3), np.uint8)))

    def generator(self, truncation: float) -> Clock:  # type: ignore[override]
        return self.clock


class HostWorker(Worker):
    """A worker without a device."""

    def __init__(self, dataset: Dataset, context: RenderContext, encoders: int) -> None:
        self._dataset, self._context, self._environment, self._encoders = dataset, context, "none", encoders


def draw_pictures(count: int) -> NDArray[np.uint8]:
    """Pictures [N, 256, 256, 3] that cost about as much to encode as photographs (40 kB at quality 95)."""
    noise = np.random.default_rng(0).integers(0, 256, (count, SIDE // 4, SIDE // 4, 3), np.uint8)
    large = [Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for small in noise]
    return np.stack([np.asarray(picture) for picture in large])


@dataclass(frozen=True)
class Measured:
    """Of one worker's shards, without the first: when they began and ended, how long the GPU was busy, CPU seconds."""

    started: float
    ended: float
    busy: float
    processor: float


def make_shards(options: argparse.Namespace, number: int, together: Barrier) -> Measured:
    """One worker of the device: its first shard alone, the others beside those of its neighbours."""
    overrides = [f"streams.interventional.samples_per_shard={options.samples}"]
    recipe = load_recipe("genint-imagenet-256", overrides)
    stream = next(stream for stream in recipe.streams if isinstance(stream, InterventionalStream))
    facts = Facts(recipe.seed, GeneratorFacts("biggan-deep-256", 128, SIDE, imagenet_wnids()), make_directions(stream))
    clock = Clock(options.rate / options.workers_per_device, draw_pictures(64))
    if options.encode:
        jpeg = worker.encode_image(clock.pictures[0], stream)

        def encode(image: object, stream: object, mark: str) -> bytes:
            time.sleep(options.encode / 1000)
            return jpeg

        worker.encode_image = encode
    with tempfile.TemporaryDirectory() as folder:
        dataset = Dataset(Storage(folder), recipe, PlanEntry(fingerprint=Fingerprint(recipe={})), {})
        vars(dataset)["facts"] = facts
        context = ClockContext(recipe, facts, dataset.storage, "cpu", clock=clock)
        made = HostWorker(dataset, context, options.encoders // options.workers_per_device)
        first = number * (options.shards + 1)
        made.make_shard(Task(stream.name, first))
        together.wait()
        clock.busy, started, processor = 0.0, time.perf_counter(), time.process_time()
        for shard in range(first + 1, first + 1 + options.shards):
            made.make_shard(Task(stream.name, shard))
        return Measured(started, time.perf_counter(), clock.busy, time.process_time() - processor)


def main() -> None:
    """Time whole shards of all workers; the first of each is not counted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=5000, help="images/s of the GPU")
    parser.add_argument("--encoders", type=int, default=8, help="of all workers together")
    parser.add_argument("--encode", type=float, default=0.42, help="simulated milliseconds of encoding; 0: real ones")
    parser.add_argument("--samples", type=int, default=2000, help="of a shard")
    parser.add_argument("--shards", type=int, default=4, help="of a worker")
    parser.add_argument("--workers-per-device", type=int, default=1)
    options = parser.parse_args()
    workers = options.workers_per_device
    spawn = multiprocessing.get_context("spawn")
    with spawn.Manager() as manager, ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        together = manager.Barrier(workers)
        asked = [pool.submit(make_shards, options, number, together) for number in range(workers)]
        found = [future.result() for future in asked]
    # Processes of one machine have one clock.
    seconds = max(each.ended for each in found) - min(each.started for each in found)
    images = workers * options.shards * options.samples
    busy = sum(each.busy for each in found) / workers / seconds
    print(
        f"{images / seconds:,.0f} images/s of finished shards by {workers} worker{'s' if workers > 1 else ''}, ", end=""
    )
    print(f"GPU of {options.rate:,.0f} images/s busy {busy:.0%}, ", end="")
    print(f"{sum(each.processor for each in found) / images * 1e6:.0f} us of processor an image, ", end="")
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
