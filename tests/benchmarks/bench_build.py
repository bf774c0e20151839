"""What a shard costs beyond rendering and encoding its images: our worker against a bare loop, shard by shard."""

import argparse
import tempfile
import time

import numpy as np
import torch
from genint.manifests.dataset import load_dataset
from genint.manifests.recipe import load_recipe
from genint.manifests.storage import Storage
from genint.pipeline.biggan.fast_generator import fold
from genint.pipeline.images.encode import encode_image
from genint.pipeline.shards.environment import describe_environment
from genint.pipeline.shards.settle import gather, settle
from genint.pipeline.shards.worker import Task, Worker, WorkerSettings


def main() -> None:
    """Alternate between both sides on the same shards; one torch thread each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="mini")
    parser.add_argument("--shards", type=int, default=6)
    parser.add_argument("--weights")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe)
    stream = next(stream for stream in recipe.streams if stream.source == "interventional")
    assert recipe.generator is not None
    with tempfile.TemporaryDirectory() as folder:
        ingredients = gather(recipe, arguments.weights)
        settle(ingredients, Storage(folder), "cpu")
        dataset = load_dataset(folder)
        worker = Worker(WorkerSettings(folder, dataset.entry.digest, "cpu", ingredients.weights))
        plan = dataset.plan(stream.name)
        generator = fold(
            ingredients.model,
            stream.batch_norm_truncation,
            batch_size=recipe.generator.batch_size,
            precision=recipe.generator.precision,
        )

        def bare_loop(shard_index: int) -> int:
            samples = plan.samples(shard_index)
            latents = stream.latents(dataset.facts, np.array([sample.index for sample in samples]))
            labels = torch.tensor([sample.class_label for sample in samples])
            size = 0
            for start in range(0, len(samples), recipe.generator.batch_size):
                batch = slice(start, start + recipe.generator.batch_size)
                images, _ = generator.render(torch.from_numpy(latents[batch]), labels[batch])
                size += sum(len(encode_image(image, stream)) for image in images)
            return size

        bare_loop(0)
        worker.make_shard(Task(stream.name, 0))
        seconds = {"bare": 0.0, "ours": 0.0}
        for shard_index in range(arguments.shards):
            started = time.perf_counter()
            bare_loop(shard_index)
            middle = time.perf_counter()
            worker.make_shard(Task(stream.name, shard_index))
            seconds["bare"] += middle - started
            seconds["ours"] += time.perf_counter() - middle
    count = sum(plan.shard_size(i) for i in range(arguments.shards))
    print(f"{describe_environment('cpu').device}; {recipe.name}, {stream.name}, {count:,} images, one torch thread")
    for name, label in (("bare", "bare loop: render, then encode"), ("ours", "make_shard: the whole shard on disk")):
        print(f"{label:38} {count / seconds[name]:8.1f} images/s")
    print(f"{'wall time, ours over bare':38} {seconds['ours'] / seconds['bare']:8.3f}")


if __name__ == "__main__":
    main()
