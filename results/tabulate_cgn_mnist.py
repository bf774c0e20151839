"""The MNIST table of CGN from the runs of `cgn-mnist.mk`, beside the paper's and its replication's.

    python results/tabulate_cgn_mnist.py results/cgn-mnist

Reads runs/WORLD/ROW/seed-N/results.json of the folder; writes cgn-mnist.md, cgn-mnist.json and cgn-mnist.svg into it.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from genint.evaluate.report.page import save_figure
from genint.evaluate.report.results import load_results
from matplotlib.figure import Figure
from scipy import stats

WORLDS = ("colored", "double-colored", "wildlife")
# Test accuracy in percent: Sauer & Geiger (ICLR 2021), and its replication in the ML Reproducibility Challenge, which
# alone trained on counterfactuals alone, and, in an experiment of its own, on other numbers of them.
PAPER = {
    "original": (35.9, 10.3, 10.1),
    "gan": (40.7, 10.8, 10.4),
    "cgn": (95.1, 89.0, 85.7),
}
REPLICATION = {
    "original": (37.6, 10.5, 10.8),
    "gan": (41.5, 10.0, 11.1),
    "cgn": (95.9, 85.5, 62.8),
    "cgn-alone": (92.3, 86.5, 81.4),
}
REPLICATION_BY_NUMBER = {10_000: (91.0, 72.0, 50.3), 100_000: (92.6, 88.9, 83.9), 1_000_000: (92.0, 90.7, 84.7)}
NAMES = {
    "original": "original data",
    "gan": "+ GAN: generated images of one class each",
    "cgn": "+ CGN: 100,000 counterfactuals",
    "cgn-alone": "CGN alone, 100,000",
    "cgn-alone-10000": "CGN alone, 10,000",
    "cgn-alone-1000000": "CGN alone, 1,000,000",
}


@dataclass(frozen=True)
class Cell:
    """Test accuracy of one row on one world in percent: by seed, all images and visible digits."""

    world: str
    row: str
    seeds: tuple[int, ...]
    top1: tuple[float, ...]
    visible: tuple[float, ...]

    @property
    def interval(self) -> float | None:
        """Half of Student's 95 % interval over seeds; None of one."""
        count = len(self.top1)
        if count < 2:
            return None
        return float(stats.t.ppf(0.975, count - 1) * np.std(self.top1, ddof=1) / np.sqrt(count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    cells = {(world, row): read_cell(folder, world, row) for world in WORLDS for row in NAMES}
    found = {key: cell for key, cell in cells.items() if cell is not None}
    if not found:
        raise SystemExit(f"{folder}: no runs/WORLD/ROW/seed-N/results.json in it: `make cgn-mnist` makes them")
    table = "\n".join(table_lines(found)) + "\n"
    (folder / "cgn-mnist.md").write_text(table)
    (folder / "cgn-mnist.json").write_text(json.dumps([asdict(cell) for cell in found.values()], indent=1) + "\n")
    save_figure(draw(found), folder / "cgn-mnist.svg")
    print(table, end="")


def read_cell(folder: Path, world: str, row: str) -> Cell | None:
    """What the seeds of a row gave; None where none is there."""
    top1, visible = {}, {}
    for path in sorted((folder / "runs" / world / row).glob("seed-*/results.json")):
        seed = int(path.parent.name.removeprefix("seed-"))
        results = load_results(path.parent)
        (measured,) = results.accuracy
        top1[seed] = 100 * measured.top1
        (groups,) = results.groups
        shares = {group.group: group.top1 for group in groups.groups}
        visible[seed] = 100 * shares["true"]
    seeds = tuple(sorted(top1))
    return Cell(world, row, seeds, tuple(top1[s] for s in seeds), tuple(visible[s] for s in seeds)) if seeds else None


def table_lines(found: Mapping[tuple[str, str], Cell]) -> list[str]:
    """Markdown: a row a method, three columns a world: ours, the paper's, the replication's."""
    heads = [name for world in WORLDS for name in (world, "paper", "replicated")]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for row, name in NAMES.items():
        texts = []
        for number, world in enumerate(WORLDS):
            texts += [
                describe(found.get((world, row))),
                *(_published(source, row, number) for source in (PAPER, REPLICATION)),
            ]
        lines.append(f"| {name} | " + " | ".join(texts) + " |")
    return lines


def describe(cell: Cell | None) -> str:
    """`86.1 ± 0.4 (3 seeds; visible digits 95.0)`."""
    if cell is None:
        return "–"
    spread = f" ± {cell.interval:.1f}" if cell.interval is not None else ""
    seeds = f"{len(cell.seeds)} seed{'s' if cell.seeds[1:] else ''}"
    seen = np.mean(cell.visible)
    apart = f"; visible digits {seen:.1f}" if abs(seen - np.mean(cell.top1)) > 0.05 else ""
    return f"{np.mean(cell.top1):.1f}{spread} ({seeds}{apart})"


def _published(source: Mapping[str, Sequence[float]], row: str, number: int) -> str:
    return f"{source[row][number]:.1f}" if row in source else "–"


def draw(found: Mapping[tuple[str, str], Cell]) -> Figure:
    """Test accuracy against the number of counterfactuals that are trained on alone, a line a world."""
    rows = {10_000: "cgn-alone-10000", 100_000: "cgn-alone", 1_000_000: "cgn-alone-1000000"}
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.subplots()
    for number, world in enumerate(WORLDS):
        colour = f"C{number}"
        ours = {count: found[world, row] for count, row in rows.items() if (world, row) in found}
        means = [float(np.mean(cell.top1)) for cell in ours.values()]
        errors = [cell.interval or 0.0 for cell in ours.values()]
        axes.errorbar(list(ours), means, errors, marker="o", capsize=3, color=colour, label=world)
        replicated = [values[number] for values in REPLICATION_BY_NUMBER.values()]
        axes.plot(list(REPLICATION_BY_NUMBER), replicated, "--", color=colour, alpha=0.5)
    axes.set_xscale("log")
    axes.set_xlabel("counterfactuals, trained on alone (dashed: replication)")
    axes.set_ylabel("test accuracy, %")
    axes.legend(fontsize="small")
    return figure


if __name__ == "__main__":
    main()
