"""The test sets one can evaluate on, opened by `KIND=LOCATION`."""

from collections.abc import Callable, Sequence

from ...manifests.errors import UsageError
from .cue_conflict import CueConflictSet, open_cue_conflict
from .folders import open_folder
from .group_table import open_group_table
from .imagenet import open_imagenet
from .imagenet_9 import open_imagenet_9
from .imagenet_a import open_imagenet_a
from .imagenet_c import CorruptionSet, open_corrupted, open_imagenet_c
from .imagenet_c_bar import open_imagenet_c_bar
from .imagenet_d import open_imagenet_d
from .imagenet_r import open_imagenet_r
from .imagenet_real import open_imagenet_real
from .imagenet_sketch import open_imagenet_sketch
from .imagenet_v2 import open_imagenet_v2
from .objectnet import open_objectnet
from .streams import open_streams
from .test_set import FileSet, Marked, TestSet

__all__ = ["KINDS", "CorruptionSet", "CueConflictSet", "FileSet", "Marked", "TestSet", "open_test_set"]

# What `KIND=LOCATION` may begin with: how to write it, and how it is opened.
KINDS: dict[str, tuple[str, Callable[[str, str], Sequence[TestSet]]]] = {
    "imagenet": ("imagenet=DIR", open_imagenet),
    "imagenet-v2": ("imagenet-v2=DIR", open_imagenet_v2),
    "imagenet-c": ("imagenet-c=DIR", open_imagenet_c),
    "imagenet-c-bar": ("imagenet-c-bar=DIR", open_imagenet_c_bar),
    "imagenet-a": ("imagenet-a=DIR", open_imagenet_a),
    "imagenet-r": ("imagenet-r=DIR", open_imagenet_r),
    "imagenet-sketch": ("imagenet-sketch=DIR", open_imagenet_sketch),
    "imagenet-d": ("imagenet-d=DIR", open_imagenet_d),
    "imagenet-real": ("imagenet-real=DIR", open_imagenet_real),
    "imagenet-9": ("imagenet-9=DIR", open_imagenet_9),
    "cue-conflict": ("cue-conflict=DIR", open_cue_conflict),
    "objectnet": ("objectnet=DIR[:PROTOCOL]", open_objectnet),
    "groups": ("groups=FILE.csv", open_group_table),
    "folder": ("folder=DIR", open_folder),
    "corrupted": ("corrupted=DIR", open_corrupted),
    "shards": ("shards=DATASET[:STREAM]", open_streams),
}


def open_test_set(text: str) -> list[TestSet]:
    """The test sets that `KIND=LOCATION` stands for: one, ImageNet-A's and -R's two ways of
    counting, the three of ImageNet-V2 and -D, ImageNet-9's variants, ImageNet-C's 75 or 95, or C-bar's 50.

    Raises UsageError that begins with the text where there is no such set or it is not whole.
    """
    kind, separator, location = text.partition("=")
    if not separator or kind not in KINDS or not location:
        raise UsageError(f"{text!r}: no test set; expected one of {', '.join(form for form, _ in KINDS.values())}")
    return list(KINDS[kind][1](location, text))
