"""Streams that show the same samples at several strengths of a shift, such as the points of figure 5."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...manifests.dataset import Dataset, load_dataset
from ...manifests.errors import FormatError, UsageError, shorten
from .streams import StreamSet, open_streams

# Keys of a stream that change no pixel, or the file format alone.
IMMATERIAL: Final = ("split", "samples_per_shard", "max_failures")
# Their streams' pictures depend on the world: not on the stream's name, how many are shown, and the recipe's seed.
OF_THE_WORLD: Final = ("mini-world",)
# Training pictures are confounded; a test shifts as these fall.
FALLING: Final = ("background_confounding", "pose_confounding")


@dataclass(frozen=True, eq=False)
class StrengthAxis:
    """Sets in the order in which the shift grows, with the value of `key` in each, and where the samples stand.

    positions: [S, N], of sample n in set s; samples that lack in one of the sets are left out.
    """

    key: str
    values: tuple[float, ...]
    sets: tuple[StreamSet, ...]
    positions: NDArray[np.int64]
    left_out: int


def open_strength_axis(texts: Sequence[str]) -> StrengthAxis:
    """The axis that streams `DATASET:STREAM` form: of their recipes one number differs, which is the strength.

    Raises UsageError where they are fewer than two, another thing differs, or they have no sample in common.
    """
    if len(texts) < 2:
        raise UsageError("a strength axis takes two streams or more: give --shards DATASET:STREAM for each strength")
    sets = [_open_one(text) for text in texts]
    datasets = [load_dataset(one.samples.storage.url) for one in sets]
    described = [_describe(dataset, one) for dataset, one in zip(datasets, sets, strict=True)]
    key, values = _find_strength(described)
    order = np.argsort([-value if key.partition(" and ")[0] in FALLING else value for value in values], kind="stable")
    ordered = [sets[place] for place in order]
    indices = [_sample_indices(one) for one in ordered]
    common = sorted(set.intersection(*(set(found) for found in indices)))
    if not common:
        raise UsageError("--shards: the streams have no sample in common")
    positions = np.array([[found[index] for index in common] for found in indices], np.int64)
    left_out = len(set.union(*(set(found) for found in indices))) - len(common)
    return StrengthAxis(key, tuple(values[place] for place in order), tuple(ordered), positions, left_out)


def _open_one(text: str) -> StreamSet:
    found = open_streams(text, f"--shards {text}")
    if len(found) > 1:
        raise UsageError(f"--shards {text}: {len(found)} test streams; name one as DATASET:STREAM")
    return found[0]


def _describe(dataset: Dataset, one: StreamSet) -> dict[str, Any]:
    """All that decides a stream's pictures, flat."""
    stream = dataset.recipe.stream(one.samples.entry.name)
    keys = {name: value for name, value in stream.model_dump().items() if name not in IMMATERIAL}
    if stream.source in OF_THE_WORLD:
        return {name: value for name, value in keys.items() if name not in ("name", "num_samples")}
    settled = dataset.entry.fingerprint
    return keys | {
        "seed": dataset.recipe.seed,
        "generator weights": settled.weights_sha256,
        "directions": settled.directions_sha256,
        "inputs": {name: entry.sha256 for name, entry in settled.inputs.items()},
    }


def _find_strength(described: Sequence[Mapping[str, Any]]) -> tuple[str, list[float]]:
    """The key in which streams differ, and its value in each. Keys that move together count as one."""
    keys = dict.fromkeys(key for found in described for key in found)
    columns: dict[str, list[Any]] = {key: [found.get(key) for found in described] for key in keys}
    differing = {key: column for key, column in columns.items() if any(value != column[0] for value in column)}
    together = " and ".join(differing)
    if not differing:
        raise UsageError("--shards: nothing differs in the streams' recipes; expected one number, such as step_scale")
    values, *others = differing.values()
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if not numbers or any(other != values for other in others):
        raise UsageError(
            f"--shards: the streams' recipes differ in {together}; expected one number alone, the strength, such as "
            "step_scale"
        )
    repeated = next((value for value in values if values.count(value) > 1), None)
    if repeated is not None:
        raise UsageError(f"--shards: two streams have {together} = {repeated:g}")
    return together, [float(value) for value in values]


def _sample_indices(one: StreamSet) -> dict[int, int]:
    """Position of each sample by its number in the stream. Raises FormatError where one has none."""
    found: dict[int, int] = {}
    for position in range(len(one)):
        index = one.parameters(position).get("sample_index")
        if type(index) is not int or index in found:
            raise FormatError(
                f"{one.samples.storage}: sample {one.key(position)}: sample_index {shorten(repr(index))}; expected a "
                "number of its own"
            )
        found[index] = position
    return found
