"""The versions and the device that decide bytes."""

import hashlib
import platform
from importlib.metadata import version
from pathlib import Path

import torch
from PIL import features

from ..manifests.errors import UsageError
from ..manifests.manifest import Environment, dump_json


def describe_environment(device: str) -> Environment:
    """The environment of this process."""
    return Environment(
        genint=version("genint"),
        python=platform.python_version(),
        torch=torch.__version__,
        numpy=version("numpy"),
        pillow=version("pillow"),
        libjpeg_turbo=str(features.version("libjpeg_turbo")),
        device=f"cuda: {torch.cuda.get_device_name(device)}" if device.startswith("cuda") else f"cpu: {_cpu_name()}",
    )


def environment_id(environment: Environment) -> str:
    """Short digest of an environment, by which records refer to it."""
    return hashlib.sha256(dump_json(environment.model_dump())).hexdigest()[:12]


def check_device(device: str) -> str:
    """The device to use for a request ("auto" prefers a GPU). Raises UsageError where it is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise UsageError(f"--device {device}: expected auto, cpu, cuda or cuda:N") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device {device}: no GPU that torch {torch.__version__} can use; use --device cpu")
    if kind not in ("cpu", "cuda"):
        raise UsageError(f"--device {device}: expected auto, cpu, cuda or cuda:N")
    return device


def _cpu_name() -> str:
    # platform.processor() is empty on most Linux systems.
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.machine()
