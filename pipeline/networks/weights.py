"""Read files of network weights, which come from others."""

import hashlib
import pickle
import struct
from pathlib import Path
from typing import Any

import torch

from ...manifests.errors import FormatError

# What torch.load makes of a file that was cut off or altered, found by doing both at random places.
_DAMAGED_FILE_ERRORS = (
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    OSError,
    AssertionError,
    AttributeError,
    TypeError,
    struct.error,
)


def load_weights(path: Path) -> tuple[dict[str, Any], str]:
    """A state dict, and the sha256 of the bytes read. Raises FormatError for anything else; nothing is executed."""
    # One open file for digest and load: the digest is that of the weights in use, whatever happens to the path.
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        try:
            weights = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise FormatError(
                f"{path}: refused, it holds more than tensors or is no PyTorch file: {_first_line(error)}"
            ) from error
        except _DAMAGED_FILE_ERRORS as error:
            size = path.stat().st_size
            raise FormatError(f"{path}: not a whole PyTorch file ({size} bytes): {_first_line(error)}") from error
    if not isinstance(weights, dict):
        raise FormatError(f"{path}: holds a {type(weights).__name__}, expected a dictionary of tensors")
    return weights, sha256


def cache_folder() -> Path:
    """Where torch keeps downloaded weights."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _first_line(error: BaseException) -> str:
    """The first line of an error, for a one-line message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
