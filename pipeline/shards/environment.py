"""The versions and the device that decide bytes."""

import platform
from importlib.metadata import version

import torch
from PIL import features

from ...manifests.device import choose_device, cpu_name
from ...manifests.manifest import Environment


def describe_environment(device: str) -> Environment:
    """The environment of this process."""
    return Environment(
        genint=version("genint"),
        python=platform.python_version(),
        torch=torch.__version__,
        numpy=version("numpy"),
        pillow=version("pillow"),
        libjpeg_turbo=str(features.version("libjpeg_turbo")),
        device=f"cuda: {torch.cuda.get_device_name(device)}" if device.startswith("cuda") else f"cpu: {cpu_name()}",
    )


def check_device(request: str) -> str:
    """The device to use for a request ("auto" prefers a GPU). Raises UsageError where it is not there."""
    return choose_device(request, torch.cuda.device_count())
