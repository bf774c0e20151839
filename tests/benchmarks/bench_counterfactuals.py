"""Counterfactuals a second of the MNIST form through the bank against the official way, on random weights.

    python tests/benchmarks/bench_counterfactuals.py --seconds 60

Both sides take turns in one run, and both write a PNG a picture. The official way, written from its description:
batches of 100; masks of one pass, then ten passes of fresh textures, each of them through all three mechanisms. Ours:
the stream as a worker renders it, with its bank made anew in every turn, ten counterfactuals a mask, and a mask beside
each picture.
"""

import argparse
import io
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from genint.manifests.recipe import read_recipe
from genint.manifests.storage import Storage
from genint.pipeline.cgn.composition import compose
from genint.pipeline.cgn.mnist_form import MnistCgn, one_hot
from genint.pipeline.images.encode import encode_image
from genint.pipeline.shards.settle import gather
from genint.pipeline.sources.counterfactual import render_counterfactuals
from genint.pipeline.sources.rendering import RenderContext
from PIL import Image
from torch import Tensor

BATCH, PAIRS = 100, 10
RECIPE = """
name = "bench"
seed = 0
[[streams]]
name = "cf"
source = "counterfactual"
cgn = "net"
latents = "own"
samples_per_class = {samples}
bank = {bank}
image_format = "png"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="time for all turns together")
    parser.add_argument("--bank", type=int, default=20, help="of each mechanism and class; ten times as many samples")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; 1 is what the pipeline gives a worker")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    network = MnistCgn().eval().requires_grad_(False)
    recipe = read_recipe(RECIPE.format(samples=PAIRS * arguments.bank, bank=arguments.bank), "bench")
    stream = recipe.streams[0]
    with tempfile.TemporaryDirectory() as folder:
        torch.save(network.state_dict(), Path(folder, "cgn.pth"))
        ingredients = gather(recipe, inputs={"net": str(Path(folder, "cgn.pth"))})

        def run_ours() -> int:
            context = RenderContext(recipe, ingredients.facts, Storage(folder), "cpu", roots=ingredients.roots)
            samples = stream.samples(ingredients.facts, np.arange(stream.count(ingredients.facts)))
            made = [encode_image(r.image, stream) for r in render_counterfactuals(context, stream, samples)]
            return len(made)

        rates: dict[str, list[float]] = {"official way": [], "genint": []}
        start = time.perf_counter()
        while not all(rates.values()) or time.perf_counter() - start < arguments.seconds:
            for name, run in (("official way", lambda: run_officially(network)), ("genint", run_ours)):
                began = time.perf_counter()
                count = run()
                rates[name].append(count / (time.perf_counter() - began))
    official, ours = (statistics.median(values) for values in rates.values())
    print(f"32 px, {arguments.threads} threads, bank of {arguments.bank}, {len(rates['genint'])} turns")
    print(f"official way {official:8.0f} counterfactuals/s")
    print(f"genint       {ours:8.0f} counterfactuals/s  {ours / official:.2f} x")


def run_officially(network: MnistCgn, passes: int = PAIRS) -> int:
    """One batch of masks, each with `passes` pairs of textures."""
    labels = torch.randint(10, (BATCH,))
    mask, _, _ = run_all(network, labels, labels, labels)
    count = 0
    for _ in range(passes):
        _, foreground, background = run_all(
            network, labels, labels[torch.randperm(BATCH)], labels[torch.randperm(BATCH)]
        )
        for picture in compose(mask, foreground, background):
            pixels = picture.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(io.BytesIO(), "PNG")
            count += 1
    return count


def run_all(network: MnistCgn, *labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Every mechanism, on noise and windows of its own."""
    noise = torch.randn(3, BATCH, network.z_dim)
    windows = torch.randint(33, (2, BATCH, 2))
    shape, texture, background = (one_hot(rows, network.num_classes) for rows in labels)
    with torch.no_grad():
        return (
            network.shape(noise[0], shape),
            network.texture(noise[1], texture, windows[0]),
            network.background(noise[2], background, windows[1]),
        )


if __name__ == "__main__":
    main()
