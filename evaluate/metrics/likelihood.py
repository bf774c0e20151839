"""P(x|x') as a similarity of features, and log P(x|z) of a dictionary of x' (paper, section 5.4)."""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ...manifests.errors import UsageError

Score = Literal["xent", "cosine", "released"]
Reduction = Literal["max", "logmeanexp"]
ScoreFunction = Callable[[Tensor, Tensor], Tensor]

FLOOR = 1e-100  # of the released code, in double precision
CHUNK = 1024  # rows of a score matrix held at once


def cross_entropy_score(queries: Tensor, dictionary: Tensor) -> Tensor:
    """Minus the cross-entropy between feature softmaxes, sum_d p_d log p'_d, [Q, D]: the released `Pxx_KL`."""
    return F.softmax(queries, 1) @ F.log_softmax(dictionary, 1).T


def cosine_score(queries: Tensor, dictionary: Tensor) -> Tensor:
    """Log of the cosine of two feature vectors, [Q, D]."""
    return (F.normalize(queries) @ F.normalize(dictionary).T).clamp_min(FLOOR).log()


def released_score(queries: Tensor, dictionary: Tensor) -> Tensor:
    """As `cosine_score`, with the released code's slip: vectors over their squared norms, [Q, D]."""
    over_squares = [features / features.square().sum(1, keepdim=True) for features in (queries, dictionary)]
    return (over_squares[0] @ over_squares[1].T).clamp_min(FLOOR).log()


SCORES: dict[Score, ScoreFunction] = {
    "xent": cross_entropy_score,
    "cosine": cosine_score,
    "released": released_score,
}


def best_of(scores: Tensor) -> Tensor:
    """log max_j P(x|x'_j) [Q] of log scores [Q, D]: the nearest image alone."""
    return scores.amax(1)


def log_mean_exp(scores: Tensor) -> Tensor:
    """log 1/D sum_j P(x|x'_j) [Q] of log scores [Q, D]: the mixture's density."""
    return scores.logsumexp(1) - math.log(scores.shape[1])


REDUCTIONS: dict[Reduction, Callable[[Tensor], Tensor]] = {"max": best_of, "logmeanexp": log_mean_exp}


def log_likelihoods(
    queries: Tensor, dictionary: Tensor, score: ScoreFunction, reduction: Callable[[Tensor], Tensor]
) -> NDArray[np.float64]:
    """log P(x|z) [Q] of query features [Q, F] against a dictionary's [D, F], a few rows at a time."""
    rows = [reduction(score(chunk.double(), dictionary.double())) for chunk in queries.split(CHUNK)]
    return np.asarray(torch.cat(rows).cpu().numpy(), np.float64)


def class_log_likelihoods(
    queries: Tensor,
    query_labels: NDArray[np.int64],
    dictionary: Tensor,
    dictionary_labels: NDArray[np.int64],
    score: ScoreFunction = cross_entropy_score,
    reduction: Callable[[Tensor], Tensor] = best_of,
) -> NDArray[np.float64]:
    """log P(x|z) [Q] of each query against the dictionary of its own class, as the released code compares them."""
    values = np.empty(len(queries))
    for label in np.unique(query_labels):
        rows, entries = query_labels == label, dictionary_labels == label
        if not entries.any():
            raise UsageError(f"no image of class {label} in the dictionary")
        values[rows] = log_likelihoods(
            queries[torch.from_numpy(rows)], dictionary[torch.from_numpy(entries)], score, reduction
        )
    return values
