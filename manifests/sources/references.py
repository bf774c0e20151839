"""References of a sample to pictures that others made: a sample of an earlier stream, or a file of an outside input."""

from collections.abc import Sequence
from typing import Any, Literal

from .natural import NaturalStream
from .stream import Facts, Stream


def refer(facts: Facts, name: str, index: int) -> dict[str, Any]:
    """What a sample's parameters say of picture `index` of a stream or input."""
    if name in facts.streams:
        return {"stream": name, "sample_index": index, "key": facts.streams[name].key(index)}
    return {"input": name, "path": facts.inputs[name].paths[index]}


def labelled_stream(facts: Facts, name: str, labels: Literal["folders", "imagenet"], reader: str) -> Stream:
    """The recipe's stream of that name, or the one that an input of class folders would make for stream `reader`."""
    if name in facts.streams:
        return facts.streams[name]
    return NaturalStream(source="natural", name=reader, images=name, labels=labels)


def class_members(facts: Facts, name: str) -> Sequence[range]:
    """Indices of the pictures of each class of a stream or input that has any."""
    if name in facts.streams:
        return facts.streams[name].class_ranges(facts)
    # Labels of tars may leave numbers out.
    return [members for members in facts.inputs[name].class_ranges() if members]
