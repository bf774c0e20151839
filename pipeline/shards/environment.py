"""The versions and the device that decide bytes."""

import platform
from importlib.metadata import version

import torch
from PIL import features

from ...manifests.device import choose_device, cpu_name
from ...manifests.manifest import Environment


def describe_environment(device: str) -> Environment:
    """The environment of this process, on a device that it has."""
    on_gpu = device.startswith("cuda")
    return Environment(
        genint=version("genint"),
        python=platform.python_version(),
        torch=torch.__version__,
        numpy=version("numpy"),
        pillow=version("pillow"),
        libjpeg_turbo=str(features.version("libjpeg_turbo")),
        # torch from PyPI brings its own, other builds take what the machine has.
        cuda=torch.version.cuda if on_gpu else None,
        cudnn=str(torch.backends.cudnn.version()) if on_gpu else None,
        device=f"cuda: {torch.cuda.get_device_name(device)}" if on_gpu else f"cpu: {cpu_name()}",
    )


def check_device(request: str) -> str:
    """The device to use for a request ("auto" prefers a GPU). Raises UsageError where it is not there."""
    return choose_device(request, torch.cuda.device_count())
