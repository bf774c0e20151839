"""Our training loop against a bare torch loop on the same tensors, and what reading three streams costs of a step.

    python tests/benchmarks/bench_step.py --steps 12
    python tests/benchmarks/bench_step.py --device cuda --scale 16 --steps 100 --precision bf16

Both loops take turns, step by step, in one process: ResNet18 at 224 px, equation 1 on natural, generated and
transferred images in the proportions 4 : 1 : 4. Ours is the whole of `train`: losses checked and summed, metrics,
TensorBoard. The second measurement is our loader's, which reads, decodes and augments in this process (no workers).
"""

import argparse
import io
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from genint.train import trainer
from genint.train.configuration import load_configuration
from genint.train.distributed import Ranks, rank_device
from genint.train.inputs import Inputs
from genint.train.learner import make_optimizer, preprocessing_of
from genint.train.loader import StepBatch, StepLoader
from genint.train.objective import equation_1, loss_weights
from genint.train.plan import plan_stages
from genint.train.streams import TrainStream, open_images
from PIL import Image
from torch.nn import functional

PROPORTIONS = {"natural": 4, "int": 1, "transfer": 4}


class SameTensors:
    """A loader that gives one step's batch again and again."""

    def __init__(self, batch: StepBatch) -> None:
        self.batch = batch

    def steps(self, start: int, stop: int) -> Iterator[StepBatch]:
        for step in range(start, stop):
            yield StepBatch(step, self.batch.images, self.batch.labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--scale", type=int, default=1, help="images a step: 9 times this")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--threads", type=int, help="CPU threads; all by default")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    ranks = Ranks(0, 1, rank_device(arguments.device))
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder) / "images", count=40 * arguments.scale)
        images = open_images(str(Path(folder) / "images"))
        names = tuple(str(i) for i in range(1000))
        inputs = Inputs([TrainStream(term, term, images) for term in ("natural", "int", "transfer")], names, [])
        sizes = [f"batch_sizes.{term}={arguments.scale * parts}" for term, parts in PROPORTIONS.items()]
        configuration = load_configuration(
            "resnet18-imagenet-only",
            [
                *sizes,
                "steps=100000",
                "lambda_int=0.02",
                "lambda_transfer=1.0",
                "lr=1e-4",
                f"precision={arguments.precision}",
            ],
        )
        plan = plan_stages(configuration, inputs)[0]
        settings = trainer.Settings(save_every=10**9, validate_every=10**9)
        real: StepLoader = trainer.make_loader(configuration, plan, ranks, settings)
        batch = next(real.steps(0, 1))

        with patch.object(trainer, "make_loader", lambda *_: SameTensors(batch)):
            ours = trainer.train(configuration, inputs, Path(folder) / "ours", ranks, settings)
            next(ours)
            bare = bare_loop(configuration, plan, batch, ranks)
            walls, busy = take_turns({"ours": ours, "bare": bare}, arguments.steps, ranks)
            print_ratio("wall", walls)
            print_ratio("processor", busy)

            # Reading takes turns with steps too: both in processor time, in the same company.
            batches = real.steps(1, 10**6)
            _, busy = take_turns({"reading": batches, "step": ours}, arguments.steps, ranks)
        reading, step = (statistics.median(busy[name]) * 1e3 for name in ("reading", "step"))
        print(f"reading    {reading:.1f} ms of a step of {reading + step:.0f} ms: {reading / (reading + step):.1%}")


def bare_loop(configuration: Any, plan: Any, batch: StepBatch, ranks: Ranks) -> Iterator[None]:
    """What anybody would write: forward, three cross-entropies, backward, SGD."""
    model = trainer.make_model(configuration.arch, 1000).to(ranks.device).train()
    optimizer = make_optimizer(plan.stage, model)
    normalize = preprocessing_of(configuration).normalize
    counts = [len(labels) for labels in batch.labels.values()]
    while True:
        images = normalize(torch.cat([part.to(ranks.device) for part in batch.images.values()])).contiguous()
        labels = torch.cat([part.to(ranks.device) for part in batch.labels.values()]).split(counts)
        with torch.autocast(ranks.device.type, torch.bfloat16, enabled=configuration.precision == "bf16"):
            logits = model(images)
        losses = [
            functional.cross_entropy(part.float(), of) for part, of in zip(logits.split(counts), labels, strict=True)
        ]
        optimizer.zero_grad()
        weights = loss_weights(plan.stage, plan.term_counts, {})
        equation_1(dict(zip(PROPORTIONS, losses, strict=True)), weights).backward()
        optimizer.step()
        yield


def take_turns(
    loops: dict[str, Iterator[Any]], steps: int, ranks: Ranks
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of each loop's steps, by the clock and by the processor; two of each are thrown away."""
    walls: dict[str, list[float]] = {name: [] for name in loops}
    busy: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(steps + 2):
        # Whoever goes first pays for what the other left in the caches: they take turns at that too.
        for name, loop in list(loops.items())[:: 1 if turn % 2 else -1]:
            wall, processor = time.perf_counter(), time.process_time()
            next(loop)
            if ranks.device.type == "cuda":
                torch.cuda.synchronize()
            walls[name].append(time.perf_counter() - wall)
            busy[name].append(time.process_time() - processor)
    return ({name: times[2:] for name, times in of.items()} for of in (walls, busy))  # type: ignore[return-value]


def print_ratio(what: str, times: dict[str, list[float]]) -> None:
    pairs = [ours / bare for ours, bare in zip(times["ours"], times["bare"], strict=True)]
    ours, bare = (statistics.median(times[name]) * 1e3 for name in ("ours", "bare"))
    ratio = statistics.median(pairs)
    print(f"{what:10} ours {ours:.1f} ms, bare {bare:.1f} ms a step: ratio {ratio:.3f} (median of turns)")


def write_images(folder: Path, count: int) -> None:
    """JPEGs of the size of ImageNet's, smooth as photographs are."""
    for label, index in itertools.product(("0", "1"), range(-(-count // 2))):
        (folder / label).mkdir(parents=True, exist_ok=True)
        picture = Image.effect_noise((32, 24), 80 + index % 20).resize((500, 375), Image.Resampling.BICUBIC)
        content = io.BytesIO()
        picture.convert("RGB").save(content, "JPEG", quality=90)
        (folder / label / f"{index}.jpg").write_bytes(content.getvalue())


if __name__ == "__main__":
    main()
