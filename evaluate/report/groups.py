"""Accuracy by group in the report: the worst group, the mean over groups, and each of them."""

from dataclasses import dataclass

from .means import Mean, mean_over_seeds, plain_mean
from .page import Cell, Section, Table
from .results import GroupAccuracy, Groups, Results

# Columns of groups.
MAX_GROUPS = 12


@dataclass(frozen=True)
class GroupRow:
    """A row of checkpoints on a set with groups: its worst groups (one a seed), and means over groups, in [0, 1]."""

    name: str
    entries: list[Groups]

    @property
    def members(self) -> str:
        return f"{len(self.entries)} seeds" if len(self.entries) > 1 else ""

    @property
    def worst(self) -> Mean:
        groups = self._worst
        return mean_over_seeds([group.top1 for group in groups], groups[0].interval)

    @property
    def worst_names(self) -> str:
        return "; ".join(dict.fromkeys(f"{group.group}, n = {group.images:,}" for group in self._worst))

    @property
    def mean(self) -> float:
        return plain_mean([entry.mean for entry in self.entries])

    def top1(self, group: str) -> float | None:
        values = [found.top1 for entry in self.entries for found in entry.groups if found.group == group]
        return plain_mean(values) if values else None

    @property
    def _worst(self) -> list[GroupAccuracy]:
        return [group for entry in self.entries for group in entry.groups if group.group == entry.worst]


def _rows(results: Results) -> dict[str, list[GroupRow]]:
    """Rows by test set."""
    group_of = {entry.name: entry.group for entry in results.checkpoints}
    members: dict[str, dict[str, list[Groups]]] = {}
    for entry in results.groups:
        members.setdefault(entry.test_set, {}).setdefault(group_of[entry.checkpoint], []).append(entry)
    return {test_set: [GroupRow(*row) for row in rows.items()] for test_set, rows in members.items()}


def group_lines(results: Results) -> list[str]:
    """A line for each row and set with groups, for the terminal."""
    return [
        f"{test_set}: {row.name}: worst group {row.worst.percent} ({row.worst_names}), mean over "
        f"{len(row.entries[0].groups):,} groups {100 * row.mean:.2f}"
        for test_set, rows in _rows(results).items()
        for row in rows
    ]


def group_section(results: Results) -> Section:
    """The section of the page, a table for each set with groups."""
    tables = []
    for test_set, rows in _rows(results).items():
        counts = {group.group: group.images for row in rows for entry in row.entries for group in entry.groups}
        shown = list(counts)[:MAX_GROUPS]
        cells = []
        for row in rows:
            values = [row.top1(name) for name in shown]
            cells.append(
                [
                    Cell(row.name, row.members),
                    Cell(row.worst.percent, f"{row.worst.interval}; {row.worst_names}"),
                    Cell(f"{100 * row.mean:.2f}"),
                    *(Cell("–" if value is None else f"{100 * value:.1f}") for value in values),
                ]
            )
        first = f", the first {MAX_GROUPS} shown" if len(counts) > MAX_GROUPS else ""
        columns = [f"{name}, n = {counts[name]:,}" for name in shown]
        heading = f"{test_set}, {len(counts):,} groups{first}"
        tables.append(Table([heading, "worst group", "mean over groups", *columns], cells))
    text = (
        "Top-1 in percent of the worst group, with its interval over its images (Wilson) or over the seeds of a row "
        "(Student's t, of each seed's own worst group), and the mean over groups, in which each counts alike. The "
        "worst of many small groups is partly chance: look at its n."
    )
    return Section("Groups", [text], tables)
