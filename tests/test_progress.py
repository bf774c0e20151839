"""`status` of a build that is under way: its rate, the time left, and whether anybody is at work."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from genint.manifests.dataset import load_dataset
from genint.manifests.lock import find_holder, only_process
from genint.manifests.manifest import Failure, Record
from genint.manifests.storage import Storage
from genint.pipeline.release.progress import Finished, find_newest, measure_progress
from genint.pipeline.shards.settle import LOCK


@dataclass(frozen=True)
class TenEach:
    """A plan with ten samples in every shard."""

    def shard_size(self, shard_index: int) -> int:
        return 10


def finished(stream: str, at: float, seconds: float, lost: int = 0) -> Finished:
    digest = "0" * 64
    failures = [Failure(key=f"{stream}-{i:08d}", reason="not finite") for i in range(lost)]
    record = Record(
        stream=stream, shard_index=0, path="x", bytes=1, sha256=digest, index_bytes=1, index_sha256=digest, samples=10,
        first_key="a", last_key="b", parameters_sha256=digest, environment="e", attempt=1, seconds=seconds,
        failures=failures,
    )  # fmt: skip
    return Finished(at, record)


def test_rate_and_time_left_follow_from_the_newest_shards_of_each_stream() -> None:
    # Two workers, 10 s a shard of `fast`, 40 s a shard of `slow`; an hour before, something else went on.
    shards = {
        "fast": [finished("fast", 6_400, 5), *(finished("fast", 10_000 + at, 10) for at in (10, 20, 30, 40))],
        "slow": [finished("slow", 10_040, 40, lost=2)],
    }
    plans: Any = {"fast": TenEach(), "slow": TenEach()}
    missing = {"fast": np.array([], np.int64), "slow": np.arange(3)}
    progress = measure_progress(shards, plans, missing, now=10_045)
    assert progress is not None
    assert progress.workers == pytest.approx(2.0)
    assert progress.samples_per_second == pytest.approx(50 / 40)
    assert progress.seconds_left == pytest.approx(3 * 40 / 2)
    assert (progress.idle, progress.lost) == (5.0, 2)
    assert measure_progress({"fast": [], "slow": []}, plans, missing, now=0) is None
    unknown = measure_progress({**shards, "slow": []}, plans, missing, now=10_045)
    assert unknown is not None and unknown.seconds_left is None


def test_status_says_how_fast_a_build_goes_and_whether_one_runs(
    run_cli: Callable[..., Any], tiny_recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "dataset"
    assert run_cli("build-shards", tiny_recipe, "--stream", "natural", "--out", out, "--workers", 1).exit_code == 0
    for shard in range(4):  # a folder stands where each shard of another stream should go
        (out / "interventional" / "0000" / f"interventional-000000{shard}.tar" / "in-the-way").mkdir(parents=True)
    assert run_cli("build-shards", tiny_recipe, "--out", out, "--workers", 1).exit_code == 1
    stopped = run_cli("status", out).out
    assert "stopped: no build runs here" in stopped and "3 of 3 shards" in stopped
    assert "samples/s by" in stopped and "time left unknown: a stream has no finished shard yet" in stopped
    assert "it ended: no worker can make a shard: IsADirectoryError" in stopped
    (record, *_) = (out / "records" / "observational").rglob("*.json")
    whole = record.read_bytes()
    record.write_bytes(whole[:50])
    assert run_cli("status", out).exit_code == 1
    record.write_bytes(whole)
    with only_process(out / LOCK, "busy"):
        assert "under way: process" in run_cli("status", out).out
    assert find_holder(out / LOCK) is None and find_holder(tmp_path / "nothing") is None


def test_times_of_files_are_known_on_a_disk_and_in_memory(tmp_path: Path) -> None:
    for storage in (Storage(tmp_path / "here"), Storage("memory://times")):
        storage.write("a/b.json", b"{}")
        assert list(storage.times("a")) == ["b.json"] and abs(storage.times("a")["b.json"] - time.time()) < 3600
        assert storage.times("nothing") == {}


def test_a_finished_dataset_has_no_shards_under_way(reference: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(reference, tmp_path / "copy")
    dataset = load_dataset(str(copy))
    assert find_newest(dataset.storage, dataset.plan("natural")) == []
