"""Theorem 1: P(x|z) bounds P(y|do(x)) from both sides (paper, section 3.4)."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from .likelihood import CHUNK, ScoreFunction, log_mean_exp


def normalized_likelihoods(queries: Tensor, dictionary: Tensor, score: ScoreFunction) -> NDArray[np.float64]:
    """P(x|z) [Q] as probabilities over the set of queries: they sum to 1.

    A similarity is no probability. Theorem 1 needs one, and the queries are the only x at hand, so each x' spreads
    its mass over them: P(x|x') = exp score(x, x') / sum over all queries, and P(x|z) is the mean over x'.
    """
    scores = torch.cat([score(chunk.double(), dictionary.double()) for chunk in queries.split(CHUNK)])
    log_p = log_mean_exp(F.log_softmax(scores, 0))
    return np.asarray(log_p.exp().cpu().numpy(), np.float64)


def causal_interval(
    label_given_image: NDArray[np.float64], image_given_intervention: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper bound of P(y|do(x)): P(y|x) P(x|z), and that plus 1 - P(x|z) (Theorem 1)."""
    lower = label_given_image * image_given_intervention
    return lower, lower + 1.0 - image_given_intervention


@dataclass(frozen=True)
class TheoremBound:
    """Theorem 1's bound on P(y|do(x)) for the true label y, mean over the queries.

    Any P(x|z) that sums to 1 over Q queries has mean 1/Q: the mean width says how many queries there are, not how
    good the intervention is. What interventions differ in is the mean log, whose largest value -log Q is reached by
    one that makes every query equally likely, and the share of queries whose bound is tighter (`share_tighter`).
    """

    stream: str
    lower: float
    upper: float
    width: float
    log_likelihood: float  # mean of the normalised log P(x|z), at most -log(queries)
    queries: int


@dataclass(frozen=True, eq=False)
class TheoremValues:
    """The normalised P(x|z) of every query [Q] and its bound, for comparing interventions query by query."""

    stream: str
    likelihood: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]

    def summary(self) -> TheoremBound:
        return TheoremBound(
            self.stream,
            float(self.lower.mean()),
            float(self.upper.mean()),
            float((self.upper - self.lower).mean()),
            float(np.log(self.likelihood).mean()),
            len(self.likelihood),
        )


def share_tighter(first: TheoremValues, second: TheoremValues) -> float:
    """Share of the queries for which `first` is the more effective intervention: P(x|z1) > P(x|z2) (Theorem 1).

    Both sum to 1 over the queries, so neither can be so for all of them; where they are equal, each counts half.
    """
    wins, ties = first.likelihood > second.likelihood, first.likelihood == second.likelihood
    return float(wins.mean() + 0.5 * ties.mean())
