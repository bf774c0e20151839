"""Effective robustness in the report: measured rows, and the paper's, beside the line of ordinary models."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from matplotlib.figure import Figure

from ..metrics.effective_robustness import effective_robustness, predicted_accuracy
from .page import Cell, Picture, Section, Table, draw_figure
from .paper import paper_cells
from .results import FittedLine, Results


@dataclass(frozen=True)
class Line:
    """logit(accuracy on `test_set`) = slope * logit(accuracy on `clean`) + intercept, for ordinary models."""

    test_set: str
    clean: str
    models: int
    slope: float
    intercept: float
    r2: float
    residual_sd: float  # points


@dataclass(frozen=True)
class Point:
    """A row of models on one line's two sets: accuracies in [0, 1]. `on_line`: the line goes through one of them."""

    name: str
    clean: float
    shifted: float
    on_line: bool = False

    def effective(self, line: Line | FittedLine) -> float:
        return effective_robustness(self.shifted, self.clean, line.slope, line.intercept)


@cache
def lines() -> tuple[Line, ...]:
    """The lines that are shipped, by test set."""
    document = json.loads((files(__package__) / "data" / "robustness_lines.json").read_text("utf-8"))
    return tuple(Line(**entry) for entry in document["lines"])


def robustness_section(results: Results, accuracies: Mapping[tuple[str, str], float]) -> Section | None:
    """Rows beside the shipped lines, where sets are published ones that are whole, and beside fitted ones.

    accuracies: top-1 in [0, 1] by (row, set). None where no pair of a line's sets was measured.
    """
    counts = {entry.test_set: entry.images for entry in results.accuracy}
    rows, figures = [], []
    every: list[Line | FittedLine] = [*lines(), *results.lines]
    for line in every:
        found = [
            Point(row, accuracies[row, line.clean], accuracies[row, line.test_set], _goes_through(line, row, results))
            for row in _rows_on(line, results)
            if (row, line.clean) in accuracies and (row, line.test_set) in accuracies
        ]
        # A logit needs an accuracy between the ends.
        found = [point for point in found if 0.0 < point.clean < 1.0]
        for point in found:
            expected = predicted_accuracy(point.clean, line.slope, line.intercept)
            cells = [
                Cell(point.name, "one of its models" if point.on_line else ""),
                Cell(line.test_set),
                Cell(line.clean),
                Cell(f"{100 * point.clean:.2f}", f"n = {counts[line.clean]:,}"),
                Cell(f"{100 * point.shifted:.2f}", f"n = {counts[line.test_set]:,}"),
                Cell(f"{100 * expected:.2f}"),
                Cell(f"{100 * point.effective(line):+.2f}"),
                Cell(f"{line.residual_sd:.2f}"),
                Cell(
                    f"{line.r2:.3f}", f"{line.models} models" + (", your own" if isinstance(line, FittedLine) else "")
                ),
            ]
            rows.append(cells)
        if found or isinstance(line, FittedLine):
            figures.append(_plot(line, found, paper_points(line)))
    if not rows and not figures:
        return None
    texts = [
        "Accuracy on a shifted set less what the clean accuracy predicts, in points: the line through ordinary models "
        "of imagenet-testbed (Taori et al. 2020), or through your own (genint-evaluate fit-line), in logits. Near 0, a "
        "gain on the shifted set is the clean set's; what lies within the spread of the models' residuals says nothing."
    ]
    columns = ["", "set", "clean set", "clean, %", "on the set, %", "line, %", "effective", "s.d. of residuals", "R²"]
    return Section("Effective robustness", texts, [Table(columns, rows)] if rows else [], figures)


def _rows_on(line: Line | FittedLine, results: Results) -> Iterator[str]:
    """Rows of checkpoints that were measured on the very sets of a line."""
    group_of = {entry.name: entry.group for entry in results.checkpoints}
    found: dict[str, set[str]] = {}
    for entry in results.accuracy:
        if entry.test_set not in (line.clean, line.test_set):
            continue
        if isinstance(line, FittedLine):
            same = entry.digest == (line.clean_digest if entry.test_set == line.clean else line.digest)
        else:
            same = entry.marked == "official" and not entry.incomplete
        sets = found.setdefault(group_of[entry.checkpoint], set())
        if same:
            sets.add(entry.test_set)
    yield from (row for row, sets in found.items() if len(sets) == 2)


def _goes_through(line: Line | FittedLine, row: str, results: Results) -> bool:
    own = {entry.sha256 for entry in results.checkpoints if entry.group == row}
    return isinstance(line, FittedLine) and not own.isdisjoint(model.sha256 for model in line.through)


def paper_points(line: Line | FittedLine) -> list[Point]:
    """The paper's own rows on a line's two sets (table 3)."""
    top1 = {
        (f"{cell.arch} {cell.row}", cell.test_set): cell.value / 100
        for cell in paper_cells()
        if cell.table == "3" and cell.metric == "top1"
    }
    return [
        Point(name, value, top1[name, line.test_set])
        for (name, test_set), value in top1.items()
        if test_set == line.clean and (name, line.test_set) in top1
    ]


def _plot(line: Line | FittedLine, found: Sequence[Point], paper: Sequence[Point]) -> Picture:
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    through = line.through if isinstance(line, FittedLine) else []
    seen = [*(point.clean for point in (*found, *paper)), *(model.clean for model in through)]
    clean = np.linspace(max(0.01, min(seen) - 0.05), min(0.99, max(seen) + 0.05), 100)
    expected = [100 * predicted_accuracy(float(value), line.slope, line.intercept) for value in clean]
    whose = f"line of {line.models} models of your own" if through else "ordinary models"
    axes.plot(100 * clean, expected, color="grey", label=whose)
    if through:
        places = [(100 * model.clean, 100 * model.shifted) for model in through]
        axes.plot(*zip(*places, strict=True), ".", color="grey")
    if paper:
        places = [(100 * point.clean, 100 * point.shifted) for point in paper]
        axes.plot(*zip(*places, strict=True), "x", color="C7", label="the paper's rows")
    for point in found:
        axes.plot([100 * point.clean], [100 * point.shifted], "o", label=point.name)
    axes.set_xlabel(f"top-1 on {line.clean}, %")
    axes.set_ylabel(f"top-1 on {line.test_set}, %")
    axes.legend(fontsize="x-small")
    return draw_figure(figure, f"{line.test_set}: accuracy against that on {line.clean}.")
