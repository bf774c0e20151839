"""Which device to work on, what it is called, and how many cores there are. Pure: the rooms that have torch say whether
there is a GPU."""

import os
import platform
import re
from pathlib import Path

from .console import warn
from .errors import UsageError

# Where Linux shows the first NVIDIA GPU.
GPU_FILE = Path("/dev/nvidia0")
# Where a container finds its share of the processor's time: microseconds of each period, or "max".
SHARE_FILE = Path("/sys/fs/cgroup/cpu.max")


def choose_device(request: str, num_gpus: int) -> str:
    """The device for a request such as auto, cpu, cuda or cuda:1; auto prefers a GPU, and says where one goes unused.

    Raises UsageError where it is none of these, or a GPU that is not there.
    """
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", request)
    if match is None:
        raise UsageError(f"--device {request}: expected auto, cpu, cuda or cuda:N")
    if request == "auto":
        if not num_gpus and GPU_FILE.exists():
            warn(
                "warning: this machine has a GPU that PyTorch does not see, so work is on the CPU; its driver may be "
                "too old for PyTorch's CUDA (see nvidia-smi), or CUDA_VISIBLE_DEVICES hides it"
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


def count_cores() -> int:
    """CPU cores that this process may use: those it is bound to, or the share of its container where that is less."""
    cores = len(os.sched_getaffinity(0))
    try:
        share, period = SHARE_FILE.read_text().split()
        return cores if share == "max" else max(1, min(cores, int(share) // int(period)))
    except (OSError, ValueError):
        return cores


def count_threads(workers: int, processes: int = 1) -> int | None:
    """Threads to compute with on a CPU, so that they and `workers` loaders share the cores with as many `processes` of
    the same kind; None where OMP_NUM_THREADS says it already."""
    if os.environ.get("OMP_NUM_THREADS"):
        return None
    return max(1, count_cores() // processes - workers)
