"""Counterfactuals a second of the ImageNet form against the official way, on random weights.

    python tests/benchmarks/bench_cgn.py --seconds 120

Both sides take turns in one run. The official way, written from its description: one picture at a time; all four
generators run, the frozen one too, and the saliency network twice; min-max stretched and saved as JPEG. Ours: three
folded generators and one saliency pass, labels mixed in a batch, JPEG (quality 95, 4:4:4).
"""

import argparse
import io
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from genint.pipeline.biggan.generator import PUBLISHED_CONFIGS, make_random_generator
from genint.pipeline.cgn.composition import compose
from genint.pipeline.cgn.mechanisms import BigGanCgn, fold_cgn, make_random_cgn
from genint.pipeline.cgn.saliency import Saliency
from genint.pipeline.cgn.u2net import U2Net
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120, help="time for all turns together")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--resolution", type=int, choices=(128, 256), default=128)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; 1 is what the pipeline gives a worker")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    config = PUBLISHED_CONFIGS[f"biggan-deep-{arguments.resolution}"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        saliency = Saliency(U2Net()).eval().requires_grad_(False)
    loaded = make_random_cgn(config=config, saliency=saliency)
    networks = loaded.networks
    assert isinstance(networks, BigGanCgn)
    frozen = make_random_generator(config, seed=9, calibration_samples=1).to(arguments.device)
    size = arguments.batch_size
    folded = {
        precision: fold_cgn(loaded, 0.5, batch_size=size, precision=precision, device=arguments.device)
        for precision in ("fp32", "bf16")
    }
    networks.to(arguments.device)
    latents = torch.randn(size, config.z_dim).clamp(-2, 2) * 0.5
    labels = torch.randint(config.num_classes, (3, size))

    def official() -> None:
        u = latents[:1].to(arguments.device)
        vectors = [torch.eye(config.num_classes)[rows[:1]].to(arguments.device) for rows in labels]
        with torch.no_grad():
            frozen(u, vectors[0], 0.5)
            mask = networks.saliency(networks.f_shape(u, vectors[0], 0.5)).clamp(1e-4, 0.9999)
            foreground, background = networks.f_text(u, vectors[1], 0.5), networks.f_bg(u, vectors[2], 0.5)
            networks.saliency(background)
            picture = (mask * foreground + (1 - mask) * background)[0]
        low, high = picture.min(), picture.max()
        save(((picture - low) / (high - low) * 255).to(torch.uint8)[None], "JPEG")

    def ours(precision: str) -> None:
        cgn = folded[precision]
        mask, foreground = cgn.shape(latents, labels[0]), cgn.texture(latents, labels[1])
        picture = compose(mask, foreground, cgn.background(latents, labels[2]))
        pixels = picture.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        save(pixels, "JPEG", quality=95, subsampling=0)

    contenders: dict[str, tuple[Callable[[], None], int]] = {
        "official": (official, 1),
        "genint fp32": (lambda: ours("fp32"), size),
        "genint bf16": (lambda: ours("bf16"), size),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    start = time.perf_counter()
    turn = 0
    while turn < 2 or time.perf_counter() - start < arguments.seconds:  # the first is a warm-up
        for name, (run, _) in contenders.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
        turn += 1
    rates = {name: amount / statistics.median(seconds[name][1:]) for name, (_, amount) in contenders.items()}
    print(
        f"{arguments.resolution} px, {arguments.device}, {arguments.threads} threads, batches of {size}, {turn} turns"
    )
    for name, rate in rates.items():
        print(f"{name:12} {rate:8.3f} counterfactuals/s  {rate / rates['official']:6.2f} x official")


def save(pixels: Tensor, image_format: str, **options: int) -> None:
    images: NDArray[np.uint8] = pixels.permute(0, 2, 3, 1).cpu().numpy()
    for image in images:
        Image.fromarray(image).save(io.BytesIO(), image_format, **options)


if __name__ == "__main__":
    main()
