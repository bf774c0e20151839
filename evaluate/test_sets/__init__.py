"""The test sets one can evaluate on, opened by `KIND=LOCATION`."""

from collections.abc import Callable, Sequence

from ...manifests.errors import UsageError
from .folders import open_folder
from .imagenet import open_imagenet
from .imagenet_c import CorruptionSet, open_corrupted, open_imagenet_c
from .imagenet_v2 import open_imagenet_v2
from .objectnet import open_objectnet
from .streams import open_streams
from .test_set import FileSet, Marked, TestSet

__all__ = ["KINDS", "CorruptionSet", "FileSet", "Marked", "TestSet", "open_test_set"]

# What `KIND=LOCATION` may begin with: how to write it, and how it is opened.
KINDS: dict[str, tuple[str, Callable[[str, str], Sequence[TestSet]]]] = {
    "imagenet": ("imagenet=DIR", open_imagenet),
    "imagenet-v2": ("imagenet-v2=DIR", open_imagenet_v2),
    "imagenet-c": ("imagenet-c=DIR", open_imagenet_c),
    "objectnet": ("objectnet=DIR[:PROTOCOL]", open_objectnet),
    "folder": ("folder=DIR", open_folder),
    "corrupted": ("corrupted=DIR", open_corrupted),
    "shards": ("shards=DATASET[:STREAM]", open_streams),
}


def open_test_set(text: str) -> list[TestSet]:
    """The test sets that `KIND=LOCATION` stands for: one, ImageNet-V2's three, or ImageNet-C's 75 or 95.

    Raises UsageError that begins with the text where there is no such set or it is not whole.
    """
    kind, separator, location = text.partition("=")
    if not separator or kind not in KINDS or not location:
        raise UsageError(f"{text!r}: no test set; expected one of {', '.join(form for form, _ in KINDS.values())}")
    return list(KINDS[kind][1](location, text))
