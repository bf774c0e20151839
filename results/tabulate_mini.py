"""Tables of the paper in miniature from the runs of `paper_mini.py`: means, and differences over pairs of seeds.

    python results/tabulate_mini.py results/mini

Reads runs/ROW/seed-N.json of the folder; writes tables/results.json, tables.md, differences.svg and index.html.
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from genint.evaluate.metrics.seed_difference import difference_over_seeds
from genint.evaluate.report.page import Cell, Section, Table, draw_figure, render_page, save_figure
from matplotlib.figure import Figure
from mini_rows import BASELINES, BUDGETS, ROWS, TEST_SETS, Row
from scipy import stats

TITLES = {
    "validation": "validation",
    "test": "test",
    "test-background": "shifted background",
    "test-shifted": "shifted background and pose",
    "corrupted": "corrupted, error",
}
# Of a test at 5 % that sees four of five true differences.
POWER = 0.8


@dataclass(frozen=True)
class Value:
    """Top-1 (or mean error under corruptions) in percent: mean over seeds, and half of Student's 95 % interval."""

    mean: float
    interval: float | None
    by_seed: dict[int, float]


@dataclass(frozen=True)
class Paired:
    """A row less a baseline, in points: over pairs of one seed, which have their initial weights and natural images in
    common. p: of Student's t for pairs; p_holm: over all rows (Holm 1979)."""

    test_set: str
    difference: float
    interval: tuple[float, float]
    p: float
    p_holm: float
    seeds: list[int]


