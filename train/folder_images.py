"""Images of a folder of class folders, as torchvision's ImageFolder reads them."""

import os
from typing import Any

import numpy as np

from ..manifests.errors import FormatError, UsageError
from ..manifests.inputs import list_images
from ..manifests.randomness import Permutation

SHARD_SIZE = 1_000


class FolderImages:
    """Images below class folders; a class is a folder, in sorted order (by number where all names are numbers).

    Positions are a fixed shuffle of the sorted paths, so that every shard of 1,000 files holds a mixture of classes,
    as those of a tar or a dataset do.
    """

    def __init__(self, root: str) -> None:
        try:
            self._listing = list_images(root, "images")
        except UsageError as error:
            raise UsageError(str(error).replace(f"--input images={root}", root)) from error
        folders = list(self._listing.folders)
        if all(folder.isascii() and folder.isdigit() for folder in folders):
            folders.sort(key=int)  # as strings, class 10 would come before class 2
        self.class_names = tuple(folders)
        count = len(self._listing.paths)
        ranges = dict(zip(self._listing.folders, self._listing.class_ranges(), strict=True))
        self._labels = np.empty(count, np.int64)
        for label, folder in enumerate(folders):
            self._labels[ranges[folder]] = label
        self._files = Permutation(count, 0, "files of a folder")(np.arange(count, dtype=np.int64))
        self.shard_sizes = [min(SHARD_SIZE, count - start) for start in range(0, count, SHARD_SIZE)]

    def __len__(self) -> int:
        return len(self._files)

    def read(self, position: int) -> tuple[bytes, int]:
        with open(self.key(position), "rb") as file:
            return file.read(), int(self._labels[self._files[position]])

    def key(self, position: int) -> str:
        return os.path.join(self._listing.root, self._listing.paths[self._files[position]])

    def check(self) -> None:
        for path, size in zip(self._listing.paths, self._listing.sizes, strict=True):
            if not size:
                raise FormatError(f"{os.path.join(self._listing.root, path)}: empty, or a link to nothing")

    def check_shard(self, shard: int) -> None:
        """Nothing is recorded of files."""

    def fingerprint(self) -> dict[str, Any]:
        return {"kind": "folder", "files": len(self), "sha256": self._listing.digest}
