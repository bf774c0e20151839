"""Differences between rows over training seeds: the pairs of one seed, and the intervals of their mean."""

from collections import Counter
from collections.abc import Iterator, Mapping

from ..metrics.seed_difference import difference_over_seeds
from .page import Cell, Section, Table
from .results import Results, RowDifference


def compare_rows(results: Results) -> list[RowDifference]:
    """Every other row less the first, on every set for which two seeds or more of both were measured."""
    rows = list(dict.fromkeys(entry.group for entry in results.checkpoints))
    found = []
    for (test_set, measure, images), values in values_by_set(results).items():
        first = values.get(rows[0], {})
        for row in rows[1:]:
            seeds = sorted(first.keys() & values.get(row, {}).keys())
            if len(seeds) < 2:
                continue
            own, other = [values[row][seed] for seed in seeds], [first[seed] for seed in seeds]
            points = difference_over_seeds(own, other)
            found.append(
                RowDifference(
                    rows[0], row, test_set, measure, images, seeds, points.difference, points.paired, points.unpaired
                )
            )
    return found


def values_by_set(results: Results) -> Mapping[tuple[str, str, int], dict[str, dict[int, float]]]:
    """In percent, by (set, measure, images), row and seed."""
    members = Counter((entry.group, entry.seed) for entry in results.checkpoints)
    # A seed that a row has twice, or none, has no pair.
    seed_of = {
        entry.name: (entry.group, entry.seed)
        for entry in results.checkpoints
        if entry.seed is not None and members[entry.group, entry.seed] == 1
    }
    values: dict[tuple[str, str, int], dict[str, dict[int, float]]] = {}
    for checkpoint, place, value in _measured(results):
        if checkpoint in seed_of:
            row, seed = seed_of[checkpoint]
            values.setdefault(place, {}).setdefault(row, {})[seed] = value
    return values


def _measured(results: Results) -> Iterator[tuple[str, tuple[str, str, int], float]]:
    corrupted = tuple(f"{entry.test_set}/" for entry in results.corruption)
    for entry in results.accuracy:
        if not entry.test_set.startswith(corrupted):
            yield entry.checkpoint, (entry.test_set, "top-1", entry.images), 100 * entry.top1
    for copy in results.corruption:
        if copy.mce is not None:
            yield copy.checkpoint, (copy.test_set, "mCE", copy.images or 1), copy.mce
        else:
            yield copy.checkpoint, (copy.test_set, "mean error", copy.images or 1), copy.mean_error


def seed_section(results: Results) -> Section:
    """The section of the page: a row for each difference, a table for each set."""
    baseline = results.row_differences[0].baseline
    places = list(dict.fromkeys((entry.test_set, entry.measure) for entry in results.row_differences))
    tables = []
    for test_set, measure in places:
        own = [entry for entry in results.row_differences if (entry.test_set, entry.measure) == (test_set, measure)]
        cells = [
            [
                Cell(entry.row),
                Cell(f"{entry.difference:+.2f}"),
                Cell(_ends(entry.paired)),
                Cell(_ends(entry.unpaired)),
                Cell(", ".join(map(str, entry.seeds))),
            ]
            for entry in own
        ]
        heading = f"{test_set}, {measure}, n = {own[0].images:,}"
        tables.append(Table([heading, "difference", "paired, 95 %", "unpaired, 95 %", "seeds"], cells))
    text = (
        f"Each row less {baseline}, in points: the mean over pairs of one training seed, which see the same natural "
        "images in the same order where both rows were trained on the same stream. Student's t over the pairs' "
        "differences, and beside it Welch's over the seeds as if they were unrelated. Seeds are the unit: images would "
        "say nothing of other seeds."
    )
    return Section("Differences over seeds", [text], tables)


def _ends(interval: tuple[float, float]) -> str:
    return f"{interval[0]:+.2f} to {interval[1]:+.2f}"
