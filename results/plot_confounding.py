"""Accuracy of every row against the confounding strength, from the results of `confounding-sweep.mk`.

    python results/plot_confounding.py results/confounding 0 0.5 0.8 0.9 0.95

Writes confounding.svg and confounding.md (a table) into the folder.
"""

import argparse
from pathlib import Path

from genint.evaluate.page import save_figure
from genint.evaluate.report import Mean, group_accuracies
from genint.evaluate.results import load_results
from matplotlib.figure import Figure

PANELS = {"mini/test": "test, as confounded as the training", "mini/test-shifted": "shifted background and pose"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("strengths", nargs="+", help="Folders in it, one a confounding strength.")
    arguments = parser.parse_args()
    found = {text: group_accuracies(load_results(arguments.folder / text)) for text in arguments.strengths}
    rows = list(dict.fromkeys(row for means in found.values() for row, _ in means))
    save_figure(draw(found, rows), arguments.folder / "confounding.svg")
    table = "\n".join(table_lines(found, rows)) + "\n"
    (arguments.folder / "confounding.md").write_text(table)
    print(table, end="")


def draw(found: dict[str, dict[tuple[str, str], Mean]], rows: list[str]) -> Figure:
    """A panel for each test set, a line for each row; bars are 95 % intervals over seeds."""
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    for axes, (test_set, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for row in rows:
            # A row may have been trained at some strengths alone.
            means = {float(text): of[row, test_set] for text, of in found.items() if (row, test_set) in of}
            heights = [100.0 * mean.value for mean in means.values()]
            below = [100.0 * (mean.value - mean.low) for mean in means.values()]
            above = [100.0 * (mean.high - mean.value) for mean in means.values()]
            axes.errorbar(list(means), heights, (below, above), marker="o", capsize=3, label=row)
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel("confounding strength a")
        axes.set_ylabel("top-1 accuracy, %")
    figure.axes[0].legend(fontsize="small")
    return figure


def table_lines(found: dict[str, dict[tuple[str, str], Mean]], rows: list[str]) -> list[str]:
    """Markdown: a line for each row, top-1 in percent as test / shifted background and pose, a column for each a."""
    lines = [
        "| row | " + " | ".join(f"a = {text}" for text in found) + " |",
        "|---|" + "---|" * len(found),
    ]
    for row in rows:
        cells = [
            " / ".join(f"{100.0 * means[row, test].value:.1f}" if (row, test) in means else "–" for test in PANELS)
            for means in found.values()
        ]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    main()
