"""ImageNet-A (Hendrycks et al. 2021): photographs that a ResNet-50 gets wrong, of 200 classes."""

from .masked import open_masked
from .test_set import FileSet

IMAGES = 7_500


def open_imagenet_a(location: str, where: str) -> list[FileSet]:
    """ImageNet-A among its 200 classes, as published results are, and among all 1,000. Raises UsageError."""
    return open_masked("imagenet-a", location, where, IMAGES)
