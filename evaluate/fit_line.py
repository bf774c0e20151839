"""Fit a line of effective robustness through checkpoints of one's own, that others are then set against."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ..manifests.errors import UsageError
from .metrics.effective_robustness import FEWEST_MODELS, fit_line
from .report.results import RESULTS, FittedLine, LineModel, load_results

# Of the models that make a line, as of those behind the lines that are shipped: near the ends a logit says little.
CLEAN_RANGE: Final = (0.005, 0.995)
SHIFTED_RANGE: Final = (0.001, 0.999)


def fit_own_line(folders: Sequence[Path], clean: str, shifted: str, rows: Sequence[str] = ()) -> FittedLine:
    """The line of accuracy on `shifted` against that on `clean`, through the checkpoints in folders of results.

    rows: labels of the rows whose checkpoints are taken; all by default. Raises UsageError where there are too few, or
    they were measured on different sets of one name.
    """
    if clean == shifted:
        raise UsageError(f"--clean and --shifted are both {clean!r}; expected two sets")
    models: dict[str, LineModel] = {}
    digests: dict[str, set[str]] = {clean: set(), shifted: set()}
    known: set[str] = set()
    for folder in folders:
        if not (folder / RESULTS).is_file():
            raise UsageError(f"--results {folder}: no {RESULTS} in it; expected a folder of genint-evaluate run")
        results = load_results(folder)
        found = {(entry.checkpoint, entry.test_set): entry for entry in results.accuracy}
        known |= {entry.test_set for entry in results.accuracy}
        for checkpoint in results.checkpoints:
            first, second = (found.get((checkpoint.name, test_set)) for test_set in (clean, shifted))
            if first and second and (not rows or checkpoint.group in rows):
                # By what is in the file: the same model counts once, whatever it is called.
                models[checkpoint.sha256] = LineModel(checkpoint.name, checkpoint.sha256, first.top1, second.top1)
                digests[clean].add(first.digest)
                digests[shifted].add(second.digest)
    for name in (clean, shifted):
        if name not in known:
            some = ", ".join(sorted(known)[:12]) or "none"
            raise UsageError(f"no checkpoint was measured on {name!r}; sets in these results: {some}")
        if len(digests[name]) > 1:
            raise UsageError(f"{name}: checkpoints were measured on {len(digests[name])} different sets of this name")
    through = [model for model in models.values() if _within(model)]
    if len(through) < FEWEST_MODELS or len({model.clean for model in through}) < 2:
        raise UsageError(
            f"{len(through)} checkpoints with an accuracy of {100 * CLEAN_RANGE[0]:g} to {100 * CLEAN_RANGE[1]:g} % on "
            f"{clean} and {100 * SHIFTED_RANGE[0]:g} to {100 * SHIFTED_RANGE[1]:g} % on {shifted}; a line takes "
            f"{FEWEST_MODELS} that differ: measure more with genint-evaluate run"
        )
    line = fit_line([model.clean for model in through], [model.shifted for model in through])
    return FittedLine(
        shifted, clean, digests[shifted].pop(), digests[clean].pop(), line.slope, line.intercept, line.r2,
        line.residual_sd, through,
    )  # fmt: skip


def _within(model: LineModel) -> bool:
    low, high = CLEAN_RANGE
    least, most = SHIFTED_RANGE
    return low <= model.clean <= high and least <= model.shifted <= most
