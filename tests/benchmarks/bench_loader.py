"""Our loader on shards against torchvision's ImageFolder, v2 transforms and DataLoader as the PyTorch ImageNet example
puts them together: same pictures, crop distribution, output size and workers. Resizing is antialiased on both sides;
ours decodes a JPEG at reduced size where the crop keeps the output's size.

Theirs normalises to float32 in the workers. Ours hands over bytes, which a trainer normalises where the model is: shown
as it is, and with that work done on the CPU, by this process alone.

Then start-up: opening a dataset of many tiny shards, up to its first step.
"""

import argparse
import io
import json
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from genint.manifests.manifest import (
    MANIFEST,
    PART_SIZE,
    Fingerprint,
    Manifest,
    Part,
    Record,
    StreamEntry,
    part_name,
    shard_name,
)
from genint.manifests.shard import ShardWriter, sha256_of_file
from genint.train.augmentation import Augmentation
from genint.train.checkpoint import Preprocessing
from genint.train.loader import StepLoader
from genint.train.streams import open_shards
from genint.train.vision import torchvision, v2
from PIL import Image

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
BATCH = 128
STREAM = "natural"
SAMPLES_PER_SHARD = 1_000
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shards", type=int, default=10_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        unpack_cifar(folder / "cifar10")
        compare("cifar10-jpeg", folder / "cifar10", folder / "cifar10-shards", 32, 40, arguments)
        repeat_images(DATA / "imagenet-sample", folder / "imagenet", times=20)
        compare("imagenet-sample", folder / "imagenet", folder / "imagenet-shards", 224, 8, arguments)
        measure_start(folder / "tiny-shards", arguments.shards)


def compare(name: str, images: Path, shards: Path, size: int, steps: int, arguments: argparse.Namespace) -> None:
    """Print images/s of both sides, interleaved, and the ratio of the medians."""
    pack(images, shards)
    sides: dict[str, Callable[[], Iterator[torch.Tensor]]] = {
        "torchvision": lambda: theirs(images, size, steps, arguments.workers),
        "genint": lambda: ours(shards, size, steps, arguments.workers),
        "genint, normalised": lambda: normalised(ours(shards, size, steps, arguments.workers), size),
    }
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(arguments.rounds):
        for side, batches in sides.items():
            rates[side].append(rate(batches()))
    medians = {side: statistics.median(values) for side, values in rates.items()}
    for side, value in medians.items():
        ratio = value / medians["torchvision"]
        print(
            f"{name}, {size} px, {arguments.workers} workers: {side} {value:,.0f} images/s, ratio {ratio:.2f}",
            flush=True,
        )


def rate(batches: Iterator[torch.Tensor]) -> float:
    """Images/s after the first two batches, whose time is the workers' start."""
    count = 0
    for i, batch in enumerate(batches):
        if i == 1:
            started = time.perf_counter()
        elif i > 1:
            count += len(batch)
    return count / (time.perf_counter() - started)


