"""Which device to work on, and what it is called. Pure: the rooms that have torch say whether there is a GPU."""

import platform
import re
import sys
from pathlib import Path

from .errors import UsageError

# Where Linux shows the first NVIDIA GPU.
GPU_FILE = Path("/dev/nvidia0")


def choose_device(request: str, num_gpus: int) -> str:
    """The device for a request such as auto, cpu, cuda or cuda:1; auto prefers a GPU, and says where one goes unused.

    Raises UsageError where it is none of these, or a GPU that is not there.
    """
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", request)
    if match is None:
        raise UsageError(f"--device {request}: expected auto, cpu, cuda or cuda:N")
    if request == "auto":
        if not num_gpus and GPU_FILE.exists():
            print(
                "warning: this machine has a GPU that PyTorch does not see, so work is on the CPU; its driver may be "
                "too old for PyTorch's CUDA (see nvidia-smi), or CUDA_VISIBLE_DEVICES hides it",
                file=sys.stderr,
            )
        return "cuda" if num_gpus else "cpu"
    if request != "cpu" and int(match[1] or 0) >= num_gpus:
        raise UsageError(f"--device {request}: this process sees {num_gpus} GPUs; use --device cpu")
    return request


def cpu_name() -> str:
    """The processor's model, where the system tells it."""
    # platform.processor() is empty on most Linux systems.
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.machine()
