"""ReaL (Beyer et al. 2020): ImageNet's validation images, labelled anew by people: several labels, or none."""

import re
from pathlib import Path

from ...manifests.errors import FormatError, UsageError
from ...manifests.inputs import imagenet_wnids
from ...manifests.json_files import parse_json
from .imagenet import list_validation
from .test_set import FileSet

LABELS = "real.json"
NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})")


def open_imagenet_real(location: str, where: str) -> list[FileSet]:
    """The validation images that have a label in real.json, which lies among them or in a folder above.

    Raises UsageError where images or real.json are not there, FormatError where it is not of these images.
    """
    listing, root = list_validation(location, where)
    file = next(
        (folder / LABELS for folder in (root, root.parent, Path(location)) if (folder / LABELS).is_file()), None
    )
    if file is None:
        raise UsageError(
            f"{where}: no {LABELS} in {root} or above; it is in github.com/google-research/reassessed-imagenet"
        )
    labels = read_real(file, len(listing.paths))
    numbers = [_number(path, where) for path in listing.paths]
    if len(set(numbers)) < len(numbers) or max(numbers) > len(labels):
        raise UsageError(f"{where}: images are not numbered from 1 to {len(labels):,}, each once")
    chosen = [i for i, number in enumerate(numbers) if labels[number - 1]]
    return [
        FileSet(
            name="imagenet-real",
            protocol="the classifier's own resize and crop; any of an image's ReaL labels is right; "
            f"{len(numbers) - len(chosen):,} images without label left out",
            class_names=imagenet_wnids(),
            root=listing.root,
            paths=tuple(listing.paths[i] for i in chosen),
            sizes=tuple(listing.sizes[i] for i in chosen),
            path_labels=tuple(labels[numbers[i] - 1] for i in chosen),
            marked="official",
        )
    ]


def read_real(path: Path, images: int) -> list[tuple[int, ...]]:
    """Labels of each validation image, by number. Raises FormatError with the place that is wrong."""
    content, classes = parse_json(path.read_bytes(), path), len(imagenet_wnids())
    if not isinstance(content, list) or len(content) != images:
        raise FormatError(f"{path}: expected a list with the labels of each of {images:,} images")
    for number, labels in enumerate(content, 1):
        if not isinstance(labels, list) or any(type(label) is not int or not 0 <= label < classes for label in labels):
            raise FormatError(f"{path}: image {number}: expected a list of labels from 0 to {classes - 1}")
    return [tuple(sorted(set(labels))) for labels in content]


def _number(path: str, where: str) -> int:
    found = NUMBER.fullmatch(Path(path).stem)
    if found is None or found[1] == "0" * 8:
        raise UsageError(f"{where}: {path}: expected the name that the archive gives it, ILSVRC2012_val_00000001")
    return int(found[1])
