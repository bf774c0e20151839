"""Corruptions by weather: snow, frost, fog, brightness, and spatter of water and mud (Hendrycks & Dietterich 2019)."""

import cv2
import numpy as np
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from .blur import clipped_zoom, smear
from .frost import FrostPhotographs, grow_frost
from .pixels import Pixels, Rng, to_pixels, to_unit

# RGB in [0, 1].
WATER = np.array([175, 238, 238], np.float32) / np.float32(255)  # pale turquoise
MUD = np.array([63, 42, 20], np.float32) / np.float32(255)


def snow(
    picture: Pixels,
    rng: Rng,
    mean: float,
    spread: float,
    size: float,
    threshold: float,
    radius: int,
    sigma: float,
    kept: float,
) -> Pixels:
    """Flakes (the peaks of magnified noise) that fall from both sides, on a picture that is whitened by 1 - `kept`."""
    x = to_unit(picture, np.float32)
    flakes = clipped_zoom(rng.normal(size=x.shape[:2], loc=mean, scale=spread), size)
    flakes[flakes < threshold] = 0
    falling = smear(to_pixels(flakes), radius, sigma, angle=rng.uniform(-135, -45))[..., None] / 255.0
    gray = cv2.cvtColor(x, cv2.COLOR_RGB2GRAY)[..., None]
    whitened = kept * x + (1 - kept) * np.maximum(x, gray * 1.5 + 0.5)
    return to_pixels(whitened + falling + np.rot90(falling, k=2))


def frost(picture: Pixels, rng: Rng, kept: float, share: float, photographs: FrostPhotographs | None = None) -> Pixels:
    """kept x + share frost: a piece of one of the official photographs, or of ice that is grown."""
    height, width = picture.shape[:2]
    ice = photographs.cut(rng, height, width) if photographs else grow_frost(rng, height, width)
    return np.clip(kept * picture.astype(np.float64) + share * ice, 0, 255).astype(np.uint8)


def fog(picture: Pixels, rng: Rng, thickness: float, decay: float) -> Pixels:
    """A plasma fractal added, `thickness` times, and all of it scaled back to the brightest value that there was."""
    x = to_unit(picture)
    height, width = x.shape[:2]
    brightest = x.max()
    thick = x + thickness * plasma(rng, 1 << (max(height, width) - 1).bit_length(), decay)[:height, :width, None]
    return to_pixels(thick * brightest / (brightest + thickness))


def plasma(rng: Rng, size: int, decay: float) -> NDArray[np.float64]:
    """[size, size] in [0, 1]: a fractal surface of the diamond-square algorithm on a torus; `size` is a power of two.

    `decay` divides the noise's amplitude as the grid gets twice as fine.
    """
    surface = np.zeros((size, size))
    step, amplitude = size, 100.0

    def noisy_mean(total: NDArray[np.float64]) -> NDArray[np.float64]:
        # By the square of the amplitude, in effect: so has the official code.
        return total / 4 + amplitude * rng.uniform(-amplitude, amplitude, total.shape)

    while step >= 2:
        half = step // 2
        corners = surface[::step, ::step]
        pairs = corners + np.roll(corners, -1, axis=0)
        surface[half::step, half::step] = noisy_mean(pairs + np.roll(pairs, -1, axis=1))
        centres = surface[half::step, half::step]
        above_below = centres + np.roll(centres, 1, axis=0)
        surface[::step, half::step] = noisy_mean(above_below + (corners + np.roll(corners, -1, axis=1)))
        beside = centres + np.roll(centres, 1, axis=1)
        surface[half::step, ::step] = noisy_mean(beside + (corners + np.roll(corners, -1, axis=0)))
        step, amplitude = half, amplitude / decay
    surface -= surface.min()
    return np.asarray(surface / surface.max())


def brightness(picture: Pixels, rng: Rng, added: float) -> Pixels:
    """Value (of hue, saturation and value) and `added`."""
    hsv = rgb_to_hsv(to_unit(picture))
    hsv[..., 2] = np.clip(hsv[..., 2] + added, 0, 1)
    return to_pixels(hsv_to_rgb(hsv))


def spatter(
    picture: Pixels,
    rng: Rng,
    mean: float,
    spread: float,
    sigma: float,
    threshold: float,
    last: float,
    is_mud: bool,
) -> Pixels:
    """Liquid on the lens: drops of water of strength `last`, or mud whose edges a gaussian of `last` pixels rounds."""
    x = to_unit(picture, np.float32)
    layer = np.asarray(gaussian_filter(rng.normal(size=x.shape[:2], loc=mean, scale=spread), sigma, mode="nearest"))
    layer[layer < threshold] = 0
    return to_pixels(_splash_mud(x, layer > threshold, last) if is_mud else _splash_water(x, layer, last))


def _splash_water(x: NDArray[np.float32], layer: NDArray[np.float64], strength: float) -> NDArray[np.float32]:
    """Lit at the drops' edges. A picture on which no drop falls stays as it is."""
    drops = (layer * 255).astype(np.uint8)
    from_edge = cv2.distanceTransform(255 - cv2.Canny(drops, 50, 150), cv2.DIST_L2, 5)
    near = cv2.blur(np.minimum(from_edge, np.float32(20)), (3, 3)).astype(np.uint8)
    emboss = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    relief = cv2.blur(cv2.filter2D(cv2.equalizeHist(near), cv2.CV_8U, emboss), (3, 3)).astype(np.float32)
    light = drops * relief
    brightest = max(float(light.max()), 1.0)
    return np.asarray(x + (light / brightest * np.float32(strength))[..., None] * WATER, np.float32)


def _splash_mud(x: NDArray[np.float32], splashes: NDArray[np.bool_], edge: float) -> NDArray[np.float32]:
    cover = np.asarray(gaussian_filter(splashes.astype(np.float32), edge, mode="nearest"))
    cover[cover < 0.8] = 0
    return np.asarray(x * (1 - cover[..., None]) + MUD * cover[..., None])
