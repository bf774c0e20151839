"""Read files of network weights, which come from others."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...manifests.errors import FormatError
from ...manifests.weights import check_tensors, load_weights_file

_MAX_NAMED_KEYS = 3
# Counts batches for a momentum that nobody uses; old files lack it.
_OPTIONAL = "num_batches_tracked"


def load_weights(path: Path, expected: str | None = None) -> tuple[dict[str, Any], str]:
    """A state dict, and the sha256 of the bytes read. Raises FormatError for anything else; nothing is executed.

    expected: the sha256 of the weights that a dataset is rendered with, if it is for one; others are refused.
    """
    weights, sha256 = load_weights_file(path, partial(torch.load, map_location="cpu", weights_only=True))
    if expected is not None and sha256 != expected:
        raise FormatError(f"{path}: weights {sha256[:12]}, the dataset is rendered with {expected[:12]}")
    if not isinstance(weights, dict):
        raise FormatError(f"{path}: holds a {type(weights).__name__}, expected a dictionary of tensors")
    check_tensors(weights, str(path))
    return weights, sha256


def fit_weights(model: nn.Module, weights: Mapping[str, Any], complaint: str) -> None:
    """Fill `model` from a state dict that must fit exactly. Raises FormatError, the complaint and what does not fit."""
    check_fit(model, weights, complaint)
    model.load_state_dict(weights, strict=False)


def check_fit(model: nn.Module, weights: Mapping[str, Any], complaint: str) -> None:
    """Raise FormatError where names or shapes of a state dict are others than the model's, which may be on `meta`."""
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


def _some(names: list[str]) -> str:
    return ", ".join(names[:_MAX_NAMED_KEYS]) + (", ..." if len(names) > _MAX_NAMED_KEYS else "")


def _shape(value: object) -> list[int] | str:
    return list(value.shape) if isinstance(value, Tensor) else type(value).__name__


def cache_folder() -> Path:
    """Where torch keeps downloaded weights."""
    return Path(torch.hub.get_dir()) / "checkpoints"
