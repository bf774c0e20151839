"""Cue conflict (Geirhos et al. 2019): the shape of one class in the texture of another. Which one is answered?"""

import re
from dataclasses import dataclass
from typing import Final

from ...manifests.errors import UsageError
from ...manifests.inputs import imagenet_wnids, list_images
from .masked import shipped
from .test_set import Clusters, FileSet, check_counts, existing_folder, incompleteness, number_distinct

# Of 1,280 images, those whose shape and texture are of different classes.
CONFLICTS: Final = 1_200
FILE = re.compile(r"([a-z]+)\d+-([a-z]+)\d+\.[A-Za-z]+")


@dataclass(frozen=True)
class CueConflictSet(FileSet):
    """Images whose label is their shape's class, one of sixteen; `textures` are the classes of their textures."""

    textures: tuple[int, ...] = ()

    def clusters(self) -> Clusters:
        """By the photo of the shape: each is shown in several textures."""
        return Clusters("photo", number_distinct([path.rpartition("/")[2].partition("-")[0] for path in self.paths]))


def open_cue_conflict(location: str, where: str) -> list[CueConflictSet]:
    """The images of `location`, SHAPE/SHAPE1-TEXTURE2.png, whose shape and texture are of different classes.

    Raises UsageError where folders are not the sixteen classes, or a file's name does not say both.
    """
    wnids = {wnid: label for label, wnid in enumerate(imagenet_wnids())}
    groups = shipped("sixteen-classes.json")["classes"]
    names = {name: number for number, name in enumerate(sorted(groups))}
    listing = list_images(existing_folder(location, where), where)
    check_counts(listing, list(names), None, where)
    chosen: list[tuple[int, int, int]] = []
    for position, path in enumerate(listing.paths):
        folder, _, file = path.rpartition("/")
        found = FILE.fullmatch(file)
        if not found or found[1] != folder or found[2] not in names:
            raise UsageError(
                f"{where}: {path}: expected a name such as {folder}1-{min(names)}2.png, for shape and texture"
            )
        if found[1] != found[2]:
            chosen.append((position, names[found[1]], names[found[2]]))
    if not chosen:
        raise UsageError(f"{where}: shape and texture are of one class in every image")
    return [
        CueConflictSet(
            name="cue-conflict",
            protocol="the classifier's own resize and crop; predictions among 16 classes by the mean probability of "
            f"their {sum(map(len, groups.values()))} ImageNet classes; the shape's class is right; images whose shape "
            f"and texture agree left out{incompleteness(len(chosen), CONFLICTS)}",
            class_names=tuple(wnids),
            root=listing.root,
            paths=tuple(listing.paths[position] for position, _, _ in chosen),
            sizes=tuple(listing.sizes[position] for position, _, _ in chosen),
            path_labels=tuple((shape,) for _, shape, _ in chosen),
            marked="official",
            groups=tuple(tuple(sorted(wnids[wnid] for wnid in groups[name])) for name in sorted(groups)),
            textures=tuple(texture for _, _, texture in chosen),
        )
    ]
