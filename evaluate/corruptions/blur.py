"""Corruptions that blur: defocus, frosted glass, motion, zoom and gaussian (Hendrycks & Dietterich 2019)."""

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom

from .pixels import Pixels, Rng, to_pixels, to_unit


def gaussian_blur(picture: Pixels, rng: Rng, sigma: float) -> Pixels:
    """Convolution with a gaussian of `sigma` pixels."""
    return to_pixels(_smooth(to_unit(picture), sigma))


def defocus_blur(picture: Pixels, rng: Rng, radius: int, sigma: float) -> Pixels:
    """Convolution with a disk of `radius` pixels, whose edge is smoothed by a gaussian of `sigma`."""
    return to_pixels(cv2.filter2D(to_unit(picture), -1, disk(radius, sigma)))


def disk(radius: int, sigma: float) -> NDArray[np.float32]:
    """[K, K]: equal within `radius`, and smoothed at the edge. Its sum is 1, but 1.01 where the disk fills the kernel
    (radius 8 and 10), as the official one's: what smoothing carries over its border comes back."""
    reach, width = (8, 3) if radius <= 8 else (radius, 5)
    axis = np.arange(-reach, reach + 1)
    inside = (axis[:, None] ** 2 + axis**2 <= radius**2).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(inside / inside.sum(), (width, width), sigma), np.float32)


def glass_blur(picture: Pixels, rng: Rng, sigma: float, reach: int, rounds: int) -> Pixels:
    """A gaussian, then pixels that take a neighbour's place within `reach`, `rounds` times over, and a gaussian again.

    The official code means to swap two pixels, but (as both are views of one array) overwrites the first with the
    second; and it goes from the last pixel to the first, so that a pixel may come from one that was itself overwritten.
    """
    x = to_pixels(_smooth(to_unit(picture), sigma))
    for _ in range(rounds):
        x = x.reshape(-1, 3)[_shuffle(rng, picture.shape[0], picture.shape[1], reach)]
    return to_pixels(_smooth(to_unit(x), sigma))


def _shuffle(rng: Rng, height: int, width: int, reach: int) -> NDArray[np.intp]:
    """[H, W]: which pixel (by flat index) each holds after one round."""
    place = np.arange(height * width).reshape(height, width)
    inner = (slice(reach + 1, height - reach + 1), slice(reach + 1, width - reach + 1))
    rows, columns = place[inner].shape
    # In the order of the official loops: rows and columns from the last to the first, and of each pixel dx before dy.
    moves = rng.randint(-reach, reach, size=(rows, columns, 2))[::-1, ::-1]
    source = place.copy()
    source[inner] += moves[..., 1] * width + moves[..., 0]
    # Read before it was overwritten, a source is itself; read afterwards (a later pixel is treated earlier), it is
    # whatever it holds by then. Twice as far back each time, until nothing changes.
    overwritten = np.zeros((height, width), bool)
    overwritten[inner] = True
    chained = (source > place) & overwritten.reshape(-1)[source]
    size = height * width
    nodes = np.concatenate([np.where(chained, source, source + size).reshape(-1), np.arange(size, 2 * size)])
    while (further := nodes[nodes]).tobytes() != nodes.tobytes():
        nodes = further
    return (nodes[:size] - size).reshape(height, width)


def motion_blur(picture: Pixels, rng: Rng, radius: int, sigma: float) -> Pixels:
    """A camera that moves in a direction between -45 and 45 degrees."""
    return smear(picture, radius, sigma, angle=rng.uniform(-45, 45))


def smear(picture: Pixels, radius: int, sigma: float, angle: float) -> Pixels:
    """ImageMagick's motion blur: half a gaussian along a line, at `angle` degrees; beyond the border is the border.

    picture: [H, W, ...]. Rounded to 16 bits and then truncated to 8, as ImageMagick of 16 bits a channel does.
    """
    width = 2 * radius + 1
    steps = np.arange(width)
    kernel = np.exp(-(steps**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    line = np.deg2rad(angle)
    down, right = (np.ceil(steps * way - 0.5).astype(int) for way in (math.sin(line), math.cos(line)))
    height, across = picture.shape[:2]
    padded = np.pad(picture.astype(np.float64) * 257, [(width, width)] * 2 + [(0, 0)] * (picture.ndim - 2), mode="edge")
    total = sum(
        weight * padded[width + dy : width + dy + height, width + dx : width + dx + across]
        for weight, dy, dx in zip(kernel, down, right, strict=True)
    )
    return np.asarray(np.floor(total + 0.5) // 257).astype(np.uint8)


def zoom_blur(picture: Pixels, rng: Rng, factors: Sequence[float]) -> Pixels:
    """The mean of a picture and of it magnified by each of `factors`."""
    x = to_unit(picture, np.float32)
    zoomed = np.zeros_like(x)
    for factor in factors:
        zoomed += clipped_zoom(x, factor)
    return to_pixels((x + zoomed) / (len(factors) + 1))


def clipped_zoom(x: NDArray[Any], factor: float) -> NDArray[Any]:
    """The middle of a picture [H, W, ...], magnified to its size (linear interpolation)."""
    inner = [math.ceil(side / factor) for side in x.shape[:2]]
    starts = [(side - within) // 2 for side, within in zip(x.shape, inner, strict=False)]
    middle = x[tuple(slice(start, start + within) for start, within in zip(starts, inner, strict=True))]
    large = zoom(middle, (factor, factor, 1)[: x.ndim], order=1)
    trims = [(grown - side) // 2 for grown, side in zip(large.shape[:2], x.shape, strict=False)]
    return np.asarray(large[tuple(slice(trim, trim + side) for trim, side in zip(trims, x.shape, strict=False))])


def _smooth(x: NDArray[Any], sigma: float) -> NDArray[Any]:
    """A gaussian of `sigma` over rows and columns, as scikit-image's; beyond the border is the border."""
    return np.asarray(gaussian_filter(x, (sigma, sigma, 0)[: x.ndim], mode="nearest"))
