"""ImageNet-9 (Xiao et al. 2021): objects of nine groups, on backgrounds that were kept, exchanged or taken away."""

import re
from pathlib import Path

from ...manifests.errors import FormatError, UsageError
from ...manifests.inputs import imagenet_wnids, list_images
from ...manifests.json_files import parse_json
from .test_set import FileSet, existing_folder, incompleteness

VARIANTS = ("original", "mixed_same", "mixed_rand", "mixed_next", "only_fg", "no_fg", "only_bg_b", "only_bg_t")
MAPPING = "in_to_in9.json"
GROUPS = 9
IMAGES = 4_050
FOLDER = re.compile(r"0([0-8])_.+")


def open_imagenet_9(location: str, where: str) -> list[FileSet]:
    """The variants below a folder, as they unpack: VARIANT/val/0N_NAME/*, with in_to_in9.json among or above them.

    Raises UsageError where there is no variant, a group's folder or the mapping lacks, FormatError where it is damaged.
    """
    root = existing_folder(location, where)
    present = [name for name in VARIANTS if (root / name / "val").is_dir()]
    if not present:
        raise UsageError(f"{where}: no variant in it: none of {', '.join(f'{name}/val' for name in VARIANTS)}")
    file = next((folder / MAPPING for folder in (root, root.parent) if (folder / MAPPING).is_file()), None)
    if file is None:
        raise UsageError(f"{where}: no {MAPPING} in it or above; it is in github.com/MadryLab/backgrounds_challenge")
    classes = read_mapping(file)
    return [_open_variant(root, name, classes, where) for name in present]


def _open_variant(root: Path, name: str, classes: list[tuple[int, ...]], where: str) -> FileSet:
    listing = list_images(root / name / "val", f"{where}: {name}")
    groups = {folder: int(match[1]) for folder in listing.folders if (match := FOLDER.fullmatch(folder))}
    if len(groups) < len(listing.folders) or sorted(groups.values()) != list(range(GROUPS)):
        raise UsageError(
            f"{where}: {name}/val: expected nine folders from 00_dog to 08_fish; found {listing.folders[:9]}"
        )
    return FileSet(
        name=f"imagenet-9:{name}",
        protocol="the classifier's own resize and crop; predictions among all 1,000 classes; any class of the image's "
        f"group of nine is right{incompleteness(len(listing.paths), IMAGES)}",
        class_names=imagenet_wnids(),
        root=listing.root,
        paths=listing.paths,
        sizes=listing.sizes,
        path_labels=tuple(classes[groups[path.partition("/")[0]]] for path in listing.paths),
        marked="official",
    )


def read_mapping(path: Path) -> list[tuple[int, ...]]:
    """ImageNet classes (0 to 999) of each of the nine groups; -1 stands for none. Raises FormatError."""
    content, count = parse_json(path.read_bytes(), path), len(imagenet_wnids())
    known = {str(label) for label in range(count)}
    if not isinstance(content, dict):
        raise FormatError(f"{path}: expected an object of ImageNet class to group")
    for text, group in content.items():
        if text not in known or type(group) is not int or not -1 <= group < GROUPS:
            raise FormatError(f"{path}: {text[:40]!r}: expected a class from 0 to {count - 1} and a group from -1 to 8")
    classes = [tuple(sorted(int(text) for text, group in content.items() if group == n)) for n in range(GROUPS)]
    if not all(classes):
        raise FormatError(f"{path}: group {classes.index(())} has no class")
    return classes
