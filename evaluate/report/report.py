"""The report: results.json as one HTML page, and its first table for the terminal."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from matplotlib.figure import Figure

from ...manifests.storage import Storage
from .groups import group_lines, group_section
from .heads import head_section
from .means import Mean, accuracies_by_row, group_accuracies, plain_mean
from .page import Cell, Section, Table, draw_figure, embed_file, render_page
from .paper import paper_accuracy, paper_corruption
from .results import Accuracy, Analysis, Bias, Clustered, CorruptionErrors, Results
from .robustness import robustness_section
from .seeds import seed_section
from .sentences import difference_sentences
from .summary import summarize

PAGE = "index.html"
# Bars of more test sets than this are no picture any more.
MAX_PLOTTED = 12
# The analysis whose first figure opens the page.
GRAD_CAM = "grad-cam"

PLURALS = {"class": "classes", "latent": "latents", "mask": "masks", "photo": "photos"}

Named = TypeVar("Named")


def accuracy_lines(results: Results) -> list[str]:
    """The first table of a report as plain text: a row a group, top-1 in percent with its interval, and the mean of
    corrupted sets; and what the differences amount to."""
    means, heads = group_accuracies(results), _corruption_means(results)
    names = [name for name in _test_sets(results) if not _is_corruption(results, name)]
    copies = _unique(name for _, name in heads)
    with_mce = {entry.test_set for entry in results.corruption if entry.mce is not None}
    counts = _counts(results)
    tested = [f"{name} (n = {counts[name]:,})" for name in names]
    rows = [["top-1, %", *tested, *(f"{name} {'mCE' if name in with_mce else 'mean error'}" for name in copies)]]
    for group in _groups(results):
        found = [means.get((group, name)) for name in names]
        cells = [f"{mean.percent} ({mean.interval})" if mean else "-" for mean in found]
        rows.append([group, *cells, *(f"{heads[group, n]:.2f}" if (group, n) in heads else "-" for n in copies)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    notes = _unique(f"{e.test_set}: {note}" for e in results.accuracy if e.test_set in names for note in e.notes)
    return [
        *_columns(rows, widths), *difference_sentences(results), *notes, *group_lines(results), *_self_checks(results)
    ]  # fmt: skip


def _self_checks(results: Results) -> list[str]:
    """AlexNet is the unit of CE: on an official copy, read as published, its own mCE is 100."""
    alexnets = {entry.name for entry in results.checkpoints if entry.location.startswith("torchvision:alexnet")}
    return [
        f"self-check: mCE of {entry.checkpoint} on {entry.test_set} is {entry.mce:.1f}; it must be 100.0"
        for entry in results.corruption
        if entry.checkpoint in alexnets and entry.mce is not None
    ]


def _columns(rows: Sequence[Sequence[str]], widths: Sequence[int]) -> list[str]:
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _corruption_means(results: Results) -> dict[tuple[str, str], float]:
    """mCE, or the mean error of a generated copy, by (group, corrupted set), in percent."""
    group_of = {entry.name: entry.group for entry in results.checkpoints}
    values: dict[tuple[str, str], list[float]] = {}
    for entry in results.corruption:
        values.setdefault((group_of[entry.checkpoint], entry.test_set), []).append(_head(entry))
    return {place: plain_mean(found) for place, found in values.items()}


def write_report(folder: Path, results: Results) -> Path:
    """Write the page beside results.json and return its path."""
    names = [entry.name for entry in results.checkpoints]
    measured = f"{', '.join(names[:4])}{' and others' if len(names) > 4 else ''}. " if names else ""
    subtitle = f"{measured}{results.finished}"
    page = render_page("genint-evaluate", subtitle, list(_sections(results, folder)), _summary(results, folder))
    Storage(folder).write(PAGE, page.encode())
    return folder / PAGE


def _sections(results: Results, folder: Path) -> Iterator[Section]:
    if any(not _is_corruption(results, name) for name in _test_sets(results)):
        yield _accuracy_section(results)
    top1 = {place: mean.value for place, mean in group_accuracies(results).items()}
    robustness = robustness_section(results, top1)
    if robustness:
        yield robustness
    if results.row_differences:
        yield seed_section(results)
    if results.differences:
        yield _difference_section(results)
    if results.groups:
        yield group_section(results)
    if results.corruption:
        yield _corruption_section(results)
    if results.heads:
        yield head_section(results)
    if results.biases:
        yield _bias_section(results)
    for analysis in results.analyses.values():
        yield _analysis_section(analysis, folder)
    yield _condition_section(results)


def _summary(results: Results, folder: Path) -> Section:
    """What a reader wants first: who is best, and where the classifiers look, if that was measured."""
    looks = results.analyses.get(GRAD_CAM)
    figures = list(looks.figures.items())[:1] if looks else []
    sets = [name for name in _test_sets(results) if not _is_corruption(results, name)]
    pictures = [embed_file(folder / name, caption) for name, caption in figures]
    return Section("In short", summarize(results, sets), figures=pictures)


def _accuracy_section(results: Results) -> Section:
    means, groups = group_accuracies(results), _groups(results)
    names = [name for name in _test_sets(results) if not _is_corruption(results, name)]
    members = accuracies_by_row(results)
    first = {entry.group: entry for entry in reversed(results.checkpoints)}
    marks = {entry.test_set: entry.marked for entry in results.accuracy}
    rows = []
    for group in groups:
        row = [Cell(group, _members(results, group))]
        for name in names:
            mean = means.get((group, name))
            if mean is None:
                row.append(Cell("–"))
                continue
            others = [means[other, name].value for other in groups if (other, name) in means]
            best = len(others) > 1 and mean.value == max(others)
            own = members[group, name][0]
            # The paper's number stands beside that of a published set alone, and one that is whole.
            published = own.marked == "official" and not own.incomplete
            paper = paper_accuracy(first[group].preset or group, name) if published else None
            note = mean.interval if mean.seeds > 1 else _image_intervals(own)
            row.append(Cell(mean.percent, note + (f"; paper {paper}" if paper else ""), _bold(best)))
        rows.append(row)
    counts = _counts(results)
    lacking = {entry.test_set for entry in results.accuracy if entry.incomplete}
    columns = [
        f"{name}{' (generated)' if marks[name] == 'generated' else ''}{' (incomplete)' if name in lacking else ''}, "
        f"n = {counts[name]:,}"
        for name in names
    ]
    texts = [
        "Top-1 accuracy in percent; below it the 95 % interval: over the seeds of a row (Student's t), or over the "
        "images where a row is one checkpoint (Wilson). Images of one latent, mask, photo or class are no independent "
        "draws: where a set names them, a second interval is over these (bootstrap; over classes, as other classes "
        "might have been drawn). The best of each column is bold."
    ]
    tables = [Table(["", *columns], rows)]
    if any(entry.ece is not None for entry in results.accuracy):
        texts.append(
            "Second table: expected calibration error in percent (15 bins of equal width; 0 where a classifier is as "
            "often right as it is sure), and below it the mean negative log probability of the right labels, in nats."
        )
        tables.append(_calibration_table(members, groups, names, columns))
    plotted = names[:MAX_PLOTTED]
    figure = draw_figure(_plot_accuracies(means, groups, plotted), "Top-1 accuracy with 95 % intervals.")
    return Section("Test sets", texts, tables, [figure])


def _calibration_table(
    members: dict[tuple[str, str], list[Accuracy]], groups: Sequence[str], names: Sequence[str], columns: Sequence[str]
) -> Table:
    rows = []
    for group in groups:
        row = [Cell(group)]
        for name in names:
            known = [
                entry for entry in members.get((group, name), []) if entry.ece is not None and entry.nll is not None
            ]
            if known:
                error, likelihood = plain_mean([e.ece or 0.0 for e in known]), plain_mean([e.nll or 0.0 for e in known])
                row.append(Cell(f"{100 * error:.2f}", f"NLL {likelihood:.3f}"))
            else:
                row.append(Cell("–"))
        rows.append(row)
    return Table(["calibration", *columns], rows)


def _plot_accuracies(means: dict[tuple[str, str], Mean], groups: Sequence[str], names: Sequence[str]) -> Figure:
    figure = Figure(figsize=(2.2 + 1.9 * len(names), 0.9 + 0.34 * len(groups)))
    for i, axes in enumerate(np.atleast_1d(figure.subplots(1, len(names), sharey=True, squeeze=True))):
        found = [(y, means[group, names[i]]) for y, group in enumerate(groups) if (group, names[i]) in means]
        values = np.array([[100 * mean.value, 100 * mean.low, 100 * mean.high] for _, mean in found])
        axes.errorbar(
            values[:, 0], [y for y, _ in found], xerr=np.abs(values[:, 1:] - values[:, :1]).T, fmt="o", capsize=3
        )
        axes.set_title(names[i], fontsize=9)
        axes.set_yticks(range(len(groups)), groups)
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.grid(axis="x", alpha=0.3)
        axes.tick_params(labelsize=8)
    return figure


def _difference_section(results: Results) -> Section:
    names = _unique(entry.test_set for entry in results.differences)
    found = {(entry.checkpoint, entry.test_set): entry for entry in results.differences}
    rows = []
    for checkpoint in _unique(entry.checkpoint for entry in results.differences):
        row = [Cell(checkpoint)]
        for name in names:
            entry = found.get((checkpoint, name))
            row.append(
                Cell(
                    f"{100 * entry.difference:+.2f}",
                    f"{100 * entry.interval[0]:+.2f} to {100 * entry.interval[1]:+.2f}"
                    + _over(entry.clustered, 100, "+"),
                )
                if entry
                else Cell("–")
            )
        rows.append(row)
    counts = {entry.test_set: entry.images for entry in results.differences}
    columns = [f"{name}, n = {counts[name]:,}" for name in names]
    baseline = results.differences[0].baseline
    text = (
        f"Differences in top-1 accuracy from {baseline}, in percentage points, on the same images, with 95 % intervals "
        "from a paired bootstrap over images, and over latents, masks, photos or classes where the set names them. "
        "Variation between training seeds is not included."
    )
    return Section("Differences", [text], [Table(["", *columns], rows)])


def _corruption_section(results: Results) -> Section:
    group_of = {entry.name: entry.group for entry in results.checkpoints}
    presets = {entry.group: entry.preset for entry in reversed(results.checkpoints)}
    tables, texts = [], []
    for test_set in _unique(entry.test_set for entry in results.corruption):
        entries = [entry for entry in results.corruption if entry.test_set == test_set]
        has_ce = entries[0].mce is not None
        sizes = f" ({entries[0].images:,} images of each corruption and severity)" if entries[0].images else ""
        groups = _unique(group_of[entry.checkpoint] for entry in entries)
        members = {group: [e for e in entries if group_of[e.checkpoint] == group] for group in groups}
        heads = {group: plain_mean([_head(entry) for entry in own]) for group, own in members.items()}
        # Some may have the extra corruptions, and others the 15 alone.
        names = _unique(name for entry in entries for name in entry.error)
        rows = []
        for group, own in members.items():
            paper = paper_corruption(presets[group] or group) if has_ce else {}
            best = len(groups) > 1 and heads[group] == min(heads.values())
            row = [
                Cell(group, _members(results, group)),
                Cell(f"{heads[group]:.2f}", _head_note(own, paper), _bold(best)),
            ]
            if has_ce:
                relative = [entry.relative_mce for entry in own if entry.relative_mce is not None]
                row.append(Cell(f"{plain_mean(relative):.2f}" if relative else "–"))
            for name in names:
                values = [errors[name] for errors in (entry.ce or entry.error for entry in own) if name in errors]
                row.append(Cell(f"{plain_mean(values):.1f}", _paper(paper, name)) if values else Cell("–"))
            rows.append(row)
        if has_ce:
            texts.append(f"{test_set}{sizes}: CE in percent of AlexNet's errors, and their mean (mCE).")
            columns = ["", "mCE", "relative mCE", *names]
        elif entries[0].marked == "official":
            texts.append(f"{test_set}{sizes}: top-1 errors in percent; there are no constants of AlexNet's for a CE.")
            columns = ["", "mean error", *names]
        else:
            texts.append(
                f"{test_set}{sizes}: a copy that genint-evaluate corrupted itself. Top-1 errors in percent, as they "
                "are: AlexNet's constants, and the paper's numbers, do not apply."
            )
            columns = ["", "mean error", *names]
        tables.append(Table(columns, rows))
    return Section("Corruptions", [*texts, *_self_checks(results)], tables)


def _bias_section(results: Results) -> Section:
    group_of = {entry.name: entry.group for entry in results.checkpoints}
    names = _unique(entry.name for entry in results.biases)
    rows = []
    for group in _unique(group_of[entry.checkpoint] for entry in results.biases):
        row = [Cell(group, _members(results, group))]
        for name in names:
            own = [entry for entry in results.biases if group_of[entry.checkpoint] == group and entry.name == name]
            row.append(Cell(f"{100 * plain_mean([e.value for e in own]):.2f}", _bias_note(own)) if own else Cell("–"))
        rows.append(row)
    texts = _unique(f"{entry.name[0].upper()}{entry.name[1:]}: {entry.words}." for entry in results.biases)
    return Section(
        "Biases", ["In percent. A description, no measure of robustness.", *texts], [Table(["", *names], rows)]
    )


def _bias_note(members: Sequence[Bias]) -> str:
    interval = members[0].interval if len(members) == 1 else None
    ends = f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}; " if interval else ""
    return f"{ends}{members[0].images:,} images"


def _analysis_section(analysis: Analysis, folder: Path) -> Section:
    table = Table(analysis.columns, [[Cell(text) for text in row] for row in analysis.rows])
    figures = [embed_file(folder / name, caption) for name, caption in analysis.figures.items()]
    return Section(analysis.title, analysis.texts, [table] if analysis.rows else [], figures)


def _condition_section(results: Results) -> Section:
    checkpoints = Table(
        ["checkpoint", "row", "arch", "step", "seed", "sha256", "location"],
        [
            [Cell(e.name), Cell(e.group), Cell(e.arch), Cell(_known(e.step)), Cell(_known(e.seed)), Cell(e.sha256[:12]),
             Cell(e.location)]
            for e in results.checkpoints
        ],
    )  # fmt: skip
    sets = {entry.test_set: entry for entry in reversed(results.accuracy)}
    test_sets = Table(
        ["test set", "images", "digest", "protocol"],
        [
            [
                Cell(n),
                Cell(f"{sets[n].images:,}"),
                Cell(sets[n].digest[:12]),
                Cell("; ".join((sets[n].protocol, *sets[n].notes)), kind="words"),
            ]
            for n in _test_sets(results)
            if not _is_corruption(results, n)
        ],
    )
    names = _unique(name for environment in results.environments.values() for name in environment)
    environments = Table(
        ["environment", *names],
        [[Cell(key), *(Cell(e.get(name, "–")) for name in names)] for key, e in results.environments.items()],
    )
    tables = [table for table in (checkpoints, test_sets, environments) if table.rows]
    return Section("Conditions", ["What was measured, on what, and with which versions."], tables)


def _head(entry: CorruptionErrors) -> float:
    return entry.mean_error if entry.mce is None else entry.mce


def _bold(best: bool) -> str:
    return "best" if best else ""


def _paper(values: dict[str, float], name: str) -> str:
    return f"paper {values[name]:g}" if name in values else ""


def _image_intervals(entry: Accuracy) -> str:
    low, high = entry.top1_interval
    return f"{100 * low:.1f} to {100 * high:.1f}{_over(entry.clustered, 100)}, top-5 {100 * entry.top5:.1f}"


def _over(clustered: Clustered | None, scale: float = 1, sign: str = "") -> str:
    """The interval over clusters, as it follows another."""
    if clustered is None:
        return ""
    low, high = (f"{scale * end:{sign}.2f}" if sign else f"{scale * end:.1f}" for end in clustered.interval)
    return f"; over {clustered.clusters:,} {PLURALS.get(clustered.unit, clustered.unit)} {low} to {high}"


def _known(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _members(results: Results, group: str) -> str:
    count = sum(entry.group == group for entry in results.checkpoints)
    return f"{count} seeds" if count > 1 else ""


def _is_corruption(results: Results, test_set: str) -> bool:
    """One of the many sets that are told as corruption errors instead."""
    return any(test_set.startswith(f"{entry.test_set}/") for entry in results.corruption)


def _groups(results: Results) -> list[str]:
    return _unique(entry.group for entry in results.checkpoints)


def _head_note(members: Sequence[CorruptionErrors], paper: dict[str, float]) -> str:
    """Interval of a row's head over photos where it is one checkpoint, and the paper's number."""
    own = _over(members[0].clustered).removeprefix("; ") if len(members) == 1 else ""
    return "; ".join(filter(None, (own, _paper(paper, "mce"))))


def _counts(results: Results) -> dict[str, int]:
    return {entry.test_set: entry.images for entry in results.accuracy}


def _test_sets(results: Results) -> list[str]:
    return _unique(entry.test_set for entry in results.accuracy)


def _unique(values: Iterable[Named]) -> list[Named]:
    return list(dict.fromkeys(values))
