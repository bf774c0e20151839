"""Batches by step: the same for any workers and ranks, from any step on; and what goes wrong, by name."""

import multiprocessing
import os
import shutil
import signal
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from genint.manifests.errors import FormatError, GenintError, UsageError
from genint.manifests.shard import load_index
from genint.train.augmentation import Augmentation
from genint.train.checkpoint import Preprocessing
from genint.train.loader import StepBatch, StepLoader, evaluation_batches
from genint.train.streams import TrainStream, open_images, open_shards
from genint.train.workers import load_items
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

BATCHES = {"natural": 11, "observational": 8, "interventional": 9}
STEPS = 8  # natural and interventional images straddle epochs of 60


def make_loader(streams: list[TrainStream], size: int = 16, **arguments: object) -> StepLoader:
    augmentations = {stream.name: Augmentation("standard", size) for stream in streams}
    batch_sizes = {stream.name: BATCHES.get(stream.name, 4) for stream in streams}
    arguments = {"batch_sizes": batch_sizes, "augmentations": augmentations, "seed": 5, **arguments}
    return StepLoader(streams, **arguments)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def streams(reference: Path) -> list[TrainStream]:
    return open_shards(str(reference))


@pytest.fixture(scope="module")
def expected(streams: list[TrainStream]) -> list[StepBatch]:
    return list(make_loader(streams).steps(0, STEPS))


@pytest.fixture
def copied(reference: Path, tmp_path: Path) -> Path:
    return shutil.copytree(reference, tmp_path / "dataset")


