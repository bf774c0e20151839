"""Files of network weights that streams and trainings read: where each comes from when `--input` does not say."""

from importlib.resources import files
from pathlib import Path

from ...manifests.errors import UsageError
from ..networks.weights import cache_folder
from .adain import PORT
from .vgg import VGG16_URL, VGG19_URL, download_vgg, vgg_place

_SHIPPED = {"mini-encoder": "encoder.pth", "mini-saliency": "saliency.pth"}
_DOWNLOADED = {"vgg16": VGG16_URL, "vgg19": VGG19_URL}
# Which nobody may download for their user, or whose link is dead: file, what it is, and who has it.
_BROUGHT = {
    "vgg-normalised": ("vgg_normalised.pth", "80 MB", PORT),
    "decoder": ("decoder.pth", "14 MB", PORT),
    "u2net": ("u2net.pth", "176 MB, the full U2NET, not u2netp.pth", "github.com/xuebinqin/U-2-Net"),
}


def find_network_file(name: str, reader: str) -> Path:
    """The file of a known network, downloaded if that may be done. Raises UsageError that says what to get and how.

    reader: who asks for it, in the error's words.
    """
    place = network_place(name)
    if place is None:
        raise UsageError(f"{reader} reads input {name!r}: give it with --input {name}=FILE")
    if name in _DOWNLOADED:
        return download_vgg(_DOWNLOADED[name])
    if name in _BROUGHT and not place.is_file():
        file, what, owner = _BROUGHT[name]
        raise UsageError(
            f"{reader} needs {file} ({what}) of {owner}; put it at {place}, or give it with --input {name}=FILE"
        )
    return place


def network_place(name: str) -> Path | None:
    """Where the file of a known network is, or would be; None where nothing is known of it."""
    if name in _SHIPPED:
        return Path(str(files("genint.pipeline") / "data" / name / _SHIPPED[name]))
    if name in _DOWNLOADED:
        return vgg_place(_DOWNLOADED[name])
    return cache_folder() / _BROUGHT[name][0] if name in _BROUGHT else None
