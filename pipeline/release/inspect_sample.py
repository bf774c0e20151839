"""Look one sample of a dataset up by its key."""

import json
import re
from pathlib import Path
from typing import Any

from ...manifests.dataset import Dataset
from ...manifests.errors import FormatError, UsageError, shorten
from ...manifests.manifest import shard_name
from ...manifests.verification import compare_parameters
from ..sources.stream_reader import StreamReader
from .preview import draw_contact_sheet, draw_samples


def inspect_sample(dataset: Dataset, key: str, sheet: Path | None = None) -> dict[str, Any]:
    """Where a sample stands, what its members are, its parameters, and whether they are as planned.

    sheet: picture to draw of the sample, beside those that it was made of.
    Raises UsageError for a key that the recipe does not make or whose shard is not there, FormatError where the shard
    is not what its record says.
    """
    names = [stream.name for stream in dataset.recipe.streams]
    found = re.fullmatch(r"(.*)-([0-9]{8,18})", key, re.DOTALL)
    if found is None or found[1] not in names:
        raise UsageError(f"key {shorten(key)!r}: expected a stream and a number, such as {names[0]}-00000000")
    name, number = found[1], int(found[2])
    plan = dataset.plan(name)
    if number >= plan.count or key != plan.stream.key(number):
        raise UsageError(f"key {key!r}: stream {name} has {plan.count:,} samples")
    shard_index, _ = plan.locate(number)
    path = shard_name(name, shard_index)
    if not dataset.storage.exists(path):
        raise UsageError(f"key {key!r}: its shard {path} is not there yet")
    sample = next(s for s in plan.samples(shard_index) if s.index == number)
    reader = StreamReader(dataset.storage, plan)
    members = reader.members(number)
    content = reader.read(number, members)
    if content is None:
        raise UsageError(f"key {key!r}: a hole in {path}; its record says why")
    try:
        label, parameters = content["cls"], json.loads(content["json"])
    except KeyError as error:
        raise FormatError(f"{dataset.storage / path}: {key}: no member .{error.args[0]}") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{dataset.storage / path}: {key}: parameters are not JSON: {error}") from error
    differences = compare_parameters(sample, content["json"])
    if label != str(sample.class_label).encode():
        differences.append(f"label {shorten(label)}, planned {sample.class_label}")
    if sheet is not None:
        (tiles,) = draw_samples(dataset, name, [sample], [content])
        draw_contact_sheet(key, {str(sample.parameters["class_name"]): tiles}).save(sheet)
    return {
        "key": sample.key,
        "shard": path,
        "members": {ext: {"offset": m.offset, "bytes": m.size} for ext, m in members.items()},
        "parameters": parameters,
        "differs_from_plan": differences,
    }
