"""Do two measures put the same things in the same order?"""

from collections.abc import Mapping
from dataclasses import dataclass

from scipy import stats

from ...manifests.errors import UsageError


@dataclass(frozen=True)
class RankAgreement:
    """Agreement of two measures on the order of the same streams; 1 is the same order, -1 the opposite one."""

    streams: tuple[str, ...]
    spearman: float
    kendall: float
    kendall_p_value: float  # of no agreement, two-sided; exact for few streams without ties


def rank_agreement(first: Mapping[str, float], second: Mapping[str, float]) -> RankAgreement | None:
    """Compare two measures by stream. None where they order nothing: fewer than 3 streams, or one value for all.

    Raises UsageError unless both have the same streams.
    """
    names = sorted(first)
    if names != sorted(second):
        raise UsageError(f"one measure has {', '.join(names)}, the other {', '.join(sorted(second))}")
    values = [[measure[name] for name in names] for measure in (first, second)]
    if len(names) < 3 or any(len(set(column)) == 1 for column in values):
        return None
    kendall = stats.kendalltau(*values)
    return RankAgreement(
        tuple(names), float(stats.spearmanr(*values).statistic), float(kendall.statistic), float(kendall.pvalue)
    )
