"""Cut the shipped objects out of Fashion-MNIST: `python -m genint.pipeline.mini.pack_objects FASHION_MNIST OUT.npz`."""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...manifests.digits import read_idx
from ...manifests.randomness import Permutation

TRAIN, VALIDATION, TEST = 12_000, 1_000, 2_000


def pack_objects(folder: Path, out: Path) -> None:
    """Write class-balanced slices: train and validation from the 60,000, test from the 10,000, in a seeded order."""
    slices: dict[str, NDArray[np.uint8]] = {}
    for prefix, sizes in (("train", {"train": TRAIN, "validation": VALIDATION}), ("t10k", {"test": TEST})):
        images = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz")
        labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz")
        order = Permutation(len(labels), 0, f"fashion-mnist {prefix}")(np.arange(len(labels)))
        by_class = [order[labels[order] == label] for label in range(10)]
        start = 0
        for name, size in sizes.items():
            # Interleaved, so that any leading part of a slice is balanced too.
            chosen = np.stack([members[start : start + size // 10] for members in by_class], 1).ravel()
            slices[f"{name}_images"], slices[f"{name}_labels"] = images[chosen], labels[chosen]
            start += size // 10
    np.savez_compressed(out, allow_pickle=False, **slices)


if __name__ == "__main__":
    pack_objects(Path(sys.argv[1]), Path(sys.argv[2]))
