"""Which of a device's kernels may be used for what is written down. Without torch: who has it passes its backends."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from operator import attrgetter
from typing import Any, Final

# Products and convolutions in full precision, whatever the environment (TORCH_ALLOW_TF32_CUBLAS_OVERRIDE is set in
# NVIDIA's images), torch.backends.fp32_precision or set_float32_matmul_precision say; sums of bf16 products in float32.
# By torch's newer settings alone: cudnn.flags() and the allow_tf32 of the older ones fail where both were used.
SETTINGS: Final[tuple[tuple[str, str, Any], ...]] = (
    ("cudnn", "enabled", True),
    ("cudnn", "benchmark", False),
    ("cudnn", "deterministic", True),
    ("cudnn.conv", "fp32_precision", "ieee"),
    ("cuda.matmul", "fp32_precision", "ieee"),
    ("cuda.matmul", "allow_bf16_reduced_precision_reduction", False),
    ("mkldnn.conv", "fp32_precision", "ieee"),
    ("mkldnn.matmul", "fp32_precision", "ieee"),
)


@contextmanager
def hold_kernels(backends: Any) -> Iterator[None]:
    """No autotuned, nondeterministic or reduced-precision kernels, by the settings of `torch.backends`."""
    with ExitStack() as restore:
        for owner_name, name, value in SETTINGS:
            owner = attrgetter(owner_name)(backends)
            restore.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        yield
