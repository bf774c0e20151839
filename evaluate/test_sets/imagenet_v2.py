"""ImageNet-V2 (Recht et al. 2019): three sets of 10,000 images, whose folders are numbers."""

import os
import re
from collections.abc import Sequence

from ...manifests.errors import UsageError
from ...manifests.inputs import imagenet_wnids, list_images
from .imagenet import WNID, make_set
from .test_set import FileSet, check_counts, existing_folder, folder_labels

IMAGES_PER_CLASS = 10
# Folders as the archives unpack, by the name that we and the paper's table 3 give the variant.
VARIANTS = {
    "top-images": "imagenetv2-top-images-format-val",
    "threshold0.7": "imagenetv2-threshold0.7-format-val",
    "matched-frequency": "imagenetv2-matched-frequency-format-val",
}
NUMBER = re.compile(r"[0-9]+")


def open_imagenet_v2(location: str, where: str) -> list[FileSet]:
    """The three variants in a folder, or the one whose folder it is. Raises UsageError where one is not whole."""
    root = existing_folder(location, where)
    for variant, folder in VARIANTS.items():
        if root.resolve().name == folder:
            return [_open_variant(str(root), variant, where)]
    missing = [folder for folder in VARIANTS.values() if not (root / folder).is_dir()]
    if missing:
        raise UsageError(f"{where}: lacks {', '.join(missing)}")
    return [_open_variant(str(root / folder), variant, where) for variant, folder in VARIANTS.items()]


def _open_variant(root: str, variant: str, where: str) -> FileSet:
    listing = list_images(root, where)
    labels = class_labels(listing.folders, f"{where}: {variant}")
    expected = [folder for _, folder in sorted((label, folder) for folder, label in labels.items())]
    if len(expected) != len(imagenet_wnids()):
        present = set(labels.values())
        lacking = next(label for label in range(len(imagenet_wnids())) if label not in present)
        raise UsageError(f"{where}: {variant} has {len(expected):,} of 1,000 class folders; class {lacking} is missing")
    check_counts(listing, expected, IMAGES_PER_CLASS, f"{where}: {variant}")
    return make_set(f"imagenet-v2/{variant}", listing, folder_labels(listing, labels))


def class_labels(folders: Sequence[str], where: str) -> dict[str, int]:
    """Labels of folders: numbers read as integers, or wnids. Raises UsageError where they are anything else.

    Sorted as strings, as ImageFolder does, 10 and 100 come before 2.
    """
    if all(NUMBER.fullmatch(folder) for folder in folders):
        labels = {folder: int(folder) for folder in folders}
    elif all(WNID.fullmatch(folder) for folder in folders):
        wnids = {wnid: label for label, wnid in enumerate(imagenet_wnids())}
        labels = {folder: wnids.get(folder, -1) for folder in folders}
    else:
        odd = next(f for f in folders if not NUMBER.fullmatch(f) and (not WNID.fullmatch(f) or _some_number(folders)))
        raise UsageError(f"{where}: class folder {odd!r}: expected numbers from 0 to 999 alone, or wnids alone")
    wrong = next((folder for folder, label in labels.items() if not 0 <= label < len(imagenet_wnids())), None)
    if wrong is not None:
        raise UsageError(f"{where}: class folder {wrong!r} is none of ImageNet's 1,000 classes")
    if len(set(labels.values())) < len(labels):
        seen: dict[int, str] = {}
        first, second = next((seen[n], f) for f, n in labels.items() if seen.setdefault(n, f) != f)
        raise UsageError(f"{where}: class folders {first!r} and {second!r} are the same class")
    return labels


def _some_number(folders: Sequence[str | os.PathLike[str]]) -> bool:
    return any(NUMBER.fullmatch(str(folder)) for folder in folders)
