"""Images of a folder of class folders, as torchvision's ImageFolder reads them."""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..manifests.errors import FormatError
from ..manifests.folders import Found, read_file
from ..manifests.inputs import list_images
from ..manifests.randomness import Permutation

SHARD_SIZE = 1_000


class FolderImages:
    """Images below class folders; a class is a folder, in the order of their names, as in shards of the same folder.

    Positions are a fixed shuffle of the sorted paths, so that every shard of 1,000 files holds a mixture of classes,
    as those of a tar or a dataset do.
    """

    names_classes = True

    def __init__(self, root: str, found: Found | None = None) -> None:
        self._listing = list_images(root, root, found)
        self.class_names = self._listing.folders
        count = len(self._listing.paths)
        self._labels = np.empty(count, np.int64)
        for label, positions in enumerate(self._listing.class_ranges()):
            self._labels[positions] = label
        self._files = Permutation(count, 0, "files of a folder")(np.arange(count, dtype=np.int64))
        self.shard_sizes = [min(SHARD_SIZE, count - start) for start in range(0, count, SHARD_SIZE)]

    def __len__(self) -> int:
        return len(self._files)

    def read(self, position: int) -> tuple[bytes, int]:
        return read_file(self.key(position)), int(self._labels[self._files[position]])

    def labels(self) -> NDArray[np.int64]:
        return self._labels[self._files]

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
