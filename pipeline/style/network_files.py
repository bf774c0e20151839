"""Files of network weights that streams read: where each comes from when `--input` does not say."""

from importlib.resources import files
from pathlib import Path

from ...manifests.errors import UsageError
from ..networks.weights import cache_folder
from .adain import PORT
from .vgg import download_vgg19, vgg19_place

# Of AdaIN, which nobody may download for their user: file and size by the input's name.
_ADAIN_FILES = {"vgg-normalised": ("vgg_normalised.pth", "80 MB"), "decoder": ("decoder.pth", "14 MB")}


def find_network_file(name: str, recipe: str) -> Path:
    """The file of a known network, downloaded if that may be done. Raises UsageError that says what to get and how."""
    place = network_place(name)
    if place is None:
        raise UsageError(f"recipe {recipe!r} reads input {name!r}: give it with --input {name}=FILE")
    if name == "vgg19":
        return download_vgg19()
    if name in _ADAIN_FILES and not place.is_file():
        file, size = _ADAIN_FILES[name]
        raise UsageError(
            f"AdaIN needs {file} ({size}) of {PORT}; put it at {place}, or give it with --input {name}=FILE"
        )
    return place


def network_place(name: str) -> Path | None:
    """Where the file of a known network is, or would be; None where nothing is known of it."""
    if name == "mini-encoder":
        return Path(str(files("genint.pipeline") / "data" / "mini-encoder" / "encoder.pth"))
    if name == "vgg19":
        return vgg19_place()
    if name in _ADAIN_FILES:
        return cache_folder() / _ADAIN_FILES[name][0]
    return None
