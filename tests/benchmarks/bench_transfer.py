"""Images a second of the per-image Gatys transfer against the joint loop of the released code.

    python tests/benchmarks/bench_transfer.py --seconds 60
    python tests/benchmarks/bench_transfer.py --device cuda --batch-size 16 --evaluations 45
    python tests/benchmarks/bench_transfer.py --seconds 1 --evaluations 20 --images 4 --without-bf16   # final losses

All sides take turns in one run, over the same pairs and the same number of evaluations, with random weights of VGG-19's
shape. The joint loop is written afresh from method.md: one torch.optim.LBFGS over a batch of 8, whose backward pass
also computes the gradients of the weights. Final losses are measured alike, in fp32, image by image.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from genint.pipeline.networks.kernels import repeatable_kernels
from genint.pipeline.style.gatys import Pair, Targets, find_targets, transfer_losses, transfer_styles
from genint.pipeline.style.vgg import Vgg, make_random_vgg
from torch import Tensor
from torch.nn import functional as F

JOINT = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="time for all turns together")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=256, help="side of the images in pixels")
    parser.add_argument("--evaluations", type=int, default=3, help="of each image; timing needs few, losses many")
    parser.add_argument("--images", type=int, help="default: 8, or as many as there are slots")
    parser.add_argument("--without-bf16", action="store_true", help="CPUs without bf16 arithmetic take hours")
    parser.add_argument("--batch-size", type=int, help="slots of ours; default: 1 on a CPU, 16 elsewhere")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; 1 is what the pipeline gives a worker")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    slots = arguments.batch_size or (1 if arguments.device == "cpu" else 16)

    exact = make_random_vgg().to(arguments.device, torch.float32)
    coarse = make_random_vgg().to(arguments.device, torch.bfloat16)
    count = arguments.images or max(JOINT, slots)
    contents, styles = (make_pictures(count, arguments.size, seed).to(arguments.device) for seed in (1, 2))
    pairs = [Pair(content, style, arguments.evaluations) for content, style in zip(contents, styles, strict=True)]
    contenders: dict[str, Callable[[], Tensor]] = {
        "joint loop fp32": lambda: run_jointly(exact, pairs),
        "genint fp32": lambda: run_ours(exact, pairs, slots),
    }
    if not arguments.without_bf16:
        contenders["genint bf16"] = lambda: run_ours(coarse, pairs, slots)

    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    images: dict[str, Tensor] = {}
    start = time.perf_counter()
    while not all(seconds.values()) or time.perf_counter() - start < arguments.seconds:
        for name, contender in contenders.items():
            began = time.perf_counter()
            images[name] = contender()
            images[name][0, 0, 0, 0].item()  # a GPU has then finished
            seconds[name].append(time.perf_counter() - began)

    print(
        f"{arguments.size} px, {arguments.device}, {arguments.threads} threads, {count} images, {slots} slots, "
        f"{arguments.evaluations} evaluations, {len(seconds['genint fp32'])} turns"
    )
    baseline = statistics.median(seconds["joint loop fp32"])
    for name in contenders:
        median = statistics.median(seconds[name])
        print(
            f"{name:16} {median / count / arguments.evaluations:8.4f} s an evaluation  {baseline / median:5.2f} x joint"
        )
    print("final loss of each image, in fp32")
    for name in contenders:
        losses = final_losses(exact, images[name], pairs)
        print(f"{name:16} " + " ".join(f"{loss:9.3f}" for loss in losses) + f"   mean {statistics.mean(losses):9.3f}")
    start_losses = final_losses(exact, contents, pairs)
    print(f"{'at the start':16} " + " ".join(f"{loss:9.3f}" for loss in start_losses))


def make_pictures(count: int, size: int, seed: int) -> Tensor:
    """Pictures [N, 3, size, size] of smooth blobs with some grain."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 16, 16, generator=generator)
    grain = 0.1 * torch.rand(count, 3, size, size, generator=generator)
    return (F.interpolate(coarse, size=size, mode="bicubic") + grain).clamp(0, 1)


def run_ours(network: Vgg, pairs: list[Pair], slots: int) -> Tensor:
    results = sorted(transfer_styles(network, pairs, slots), key=lambda result: result.position)
    return torch.stack([result.image for result in results])


@repeatable_kernels()  # full precision on both sides
def run_jointly(network: Vgg, pairs: list[Pair]) -> Tensor:
    """Batches of 8 as one problem: the loss is the mean over the batch, and so are curvature and step."""
    weights, biases = ([t.clone().requires_grad_() for t in tensors] for tensors in (network.weights, network.biases))
    trained = Vgg(tuple(weights), tuple(biases), network.pooled)
    finished = []
    for start in range(0, len(pairs), JOINT):
        batch = pairs[start : start + JOINT]
        contents, styles = (torch.stack([getattr(pair, part) for pair in batch]) for part in ("content", "style"))
        targets = find_targets(trained, contents, styles)
        images = contents.clone().requires_grad_()
        optimizer = torch.optim.LBFGS([images], lr=1, max_iter=10)
        evaluations = 0

        def closure(
            images: Tensor = images, targets: Targets = targets, optimizer: torch.optim.LBFGS = optimizer
        ) -> Tensor:
            nonlocal evaluations
            with torch.no_grad():
                images.clamp_(0, 1)
            optimizer.zero_grad()
            content, style = transfer_losses(trained, images, targets)
            loss = (content + style).mean()
            loss.backward()
            evaluations += 1
            return loss

        while evaluations < batch[0].evaluations:
            optimizer.param_groups[0]["max_iter"] = min(10, batch[0].evaluations - evaluations)
            optimizer.step(closure)
        finished.append(images.detach().clamp(0, 1))
    return torch.cat(finished)


def final_losses(network: Vgg, images: Tensor, pairs: list[Pair]) -> list[float]:
    losses = []
    for image, pair in zip(images, pairs, strict=True):
        targets = find_targets(network, pair.content[None], pair.style[None])
        with torch.no_grad():
            losses.append(sum(part.item() for part in transfer_losses(network, image[None], targets)))
    return losses


if __name__ == "__main__":
    main()
