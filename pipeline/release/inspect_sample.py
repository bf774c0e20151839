"""Look one sample of a dataset up by its key."""

import json
import os
from pathlib import Path
from typing import Any

from ...manifests.dataset import Dataset
from ...manifests.errors import UsageError
from ...manifests.manifest import shard_name
from ...manifests.shard import load_index, read_sample
from ...manifests.verification import compare_parameters
from .preview import draw_contact_sheet, draw_samples


def inspect_sample(dataset: Dataset, key: str, sheet: Path | None = None) -> dict[str, Any]:
    """Where a sample stands, what its members are, its parameters, and whether they are as planned.

    sheet: picture to draw of the sample, beside those that it was made of.
    Raises UsageError for a key that the recipe does not make or whose shard is not there.
    """
    name, _, number = key.rpartition("-")
    names = [stream.name for stream in dataset.recipe.streams]
    if name not in names or not number.isdigit():
        raise UsageError(f"key {key!r}: expected a stream and a number, such as {names[0]}-00000000")
    plan = dataset.plan(name)
    if int(number) >= plan.count:
        raise UsageError(f"key {key!r}: stream {name} has {plan.count:,} samples")
    shard_index = plan.shard_of(int(number))
    path = shard_name(name, shard_index)
    if not dataset.storage.exists(path):
        raise UsageError(f"key {key!r}: its shard {path} is not there yet")
    sample = next(s for s in plan.samples(shard_index) if s.index == int(number))
    with dataset.storage.fetched(path) as tar, dataset.storage.fetched(path.removesuffix(".tar") + ".idx") as index:
        members = load_index(index).get(sample.key)
        if members is None:
            raise UsageError(f"key {key!r}: a hole in {path}; its record says why")
        file = os.open(tar, os.O_RDONLY)
        try:
            content = read_sample(file, members)
        finally:
            os.close(file)
    if sheet is not None:
        (tiles,) = draw_samples(dataset, name, [sample], [content])
        draw_contact_sheet(key, {str(sample.parameters["class_name"]): tiles}).save(sheet)
    return {
        "key": sample.key,
        "shard": path,
        "members": {ext: {"offset": m.offset, "bytes": m.size} for ext, m in members.items()},
        "parameters": json.loads(content["json"]),
        "differs_from_plan": compare_parameters(sample, content["json"]),
    }
