"""What planning costs an image: parameters and latents of a whole shard at once, against one sample at a time."""

import argparse
import time

import numpy as np
from genint.manifests.directions import Directions, intervene
from genint.manifests.inputs import imagenet_wnids
from genint.manifests.randomness import draw_without_replacement, random_words, truncated_normal, uniform
from genint.manifests.recipe import load_recipe
from genint.manifests.sources.generated import INTERVENTIONS, LATENT, PACKAGE_BOUND, InterventionalStream
from genint.manifests.sources.stream import Facts, GeneratorFacts, StreamPlan
from numpy.typing import NDArray

# Latents were drawn for a render batch at a time.
BATCH = 64


def main() -> None:
    """Alternate between both sides on the same shards of genint-imagenet-256, and check that they agree bit for bit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    recipe = load_recipe("genint-imagenet-256")
    stream = next(stream for stream in recipe.streams if isinstance(stream, InterventionalStream))
    facts = Facts(recipe.seed, GeneratorFacts("biggan-deep-256", 128, 256, imagenet_wnids()), make_directions(stream))
    plan = StreamPlan(stream, facts)
    seconds: dict[str, list[float]] = {"one by one": [], "at once": []}
    for shard in range(arguments.rounds):
        indices = plan.indices(shard)[: arguments.samples]
        started = time.process_time()
        moves, latents = one_by_one(stream, facts, indices)
        middle = time.process_time()
        samples = stream.samples(facts, indices)
        found = np.concatenate([stream.latents(facts, indices[i : i + 512]) for i in range(0, len(indices), 512)])
        ended = time.process_time()
        seconds["one by one"].append(middle - started)
        seconds["at once"].append(ended - middle)
        assert (latents == found).all()
        assert moves == [(sample.parameters["direction"], sample.parameters["step_size"]) for sample in samples]
    best = {side: min(values) / arguments.samples * 1e6 for side, values in seconds.items()}
    print(", ".join(f"{side} {value:.1f} us an image" for side, value in best.items()), end="")
    print(f" ({best['one by one'] / best['at once']:.1f}x; equal to the last bit)")


def one_by_one(
    stream: InterventionalStream, facts: Facts, indices: NDArray[np.int64]
) -> tuple[list[tuple[int, float]], NDArray[np.float64]]:
    """Moves and latents as they are defined: a generator of random words for each sample and purpose."""
    moves = [draw_move(stream, facts, int(index)) for index in indices]
    latents = []
    for start in range(0, len(indices), BATCH):
        words, again = [], []
        for index in indices[start : start + BATCH]:
            label, latent, _ = place(stream, int(index))
            words.append(random_words(facts.seed, stream.name, latent, label, LATENT, count=128))
            again.append(draw_move(stream, facts, int(index)))
        directions, steps = zip(*again, strict=True)
        z = stream.truncation * truncated_normal(np.array(words), PACKAGE_BOUND)
        assert facts.directions is not None
        latents.append(intervene(z, facts.directions, np.array(directions), np.array(steps)))
    return moves, np.concatenate(latents)


def place(stream: InterventionalStream, index: int) -> tuple[int, int, int]:
    """Class label, latent index and rank within the latent."""
    latent, rank = divmod(index, stream.interventions_per_latent)
    return *divmod(latent, stream.latents_per_class), rank


def draw_move(stream: InterventionalStream, facts: Facts, index: int) -> tuple[int, float]:
    """Direction and step size."""
    label, latent, rank = place(stream, index)
    count = 2 * stream.interventions_per_latent
    words = random_words(facts.seed, stream.name, latent, label, INTERVENTIONS, count=count)
    chosen = draw_without_replacement(stream.num_directions, words[0::2])
    low, high = stream.ranges[chosen].T
    return int(chosen[rank]), float((low + (high - low) * uniform(words[1::2]))[rank])


def make_directions(stream: InterventionalStream) -> Directions:
    """Any orthonormal directions: the cost is the same."""
    count = stream.num_directions
    rows = np.linalg.qr(np.random.default_rng(0).standard_normal((128, 128)))[0][:count]
    ones = np.ones(count)
    return Directions(
        latent=rows, latent_mean=np.zeros(128), latent_stdev=ones, activation=rows.astype(np.float32),
        activation_mean=np.zeros(128, np.float32), activation_stdev=ones, activation_shape=(128,),
        variance_ratio=ones, random_stdevs=ones, sign_margins=ones, value_margins=ones, layer=None, class_label=None,
        source="exact",
    )  # fmt: skip


if __name__ == "__main__":
    main()
