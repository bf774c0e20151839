"""ImageNet-C-bar (Mintun et al. 2021): ten corruptions chosen to be unlike ImageNet-C's, in its layout."""

from ..metrics.corruption_error import BAR_CORRUPTIONS
from .imagenet_c import CorruptionSet, open_official
from .test_set import existing_folder


def open_imagenet_c_bar(location: str, where: str) -> list[CorruptionSet]:
    """The 50 sets of a folder. Raises UsageError that names what lacks."""
    return open_official("imagenet-c-bar", existing_folder(location, where), BAR_CORRUPTIONS, where)
