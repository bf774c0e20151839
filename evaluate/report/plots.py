"""What the figures of the analyses share, as matplotlib draws them without a display."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 7.0  # inches
LEGEND = 1.8


def legend_beside(figure: Figure) -> None:
    """The first panel's legend, right of all panels: names of distributions are long, and there may be many."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize="x-small")


def draw_bars(axes: Axes, values: dict[str, dict[str, float]]) -> None:
    """One group of bars for each key, one bar in it for each row, and a line at 1."""
    width = 0.8 / len(values)
    for number, (label, row) in enumerate(values.items()):
        places = [i + (number - (len(values) - 1) / 2) * width for i in range(len(row))]
        axes.bar(places, list(row.values()), width, label=label)
    names = [name.replace("_", " ") for name in next(iter(values.values()))]
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize="small")
    axes.axhline(1.0, color="grey", linestyle=":")
