"""A folder of class folders of one's own."""

from ...manifests.errors import UsageError
from ...manifests.inputs import list_images
from .imagenet_c import is_corrupted_copy
from .objectnet import is_objectnet
from .test_set import FileSet, folder_labels


def open_folder(location: str, where: str) -> list[FileSet]:
    """All images below the class folders of a folder. Raises UsageError where other rules hold for it."""
    if is_corrupted_copy(location):
        raise UsageError(f"{where}: a corrupted copy, whose folders are no classes; open it as corrupted={location}")
    if is_objectnet(location):
        raise UsageError(f"{where}: ObjectNet, which has rules of its own; open it as objectnet=DIR")
    listing = list_images(location, where)
    if not listing.folders:
        raise UsageError(f"{where}: images outside of class folders, such as {listing.paths[0]}")
    labels = {name: label for label, name in enumerate(listing.folders)}
    return [
        FileSet(
            name=listing.root.rstrip("/").rpartition("/")[2] or "folder",
            protocol="the classifier's own resize and crop; label by class folder, matched with its classes by name",
            class_names=listing.folders,
            root=listing.root,
            paths=listing.paths,
            sizes=listing.sizes,
            path_labels=folder_labels(listing, labels),
            marked="own",
        )
    ]
