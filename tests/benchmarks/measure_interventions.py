"""What interventions of the mini world's generator free from the class, and what they cost of it.

    python tests/benchmarks/measure_interventions.py --out results/mini/interventions

Interventions are compared by two numbers. Label from nuisances: how often a classifier that is given the ten nuisances
alone, as read off the images, finds the class; this is what an intervention should lower. Object recognised: how often
a classifier to which the background says nothing, trained on pictures free of confounding, still sees the class that
was asked for. Four ways of intervening, from weak to strong:

- steps: one of 20 directions, uniform in -6 s to 6 s, as the recipe `mini` at s = 1;
- directions: several of the 20 at once, uniform in -r to r;
- ranges: one direction, and for each its own range: as far as a classifier trained on the confounded pictures keeps a
  share of the classes, which is how the paper's ranges were set by hand for BigGAN;
- latents: no direction at all, the latent as a whole times a factor.

Writes interventions.json (with the ranges, to be used as a recipe's `step_ranges`), .md and .svg.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from genint.evaluate.metrics.label_accuracy import label_accuracy
from genint.evaluate.report.page import save_figure
from genint.manifests.console import ProgressDisplay
from genint.manifests.directions import Directions, intervene
from genint.manifests.randomness import truncated_normal
from genint.manifests.sources.generated import PACKAGE_BOUND
from genint.manifests.world import CLASSES
from genint.pipeline.biggan.fast_generator import FastGenerator, fold
from genint.pipeline.biggan.generator import load_generator
from genint.pipeline.generators.directions import exact_directions
from genint.pipeline.generators.load import weights_location
from genint.pipeline.mini.measure_generator import read_images, train_reader
from genint.pipeline.mini.world import compose_pictures
from matplotlib.figure import Figure
from numpy.typing import NDArray

CONFOUNDING = 0.8
NUM_DIRECTIONS = 20
PROBED_STEPS = (-24.0, -16.0, -11.0, -8.0, -5.0, -2.5, 2.5, 5.0, 8.0, 11.0, 16.0, 24.0)
SHARES_KEPT = (0.95, 0.9, 0.75, 0.5)

Latents = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """One way of intervening at one strength; shares in [0, 1]."""

    way: str
    setting: str
    label_from_nuisances: float
    object_recognised: float  # by the classifier trained without confounding
    class_recognised: float  # by the classifier trained on the confounded pictures


class Bench:
    """The generator, its directions, and readers of its images."""

    def __init__(self, generator: str, images: int) -> None:
        model = load_generator(weights_location(generator)).model
        self.generator: FastGenerator = fold(model, 1.0, batch_size=50, precision="fp32", device="cpu")
        self.directions: Directions = exact_directions(model, NUM_DIRECTIONS)
        self.z_dim: int = model.config.z_dim
        self.rng = np.random.Generator(np.random.Philox(0))
        self.labels = np.repeat(np.arange(len(CLASSES)), images // len(CLASSES))
        self.free, self.confounded = train_reader(0.0), train_reader(CONFOUNDING)

    def latents(self, count: int) -> Latents:
        words = self.rng.integers(0, 2**64, (count, self.z_dim), np.uint64, endpoint=False)
        return truncated_normal(words, PACKAGE_BOUND)

    def render(self, latents: Latents, labels: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self.generator.render(torch.from_numpy(latents), torch.from_numpy(labels))[0]

    def measure(self, way: str, setting: str, images: NDArray[np.uint8]) -> Point:
        logits, nuisances, _ = read_images(self.free, images)
        return Point(
            way,
            setting,
            label_accuracy(nuisances, self.labels)[0],
            float((logits.argmax(1) == self.labels).mean()),
            float((read_images(self.confounded, images)[0].argmax(1) == self.labels).mean()),
        )

    def move(self, draw: Callable[[int], tuple[NDArray[np.int64], NDArray[np.float64]]]) -> Latents:
        """Latents of all labels, moved along the directions [N, m] by the step sizes [N, m] that `draw(N)` gives."""
        latents = self.latents(len(self.labels))
        chosen, step_sizes = draw(len(latents))
        for direction, step_size in zip(chosen.T, step_sizes.T, strict=True):
            latents = intervene(latents, self.directions, direction, step_size)
        return latents

    def choose(self, count: int, moved: int) -> NDArray[np.int64]:
        """`moved` different directions [count, moved] of the leading ones for each latent."""
        every = np.tile(np.arange(NUM_DIRECTIONS), (count, 1))
        return self.rng.permuted(every, axis=1)[:, :moved]

    def probe(self) -> Iterator[NDArray[np.float64]]:
        """By direction: share of classes recognised [steps] by the confounded classifier, at each of the steps."""
        labels = np.repeat(np.arange(len(CLASSES)), 10)
        latents = self.latents(len(labels))
        for j in range(NUM_DIRECTIONS):
            direction = np.full(len(labels), j)
            moved = [intervene(latents, self.directions, direction, np.full(len(labels), s)) for s in PROBED_STEPS]
            images = self.render(np.concatenate(moved), np.tile(labels, len(PROBED_STEPS)))
            seen = read_images(self.confounded, images)[0].argmax(1)
            right = seen.reshape(len(PROBED_STEPS), -1) == labels
            yield right.mean(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="Folder for the three files.")
    parser.add_argument("--generator", default="mini", help="Name, or a folder of fit-generator.")
    parser.add_argument("--images", type=int, default=2000, help="Of each point.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with ProgressDisplay("measure-interventions", "points") as display:
        bench = Bench(arguments.generator, arguments.images)
        kept = np.stack(list(bench.probe()))
        ranges = {share: fit_ranges(kept, share) for share in SHARES_KEPT}
        plans = list(plan(bench, ranges))
        points = []
        for number, (way, setting, latents) in enumerate(plans, 1):
            points.append(bench.measure(way, setting, bench.render(latents, bench.labels)))
            display.update(number, len(plans), f"{way} {setting}")
        real = [measure_real(bench, f"a = {a:g}", a) for a in (CONFOUNDING, 0.0)]
    arguments.out.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        "generator": arguments.generator,
        "images": len(bench.labels),
        "points": [asdict(point) for point in points],
        "real": [asdict(point) for point in real],
        "probed_steps": PROBED_STEPS,
        "class_recognised": np.round(kept, 3).tolist(),
        "step_ranges": {f"{share:g}": np.round(own, 2).tolist() for share, own in ranges.items()},
    }
    (arguments.out / "interventions.json").write_text(json.dumps(content, indent=1) + "\n")
    save_figure(draw_trade_off(points, real), arguments.out / "interventions.svg")
    lines = table_lines(points + real)
    (arguments.out / "interventions.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def plan(bench: Bench, ranges: dict[float, NDArray[np.float64]]) -> Iterator[tuple[str, str, Latents]]:
    """Every point's way, setting and latents; `ranges` [directions, 2] are by the share of classes kept."""

    def uniform(moved: int, reach: float) -> Callable[[int], tuple[NDArray[np.int64], NDArray[np.float64]]]:
        return lambda count: (bench.choose(count, moved), bench.rng.uniform(-reach, reach, (count, moved)))

    def within(own: NDArray[np.float64]) -> Callable[[int], tuple[NDArray[np.int64], NDArray[np.float64]]]:
        def draw(count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
            chosen = bench.choose(count, 1)
            low, high = own[chosen].transpose(2, 0, 1)
            return chosen, bench.rng.uniform(low, high)

        return draw

    yield "none", "as generated", bench.latents(len(bench.labels))
    for scale in (0.5, 1.0, 1.5, 2.0, 3.0):
        yield "steps", f"s = {scale:g}", bench.move(uniform(1, 6.0 * scale))
    for moved, reach in ((4, 4.0), (4, 6.0), (8, 4.0), (8, 6.0), (20, 2.0), (20, 3.0), (20, 4.0)):
        yield "directions", f"{moved} within {reach:g}", bench.move(uniform(moved, reach))
    for share, own in ranges.items():
        yield "ranges", f"{100 * share:g} % kept", bench.move(within(own))
    for factor in (1.5, 2.0, 3.0):
        yield "latents", f"times {factor:g}", factor * bench.latents(len(bench.labels))


def fit_ranges(kept: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Step range [directions, 2] up to where `kept` [directions, steps] first falls below `share`, interpolated."""
    steps = np.array(PROBED_STEPS)
    ranges = np.empty((len(kept), 2))
    for j, shares in enumerate(kept):
        for side, outward in enumerate((np.flatnonzero(steps < 0)[::-1], np.flatnonzero(steps > 0))):
            path, heights = np.append(0.0, steps[outward]), np.append(1.0, shares[outward])
            below = np.flatnonzero(heights < share)
            if len(below) == 0:
                ranges[j, side] = path[-1]
                continue
            last = below[0] - 1
            ranges[j, side] = np.interp(-share, -heights[last : last + 2], path[last : last + 2])
    return ranges


def measure_real(bench: Bench, setting: str, confounding: float) -> Point:
    """The same two numbers of held-out real pictures of a confounding strength."""
    pictures = compose_pictures("test", np.arange(len(bench.labels)), confounding, confounding)
    order = np.argsort(pictures.class_labels, kind="stable")
    return bench.measure("real", setting, pictures.images[order])


def draw_trade_off(points: list[Point], real: list[Point]) -> Figure:
    """Label from nuisances against object recognised: a line for each way, crosses for real pictures."""
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for way in dict.fromkeys(point.way for point in points):
        own = [point for point in points if point.way == way]
        x, y = ([100.0 * getattr(p, name) for p in own] for name in ("object_recognised", "label_from_nuisances"))
        axes.plot(x, y, "o" if way == "directions" else "o-", label=way)
    for point in real:
        place = (100.0 * point.object_recognised, 100.0 * point.label_from_nuisances)
        axes.plot(*place, "kx")
        axes.annotate(f"real pictures, {point.setting}", place, (-6, 6), textcoords="offset points", ha="right")
    axes.set_xlabel("object recognised, %")
    axes.set_ylabel("label from nuisances, %")
    axes.set_ylim(0, 102)
    axes.legend()
    return figure


def table_lines(points: list[Point]) -> list[str]:
    """Markdown table of all points."""
    return [
        "| way | setting | label from nuisances | object recognised | class recognised |",
        "|---|---|---|---|---|",
        *(
            f"| {p.way} | {p.setting} | {100 * p.label_from_nuisances:.1f} | {100 * p.object_recognised:.1f} "
            f"| {100 * p.class_recognised:.1f} |"
            for p in points
        ),
    ]


if __name__ == "__main__":
    main()
