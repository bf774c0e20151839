"""Heads in the report: how each reads the labels of every mechanism."""

from .page import Cell, Section, Table
from .results import Results


def head_section(results: Results) -> Section:
    """The section of the page, a table for each set."""
    tables = []
    for test_set in dict.fromkeys(entry.test_set for entry in results.heads):
        found = {(e.checkpoint, e.head, e.label): e for e in results.heads if e.test_set == test_set}
        labels = list(dict.fromkeys(label for _, _, label in found))
        rows = []
        for checkpoint, head in dict.fromkeys((checkpoint, head) for checkpoint, head, _ in found):
            row = [Cell(checkpoint), Cell(head)]
            for label in labels:
                entry = found.get((checkpoint, head, label))
                if entry is None:
                    row.append(Cell("–"))
                    continue
                interval = f"{100 * entry.interval[0]:.1f} to {100 * entry.interval[1]:.1f}"
                loss = "" if entry.nll is None else f"; cross-entropy {entry.nll:.3f}"
                row.append(Cell(f"{100 * entry.top1:.2f}", interval + loss, "best" if label == head else ""))
            rows.append(row)
        images = next(iter(found.values())).images
        heading = f"{test_set}, n = {images:,}"
        tables.append(Table([heading, "head", *(f"label of the {label}" for label in labels)], rows))
    text = (
        "Share in percent of samples for which a head answers with the label of a mechanism, its own in bold, with "
        "Wilson's interval and the mean cross-entropy in nats. Where labels are drawn independently, a head that "
        "reads its mechanism alone is at chance on the others."
    )
    return Section("Heads", [text], tables)
