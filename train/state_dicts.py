"""Weights in files of others: torchvision's and timm's training scripts, torch.compile, Lightning, safetensors."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from ..manifests.errors import FormatError, UsageError
from ..manifests.weights import check_tensors, load_weights_file

# Where a checkpoint has its state dict, and where an average of the weights over the steps.
TRAINED = ("model", "state_dict")
AVERAGED = ("model_ema", "state_dict_ema")
# What DataParallel, torch.compile, AveragedModel and Lightning put before the names, in any order.
PREFIXES = ("module.", "_orig_mod.", "model.")


@dataclass(frozen=True)
class StateDict:
    """A classifier's weights by name; `note` says which they are where a file has several."""

    weights: dict[str, Tensor]
    note: str | None = None


def read_file(path: Path) -> tuple[Any, str]:
    """The content of a file of torch.save or safetensors, and its sha256. Raises FormatError."""
    return load_weights_file(path, _load)


def find_weights(content: Mapping[Any, Any], origin: str, averaged: bool = False) -> StateDict:
    """The state dict in a checkpoint, or the whole of it; `averaged`: the average of the weights that it also holds.

    Raises UsageError where there is no average, FormatError where an entry is no tensor.
    """
    trained = next((key for key in TRAINED if isinstance(content.get(key), Mapping)), None)
    average = next((key for key in AVERAGED if isinstance(content.get(key), Mapping)), None)
    chosen = average if averaged or trained is None else trained
    if averaged and average is None:
        raise UsageError(f"{origin}: holds no average of the weights ({' or '.join(AVERAGED)})")
    if chosen is not None:
        weights = content[chosen]
    elif any(isinstance(value, Tensor) for value in content.values()):
        weights = content
    else:
        raise FormatError(f"{origin}: no state dict in it; found keys {str(sorted(map(str, content)))[:200]}")
    note = None
    if trained and average:
        note = f"averaged weights ({average})" if averaged else f"trained weights; for their average: {origin}:ema"
    elif average or "n_averaged" in weights:
        note = "averaged weights"
    weights = {name: value for name, value in weights.items() if name != "n_averaged"}
    check_tensors(weights, origin)
    return StateDict({_strip(name): value for name, value in weights.items()}, note)


def _strip(name: str) -> str:
    while name.startswith(PREFIXES):
        name = name.partition(".")[2]
    return name


class _NumberType:
    """Stands for numpy.dtype in a pickle, without its code: training scripts save accuracies as numpy's numbers."""

    def __init__(self, name: str, *flags: bool) -> None:
        self.name, self.order = name, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


def _number(kind: _NumberType, content: bytes) -> Any:
    """Stands for numpy's scalar."""
    return np.frombuffer(content, np.dtype(kind.name).newbyteorder(kind.order), 1)[0].item()  # type: ignore[arg-type]


# Plain data, without code of their own: the arguments of a training script, and numbers.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    _NumberType,
    (_NumberType, "numpy.dtype"),
    (_number, "numpy._core.multiarray.scalar"),
    (_number, "numpy.core.multiarray.scalar"),
]


def _load(file: BinaryIO) -> Any:
    start = file.read(9)
    file.seek(0)
    if start[8:] == b"{":  # a header's length, and the header, which is JSON
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            return load(file.read())
        except SafetensorError as error:
            raise ValueError(f"safetensors: {error}") from error
    with torch.serialization.safe_globals(_HARMLESS):
        return torch.load(file, map_location="cpu", weights_only=True)