@dataclass(frozen=True)
class Measured:
    """A row: accuracy by test set, also by head, and what a training costs in CPU minutes."""

    name: str
    title: str
    needs: str
    images_per_step: int
    values: dict[str, Value]
    heads: dict[str, dict[str, Value]]
    training_minutes: float | None
    rendering_minutes: float
    paired: dict[str, list[Paired]] = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    rows = read_rows(folder)
    if not rows:
        raise SystemExit(f"{folder}: no runs/ROW/seed-N.json in it: `make paper-mini` makes them")
    for baseline in dict.fromkeys((*BASELINES, *BUDGETS)):
        compare(rows, baseline)
    tables = folder / "tables"
    tables.mkdir(exist_ok=True)
    smallest = detectable(rows)
    found = {"rows": [asdict(row) for row in rows.values()], "detectable_points": smallest, "power": POWER}
    (tables / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    figure = draw_differences(rows)
    save_figure(figure, tables / "differences.svg")
    lines = [*accuracy_lines(rows.values()), "", *difference_lines(rows.values())]
    (tables / "tables.md").write_text("\n".join(lines) + "\n")
    (tables / "index.html").write_text(make_page(rows, smallest, figure))
    print("\n".join(lines))


def read_rows(folder: Path) -> dict[str, Measured]:
    """All rows of which there are results. Exits where they were measured on different test sets."""
    rendering = folder / "rendering.json"
    seconds = json.loads(rendering.read_text()) if rendering.is_file() else {}
    found, tests = {}, {}
    for row in ROWS:
        runs = {}
        for path in sorted((folder / "runs" / row.name).glob("seed-*.json")):
            run = json.loads(path.read_text())
            runs[run["seed"]] = run
            tests.setdefault(run["tests"], path)
        if runs:
            found[row.name] = measure(row, dict(sorted(runs.items())), seconds)
    if len(tests) > 1:
        raise SystemExit(f"other test sets: {', '.join(map(str, tests.values()))}; `make paper-mini` makes them anew")
    return found


def measure(row: Row, runs: Mapping[int, Mapping[str, Any]], rendering: Mapping[str, float]) -> Measured:
    """A row's means. Exits where its runs are of different configurations or data."""
    if len({run["row_key"] for run in runs.values()}) > 1:
        raise SystemExit(f"{row.name}: runs of different data or presets; `make paper-mini` makes them anew")

    def values(take: Iterable[tuple[int, Mapping[str, float]]]) -> dict[str, Value]:
        shares = dict(take)
        sets = next(iter(shares.values()))
        return {name: value_of({seed: 100 * share[name] for seed, share in shares.items()}) for name in sets}

    first = next(iter(runs.values()))
    spent = [run["cpu_seconds"] for run in runs.values() if run["cpu_seconds"] is not None]
    return Measured(
        row.name,
        row.title,
        row.needs,
        first["images_per_step"],
        values((seed, {**run["top1"], "corrupted": run["corrupted_error"]}) for seed, run in runs.items()),
        {head: values((seed, run["heads"][head]) for seed, run in runs.items()) for head in first.get("heads", {})},
        float(np.median(spent)) / 60 if spent else None,
        sum(rendering.get(name, 0.0) for name in row.streams) / 60,
    )


def value_of(by_seed: dict[int, float]) -> Value:
    numbers = list(by_seed.values())
    half = None
    if len(numbers) > 1:
        half = float(stats.t.ppf(0.975, len(numbers) - 1) * stats.sem(numbers))
    return Value(float(np.mean(numbers)), half, by_seed)


def compare(rows: Mapping[str, Measured], baseline: str) -> None:
    """Give every other row its paired differences from `baseline`, p corrected over the rows of one test set."""
    if baseline not in rows:
        return
    for test_set, reference in rows[baseline].values.items():
        found: dict[str, Paired] = {}
        for name, row in rows.items():
            own = row.values[test_set].by_seed
            seeds = [seed for seed in own if seed in reference.by_seed]
            if name == baseline or len(seeds) < 2:
                continue
            first, second = [own[seed] for seed in seeds], [reference.by_seed[seed] for seed in seeds]
            points = difference_over_seeds(first, second)
            p = paired_p(first, second)
            found[name] = Paired(test_set, points.difference, points.paired, p, p, seeds)
        corrected = holm([paired.p for paired in found.values()])
        for (name, paired), p_holm in zip(found.items(), corrected, strict=True):
            fields = {**asdict(paired), "p_holm": p_holm}
            rows[name].paired.setdefault(baseline, []).append(Paired(**fields))


def paired_p(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided p of Student's t for pairs; of pairs that all differ by the same 0, or 1 where they are equal."""
    differences = np.subtract(first, second)
    if np.ptp(differences) == 0:
        return float(differences[0] == 0)
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def holm(values: Sequence[float]) -> list[float]:
    """p values corrected for their number (Holm 1979), in their order."""
    corrected, largest = [0.0] * len(values), 0.0
    for rank, place in enumerate(np.argsort(values, kind="stable").tolist()):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = largest
    return corrected


def detectable(rows: Mapping[str, Measured]) -> dict[str, float]:
    """By test set, the smallest true difference from natural only, in points, that as many seeds show at 5 % (without
    correction) in four of five experiments: from the median spread of the rows' paired differences."""
    found = {}
    for test_set in TEST_SETS:
        spreads, counts = [], []
        for row in rows.values():
            for paired in row.paired.get(BASELINES[0], []):
                if paired.test_set == test_set:
                    count = len(paired.seeds)
                    half = (paired.interval[1] - paired.interval[0]) / 2
                    spreads.append(half / stats.t.ppf(0.975, count - 1) * count**0.5)
                    counts.append(count)
        if counts:
            found[test_set] = smallest_difference(float(np.median(spreads)), min(counts))
    return found


def smallest_difference(deviation: float, seeds: int) -> float:
    """The true mean of `seeds` paired differences of this standard deviation that a t test sees with POWER."""
    critical = stats.t.ppf(0.975, seeds - 1)

    def power(effect: float) -> float:
        return float(stats.nct.sf(critical, seeds - 1, effect * seeds**0.5))

    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if power(middle) < POWER else (low, middle)
    return high * deviation


def accuracy_lines(rows: Iterable[Measured]) -> list[str]:
    """Markdown: a line a row, mean and interval on every set, what it needs, and what it costs."""
    heads = [*TITLES.values(), "images per step", "needs", "CPU minutes: rendering + training"]
    lines = ["| row | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for row in rows:
        training = "–" if row.training_minutes is None else f"{row.training_minutes:.1f}"
        cost = f"{row.rendering_minutes:.1f} + {training}"
        cells = [shown(row.values[name]) for name in TITLES]
        lines.append(f"| {row.title} | " + " | ".join([*cells, str(row.images_per_step), row.needs, cost]) + " |")
        for head, values in row.heads.items():
            own = [shown(values[name]) if name in values else "" for name in TITLES]
            lines.append(f"| – its head {head} alone | " + " | ".join([*own, "", "", ""]) + " |")
    return lines


def shown(value: Value) -> str:
    return f"{value.mean:.1f}" + (f" ± {value.interval:.1f}" if value.interval is not None else "")


def difference_lines(rows: Iterable[Measured], test_set: str = "test-shifted") -> list[str]:
    """Markdown: each row less both baselines on one test set, and less natural images alone of the same budget."""
    heads = ["less natural only", "p (Holm)", "less GAN augmentation", "p (Holm)", "less as many natural images"]
    lines = [f"| row, on {TITLES[test_set]} | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for row in rows:
        cells: list[str] = []
        for baseline in BASELINES:
            found = paired_on(row, baseline, test_set)
            cells += [difference(found), p_value(found)]
        cells.append(difference(paired_on(row, budget_of(row), test_set)))
        lines.append(f"| {row.title} | " + " | ".join(cells) + " |")
    return lines


def budget_of(row: Measured) -> str:
    """Natural images alone of at least as many images per step."""
    return next((name for name, images in BUDGETS.items() if images >= row.images_per_step), list(BUDGETS)[-1])


def paired_on(row: Measured, baseline: str, test_set: str) -> Paired | None:
    return next((found for found in row.paired.get(baseline, []) if found.test_set == test_set), None)


def difference(paired: Paired | None) -> str:
    if paired is None:
        return "–"
    return f"{paired.difference:+.1f} ({paired.interval[0]:+.1f} to {paired.interval[1]:+.1f})"


def p_value(paired: Paired | None) -> str:
    if paired is None:
        return "–"
    return "< 0.001" if paired.p_holm < 0.001 else f"{paired.p_holm:.3f}"


def draw_differences(rows: Mapping[str, Measured]) -> Figure:
    """A panel for each shifted set: every row less natural only, with its interval."""
    panels = ("test-background", "test-shifted")
    shown_rows = [row for row in rows.values() if paired_on(row, BASELINES[0], panels[0])]
    figure = Figure(figsize=(9.0, 1.2 + 0.26 * len(shown_rows)), layout="constrained")
    for axes, test_set in zip(figure.subplots(1, len(panels), sharey=True), panels, strict=True):
        for place, row in enumerate(shown_rows):
            paired = paired_on(row, BASELINES[0], test_set)
            assert paired is not None
            clear = paired.p_holm < 0.05
            axes.plot(paired.interval, (place, place), color="C0" if clear else "0.6", linewidth=2)
            axes.plot(paired.difference, place, "o", color="C0" if clear else "0.6", markersize=4)
        axes.axvline(0.0, color="0.4", linewidth=0.8)
        axes.set_title(TITLES[test_set], fontsize="medium")
        axes.set_xlabel("points over natural only")
    figure.axes[0].set_yticks(range(len(shown_rows)), [row.title for row in shown_rows], fontsize="small")
    figure.axes[0].invert_yaxis()
    return figure


def make_page(rows: Mapping[str, Measured], smallest: Mapping[str, float], figure: Figure) -> str:
    """One self-contained page: the differences first, then all means."""
    seeds = max(len(row.values["test"].by_seed) for row in rows.values())
    said = [
        "Each row is trained with the same seeds. A seed has the same initial weights and the same natural images in "
        "the same order for every row, so that rows are compared by pairs of one seed.",
        "Intervals are Student's of 95 %; p values are corrected for the number of rows (Holm).",
    ]
    if "test-shifted" in smallest:
        both, background = smallest["test-shifted"], smallest["test-background"]
        said.append(
            f"From the measured spread, {seeds} seeds show a difference of {both:.1f} points on shifted background and "
            f"pose ({background:.1f} on shifted background) in {POWER:.0%} of experiments."
        )
    caption = "Top-1 of each row less that of natural only, in points. Blue: p < 0.05 after Holm's correction."
    means = f"Top-1 in percent, mean over up to {seeds} seeds."
    sections = [
        Section("Differences", ["In points, by pairs of one seed."], [table_of(difference_lines(rows.values()))]),
        Section("Accuracy", [means], [table_of(accuracy_lines(rows.values()))]),
    ]
    summary = Section("Which method helps", said, figures=[draw_figure(figure, caption)])
    return render_page("The paper in miniature", f"{len(rows)} ways of training on the mini world", sections, summary)


def table_of(lines: Sequence[str]) -> Table:
    """A Markdown table as one of the page."""
    head, _, *rest = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return Table(head, [[Cell(cell) for cell in cells] for cells in rest])


if __name__ == "__main__":
    main()
