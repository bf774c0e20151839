"""Effective robustness (Taori et al. 2020): accuracy on a shifted set less what accuracy on the clean one predicts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEWEST_MODELS = 3


def predicted_accuracy(clean: float, slope: float, intercept: float) -> float:
    """Accuracy in (0, 1) on a shifted set, of a model on the line logit(shifted) = slope * logit(clean) + intercept.

    clean: accuracy in (0, 1).
    """
    if not 0.0 < clean < 1.0:
        raise ValueError(f"accuracy {clean}: its logit is not finite")
    logit = slope * math.log(clean / (1.0 - clean)) + intercept
    # 1 / (1 + exp(-logit)), without its overflow.
    return 0.5 * (1.0 + math.tanh(0.5 * logit))


@dataclass(frozen=True)
class LineFit:
    """logit(shifted) = slope * logit(clean) + intercept; r2 is of the logits.

    residual_sd: of accuracies about the line, in points, with two degrees of freedom less than there are models.
    """

    slope: float
    intercept: float
    r2: float
    residual_sd: float


def fit_line(clean: Sequence[float], shifted: Sequence[float]) -> LineFit:
    """Least squares through models' accuracies [N] in (0, 1), N >= FEWEST_MODELS, in logits.

    Raises ValueError where they are fewer, or all are as accurate on the clean set.
    """
    x, y = _logits(clean), _logits(shifted)
    if len(x) != len(y) or len(x) < FEWEST_MODELS or np.ptp(x) == 0:
        raise ValueError(f"{len(x)} models of {len(set(clean))} clean accuracies: no line goes through them")
    slope, intercept = (float(value) for value in np.polyfit(x, y, 1))
    unexplained = float(np.square(y - slope * x - intercept).sum())
    explained = 1.0 - unexplained / float(np.square(y - y.mean()).sum()) if np.ptp(y) > 0 else 1.0
    errors = [a - predicted_accuracy(b, slope, intercept) for a, b in zip(shifted, clean, strict=True)]
    return LineFit(slope, intercept, explained, 100 * math.sqrt(sum(e * e for e in errors) / (len(errors) - 2)))


def _logits(shares: Sequence[float]) -> NDArray[np.float64]:
    values = np.asarray(shares, np.float64)
    return np.log(values / (1.0 - values))


def effective_robustness(shifted: float, clean: float, slope: float, intercept: float) -> float:
    """Accuracy on the shifted set less the line's, in [-1, 1]; 0 where the clean accuracy explains all of it."""
    return shifted - predicted_accuracy(clean, slope, intercept)
