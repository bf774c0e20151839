"""Which of a device's kernels may be used."""

from contextlib import AbstractContextManager

import torch


def repeatable_kernels() -> AbstractContextManager[None]:
    """No autotuned, nondeterministic or reduced-precision convolutions: pixels must not depend on the schedule."""
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
    return flags
