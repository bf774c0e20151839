"""ImageNet's validation set: wnid folders, or the flat folder of the original archive with its ground truth."""

import csv
import re
import zlib
from dataclasses import replace
from pathlib import Path

from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from ...manifests.errors import FormatError, UsageError, shorten
from ...manifests.inputs import Listing, imagenet_wnids, list_images, list_pictures
from .test_set import FileSet, check_counts, existing_folder, folder_labels

IMAGES_PER_CLASS = 50
PROTOCOL = "the classifier's own resize and crop; one label of 1,000"
# Ground truth of a flat folder, in it or in the folder above, by what is in it.
LABEL_LISTS = ("val.txt", "LOC_val_solution.csv")
DEVKIT = "ILSVRC2012_validation_ground_truth.txt"
# What scipy raises where a file is no .mat, or of another version or content.
DAMAGED_MAT = (MatReadError, ValueError, KeyError, IndexError, TypeError, EOFError, NotImplementedError, zlib.error)
WNID = re.compile(r"n\d{8}")


def open_imagenet(location: str, where: str) -> list[FileSet]:
    """The validation set in `location` or its subfolder val: 1,000 wnid folders of 50, or 50,000 files and their
    ground truth. Raises UsageError where it is not whole."""
    listing, root = list_validation(location, where)
    if listing.folders:
        labels = folder_labels(listing, {wnid: label for label, wnid in enumerate(imagenet_wnids())})
    else:
        labels = _flat_labels(listing, root, where)
    return [make_set("imagenet", listing, labels)]


def list_validation(location: str, where: str) -> tuple[Listing, Path]:
    """Images of the validation set and the folder they are in; without class folders where the archive is flat.

    Raises UsageError where they are not 50 of each of 1,000 classes, or 50,000.
    """
    root = existing_folder(location, where)
    root = root / "val" if (root / "val").is_dir() else root
    if any(entry.is_dir() and WNID.fullmatch(entry.name) for entry in root.iterdir()):
        listing = list_images(root, where)
        check_counts(listing, imagenet_wnids(), IMAGES_PER_CLASS, where)
        return listing, root
    return _list_flat(root, where), root


def make_set(name: str, listing: Listing, labels: tuple[tuple[int, ...], ...]) -> FileSet:
    """A set that is evaluated as ImageNet is."""
    return FileSet(
        name, PROTOCOL, imagenet_wnids(), listing.root, listing.paths, listing.sizes, labels, marked="official"
    )  # fmt: skip


def _list_flat(root: Path, where: str) -> Listing:
    listing = list_pictures(root, where)
    expected = len(imagenet_wnids()) * IMAGES_PER_CLASS
    if listing.folders or len(listing.paths) != expected:
        raise UsageError(
            f"{where}: {len(listing.paths):,} images and no wnid folders; expected 1,000 wnid folders of "
            f"{IMAGES_PER_CLASS} images, or {expected:,} images with {' or '.join(LABEL_LISTS)} beside them"
        )
    return replace(listing, folders=())


def _flat_labels(listing: Listing, root: Path, where: str) -> tuple[tuple[int, ...], ...]:
    for folder in (root, root.parent):
        for name in LABEL_LISTS:
            if (folder / name).is_file():
                by_stem = read_label_list(folder / name)
                missing = next((path for path in listing.paths if Path(path).stem not in by_stem), None)
                if missing is not None:
                    raise FormatError(f"{folder / name}: no label for {missing}")
                return tuple((by_stem[Path(path).stem],) for path in listing.paths)
    for folder in (root, root.parent):
        if (folder / DEVKIT).is_file():
            return tuple((label,) for label in read_devkit(folder, len(listing.paths)))
    names = ", ".join((*LABEL_LISTS, DEVKIT))
    raise UsageError(f"{where}: no ground truth: none of {names} in {root} or above")


def read_label_list(path: Path) -> dict[str, int]:
    """Labels by file name without extension, from lines `FILE LABEL`, `FILE WNID`, or Kaggle's `FILE,WNID x y x y`."""
    wnids = {wnid: label for label, wnid in enumerate(imagenet_wnids())}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file, delimiter="," if path.suffix == ".csv" else " ") if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise FormatError(f"{path}: no list of labels: {error}") from error
    labels: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        if number == 1 and row[0] == "ImageId":
            continue
        value = row[1].split()[0] if len(row) > 1 and row[1].strip() else ""
        label = int(value) if value.isascii() and value.isdecimal() and len(value) <= 4 else wnids.get(value, -1)
        if not 0 <= label < len(wnids):
            raise FormatError(
                f"{path}: line {number}: {shorten(repr(value))} is neither a label from 0 to 999 nor a wnid"
            )
        if labels.setdefault(Path(row[0]).stem, label) != label:
            raise FormatError(f"{path}: line {number}: another label for {shorten(row[0])}, which has one above")
    return labels


def read_devkit(folder: Path, images: int) -> list[int]:
    """Labels in the order of the files' names, from the devkit's ground truth and the meta.mat beside it.

    Its numbers are ids of its own, in another order than the sorted wnids that classifiers count in.
    """
    path = folder / "meta.mat"
    if not path.is_file():
        raise UsageError(f"{folder / DEVKIT}: numbers are the devkit's own ids; put its meta.mat (in data/) beside it")
    wnids = {wnid: label for label, wnid in enumerate(imagenet_wnids())}
    try:
        synsets = loadmat(path, squeeze_me=True)["synsets"]
        # The inner nodes of WordNet are listed too, after the 1,000 classes.
        labels = {
            int(entry["ILSVRC2012_ID"]): wnids[str(entry["WNID"])] for entry in synsets if str(entry["WNID"]) in wnids
        }
    except DAMAGED_MAT as error:
        raise FormatError(f"{path}: not the devkit's table of classes: {shorten(str(error))}") from error
    try:
        numbers = [int(line) for line in (folder / DEVKIT).read_bytes().decode("ascii").split()]
    except ValueError as error:
        raise FormatError(f"{folder / DEVKIT}: not one number a line: {shorten(str(error))}") from error
    wrong = next((number for number in numbers if number not in labels), None)
    if wrong is not None or len(numbers) != images:
        found = f"id {wrong} is no class of meta.mat" if wrong is not None else f"{len(numbers):,} lines"
        raise FormatError(f"{folder / DEVKIT}: {found}; expected the class of each of {images:,} images")
    return [labels[number] for number in numbers]
