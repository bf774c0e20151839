"""Effective robustness (Taori et al. 2020): accuracy on a shifted set less what accuracy on the clean one predicts."""

import math


def predicted_accuracy(clean: float, slope: float, intercept: float) -> float:
    """Accuracy in (0, 1) on a shifted set, of a model on the line logit(shifted) = slope * logit(clean) + intercept.

    clean: accuracy in (0, 1).
    """
    if not 0.0 < clean < 1.0:
        raise ValueError(f"accuracy {clean}: its logit is not finite")
    logit = slope * math.log(clean / (1.0 - clean)) + intercept
    return 1.0 / (1.0 + math.exp(-logit))


def effective_robustness(shifted: float, clean: float, slope: float, intercept: float) -> float:
    """Accuracy on the shifted set less the line's, in [-1, 1]; 0 where the clean accuracy explains all of it."""
    return shifted - predicted_accuracy(clean, slope, intercept)
