"""Images a second of the folded generator against the package's own, driven as the released code drives it.

    python tests/benchmarks/bench_render.py --seconds 60
    python tests/benchmarks/bench_render.py --device cuda --resolution 256 --batch-size 64

Both sides take turns in one run, with random weights: one image at a time, fp32 and PNG for the package; batches,
fp32 or bf16 and JPEG (quality 95, 4:4:4) for ours. The peak is that of one large matrix product, measured in turn too.
"""

import argparse
import io
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from genint.pipeline.biggan.fast_generator import FastGenerator, fold
from genint.pipeline.biggan.generator import PUBLISHED_CONFIGS, make_random_generator
from genint.pipeline.networks.kernels import repeatable_kernels
from numpy.typing import NDArray
from PIL import Image
from pytorch_pretrained_biggan import BigGAN, BigGANConfig
from torch import Tensor


@dataclass
class Contender:
    """Something to be timed: `run` does `amount` of work, images or floating-point operations."""

    run: Callable[[], object]
    amount: float
    seconds: list[float] = field(default_factory=list)

    def rate(self) -> float:
        """Amount of work a second, in the median turn."""
        return self.amount / statistics.median(self.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="time for all turns together")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--resolution", type=int, choices=(128, 256, 512), default=128)
    parser.add_argument("--batch-size", type=int, help="default: 4 on a CPU, 64 elsewhere")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; 1 is what the pipeline gives a worker")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    batch_size = arguments.batch_size or (4 if arguments.device == "cpu" else 64)

    config = PUBLISHED_CONFIGS[f"biggan-deep-{arguments.resolution}"]
    model = make_random_generator(config, seed=0)
    latents = torch.randn(batch_size, config.z_dim).clamp(-2, 2)
    class_labels = torch.randint(config.num_classes, (batch_size,))
    fast = {
        precision: fold(model, 1.0, batch_size=batch_size, precision=precision, device=arguments.device)
        for precision in ("fp32", "bf16")
    }
    model = model.to(arguments.device)
    contenders = {
        "package fp32": Contender(lambda: package_pixels(model, latents[:1], class_labels[:1]), 1),
        "package fp32 + PNG": Contender(lambda: encode(package_pixels(model, latents[:1], class_labels[:1]), "PNG"), 1),
    }
    peaks = {}
    for precision, generator in fast.items():
        contenders[f"genint {precision}"] = Contender(
            lambda generator=generator: generator.render(latents, class_labels), batch_size
        )
        contenders[f"genint {precision} + JPEG"] = Contender(
            lambda generator=generator: encode(
                generator.render(latents, class_labels)[0], "JPEG", quality=95, subsampling=0
            ),
            batch_size,
        )
        peaks[precision] = matrix_product(generator)

    # Take turns; the first is a warm-up.
    everyone = [*contenders.values(), *peaks.values()]
    start = time.perf_counter()
    for turn in range(1_000_000):
        if turn > 1 and time.perf_counter() - start > arguments.seconds:
            break
        for contender in everyone:
            began = time.perf_counter()
            contender.run()
            contender.seconds.append(time.perf_counter() - began)
    for contender in everyone:
        del contender.seconds[0]

    flops = needed_flops(config)
    print(
        f"{arguments.resolution} px, {arguments.device}, {arguments.threads} threads, batches of {batch_size}, "
        f"{len(everyone[0].seconds)} turns, {flops / 1e9:.1f} GFLOP an image needed, "
        f"AMX: {torch.cpu._is_amx_tile_supported()}"
    )
    for precision, peak in peaks.items():
        print(f"{precision} matrix product: {peak.rate() / 1e9:.0f} GFLOP/s")
    for name, contender in contenders.items():
        rate = contender.rate()
        baseline = contenders["package fp32 + PNG" if "+" in name else "package fp32"].rate()
        peak = peaks["bf16" if "bf16" in name else "fp32"].rate()
        print(f"{name:20} {rate:8.2f} images/s  {rate / baseline:6.2f} x package  {rate * flops / peak:4.0%} of peak")


def package_pixels(model: BigGAN, latent: Tensor, class_label: Tensor) -> NDArray[np.uint8]:
    """Pixels [1, H, W, 3] of the package's forward pass, whose class is a one-hot vector."""
    device = model.embeddings.weight.device
    class_vector = torch.eye(model.config.num_classes)[class_label]
    with torch.inference_mode(), repeatable_kernels():  # full precision on both sides
        images = model(latent.to(device), class_vector.to(device), 1.0)
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def encode(pixels: NDArray[np.uint8], image_format: str, **options: int) -> None:
    for image in pixels:
        Image.fromarray(image).save(io.BytesIO(), image_format, **options)


def matrix_product(generator: FastGenerator) -> Contender:
    """The best that the device does in a precision."""
    size = 2048 if generator.device.type == "cpu" else 8192
    matrix = torch.randn(size, size).to(generator.device, generator.dtype)
    # One element fetched: a GPU has then finished.
    return Contender(lambda: (matrix @ matrix)[0, 0].item(), 2 * size**3)


def needed_flops(config: BigGANConfig) -> float:
    """Floating-point operations of an image (2 a multiply-add), with 3 outputs of conv_to_rgb and no other saving."""
    condition = 2 * config.z_dim
    width = config.channel_width
    products = condition * 16 * 16 * width
    pixels = 16
    for index, (upsample, inputs, outputs) in enumerate(config.layers):
        channels, middle = inputs * width, inputs * width // 4
        if index == config.attention_layer_position:
            products += pixels * channels * (channels // 8 * 2 + channels // 2)  # theta, phi, g
            products += pixels * pixels // 4 * (channels // 8 + channels // 2)  # the map, and what it attends to
            products += pixels * channels // 2 * channels
        products += 2 * condition * (channels + 3 * middle) + pixels * channels * middle
        pixels *= 4 if upsample else 1
        products += pixels * (2 * 9 * middle * middle + middle * outputs * width)
    return 2.0 * (products + pixels * 9 * width * 3)


if __name__ == "__main__":
    main()
