"""Which of a device's kernels may be used."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

backends: Any = torch.backends  # where type checkers know half of it

# Products and convolutions in full precision, whatever the environment (TORCH_ALLOW_TF32_CUBLAS_OVERRIDE is set in
# NVIDIA's images), torch.backends.fp32_precision or set_float32_matmul_precision say; sums of bf16 products in float32.
# By torch's newer settings alone: cudnn.flags() and the allow_tf32 of the older ones fail where both were used.
SETTINGS: list[tuple[Any, str, Any]] = [
    (backends.cudnn, "enabled", True),
    (backends.cudnn, "benchmark", False),
    (backends.cudnn, "deterministic", True),
    (backends.cudnn.conv, "fp32_precision", "ieee"),
    (backends.cuda.matmul, "fp32_precision", "ieee"),
    (backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", False),
    (backends.mkldnn.conv, "fp32_precision", "ieee"),
    (backends.mkldnn.matmul, "fp32_precision", "ieee"),
]


@contextmanager
def repeatable_kernels() -> Iterator[None]:
    """No autotuned, nondeterministic or reduced-precision kernels: pixels must not depend on schedule or settings."""
    with ExitStack() as restore:
        for owner, name, value in SETTINGS:
            restore.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        yield
