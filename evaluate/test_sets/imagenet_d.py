"""ImageNet-D (Zhang et al. 2024): objects that a diffusion model set on hard backgrounds, textures and materials."""

from collections.abc import Container
from pathlib import Path

from ...manifests.errors import UsageError
from ...manifests.inputs import Listing, imagenet_wnids, list_images
from .masked import shipped
from .test_set import FileSet, existing_folder, incompleteness

NUISANCES = ("background", "texture", "material")
IMAGES = 4_835  # of the three together


def open_imagenet_d(location: str, where: str) -> list[FileSet]:
    """The three sets NUISANCE/CLASS/* of a folder; not every class is in each.

    Raises UsageError where one of the three lacks, or a folder is none of the 113 classes.
    """
    root = existing_folder(location, where)
    missing = [name for name in NUISANCES if not (root / name).is_dir()]
    if missing:
        raise UsageError(f"{where}: lacks {', '.join(missing)}; expected the folders {', '.join(NUISANCES)}")
    labels = {wnid: label for label, wnid in enumerate(imagenet_wnids())}
    classes = {
        name: tuple(sorted(labels[wnid] for wnid in wnids))
        for name, wnids in shipped("imagenet-d.json")["classes"].items()
    }
    listings = {name: _list(root / name, classes, f"{where}: {name}") for name in NUISANCES}
    incomplete = incompleteness(sum(len(listing.paths) for listing in listings.values()), IMAGES)
    return [
        FileSet(
            name=f"imagenet-d:{name}",
            protocol="the classifier's own resize and crop; predictions among all 1,000 classes; any ImageNet class "
            "that maps to the object counts" + (f"{incomplete}, in the three folders" if incomplete else ""),
            class_names=imagenet_wnids(),
            root=listing.root,
            paths=listing.paths,
            sizes=listing.sizes,
            path_labels=tuple(classes[path.partition("/")[0]] for path in listing.paths),
            marked="official",
        )
        for name, listing in listings.items()
    ]


def _list(folder: Path, classes: Container[str], where: str) -> Listing:
    listing = list_images(folder, where)
    unknown = [name for name in listing.folders if name not in classes]
    if unknown:
        raise UsageError(f"{where}: class folder {unknown[0]!r} is none of the set's 113 classes")
    return listing
