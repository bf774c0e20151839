"""Files of network weights that streams read: where each comes from when `--input` does not say."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..manifests.errors import UsageError
from .adain import PORT
from .vgg import download_vgg19
from .weights import cache_folder


def find_network_file(name: str, recipe: str) -> Path:
    """The file of a known network, downloaded if that may be done. Raises UsageError that says what to get and how."""
    if name in _KNOWN:
        return _KNOWN[name]()
    raise UsageError(f"recipe {recipe!r} reads input {name!r}: give it with --input {name}=FILE")


def _look_up(name: str, file: str, size: str) -> Path:
    path = cache_folder() / file
    if not path.is_file():
        raise UsageError(
            f"AdaIN needs {file} ({size}) of {PORT}; put it at {path}, or give it with --input {name}=FILE"
        )
    return path


_KNOWN: dict[str, Callable[[], Path]] = {
    "vgg19": download_vgg19,
    "vgg-normalised": partial(_look_up, "vgg-normalised", "vgg_normalised.pth", "80 MB"),
    "decoder": partial(_look_up, "decoder", "decoder.pth", "14 MB"),
}
