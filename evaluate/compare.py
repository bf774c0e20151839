"""Compare two rows of reports with each other, whichever of them is a baseline there."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..manifests.errors import UsageError, shorten
from ..manifests.recipe import suggest
from .metrics.seed_difference import difference_over_seeds
from .report.results import RESULTS, Results, load_results
from .report.seeds import values_by_set

Interval = tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """Two rows on one set, in points of the measure; means over the seeds that both have, and `row` less `baseline`.

    Intervals are 95 %, over the pairs of one seed and as if seeds were unrelated; None where there is but one pair.
    """

    test_set: str
    measure: str
    images: int
    seeds: list[int]
    baseline: float
    row: float
    difference: float
    paired: Interval | None
    unpaired: Interval | None


def compare_reports(folders: Sequence[Path], baseline: str, row: str) -> list[Comparison]:
    """Both rows on every set on which both were measured with the same seed, in the order of the reports.

    Raises UsageError where a row is in none of the reports, they have no seed and set in common, or two sets of one
    name are of different images.
    """
    results = _join(folders)
    rows = list(dict.fromkeys(entry.group for entry in results.checkpoints))
    for name in (baseline, row):
        if name not in rows:
            raise UsageError(f"no row {shorten(name)!r} in these reports{suggest(name, rows)}")
    found = []
    for (test_set, measure, images), values in values_by_set(results).items():
        first, second = values.get(baseline, {}), values.get(row, {})
        seeds = sorted(first.keys() & second.keys())
        if not seeds:
            continue
        before, after = [first[seed] for seed in seeds], [second[seed] for seed in seeds]
        means = sum(before) / len(seeds), sum(after) / len(seeds)
        points = difference_over_seeds(after, before) if len(seeds) > 1 else None
        found.append(
            Comparison(
                test_set, measure, images, seeds, *means, means[1] - means[0],
                points.paired if points else None, points.unpaired if points else None,
            )
        )  # fmt: skip
    if not found:
        known = f"{_seeds(results, baseline)} and {_seeds(results, row)}"
        raise UsageError(f"{baseline!r} and {row!r}: measured on no set in common with the same seed; seeds: {known}")
    return found


def _join(folders: Sequence[Path]) -> Results:
    """What several reports say together."""
    joined = Results()
    digests: dict[str, tuple[str, Path]] = {}
    for folder in folders:
        if not (folder / RESULTS).is_file():
            raise UsageError(f"--results {folder}: no {RESULTS} in it; expected a folder of genint-evaluate run")
        results = load_results(folder)
        for entry in results.accuracy:
            digest, where = digests.setdefault(entry.test_set, (entry.digest, folder))
            if digest != entry.digest:
                raise UsageError(f"{entry.test_set}: other images in {folder} than in {where}, by the same name")
        known = {(entry.name, entry.sha256) for entry in joined.checkpoints}
        new = [entry for entry in results.checkpoints if (entry.name, entry.sha256) not in known]
        clash = next((entry.name for entry in new if entry.name in {name for name, _ in known}), None)
        if clash is not None:
            raise UsageError(f"--results {folder}: another checkpoint is called {clash!r} in a report before it")
        names = {entry.name for entry in new}
        joined.checkpoints += new
        measured = {(entry.checkpoint, entry.test_set) for entry in joined.accuracy}
        joined.accuracy += [e for e in results.accuracy if (e.checkpoint, e.test_set) not in measured]
        joined.corruption += [e for e in results.corruption if e.checkpoint in names]
    return joined


def _seeds(results: Results, row: str) -> str:
    seeds = [str(entry.seed) for entry in results.checkpoints if entry.group == row and entry.seed is not None]
    return ", ".join(seeds) or "none"
