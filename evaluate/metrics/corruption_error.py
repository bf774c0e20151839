"""Corruption errors of Hendrycks & Dietterich 2019: CE, mCE and relative mCE, with AlexNet's errors as the unit."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ...manifests.errors import UsageError

SEVERITIES: Final = (1, 2, 3, 4, 5)

# AlexNet's top-1 error on each corruption, averaged over the five severities (google-research/augmix, imagenet.py), in
# the official order.
ALEXNET_ERRORS: Final[Mapping[str, float]] = {
    "gaussian_noise": 0.886428, "shot_noise": 0.894468, "impulse_noise": 0.922640, "defocus_blur": 0.819880,
    "glass_blur": 0.826268, "motion_blur": 0.785948, "zoom_blur": 0.798360, "snow": 0.866816, "frost": 0.826572,
    "fog": 0.819324, "brightness": 0.564592, "contrast": 0.853204, "elastic_transform": 0.646056,
    "pixelate": 0.717840, "jpeg_compression": 0.606500,
    # The four extra ones, meant for validation.
    "speckle_noise": 0.845388, "gaussian_blur": 0.787108, "spatter": 0.717512, "saturate": 0.658248,
}  # fmt: skip
CORRUPTIONS: Final = tuple(ALEXNET_ERRORS)
TEST_CORRUPTIONS: Final = CORRUPTIONS[:15]
EXTRA_CORRUPTIONS: Final = CORRUPTIONS[15:]
# ImageNet-C-bar's; nobody published AlexNet's errors on them, so that there is no CE.
BAR_CORRUPTIONS: Final = (
    "blue_noise_sample", "brownish_noise", "caustic_refraction", "checkerboard_cutout", "cocentric_sine_waves",
    "inverse_sparkles", "perlin_noise", "plasma_noise", "single_frequency_greyscale", "sparkles",
)  # fmt: skip

# The same by severity (hendrycks/robustness, issue 10), of which the above are the means.
ALEXNET_SEVERITY_ERRORS: Final[Mapping[str, tuple[float, ...]]] = {
    "gaussian_noise": (0.69528, 0.82542, 0.93554, 0.98138, 0.99452),
    "shot_noise": (0.71224, 0.85108, 0.93574, 0.98182, 0.99146),
    "impulse_noise": (0.78374, 0.89808, 0.9487, 0.9872, 0.99548),
    "defocus_blur": (0.65624, 0.73202, 0.85036, 0.91364, 0.94714),
    "glass_blur": (0.64308, 0.75054, 0.88806, 0.91622, 0.93344),
    "motion_blur": (0.5843, 0.70048, 0.82108, 0.8975, 0.92638),
    "zoom_blur": (0.70008, 0.76992, 0.80784, 0.84198, 0.87198),
    "snow": (0.71726, 0.88392, 0.86468, 0.9187, 0.94952),
    "frost": (0.6139, 0.79734, 0.8879, 0.89942, 0.9343),
    "fog": (0.67474, 0.7605, 0.84378, 0.8726, 0.945),
    "brightness": (0.4514, 0.48502, 0.54048, 0.62166, 0.7244),
    "contrast": (0.64548, 0.7615, 0.88874, 0.9776, 0.9927),
    "elastic_transform": (0.52596, 0.70116, 0.55686, 0.64076, 0.80554),
    "pixelate": (0.52218, 0.5462, 0.73728, 0.87092, 0.91262),
    "jpeg_compression": (0.51002, 0.54718, 0.57294, 0.65458, 0.74778),
}
# torchvision's AlexNet on clean validation images (top-1 56.522 %); the paper of ImageNet-C prints 43.5 % of errors.
ALEXNET_CLEAN_ERROR: Final = 0.43478

Errors = Mapping[str, Sequence[float]]
"""Top-1 errors in [0, 1] by corruption, one a severity, in order."""


def mean_error(errors: Sequence[float]) -> float:
    """E_c: mean of a corruption's errors over severities."""
    return float(np.mean(errors))


def ce(corruption: str, errors: Sequence[float]) -> float:
    """CE_c = E_c / E_c of AlexNet, in percent; `errors` are those of the five severities."""
    _check(corruption, errors)
    return 100 * mean_error(errors) / ALEXNET_ERRORS[corruption]


def mce(errors: Errors) -> float:
    """Mean CE of the 15 test corruptions, in percent; extra ones do not count. Raises UsageError where one lacks."""
    _check_complete(errors)
    return float(np.mean([ce(corruption, errors[corruption]) for corruption in TEST_CORRUPTIONS]))


def relative_ce(corruption: str, errors: Sequence[float], clean_error: float) -> float:
    """(E_c - E_clean) / (the same of AlexNet), in percent: how much a corruption adds to the clean error."""
    _check(corruption, errors)
    return 100 * (mean_error(errors) - clean_error) / (ALEXNET_ERRORS[corruption] - ALEXNET_CLEAN_ERROR)


def relative_mce(errors: Errors, clean_error: float) -> float:
    """Mean relative CE of the 15 test corruptions, in percent. Raises UsageError where one lacks."""
    _check_complete(errors)
    return float(np.mean([relative_ce(name, errors[name], clean_error) for name in TEST_CORRUPTIONS]))


def photo_errors(wrong: Mapping[str, Sequence[NDArray[np.bool_]]], in_units_of_alexnet: bool) -> NDArray[np.float64]:
    """What each photo [N] adds to the mean of the corruptions' errors, or to mCE, in percent: their mean is that.

    wrong: by corruption, one [N] a severity, whether each photo was misread; extra corruptions are left out.
    """
    tested = [corruption for corruption in wrong if corruption in TEST_CORRUPTIONS] or list(wrong)
    units = [ALEXNET_ERRORS[corruption] if in_units_of_alexnet else 1.0 for corruption in tested]
    means = [np.mean(wrong[corruption], axis=0) / unit for corruption, unit in zip(tested, units, strict=True)]
    found: NDArray[np.float64] = 100 * np.mean(means, axis=0)
    return found


def _check(corruption: str, errors: Sequence[float]) -> None:
    if corruption not in ALEXNET_ERRORS:
        raise UsageError(f"corruption {corruption!r} is none of {', '.join(CORRUPTIONS)}")
    if len(errors) != len(SEVERITIES):
        raise UsageError(f"{corruption}: errors of {len(errors)} severities; a CE is over {len(SEVERITIES)}")


def _check_complete(errors: Errors) -> None:
    missing = [corruption for corruption in TEST_CORRUPTIONS if corruption not in errors]
    if missing:
        raise UsageError(f"mCE is over 15 corruptions; there are no errors of {', '.join(missing)}")
