"""A stream's `_info.json`: what timm's `wds/` reader must know of a folder of WebDataset shards, by its split's name.

It says nothing that the records do not say, and `verify` compares it with them.
"""

import json
from collections.abc import Sequence
from typing import Literal

from .manifest import shard_name


def info_name(stream: str) -> str:
    """Path of the file in its dataset."""
    return f"{stream}/_info.json"


def make_info(stream: str, split: Literal["train", "validation", "test"], shard_samples: Sequence[int]) -> bytes:
    """The file of a stream whose shards, in order, have that many samples. Names of files are relative to it."""
    names = [shard_name(stream, index).removeprefix(f"{stream}/") for index in range(len(shard_samples))]
    entry = {
        "name": split,
        "num_samples": sum(shard_samples),
        "filenames": names,
        "shard_lengths": list(shard_samples),
    }
    return json.dumps({"splits": {split: entry}}, indent=1).encode()
