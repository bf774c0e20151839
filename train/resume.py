"""What a checkpoint holds beside the classifier for its training to go on, looked at before it is believed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor

from ..manifests.errors import FormatError
from .checkpoint import explain
from .metrics import Interval, Written

# What torch raises for the state of another optimizer.
MISFIT = (ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError)


class SavedTraining(BaseModel):
    """State of a run after `step` steps."""

    step: int = Field(ge=0)
    best_top1: float
    interval: Interval
    model: dict[str, Any]
    optimizer: dict[str, Any]
    metrics: Written | None = None  # none: of an earlier version
    validation_due: bool = False  # checkpoints of before they were written before a validation


def read_training(content: Mapping[str, Any], path: Path) -> SavedTraining:
    """The state of a run in its checkpoint. Raises FormatError."""
    try:
        return SavedTraining.model_validate(content)
    except ValidationError as error:
        raise FormatError(f"{path}: no training can go on from it: {explain(error)}") from error


def load_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any], path: Path) -> None:
    """Give an optimizer its saved state. Raises FormatError where that is of another one."""
    own = optimizer.state_dict()
    try:
        # Settings are the configuration's, which is the same; the state is by the parameter's number.
        same = [group["params"] for group in saved["param_groups"]] == [
            group["params"] for group in own["param_groups"]
        ]
        if not same:
            raise ValueError("other parameters")
        optimizer.load_state_dict({"state": saved["state"], "param_groups": own["param_groups"]})
        for parameter, state in optimizer.state.items():
            for name, value in state.items():
                if isinstance(value, Tensor) and (
                    value.shape not in (parameter.shape, ()) or not value.isfinite().all()
                ):
                    raise ValueError(f"{name} of shape {list(value.shape)} for a parameter of {list(parameter.shape)}")
                if not isinstance(value, Tensor | None):
                    raise ValueError(f"{name} is a {type(value).__name__}")
    except MISFIT as error:
        raise FormatError(f"{path}: no training can go on from it: its optimizer's state: {error!s:.200}") from error
