"""What a report says first: who is best on each test set, and whether that is more than chance."""

from collections.abc import Iterator

from .means import Mean, group_accuracies
from .results import Results
from .sentences import difference_sentences

# Sets of which the summary speaks; the tables have all of them.
MOST_SETS = 8


def summarize(results: Results, test_sets: list[str]) -> list[str]:
    """Sentences for the top of the page, on the sets in their order."""
    rows = list(dict.fromkeys(entry.group for entry in results.checkpoints))
    if not rows:
        return []
    sizes = f"{len(results.checkpoints):,} checkpoint{'s' if len(results.checkpoints) > 1 else ''}"
    if len(rows) < len(results.checkpoints):
        sizes += f" in {len(rows):,} row{'s' if len(rows) > 1 else ''}"
    sets = f"{len(test_sets):,} test set{'s' if len(test_sets) != 1 else ''}"
    means = group_accuracies(results)
    lines = [f"{sizes}, {sets}." + (f" Differences are to {rows[0]}." if len(rows) > 1 else "")]
    shown = test_sets[:MOST_SETS]
    differences = difference_sentences(results) if len(test_sets) <= MOST_SETS else []
    lines += differences or [_on_one_set(results, name, rows, means) for name in shown if _measured(name, rows, means)]
    if len(test_sets) > MOST_SETS:
        lines.append(f"{len(test_sets) - MOST_SETS:,} more test sets are in the tables below.")
    return [*lines, *_cautions(results)]


def _measured(name: str, rows: list[str], means: dict[tuple[str, str], Mean]) -> bool:
    return any((row, name) in means for row in rows)


def _on_one_set(results: Results, name: str, rows: list[str], means: dict[tuple[str, str], Mean]) -> str:
    found = {row: means[row, name] for row in rows if (row, name) in means}
    best = max(found, key=lambda row: found[row].value)
    line = f"{name}: {best} is right on {found[best].percent} % of the images"
    if len(found) == 1:
        return f"{line} ({found[best].interval})."
    if rows[0] not in found:
        return f"{line}, the most of {len(found):,}."
    if best == rows[0]:
        return f"{line}; no other row is right on more."
    gain = 100 * (found[best].value - found[rows[0]].value)
    return f"{line}, {gain:.2f} points more than {rows[0]}; {_certainty(results, name, best, found, rows[0])}."


def _certainty(results: Results, name: str, row: str, means: dict[str, Mean], first: str) -> str:
    """Whether the gain of a row over the first is more than chance, over seeds where there are some."""
    over_seeds = [e for e in results.row_differences if (e.row, e.test_set, e.measure) == (row, name, "top-1")]
    if over_seeds:
        low, high = over_seeds[0].paired
        return f"over {len(over_seeds[0].seeds):,} pairs of seeds, 95 % interval {low:+.1f} to {high:+.1f}"
    return f"their 95 % intervals {'do not meet' if means[row].low > means[first].high else 'overlap'}"


def _cautions(results: Results) -> Iterator[str]:
    lacking = list(dict.fromkeys(entry.test_set for entry in results.accuracy if entry.incomplete))
    if lacking:
        yield f"Incomplete, and not to be compared with published numbers: {', '.join(lacking)}."
    copies = list(dict.fromkeys(entry.test_set for entry in results.corruption if entry.marked == "generated"))
    if copies:
        yield f"Corrupted by genint itself, and not to be compared with published numbers: {', '.join(copies)}."
