"""ImageNet-Sketch (Wang et al. 2019): black and white sketches of all 1,000 classes."""

from ...manifests.inputs import imagenet_wnids, list_images
from .imagenet import PROTOCOL
from .test_set import FileSet, check_counts, existing_folder, folder_labels, incompleteness

IMAGES = 50_889  # its paper says 50,000


def open_imagenet_sketch(location: str, where: str) -> list[FileSet]:
    """The sketches in 1,000 wnid folders below `location` or its subfolder `sketch`. Raises UsageError."""
    root = existing_folder(location, where)
    listing = list_images(root / "sketch" if (root / "sketch").is_dir() else root, where)
    check_counts(listing, imagenet_wnids(), None, where)
    labels = folder_labels(listing, {wnid: label for label, wnid in enumerate(imagenet_wnids())})
    paths, sizes = listing.paths, listing.sizes
    protocol = PROTOCOL + incompleteness(len(paths), IMAGES)
    return [FileSet("imagenet-sketch", protocol, imagenet_wnids(), listing.root, paths, sizes, labels, "official")]
