"""ImageNet-R (Hendrycks et al. 2021): paintings, toys, tattoos and other renditions of 200 classes."""

from .masked import open_masked
from .test_set import FileSet

IMAGES = 30_000


def open_imagenet_r(location: str, where: str) -> list[FileSet]:
    """ImageNet-R among its 200 classes, as published results are, and among all 1,000. Raises UsageError."""
    return open_masked("imagenet-r", location, where, IMAGES)
