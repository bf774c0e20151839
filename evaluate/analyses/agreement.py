"""Do figure 3's indirect measure of nuisances and labels and the true dependence order streams alike?"""

from dataclasses import asdict

from ...manifests.errors import FormatError
from ..metrics.rank_agreement import rank_agreement
from ..report.results import Analysis


def analyse_agreement(correlation: Analysis, nuisances: Analysis) -> Analysis | None:
    """Do figure 3's indirect measure and the true dependence order the streams that both saw alike?

    The indirect one counts at the largest number of classes it was measured for, the true one as read off the images.
    None where fewer than three streams have both, or one of them is the same for all. Raises FormatError where the
    numbers behind a section are not those that its analysis wrote.
    """
    try:
        found = correlation.data["correlations"]
        largest = max(row["num_classes"] for row in found)
        indirect = {row["distribution"]: float(row["correlation"]) for row in found if row["num_classes"] == largest}
        read = [row for row in nuisances.data["streams"] if row["source"] == "read"]
        true = {row["stream"]: float(row["accuracy"]["all"]) for row in read}
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(
            "results.json: the numbers of correlation or nuisances are altered; run the analysis again"
        ) from error
    common = sorted(indirect.keys() & true.keys(), key=lambda name: -true[name])
    indirect, true = {name: indirect[name] for name in common}, {name: true[name] for name in common}
    agreement = rank_agreement(indirect, true)
    if agreement is None:
        return None
    texts = [
        f"Kendall's tau of the two orders is {agreement.kendall:.2f} (p = {agreement.kendall_p_value:.2f} for no "
        f"agreement), Spearman's rho {agreement.spearman:.2f}: 1 is the same order, -1 the opposite one."
    ]
    return Analysis(
        "Do the indirect and the true measure agree?", texts,
        ["stream", "label from nuisances read, %", f"indirect correlation, {largest} classes"],
        [[name, f"{100 * true[name]:.1f}", f"{indirect[name]:.2f}"] for name in common],
        {"indirect": indirect, "true": true, **asdict(agreement)},
    )  # fmt: skip
