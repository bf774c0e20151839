"""What evaluation costs over decoding and the forward pass measured alone, on images of 224 px.

Run from the repository: python tests/benchmarks/bench_evaluate.py [--images N] [--arch resnet18] [--device cuda]
"""

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from genint.evaluate.prediction import predict
from genint.evaluate.test_sets import open_test_set
from genint.manifests.pictures import decode_picture
from genint.train.checkpoint import Classifier, Preprocessing, make_model
from PIL import Image

SIZE = (256, 320)  # as stored; shown at 224 px


def write_images(folder: Path, count: int) -> None:
    """JPEGs with as much detail as photographs have: noise at several scales."""
    rng = np.random.default_rng(0)
    (folder / "things").mkdir()
    for number in range(count):
        layers = [Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).resize(SIZE) for side in (4, 16, 64)]
        buffer = io.BytesIO()
        Image.fromarray(np.mean([np.asarray(layer) for layer in layers], axis=0).astype(np.uint8)).save(
            buffer, "JPEG", quality=90
        )
        (folder / "things" / f"{number:05d}.jpg").write_bytes(buffer.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    wait = torch.cuda.synchronize if options.device.startswith("cuda") else lambda: None

    # Without workers and accelerator all work is this process's own, whose CPU time others do not lengthen.
    clock = time.process_time if options.device == "cpu" else time.perf_counter

    def seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
        start = clock()
        work()
        wait()
        return clock() - start

    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), options.images)
        (images,) = open_test_set(f"folder={folder}")
        model = make_model(options.arch, 1000).eval().to(options.device)
        names = ("things", *(f"other {number}" for number in range(999)))
        classifier = Classifier("bench", model, options.arch, names, Preprocessing(), "0" * 64)
        paths = [Path(folder, images.key(position)) for position in range(len(images))]
        prepare = classifier.preprocessing.prepare
        prepared = torch.stack([prepare(decode_picture(path.read_bytes())) for path in paths])
        batches = [classifier.preprocessing.normalize(batch) for batch in prepared.split(options.batch_size)]

        def decode_alone() -> None:
            for path in paths:
                prepare(decode_picture(path.read_bytes()))

        def forward_alone() -> None:
            with torch.inference_mode():
                for batch in batches:
                    model(batch.to(options.device))

        def evaluate(workers: int) -> Callable[[], object]:
            return lambda: predict(classifier, images, options.batch_size, workers, options.device)

        kinds: dict[str, Callable[[], object]] = {
            "decode alone": decode_alone,
            "forward alone": forward_alone,
            "evaluation, in this process": evaluate(0),
            "evaluation, 1 worker": evaluate(1),
            "evaluation, 2 workers": evaluate(2),
        }
        # Interleaved, so that whatever else the machine does falls on all of them; the first round warms up.
        times: dict[str, list[float]] = {name: [] for name in kinds}
        for number in range(options.rounds + 1):
            for name, work in kinds.items():
                taken = seconds(work, time.perf_counter if "worker" in name else clock)
                if number:
                    times[name].append(taken)
        best = {name: min(taken) for name, taken in times.items()}
        alone = best["decode alone"] + best["forward alone"]
        kind = "CPU time, with workers wall time" if options.device == "cpu" else "wall time"
        print(f"{options.images} images, {options.arch}, {options.device}, batches of {options.batch_size}; {kind}")
        for name, taken in best.items():
            ratio = f"  {taken / alone:.3f} of decode + forward" if name.startswith("evaluation") else ""
            print(f"{name:<28} {1000 * taken / options.images:7.2f} ms an image{ratio}")
        paired = [
            taken / (one + other)
            for taken, one, other in zip(
                times["evaluation, in this process"], times["decode alone"], times["forward alone"], strict=True
            )
        ]
        print(
            f"evaluation in this process over decode + forward, median of rounds: {np.median(paired):.3f} (goal 1.05)"
        )


if __name__ == "__main__":
    main()
