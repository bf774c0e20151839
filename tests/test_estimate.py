"""A dry run stays small and short, whatever the recipe asks for."""

import pytest
from genint.manifests.recipe import load_recipe
from genint.manifests.storage import Storage
from genint.pipeline.shards.estimate import MOST_PIXELS, estimate_streams
from genint.pipeline.shards.settle import gather


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
