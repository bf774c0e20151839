"""Sets of some of ImageNet's classes, measured among these alone and among all: two numbers that are often confused."""

import json
from dataclasses import replace
from importlib.resources import files
from typing import Any

from ...manifests.inputs import imagenet_wnids, list_images
from .test_set import FileSet, check_counts, existing_folder, folder_labels, incompleteness


def shipped(name: str) -> dict[str, Any]:
    """A file of facts about published sets, with its `source`."""
    content: dict[str, Any] = json.loads((files(__package__) / "data" / name).read_text("utf-8"))
    return content


def open_masked(name: str, location: str, where: str, images: int) -> list[FileSet]:
    """A published set of wnid folders, `name` of the file that lists its classes, under both protocols.

    `images` is how many were published: where there are others, every number says incomplete. Raises UsageError where
    folders are not those of its classes.
    """
    wnids = imagenet_wnids()
    own = shipped(f"{name}.json")["wnids"]
    listing = list_images(existing_folder(location, where), where)
    check_counts(listing, own, None, where)
    classes = {wnid: label for label, wnid in enumerate(wnids)}
    labels = folder_labels(listing, classes)
    ways = {len(own): f"the set's {len(own)} classes alone", len(wnids): f"all {len(wnids):,} classes"}
    return [
        FileSet(
            name=f"{name}:{number}",
            protocol=f"{number:,}-way: the classifier's own resize and crop; predictions among {among}; one label"
            + incompleteness(len(listing.paths), images),
            class_names=wnids,
            root=listing.root,
            paths=listing.paths,
            sizes=listing.sizes,
            path_labels=labels,
            marked="official",
            allowed=tuple(sorted(classes[wnid] for wnid in own)) if number < len(wnids) else None,
        )
        for number, among in ways.items()
    ]


def validation_of(name: str, validation: FileSet) -> FileSet:
    """ImageNet's validation images of a masked set's classes, among these: the clean set that it is compared with."""
    places = {wnid: label for label, wnid in enumerate(validation.class_names)}
    allowed = tuple(sorted(places[wnid] for wnid in shipped(f"{name}.json")["wnids"]))
    known = set(allowed)
    chosen = [i for i, labels in enumerate(validation.path_labels) if labels[0] in known]
    return replace(
        validation,
        name=f"imagenet:{name}-classes",
        protocol=f"{len(allowed)}-way: the classifier's own resize and crop; the validation images of {name}'s "
        f"{len(allowed)} classes, predictions among these; one label",
        paths=tuple(validation.paths[i] for i in chosen),
        sizes=tuple(validation.sizes[i] for i in chosen),
        path_labels=tuple(validation.path_labels[i] for i in chosen),
        allowed=allowed,
    )
