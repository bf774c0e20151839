"""Which device to work on, and what it is called. Pure: the rooms that have torch say whether there is a GPU."""

import platform
import re
from pathlib import Path

from .errors import UsageError


def choose_device(request: str, has_gpu: bool) -> str:
    """The device for a request such as auto, cpu, cuda or cuda:1; auto prefers a GPU. Raises UsageError."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", request):
        raise UsageError(f"--device {request}: expected auto, cpu, cuda or cuda:N")
    if request == "auto":
        return "cuda" if has_gpu else "cpu"
    if request != "cpu" and not has_gpu:
        raise UsageError(f"--device {request}: no GPU that torch can use; use --device cpu")
    return request


def cpu_name() -> str:
    """The processor's model, where the system tells it."""
    # platform.processor() is empty on most Linux systems.
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.machine()