def assert_same(found: list[StepBatch], expected: list[StepBatch]) -> None:
    assert [batch.step for batch in found] == [batch.step for batch in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert list(ours.images) == list(theirs.images) == list(BATCHES)
        for name in BATCHES:
            assert torch.equal(ours.images[name], theirs.images[name])
            assert torch.equal(ours.labels[name], theirs.labels[name])


def concatenate(ranks: list[list[StepBatch]]) -> list[StepBatch]:
    """The global batches of ranks' parts."""
    return [
        StepBatch(
            parts[0].step,
            {name: torch.cat([part.images[name] for part in parts]) for name in BATCHES},
            {name: torch.cat([part.labels[name] for part in parts]) for name in BATCHES},
        )
        for parts in zip(*ranks, strict=True)
    ]


def test_batches_have_their_streams_sizes(expected: list[StepBatch]) -> None:
    for batch in expected:
        assert {name: tuple(images.shape) for name, images in batch.images.items()} == {
            name: (count, 3, 16, 16) for name, count in BATCHES.items()
        }
        assert all(images.dtype == torch.uint8 and images.is_contiguous() for images in batch.images.values())
        assert all(labels.dtype == torch.int64 for labels in batch.labels.values())


@pytest.mark.parametrize("world", [2, 4, 8])
def test_ranks_together_read_the_same_global_batches(
    streams: list[TrainStream], expected: list[StepBatch], world: int
) -> None:
    ranks = [list(make_loader(streams, rank=rank, world_size=world).steps(0, STEPS)) for rank in range(world)]
    assert_same(concatenate(ranks), expected)


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(streams: list[TrainStream], expected: list[StepBatch], workers: int) -> None:
    assert_same(list(make_loader(streams, workers=workers).steps(0, STEPS)), expected)


def test_a_run_goes_on_from_any_step(streams: list[TrainStream], expected: list[StepBatch]) -> None:
    for step in range(STEPS):
        assert_same(list(make_loader(streams).steps(step, STEPS)), expected[step:])
    # Twice, and at another world size.
    first = list(make_loader(streams).steps(0, 3))
    second = [list(make_loader(streams, rank=rank, world_size=2).steps(3, 5)) for rank in range(2)]
    third = list(make_loader(streams, workers=1).steps(5, STEPS))
    assert_same(first + concatenate(second) + third, expected)


@pytest.mark.parametrize("window", [None, 1, 2])
def test_each_sample_is_read_once_an_epoch(streams: list[TrainStream], window: int | None) -> None:
    loader = make_loader(streams[:1], batch_sizes={"natural": 12}, window=window)
    everything = {streams[0].images.key(position) for position in range(60)}
    for epoch in range(2):
        keys = Counter(key for step in range(5 * epoch, 5 * epoch + 5) for key in loader.step_keys(step, "natural"))
        assert set(keys) == everything
        assert set(keys.values()) == {1}


def test_augmentation_differs_from_epoch_to_epoch(streams: list[TrainStream]) -> None:
    loader = make_loader(streams[:1], batch_sizes={"natural": 60})
    first, second = loader.steps(0, 2)
    order = [np.argsort(loader.step_keys(step, "natural")) for step in range(2)]
    assert torch.equal(first.labels["natural"][order[0]], second.labels["natural"][order[1]])
    same = (first.images["natural"][order[0]] == second.images["natural"][order[1]]).flatten(1).all(1)
    assert not same.any()


def test_images_and_labels_are_those_of_the_keys(streams: list[TrainStream]) -> None:
    stream = streams[0]
    loader = make_loader([stream], 32, augmentations={"natural": Augmentation("none", 32)})
    (batch,) = loader.steps(3, 4)
    by_key = {stream.images.key(position): position for position in range(60)}
    for i, key in enumerate(loader.step_keys(3, "natural")):
        content, label = stream.images.read(by_key[key])
        path = Path(key.partition(":")[0])
        assert path.is_file() and label == batch.labels["natural"][i]
        assert torch.equal(batch.images["natural"][i], Augmentation("none", 32)(content, np.zeros(24, np.uint64)))


def test_the_models_random_numbers_are_left_alone(streams: list[TrainStream]) -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    for workers in (0, 1):
        list(make_loader(streams, workers=workers).steps(0, 2))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("batch", [61, 7])
def test_a_batch_fits_its_stream_and_the_ranks(streams: list[TrainStream], batch: int) -> None:
    message = {61: "natural: a batch of 61 is larger than its 60 samples", 7: "natural: a batch of 7 leaves"}
    with pytest.raises(UsageError, match=message[batch]):
        make_loader(streams[:1], batch_sizes={"natural": batch}, world_size=8)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_flipped_byte_ends_training_with_the_shards_name(copied: Path, workers: int) -> None:
    path = min(copied.glob("interventional/*/*.tar"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    streams = open_shards(str(copied))
    for stream in streams:
        stream.images.check()
    with pytest.raises(FormatError) as caught:
        list(make_loader(streams, workers=workers).steps(0, 20))
    assert str(caught.value) == f"{path}: sha256 differs from its record's"


def test_shards_are_verified_once(reference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[int] = []
    check = "genint.manifests.samples.check_shard"
    monkeypatch.setattr(check, lambda storage, record: checked.append(record.shard_index))
    streams = open_shards(str(reference), ["natural"])
    list(make_loader(streams, verify=False).steps(0, 7))
    assert checked == []
    loader = make_loader(streams)
    list(loader.steps(0, 7))
    list(loader.steps(7, 9))
    assert sorted(checked) == [0, 1, 2]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_cut_short_after_the_start_is_named(copied: Path, workers: int) -> None:
    streams = open_shards(str(copied), ["natural"])
    path = min(copied.glob("natural/*/*.tar"))
    middle = list(load_index(path).values())[5]["png"].offset
    with open(path, "ab") as file:
        file.truncate(middle)
    with pytest.raises(FormatError, match=f"^{path}: sample .*: member"):
        list(make_loader(streams, workers=workers, verify=False).steps(0, 6))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_picture_ends_training_with_its_name(tmp_path: Path, workers: int) -> None:
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for i in range(3):
            Image.new("RGB", (20, 20)).save(tmp_path / label / f"{i}.jpg")
    broken = tmp_path / "dog" / "1.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    stream = TrainStream("imagenet", "natural", open_images(str(tmp_path)))
    with pytest.raises(FormatError, match=f"^stream imagenet: {broken}: unreadable image: "):
        list(make_loader([stream], workers=workers).steps(0, 4))
    broken.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        list(make_loader([stream], workers=workers).steps(0, 4))
    assert caught.value.filename == str(broken)


def test_stopping_early_ends_the_workers(streams: list[TrainStream]) -> None:
    for _ in range(2):
        batches = make_loader(streams, workers=2).steps(0, 1_000_000)
        next(batches)
        workers = multiprocessing.active_children()
        assert len(workers) == 2
        batches.close()
        assert not multiprocessing.active_children()
        # They ended by themselves: torch waits five seconds, and then terminates.
        assert [worker.exitcode for worker in workers] == [0, 0]


def test_signals_to_the_group_leave_the_workers_to_the_main_process(streams: list[TrainStream]) -> None:
    batches = make_loader(streams, workers=2).steps(0, 100)
    # One batch of each worker: both have started.
    assert [next(batches).step, next(batches).step] == [0, 1]
    for worker in multiprocessing.active_children():
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(worker.pid or 0, number)
    assert [batch.step for batch in batches] == list(range(2, 100))


def test_a_killed_worker_is_reported_in_one_line(streams: list[TrainStream]) -> None:
    batches = make_loader(streams, workers=1).steps(0, 1_000_000)
    next(batches)
    os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
    with pytest.raises(GenintError, match="loader worker was killed") as caught:
        list(batches)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_reads_in_order(streams: list[TrainStream], workers: int) -> None:
    images = streams[0].images
    preprocessing = Preprocessing(None, 32)
    batches = list(evaluation_batches(images, preprocessing, 25, workers))
    assert [len(labels) for _, labels in batches] == [25, 25, 10]
    assert torch.cat([labels for _, labels in batches]).tolist() == [images.read(i)[1] for i in range(60)]
    ((some, labels),) = evaluation_batches(images, preprocessing, 25, workers, positions=[40, 3])
    everything = torch.cat([pictures for pictures, _ in batches])
    assert torch.equal(some, everything[[40, 3]])
    assert labels.tolist() == [images.read(40)[1], images.read(3)[1]]


@dataclass(frozen=True)
class Number:
    value: Tensor

    def tensors(self) -> list[Tensor]:
        return [self.value]


class Numbers(Dataset[Number]):
    def __getitem__(self, index: int) -> Number:
        return Number(torch.tensor(index))


class Asked(BaseException):
    pass


def test_a_signal_while_workers_start_is_heard_once_they_have_and_leaves_none_behind() -> None:
    armed = [True]

    def ask() -> None:
        if armed:
            armed.clear()
            os.kill(os.getpid(), signal.SIGTERM)

    def raise_it(number: int, frame: object) -> None:
        raise Asked

    os.register_at_fork(after_in_parent=ask)
    # One of the process's other threads takes the signal where the main one does not.
    ended = threading.Event()
    other = threading.Thread(target=ended.wait)
    other.start()
    others = set(multiprocessing.active_children())
    before = signal.signal(signal.SIGTERM, raise_it)
    try:
        with pytest.raises(Asked):
            next(load_items(Numbers(), range(4), workers=1))
    finally:
        signal.signal(signal.SIGTERM, before)
        ended.set()
        other.join()
    assert not armed
    assert set(multiprocessing.active_children()) == others
