"""A dry run stays small and short, whatever the recipe asks for."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from genint.manifests.recipe import load_recipe
from genint.manifests.sources.stream import Sample
from genint.manifests.storage import Storage
from genint.pipeline.shards.estimate import MOST_PIXELS, StreamEstimate, estimate_streams
from genint.pipeline.shards.settle import gather
from genint.pipeline.sources import RENDERERS
from genint.pipeline.sources.rendering import Rendered


@pytest.mark.parametrize(
    ("stream", "overrides"),
    [
        ("observational", ["generator.batch_size=1000000000", "streams.observational.latents_per_class=1000000000"]),
        ("transfer", ["streams.transfer.resize=100000", "streams.transfer.crop=100000"]),
        ("transfer", ["streams.transfer.batch_size=1000000000"]),
    ],
)
def test_estimates_of_huge_batches_and_pictures_are_made_from_small_ones(
    stream: str, overrides: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setattr("genint.pipeline.shards.estimate.MOST_PIXELS", 16 * 32**2)
    monkeypatch.setattr("genint.pipeline.shards.estimate.LARGEST_SIDE", {"cpu": 32, "gpu": 32})
    assert MOST_PIXELS > 16 * 32**2
    ingredients = gather(load_recipe("mini", overrides), timing_only=True)
    (row,) = estimate_streams(ingredients, Storage(str(tmp_path)), "cpu", [stream])
    assert row.samples > 0 and row.shards > 0
    assert 0 < row.device_seconds < float("inf")
    if "streams.transfer.crop=100000" in overrides:
        assert row.bytes > row.samples * 1e9  # as large as the pictures asked for


def test_a_dry_run_says_what_one_core_and_all_workers_take_and_warns_of_a_small_disk(
    run_cli: Callable[..., Any], tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def estimate(*_: object) -> Iterator[StreamEstimate]:
        yield StreamEstimate("natural", 60, 3, 5e9, 300.0, 310.0)
        yield StreamEstimate("interventional", 60, 4, 1e9, 3600.0, 36_000.0)

    monkeypatch.setattr("genint.pipeline.shards.complete.estimate_streams", estimate)
    monkeypatch.setattr(Storage, "free_bytes", lambda storage: 4_000_000_000)
    words = ["build-shards", tiny_recipe, "--out", tmp_path / "out", "--dry-run", "--workers", 4, "--device", "cpu"]
    result = run_cli(*words)
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    assert lines[1] == "natural 60 3 5.0 GB 5.2 min"
    assert lines[2] == "interventional 60 4 1.0 GB 60.0 min to 10.0 h"
    assert lines[3].startswith("one core (cpu: ") and lines[3].endswith("): 65.0 min to 10.1 h; 1.08 core hours")
    assert lines[4] == "with 4 cores, one worker each: 16.2 min to 2.5 h"
    assert "the disk is too small by 2.0 GB; choose another --out" in result.err
    tree = json.loads(run_cli(*words, "--json").out)
    assert (tree["device_seconds"], tree["busy_seconds"], tree["workers"]) == (3900.0, 36_310.0, 4)


def test_streams_are_timed_with_the_one_thread_that_a_worker_has(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def look(context: object, stream: object, samples: list[Sample]) -> Iterator[Rendered]:
        seen.append(torch.get_num_threads())
        yield from (Rendered(sample, encoded=b"1234") for sample in samples)

    monkeypatch.setitem(RENDERERS, "mini-world", look)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        ingredients = gather(load_recipe(str(tiny_recipe)), timing_only=True)
        (row,) = estimate_streams(ingredients, Storage(str(tmp_path)), "cpu", ["natural"])
        assert set(seen) == {1} and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert row.device_seconds <= row.busy_seconds and row.bytes == 60 * 2504
