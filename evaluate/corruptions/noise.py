"""Corruptions of single pixels: gaussian, shot, impulse and speckle noise (Hendrycks & Dietterich 2019)."""

from .pixels import Pixels, Rng, to_pixels, to_unit


def gaussian_noise(picture: Pixels, rng: Rng, scale: float) -> Pixels:
    """x + N(0, scale^2)."""
    x = to_unit(picture)
    return to_pixels(x + rng.normal(size=x.shape, scale=scale))


def shot_noise(picture: Pixels, rng: Rng, photons: float) -> Pixels:
    """Poisson(photons x) / photons: `photons` reach a sensor where it is white."""
    return to_pixels(rng.poisson(to_unit(picture) * photons) / photons)


def impulse_noise(picture: Pixels, rng: Rng, share: float) -> Pixels:
    """Salt and pepper: that share of the values becomes 0 or 255, as likely the one as the other."""
    noisy = picture.copy()
    hit = rng.random_sample(picture.shape) < share
    salt = rng.random_sample(picture.shape) < 0.5
    noisy[hit & salt] = 255
    noisy[hit & ~salt] = 0
    return noisy


def speckle_noise(picture: Pixels, rng: Rng, scale: float) -> Pixels:
    """x + x N(0, scale^2)."""
    x = to_unit(picture)
    return to_pixels(x + x * rng.normal(size=x.shape, scale=scale))
