"""Effective robustness in the report: measured rows, and the paper's, beside the line of ordinary models."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from matplotlib.figure import Figure

from ..metrics.effective_robustness import effective_robustness, predicted_accuracy
from .page import Cell, Picture, Section, Table, draw_figure
from .paper import paper_cells


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
    """A row of models on one line's two sets: accuracies in [0, 1]."""

    name: str
    clean: float
    shifted: float

    def effective(self, line: Line) -> float:
        return effective_robustness(self.shifted, self.clean, line.slope, line.intercept)


@cache
def lines() -> tuple[Line, ...]:
    """The lines that are shipped, by test set."""
    document = json.loads((files(__package__) / "data" / "robustness_lines.json").read_text("utf-8"))
    return tuple(Line(**entry) for entry in document["lines"])


def robustness_section(accuracies: dict[tuple[str, str], float], groups: Sequence[str]) -> Section | None:
    """Top-1 in [0, 1] by (group, set), of published sets that are whole; None where no pair of a line was measured."""
    rows, figures = [], []
    for line in lines():
        found = [
            Point(group, accuracies[group, line.clean], accuracies[group, line.test_set])
            for group in groups
            if (group, line.clean) in accuracies and (group, line.test_set) in accuracies
        ]
        # A logit needs an accuracy between the ends.
        found = [point for point in found if 0.0 < point.clean < 1.0]
        for point in found:
            expected = predicted_accuracy(point.clean, line.slope, line.intercept)
            cells = (
                point.name, line.test_set, line.clean, f"{100 * point.clean:.2f}", f"{100 * point.shifted:.2f}",
                f"{100 * expected:.2f}", f"{100 * point.effective(line):+.2f}", f"{line.residual_sd:.2f}",
                f"{line.r2:.3f}, {line.models} models",
            )  # fmt: skip
            rows.append([Cell(text) for text in cells])
        if found:
            figures.append(_plot(line, found, paper_points(line)))
    if not rows:
        return None
    texts = [
        "Accuracy on a shifted set less what the clean accuracy predicts, in points: the line through ordinary models "
        "of imagenet-testbed (Taori et al. 2020), in logits. Near 0, a gain on the shifted set is the clean set's; "
        "what lies within the spread of the ordinary models' residuals says nothing."
    ]
    measured = ["set", "clean set", "clean, %", "on the set, %"]
    columns = ["", *measured, "line, %", "effective", "s.d. of residuals", "R² of"]
    return Section("Effective robustness", texts, [Table(columns, rows)], figures)


def paper_points(line: Line) -> list[Point]:
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


def _plot(line: Line, found: Sequence[Point], paper: Sequence[Point]) -> Picture:
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    seen = [point.clean for point in (*found, *paper)]
    clean = np.linspace(max(0.01, min(seen) - 0.05), min(0.99, max(seen) + 0.05), 100)
    expected = [100 * predicted_accuracy(float(value), line.slope, line.intercept) for value in clean]
    axes.plot(100 * clean, expected, color="grey", label="ordinary models")
    if paper:
        places = [(100 * point.clean, 100 * point.shifted) for point in paper]
        axes.plot(*zip(*places, strict=True), "x", color="C7", label="the paper's rows")
    for point in found:
        axes.plot([100 * point.clean], [100 * point.shifted], "o", label=point.name)
    axes.set_xlabel(f"top-1 on {line.clean}, %")
    axes.set_ylabel(f"top-1 on {line.test_set}, %")
    axes.legend(fontsize="x-small")
    return draw_figure(figure, f"{line.test_set}: accuracy against that on {line.clean}.")
