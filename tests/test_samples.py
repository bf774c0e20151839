"""Random access to the samples of a finished stream."""

import hashlib
import json
import pickle
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from genint.manifests.errors import FormatError
from genint.manifests.manifest import Manifest, Record, load_manifest
from genint.manifests.samples import SOUND, UNDER_WAY, MemberTable, StreamSamples
from genint.manifests.shard import load_index, read_sample
from genint.manifests.storage import Storage
from genint.manifests.tar_members import Member


def open_samples(dataset: Path, stream: str = "natural") -> StreamSamples:
    storage = Storage(dataset)
    return StreamSamples(storage, load_manifest(storage).stream(stream))


@pytest.fixture
def copied(reference: Path, tmp_path: Path) -> Path:
    return shutil.copytree(reference, tmp_path / "dataset")


def first_shard(dataset: Path, stream: str = "natural") -> Path:
    return min(dataset.glob(f"{stream}/*/*.tar"))


@pytest.mark.parametrize("stream", ["natural", "interventional"])
def test_samples_are_read_by_position(reference: Path, stream: str) -> None:
    samples = open_samples(reference, stream)
    expected = []
    for path in sorted(reference.glob(f"{stream}/*/*.tar")):
        with open(path, "rb") as file:
            expected += [(key, read_sample(file.fileno(), members)) for key, members in load_index(path).items()]
    assert len(samples) == len(expected) == sum(samples.shard_sizes)
    for position in (len(samples) - 1, 0, *range(len(samples))):
        assert (samples.key(position), samples.read(position)) == expected[position]
    assert samples.read(3, ["cls", "nothing"]) == {"cls": expected[3][1]["cls"]}


@pytest.mark.parametrize("position", [-1, 60])
def test_there_is_nothing_beyond_the_ends(reference: Path, position: int) -> None:
    with pytest.raises(IndexError, match="of 60 samples"):
        open_samples(reference).read(position)


def test_samples_travel_to_other_processes(reference: Path) -> None:
    samples = open_samples(reference)
    expected = samples.read(7)
    assert pickle.loads(pickle.dumps(samples)).read(7) == expected  # noqa: S301


def test_samples_of_a_bucket_are_the_same(reference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = open_samples(reference)
    expected = [samples.read(position) for position in range(60)]
    remote = open_samples(reference)
    monkeypatch.setattr(remote.storage, "local", False)
    assert [remote.read(position) for position in range(60)] == expected


def test_a_missing_shard_is_named(copied: Path) -> None:
    path = first_shard(copied)
    path.unlink()
    samples = open_samples(copied)
    for use in (samples.check_sizes, lambda: samples.check_shard(0), lambda: samples.read(0)):
        with pytest.raises(FormatError, match=f"{path}: missing"):
            use()


def test_a_shard_of_another_size_is_named(copied: Path) -> None:
    path = first_shard(copied)
    size = path.stat().st_size
    with open(path, "ab") as file:
        file.truncate(size - 10_240)
    with pytest.raises(FormatError, match=f"{path}: {size - 10_240} bytes, its record says {size}"):
        open_samples(copied).check_sizes()


def test_a_short_read_names_shard_and_sample(copied: Path) -> None:
    path = first_shard(copied)
    last, members = list(load_index(path).items())[-1]
    with open(path, "ab") as file:
        file.truncate(members["png"].offset + 5)
    storage = Storage(copied)
    samples = StreamSamples(storage, load_manifest(storage).stream("natural"), check=False)
    with pytest.raises(FormatError, match=f"{path}: sample {last}: member .png: 5 of"):
        samples.read(samples.shard_sizes[0] - 1, ["png"])


def test_a_flipped_byte_differs_from_the_record(copied: Path) -> None:
    path = first_shard(copied)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    samples = open_samples(copied)
    samples.check_sizes()
    samples.check_shard(1)
    for use in (lambda: samples.check_shard(0), lambda: samples.read(0)):
        with pytest.raises(FormatError, match=f"{path}: sha256 differs"):
            use()


def test_a_shard_is_compared_with_its_record_once(copied: Path) -> None:
    samples = open_samples(copied)
    content = samples.read(0)
    path = first_shard(copied)
    path.write_bytes(path.read_bytes() + b" ")
    assert samples.read(0) == content
    with pytest.raises(FormatError, match="sha256 differs"):
        open_samples(copied).read(0)


@pytest.mark.parametrize("order", [slice(1, None), slice(None, None, -1)], ids=["one lost", "in another order"])
def test_a_part_that_is_not_what_the_manifest_says_of_it_is_named(copied: Path, order: slice) -> None:
    part = copied / "manifest" / "natural-00000.jsonl"
    part.write_bytes(b"".join(part.read_bytes().splitlines(keepends=True)[order]))
    manifest = json.loads((copied / "manifest.json").read_text())
    (entry,) = (stream for stream in manifest["streams"] if stream["name"] == "natural")
    entry["parts"][0]["sha256"] = hashlib.sha256(part.read_bytes()).hexdigest()
    manifest = Manifest.from_json(json.dumps(manifest).encode(), "manifest.json")
    (copied / "manifest.json").write_bytes(manifest.to_json())
    with pytest.raises(FormatError, match=r"natural-00000\.jsonl: not the records of 3 shards from 0 on"):
        open_samples(copied)


def test_a_damaged_or_missing_index_is_named(copied: Path) -> None:
    index = first_shard(copied).with_suffix(".idx")
    index.write_bytes(index.read_bytes().replace(b"png", b"jpg"))
    with pytest.raises(FormatError, match=f"{index}: sha256 differs"):
        open_samples(copied).read(0)
    index.unlink()
    with pytest.raises(FormatError, match=f"{index}: missing"):
        open_samples(copied).read(0)


def test_tables_of_samples_with_different_members() -> None:
    index = {"a": {"cls": Member(512, 1), "jpg": Member(1536, 0)}, "b": {"png": Member(2**40, 2**31)}}
    table = MemberTable.from_index(index)
    assert [table.members(0), table.members(1)] == list(index.values())


def test_processes_that_share_what_they_check_read_each_shard_once(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    reading, go_on = threading.Event(), threading.Event()

    def check(storage: Storage, record: Record) -> None:
        read.append(record.shard_index)
        reading.set()
        assert go_on.wait(30)

    monkeypatch.setattr("genint.manifests.samples.check_shard", check)
    first, second = open_samples(reference), open_samples(reference)
    for samples in (first, second):
        samples.share_checks(tmp_path / "checked")
    with ThreadPoolExecutor(2) as pool:
        found = pool.submit(first.check_shard, 1)
        assert reading.wait(30)
        waiting = pool.submit(second.check_shard, 1)  # for what the first is at
        assert not waiting.done()
        go_on.set()
        found.result(30)
        waiting.result(30)
    first.check_shard(1)
    second.check_shard(2)
    assert read == [1, 2]


def test_who_waits_for_a_process_that_is_gone_checks_the_shard_itself(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genint.manifests.samples.PATIENCE", 0.05)
    (tmp_path / "checked").write_bytes(bytes([UNDER_WAY] * 3))
    samples = open_samples(reference)
    samples.share_checks(tmp_path / "checked")
    samples.check_shard(0)
    assert (tmp_path / "checked").read_bytes() == bytes([SOUND, UNDER_WAY, UNDER_WAY])
