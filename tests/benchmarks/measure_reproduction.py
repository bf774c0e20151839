"""How far pixels move when threads, precision or versions are others: what to expect of `verify --rebuild`.

    python tests/benchmarks/measure_reproduction.py /tmp/one --threads 1
    python tests/benchmarks/measure_reproduction.py /tmp/two --threads 2 --compare /tmp/one
    python tests/benchmarks/measure_reproduction.py /tmp/bf16 --precision bf16 --compare /tmp/one
    export ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41  # as a CPU without AVX2
    python tests/benchmarks/measure_reproduction.py /tmp/sse --compare /tmp/one
    pip install --target OTHER_TORCH torch==2.9.1
    PYTHONPATH=OTHER_TORCH python tests/benchmarks/measure_reproduction.py /tmp/other --compare /tmp/one

Renders a hundred pictures of each kind of the mini world, and 40 transfers, with the shipped networks.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
import torch
from genint.manifests.dataset import load_dataset
from genint.manifests.pictures import decode_picture
from genint.manifests.recipe import load_recipe
from genint.manifests.shard import load_index, read_sample
from genint.manifests.storage import Storage
from genint.pipeline.shards.settle import gather, settle
from genint.pipeline.shards.worker import Task, Worker, WorkerSettings

STREAMS = ["natural", "observational", "interventional", "transfer", "counterfactual"]
SIZES = [
    "streams.natural.num_samples=40", "streams.observational.latents_per_class=10",
    "streams.interventional.latents_per_class=2", "streams.transfer.num_samples=40",
    "streams.counterfactual.samples_per_class=10", "streams.counterfactual.bank=5",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--compare", type=Path)
    arguments = parser.parse_args()

    shutil.rmtree(arguments.out, ignore_errors=True)
    recipe = load_recipe("mini", [*SIZES, f"generator.precision={arguments.precision}"])
    recipe = recipe.model_copy(update={"streams": [recipe.stream(name) for name in STREAMS]})
    ingredients = gather(recipe)
    dataset = settle(ingredients, Storage(arguments.out), "cpu")
    worker = Worker(WorkerSettings(str(arguments.out), dataset.entry.digest, "cpu"))
    torch.set_num_threads(arguments.threads)  # a worker's own is one
    for name in STREAMS:
        for shard_index in range(dataset.plan(name).num_shards):
            worker.make_shard(Task(name, shard_index))
    capability = torch.backends.cpu.get_cpu_capability()
    print(f"torch {torch.__version__}, {capability}, {arguments.threads} threads, {arguments.precision}")
    if arguments.compare is not None:
        for name in STREAMS:
            compare(arguments.compare, arguments.out, name)


def compare(first: Path, second: Path, name: str) -> None:
    """Print how many pictures are the same, and how far apart the others are."""
    extension = load_dataset(str(first)).recipe.stream(name).extension
    pictures = [read_pictures(folder, name, extension) for folder in (first, second)]
    assert pictures[0].keys() == pictures[1].keys()
    gaps = np.array(
        [np.abs(pictures[0][key].astype(int) - pictures[1][key]).reshape(-1) for key in sorted(pictures[0])]
    )
    print(
        f"{name:16} {np.mean(~gaps.any(1)):6.1%} of {len(gaps)} pictures the same, {np.mean(gaps > 0):.3%} of values "
        f"differ, largest {gaps.max()} of 255, mean {gaps.mean():.4f}; of the median picture "
        f"{np.median(gaps.max(1)):.0f}"
    )


def read_pictures(folder: Path, name: str, extension: str) -> dict[str, np.ndarray]:
    pictures = {}
    for path in sorted(folder.glob(f"{name}/*/*.tar")):
        with open(path, "rb") as file:
            for key, members in load_index(path).items():
                pictures[key] = np.asarray(decode_picture(read_sample(file.fileno(), members)[extension], key))
    return pictures


if __name__ == "__main__":
    main()
