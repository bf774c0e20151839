"""What the host makes of a GPU: images/s of finished shards at 256 px, and how busy the GPU is, with a clock for a GPU.

A batch occupies the clock for the time it would take, after what was begun before it; its pixels are there when that is
over. `--encode MS` simulates the encoders' cores too: a sleep, which holds no GIL, for each JPEG; 0 encodes.
"""

import argparse
import os
import tempfile
import time
from dataclasses import dataclass, field

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


def main() -> None:
    """Time whole shards; the first is not counted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=5000, help="images/s of the GPU")
    parser.add_argument("--encoders", type=int, default=8)
    parser.add_argument("--encode", type=float, default=0.42, help="simulated milliseconds of encoding; 0: real ones")
    parser.add_argument("--samples", type=int, default=2000, help="of a shard")
    parser.add_argument("--shards", type=int, default=4)
    arguments = parser.parse_args()
    recipe = load_recipe("genint-imagenet-256", [f"streams.interventional.samples_per_shard={arguments.samples}"])
    stream = next(stream for stream in recipe.streams if isinstance(stream, InterventionalStream))
    facts = Facts(recipe.seed, GeneratorFacts("biggan-deep-256", 128, SIDE, imagenet_wnids()), make_directions(stream))
    clock = Clock(arguments.rate, draw_pictures(64))
    if arguments.encode:
        jpeg = worker.encode_image(clock.pictures[0], stream)

        def encode(image: object, stream: object) -> bytes:
            time.sleep(arguments.encode / 1000)
            return jpeg

        worker.encode_image = encode  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        dataset = Dataset(Storage(folder), recipe, PlanEntry(fingerprint=Fingerprint(recipe={})), {})
        vars(dataset)["facts"] = facts
        made = HostWorker(dataset, ClockContext(recipe, facts, dataset.storage, "cpu", clock=clock), arguments.encoders)
        rates, shares = [], []
        for shard in range(arguments.shards + 1):
            clock.busy, started, processor = 0.0, time.perf_counter(), time.process_time()
            made.make_shard(Task(stream.name, shard))
            seconds = time.perf_counter() - started
            if shard:
                rates.append(arguments.samples / seconds)
                shares.append(clock.busy / seconds)
            spent = (time.process_time() - processor) / arguments.samples * 1e6
    best = int(np.argmax(rates))
    print(f"{rates[best]:,.0f} images/s of finished shards, best of {len(rates)} ", end="")
    print(f"(median {np.median(rates):,.0f}), ", end="")
    print(f"GPU of {arguments.rate:,.0f} images/s busy {shares[best]:.0%}, ", end="")
    print(f"{spent:.0f} us of processor an image, load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