def theirs(images: Path, size: int, steps: int, workers: int) -> Iterator[torch.Tensor]:
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(size, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    dataset = torchvision.datasets.ImageFolder(images, transform)
    sampler = torch.randperm(len(dataset))[: (steps + 2) * BATCH].tolist()
    loader = torch.utils.data.DataLoader(dataset, BATCH, sampler=sampler, num_workers=workers)
    for batch, _ in loader:
        yield batch


def ours(shards: Path, size: int, steps: int, workers: int) -> Iterator[torch.Tensor]:
    loader = StepLoader(
        open_shards(str(shards)), {STREAM: BATCH}, {STREAM: Augmentation("standard", size)}, seed=1, workers=workers
    )
    for batch in loader.steps(0, steps + 2):
        yield batch.images[STREAM]


def normalised(batches: Iterator[torch.Tensor], size: int) -> Iterator[torch.Tensor]:
    preprocessing = Preprocessing(None, size, MEAN, STD)
    for batch in batches:
        yield preprocessing.normalize(batch)


def unpack_cifar(folder: Path) -> None:
    with tarfile.open(DATA / "cifar10-jpeg.tar.gz") as archive:
        wanted = [member for member in archive if member.name.startswith("train/")]
        archive.extractall(folder.with_name("unpacked"), wanted, filter="data")
    folder.with_name("unpacked").joinpath("train").rename(folder)


def repeat_images(source: Path, folder: Path, times: int) -> None:
    """Each picture `times` times, as files of their own."""
    for path in sorted(source.rglob("*.*")):
        if path.is_file():
            content = path.read_bytes()
            target = folder / path.parent.name
            target.mkdir(parents=True, exist_ok=True)
            for i in range(times):
                (target / f"{path.stem}-{i}{path.suffix}").write_bytes(content)


def pack(images: Path, folder: Path, samples_per_shard: int = SAMPLES_PER_SHARD) -> None:
    """A class folder as a dataset of one natural stream."""
    classes = sorted(path.name for path in images.iterdir())
    paths = sorted(path for path in images.glob("*/*"))
    chunks = [paths[start : start + samples_per_shard] for start in range(0, len(paths), samples_per_shard)]
    records = []
    for index, chunk in enumerate(chunks):
        samples = {
            f"natural-{index:05d}{i:05d}": {
                "cls": str(classes.index(path.parent.name)).encode(),
                "jpg": path.read_bytes(),
                "json": json.dumps({"content": path.name}).encode(),
            }
            for i, path in enumerate(chunk)
        }
        records.append(write_shard(folder, index, samples))
    write_manifest(folder, records, classes)


def write_shard(folder: Path, index: int, samples: dict[str, dict[str, bytes]]) -> Record:
    path = shard_name(STREAM, index)
    with ShardWriter(folder / path) as shard:
        for key, members in samples.items():
            shard.add(key, members)
    assert shard.summary
    return Record(
        stream=STREAM, shard_index=index, path=path, parameters_sha256="0" * 64, environment="0", attempt=1, seconds=0,
        **asdict(shard.summary),
    )  # fmt: skip


def write_manifest(folder: Path, records: list[Record], classes: list[str]) -> None:
    """The manifest of a dataset of one natural stream with these shards."""
    parts = []
    for start in range(0, len(records), PART_SIZE):
        chunk = records[start : start + PART_SIZE]
        path = folder / part_name(STREAM, start // PART_SIZE)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"".join(record.model_dump_json().encode() + b"\n" for record in chunk))
        parts.append(
            Part(
                path=part_name(STREAM, start // PART_SIZE), sha256=sha256_of_file(path), first_shard=start,
                shards=len(chunk), samples=sum(record.samples for record in chunk),
            )
        )  # fmt: skip
    entry = StreamEntry(
        name=STREAM, source="natural", role="natural", split="train", image_extension="jpg", class_names=classes,
        samples=sum(record.samples for record in records), shards=len(records),
        bytes=sum(record.bytes for record in records), failures={}, parts=parts,
    )  # fmt: skip
    manifest = Manifest(
        name="benchmark", fingerprint=Fingerprint(recipe={"name": "benchmark"}), recipe_sha256="0" * 64,
        sums_sha256="0" * 64, environments={}, streams=[entry], finished="2026-01-01T00:00:00+00:00",
        shard_seconds=0, retried_shards=0, lost_workers=0,
    )  # fmt: skip
    (folder / MANIFEST).write_text(manifest.model_dump_json())


def measure_start(folder: Path, shards: int) -> None:
    """Seconds from opening a dataset of `shards` shards of two samples to its first step."""
    buffer = io.BytesIO()
    Image.effect_noise((32, 32), 60).convert("RGB").save(buffer, "JPEG")
    members = {"cls": b"0", "jpg": buffer.getvalue(), "json": b"{}"}
    # Written once and copied: shards of one content, with records of their own.
    first = write_shard(folder, 0, {"a": members, "b": members})
    tar, index = (folder / first.path).read_bytes(), (folder / first.path).with_suffix(".idx").read_bytes()
    records = [first]
    for i in range(1, shards):
        path = folder / shard_name(STREAM, i)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(tar)
        path.with_suffix(".idx").write_bytes(index)
        records.append(first.model_copy(update={"shard_index": i, "path": shard_name(STREAM, i)}))
    write_manifest(folder, records, ["noise"])
    for workers in (0, 2):
        started = time.perf_counter()
        streams = open_shards(str(folder))
        streams[0].images.check()
        loader = StepLoader(streams, {STREAM: 256}, {STREAM: Augmentation("standard", 32)}, seed=1, workers=workers)
        batches = loader.steps(0, 10)
        next(batches)
        seconds = time.perf_counter() - started
        batches.close()
        print(f"{shards:,} shards, {workers} workers: {seconds:.2f} s to the first step (256 images, verified)")


if __name__ == "__main__":
    main()
