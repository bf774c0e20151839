"""Compose the mini world's pictures: a Fashion-MNIST object, seen in some pose, on a textured background."""

from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes

from ...manifests.errors import UsageError
from ...manifests.world import IMAGE_SIZE, NUISANCES, draw_nuisances

TEXTURE_AMPLITUDE = 0.35
OBJECT_SIZE = 28
BATCH = 250


@dataclass(frozen=True)
class Objects:
    """Cut-out objects of one slice: grey values [N, 28, 28] uint8, 0 outside, and class labels [N]."""

    images: NDArray[np.uint8]
    class_labels: NDArray[np.int64]


@dataclass(frozen=True)
class Pictures:
    """Composed samples: images [N, 32, 32, 3] uint8, object masks [N, 32, 32] bool, labels [N], nuisances [N, 10]."""

    images: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    class_labels: NDArray[np.int64]
    nuisances: NDArray[np.float64]


@cache
def load_objects(slice_name: str) -> Objects:
    """The shipped objects of a slice: train (12,000), validation (1,000) or test (2,000), classes balanced."""
    with as_file(files("genint.pipeline") / "data" / "objects.npz") as path, np.load(path, allow_pickle=False) as data:
        slices = sorted({key.split("_")[0] for key in data.files})
        if slice_name not in slices:
            raise UsageError(f"mini world: no slice {slice_name!r}; there are {', '.join(slices)}")
        return Objects(data[f"{slice_name}_images"], data[f"{slice_name}_labels"].astype(np.int64))


def compose_pictures(
    slice_name: str,
    indices: NDArray[np.int64],
    background_confounding: float = 0.8,
    pose_confounding: float = 0.8,
) -> Pictures:
    """Pictures of the objects `indices` [N] of a slice; each depends on its slice, index and confounding alone."""
    objects = load_objects(slice_name)
    labels = objects.class_labels[indices]
    nuisances = draw_nuisances(labels, indices, slice_name, background_confounding, pose_confounding)
    # A few hundred at a time: the intermediate arrays of thousands would be gigabytes.
    parts = [
        compose(objects.images[indices[rows]], nuisances[rows])
        for rows in (slice(start, start + BATCH) for start in range(0, len(indices), BATCH))
    ]
    images, masks = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Pictures(images, masks, labels, nuisances)


def compose(objects: NDArray[np.uint8], nuisances: NDArray[np.float64]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw objects [N, 28, 28] under nuisances [N, 10]: images [N, 32, 32, 3] uint8 and masks [N, 32, 32]."""
    value = {n.name: nuisances[:, i, None, None] for i, n in enumerate(NUISANCES)}
    axis = (np.arange(IMAGE_SIZE) + 0.5) / IMAGE_SIZE * 2.0 - 1.0
    y, x = np.meshgrid(axis, axis, indexing="ij")

    # Background: one colour, modulated by a sinusoidal texture whose phase is fixed at the centre.
    frequency = 3.0 * np.exp(value["texture_frequency"])
    angle = value["texture_orientation"]
    texture = 1.0 + TEXTURE_AMPLITUDE * np.cos(np.pi * frequency * (x * np.cos(angle) + y * np.sin(angle)))
    logits = np.stack([value[f"background_{c}"] for c in ("red", "green", "blue")], axis=-1)
    background = texture[..., None] / (1.0 + np.exp(-logits))

    # Object: inverse affine map of the canvas into the object's own pixels, bilinear in premultiplied grey.
    side = 0.75 * np.exp(value["scale"])
    dx, dy = (x - value["position_x"]) / side, (y - value["position_y"]) / side
    cos, sin = np.cos(value["rotation"]), np.sin(value["rotation"])
    column = ((cos * dx + sin * dy) + 1.0) * OBJECT_SIZE / 2.0 - 0.5
    row = ((cos * dy - sin * dx) + 1.0) * OBJECT_SIZE / 2.0 - 0.5
    solid = np.stack([binary_fill_holes(image > 24) for image in objects]).astype(np.float64)
    alpha = _bilinear(solid, row, column)
    grey = _bilinear(solid * objects / 255.0, row, column)

    light = 1.0 + value["light"] * x
    picture = (background * (1.0 - alpha[..., None]) + grey[..., None]) * light[..., None]
    # 255 is a value of its own: rounding, not `* 256`, keeps white white.
    return np.rint(np.clip(picture, 0.0, 1.0) * 255.0).astype(np.uint8), alpha > 0.5


def _bilinear(
    images: NDArray[np.float64], row: NDArray[np.float64], column: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Sample images [N, S, S] at fractional pixels [N, H, W]; outside is 0."""
    size = images.shape[1]
    # One row of zeros before and two after: a position past the edge has only zeros to interpolate between.
    padded = np.pad(images, ((0, 0), (1, 2), (1, 2)))
    row, column = np.clip(row + 1.0, 0.0, size + 1), np.clip(column + 1.0, 0.0, size + 1)
    r, c = np.floor(row).astype(np.int64), np.floor(column).astype(np.int64)
    fr, fc = row - r, column - c
    n = np.arange(len(images))[:, None, None]
    top = padded[n, r, c] * (1.0 - fc) + padded[n, r, c + 1] * fc
    bottom = padded[n, r + 1, c] * (1.0 - fc) + padded[n, r + 1, c + 1] * fc
    sampled: NDArray[np.float64] = top * (1.0 - fr) + bottom * fr
    return sampled
