"""Accuracy of every row against the confounding strength, from the results of `confounding-sweep.mk`.

    python results/plot_confounding.py results/confounding 0 0.5 0.8 0.9 0.95

Writes confounding.svg and confounding.md (a table) into the folder.
"""

import argparse
from pathlib import Path

import numpy as np
from genint.evaluate.report.page import save_figure
from genint.evaluate.report.results import Results, load_results
from matplotlib.figure import Figure

Tops = dict[tuple[str, str], list[float]]  # by row and test set

PANELS = {"mini/test": "test, as confounded as the training", "mini/test-shifted": "shifted background and pose"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("strengths", nargs="+", help="Folders in it, one a confounding strength.")
    arguments = parser.parse_args()
    found = {text: seeds_of_rows(load_results(arguments.folder / text)) for text in arguments.strengths}
    rows = list(dict.fromkeys(row for tops in found.values() for row, _ in tops))
    save_figure(draw(found, rows), arguments.folder / "confounding.svg")
    table = "\n".join(table_lines(found, rows)) + "\n"
    (arguments.folder / "confounding.md").write_text(table)
    print(table, end="")


def seeds_of_rows(results: Results) -> Tops:
    """Top-1 of every seed in percent, by row and test set."""
    row_of = {entry.name: entry.group for entry in results.checkpoints}
    tops: Tops = {}
    for entry in results.accuracy:
        tops.setdefault((row_of[entry.checkpoint], entry.test_set), []).append(100.0 * entry.top1)
    return tops


def draw(found: dict[str, Tops], rows: list[str]) -> Figure:
    """A panel for each test set, a line for each row; bars reach from the worst seed to the best."""
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    for axes, (test_set, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for row in rows:
            # A row may have been trained at some strengths alone.
            seeds = {float(text): tops[row, test_set] for text, tops in found.items() if (row, test_set) in tops}
            means = [float(np.mean(values)) for values in seeds.values()]
            below = [mean - min(values) for mean, values in zip(means, seeds.values(), strict=True)]
            above = [max(values) - mean for mean, values in zip(means, seeds.values(), strict=True)]
            axes.errorbar(list(seeds), means, (below, above), marker="o", capsize=3, label=row)
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel("confounding strength a")
        axes.set_ylabel("top-1 accuracy, %")
    figure.axes[0].legend(fontsize="small")
    return figure


def table_lines(found: dict[str, Tops], rows: list[str]) -> list[str]:
    """Markdown: a line for each row, mean top-1 as test / shifted background and pose, a column for each strength."""
    lines = [
        "| row | " + " | ".join(f"a = {text}" for text in found) + " |",
        "|---|" + "---|" * len(found),
    ]
    for row in rows:
        cells = [
            " / ".join(f"{np.mean(tops[row, test]):.1f}" if (row, test) in tops else "–" for test in PANELS)
            for tops in found.values()
        ]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    main()
