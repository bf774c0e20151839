"""Figures of the analyses, as matplotlib draws them without a display."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...manifests.errors import UsageError
from .causal_bound import SweepPoint, compare_bounds
from .correlation import CorrelationReport
from .nuisances import DependenceReport

WIDTH = 7.0  # inches
LEGEND = 1.8
SWEPT = (("truncation", "truncation t"), ("num_directions", "directions k"), ("step_scale", "step scale s"))
LETTERS = {"truncation": "t", "num_directions": "k", "step_scale": "s"}


def plot_correlations(report: CorrelationReport) -> Figure:
    """Accuracy over chance against the number of classes, a line for each training distribution (Figure 3)."""
    figure = Figure(figsize=(WIDTH + LEGEND, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for number, name in enumerate(dict.fromkeys(row.distribution for row in report.correlations)):
        rows = [row for row in report.correlations if row.distribution == name]
        counts, means = [row.num_classes for row in rows], [row.correlation for row in rows]
        below = [row.correlation - row.interval[0] for row in rows]
        above = [row.interval[1] - row.correlation for row in rows]
        # matplotlib's ten colours begin again.
        line = "-" if number < 10 else "--"
        axes.errorbar(counts, means, (below, above), marker="o", capsize=3, label=name, linestyle=line)
    axes.axhline(1.0, color="grey", linestyle=":", label="chance")
    axes.set_xlabel("classes")
    axes.set_ylabel("accuracy over chance")
    _legend_beside(figure)
    return figure


def plot_sweep(points: Sequence[SweepPoint]) -> Figure:
    """log P(x|z) against t, k and s, one at a time (Figure 6).

    Bars are 95 % intervals of the difference to the first point, class by class: those of the values themselves say
    mostly that classes differ from each other.
    """
    if not points:
        raise UsageError("no point of a sweep to draw")
    figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
    panels = figure.subplots(1, len(SWEPT), sharey=True)
    for axes, (name, label) in zip(panels, SWEPT, strict=True):
        for others, group in _lines(points, name).items():
            group = sorted(group, key=lambda point: _setting(point)[name])
            values = [_setting(point)[name] for point in group]
            means = [point.bound.log_likelihood for point in group]
            axes.errorbar(values, means, _error_bars(group, points[0]), marker="o", capsize=3, label=others)
        axes.set_xlabel(label)
        if axes.lines:
            axes.legend(fontsize="x-small")
    panels[0].set_ylabel("log P(x|z)")
    return figure


def plot_bound_and_accuracy(points: Sequence[SweepPoint]) -> Figure:
    """Accuracy of classifiers trained on an intervention's images against its log P(x|z) (Figure 5).

    Bars as in `plot_sweep`.
    """
    known = [point for point in points if point.accuracy is not None]
    if not known:
        raise UsageError("no point of the sweep has an accuracy")
    figure = Figure(figsize=(WIDTH, 3.5), layout="constrained")
    axes = figure.add_subplot()
    bounds = [point.bound.log_likelihood for point in known]
    for point, bound in zip(known, bounds, strict=True):
        assert point.accuracy is not None
        place = (bound, 100.0 * point.accuracy)
        axes.errorbar(*place, xerr=_error_bars([point], points[0]), marker="o", color="C0", capsize=3)
        text = f"t={point.truncation:g} k={point.num_directions} s={point.step_scale:g}"
        if len({other.step_ranges for other in known}) > 1:
            text += f" ({point.step_ranges})"
        on_the_right = bound > (min(bounds) + max(bounds)) / 2
        axes.annotate(
            text, place, (-4 if on_the_right else 4, 4), textcoords="offset points", fontsize="x-small",
            ha="right" if on_the_right else "left",
        )  # fmt: skip
    axes.locator_params(axis="x", nbins=6)
    axes.set_xlabel("log P(x|z)")
    axes.set_ylabel("top-1 accuracy, %")
    return figure


def plot_dependences(report: DependenceReport) -> Figure:
    """Accuracy from nuisance to label, and within-class spread, for each stream and nuisance, as read."""
    rows = [row for row in report.streams if row.source == "read"]
    figure = Figure(figsize=(WIDTH + LEGEND, 6.0), layout="constrained")
    upper, lower = figure.subplots(2, 1)
    _draw_bars(upper, {row.stream: {k: v / row.chance for k, v in row.accuracy.items()} for row in rows})
    upper.set_ylabel("label from nuisance,\naccuracy over chance")
    _draw_bars(lower, {row.stream: row.spread_over_real for row in rows})
    lower.set_ylabel(f"within-class spread\nover {report.reference_stream}")
    _legend_beside(figure)
    return figure


def _legend_beside(figure: Figure) -> None:
    """The first panel's legend, right of all panels: names of distributions are long, and there may be many."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize="x-small")


def _setting(point: SweepPoint) -> dict[str, float]:
    return {name: float(getattr(point, name)) for name, _ in SWEPT}


def _lines(points: Sequence[SweepPoint], name: str) -> dict[str, list[SweepPoint]]:
    """Points that differ in `name` alone, by the rest of their setting, as a legend has it; one point is no line."""
    lines: dict[str, list[SweepPoint]] = {}
    for point in points:
        others = [f"{LETTERS[key]}={value:g}" for key, value in _setting(point).items() if key != name]
        lines.setdefault(", ".join([*others, f"ranges {point.step_ranges}"]), []).append(point)
    return {others: group for others, group in lines.items() if len(group) > 1}


def _error_bars(points: Sequence[SweepPoint], first: SweepPoint) -> tuple[list[float], list[float]]:
    """How far the interval of each point's difference to `first` reaches below and above it."""
    found = [compare_bounds(point.bound, first.bound) for point in points]
    return [d.difference - d.interval[0] for d in found], [d.interval[1] - d.difference for d in found]


def _draw_bars(axes: Axes, values: dict[str, dict[str, float]]) -> None:
    """One group of bars for each key, one bar in it for each row, and a line at 1."""
    width = 0.8 / len(values)
    for number, (label, row) in enumerate(values.items()):
        places = [i + (number - (len(values) - 1) / 2) * width for i in range(len(row))]
        axes.bar(places, list(row.values()), width, label=label)
    names = [name.replace("_", " ") for name in next(iter(values.values()))]
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize="small")
    axes.axhline(1.0, color="grey", linestyle=":")
