"""Corruptions by cameras and files: contrast, saturation, elasticity, pixels and JPEG (Hendrycks & Dietterich 2019)."""

import io

import cv2
import numpy as np
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

from .pixels import Pixels, Rng, to_pixels, to_unit

OFFICIAL_SIDE = 224


def contrast(picture: Pixels, rng: Rng, factor: float) -> Pixels:
    """Distance from a channel's mean, times `factor`."""
    x = to_unit(picture)
    mean = x.mean(axis=(0, 1), keepdims=True)
    return to_pixels((x - mean) * factor + mean)


def saturate(picture: Pixels, rng: Rng, factor: float, added: float) -> Pixels:
    """Saturation (of hue, saturation and value), times `factor` and `added`."""
    hsv = rgb_to_hsv(to_unit(picture))
    hsv[..., 1] = np.clip(hsv[..., 1] * factor + added, 0, 1)
    return to_pixels(hsv_to_rgb(hsv))


def pixelate(picture: Pixels, rng: Rng, factor: float) -> Pixels:
    """Made smaller by `factor`, and large again."""
    height, width = picture.shape[:2]
    small = Image.fromarray(picture).resize((int(width * factor), int(height * factor)), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BOX))


def jpeg_compression(picture: Pixels, rng: Rng, quality: int) -> Pixels:
    """Written as JPEG of that quality, and read."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer, formats=("JPEG",)) as compressed:
        return np.asarray(compressed)


def elastic_transform(picture: Pixels, rng: Rng, alpha: float, sigma: float, shift: float) -> Pixels:
    """A random affine map (three points moved by up to `shift`), then a smooth field of displacements of each pixel.

    alpha, sigma, shift: the field's factor and smoothness, and the shift, in units of 244 pixels for a picture of 224
    (the official code's 244 should have been 224) and of as many for another as its shorter side is to that.
    """
    x = to_unit(picture, np.float32)
    height, width = x.shape[:2]
    unit = 244 * min(height, width) / OFFICIAL_SIDE
    centre = np.array([width, height], np.float32) // 2
    reach = min(height, width) // 3
    corners = np.stack([centre + reach, centre + np.array([reach, -reach]), centre - reach]).astype(np.float32)
    moved = corners + rng.uniform(-shift * unit, shift * unit, size=corners.shape).astype(np.float32)
    affine = cv2.getAffineTransform(corners, moved)
    x = cv2.warpAffine(x, affine, (width, height), borderMode=cv2.BORDER_REFLECT_101)

    def displacement() -> NDArray[np.float32]:
        field = gaussian_filter(rng.uniform(-1, 1, size=(height, width)), sigma * unit, mode="reflect", truncate=3)
        return np.asarray(field * (alpha * unit), np.float32)

    right, down = displacement(), displacement()
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    places = (rows + down, columns + right)
    warped = [map_coordinates(x[..., channel], places, order=1, mode="reflect") for channel in range(3)]
    return to_pixels(np.stack(warped, axis=-1))
