"""Read files of network weights, which come from others."""

import hashlib
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

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

_MAX_NAMED_KEYS = 3
# Counts batches for a momentum that nobody uses; old files lack it.
_OPTIONAL = "num_batches_tracked"


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


def fit_weights(model: nn.Module, weights: Mapping[str, Any], complaint: str) -> None:
    """Fill `model` from a state dict that must fit exactly. Raises FormatError, the complaint and what does not fit."""
    expected = model.state_dict()
    misfits = {
        "missing": sorted(name for name in expected.keys() - weights.keys() if not name.endswith(_OPTIONAL)),
        "unexpected": sorted(map(str, weights.keys() - expected.keys())),
        "of another shape": [
            f"{name} {_shape(weights[name])} instead of {_shape(tensor)}"
            for name, tensor in expected.items()
            if name in weights and _shape(weights[name]) != _shape(tensor)
        ],
    }
    problems = [f"{len(names)} {kind} ({_some(names)})" for kind, names in misfits.items() if names]
    if problems:
        raise FormatError(f"{complaint}: {'; '.join(problems)}")
    model.load_state_dict(weights, strict=False)


def _some(names: list[str]) -> str:
    return ", ".join(names[:_MAX_NAMED_KEYS]) + (", ..." if len(names) > _MAX_NAMED_KEYS else "")


def _shape(value: object) -> list[int] | str:
    return list(value.shape) if isinstance(value, Tensor) else type(value).__name__


def cache_folder() -> Path:
    """Where torch keeps downloaded weights."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _first_line(error: BaseException) -> str:
    """The first line of an error, for a one-line message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
