"""Which of a device's kernels may be used."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ...manifests.kernels import hold_kernels


@contextmanager
def repeatable_kernels() -> Iterator[None]:
    """No autotuned, nondeterministic or reduced-precision kernels: pixels must not depend on schedule or settings."""
    with hold_kernels(torch.backends):
        yield
