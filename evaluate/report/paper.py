"""The paper's numbers (Mao et al. 2021, tables 1 to 4), each with its source, to stand beside measured ones."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final, Literal

# How a method is called in the name of a preset: `resnet18-genint-transfer`, `resnet152-mixup-additional`. The
# suffix is for additional augmentation, which table 1 alone tells apart.
METHODS: Final = {
    "imagenet-only": "ImageNet only",
    "stylized": "Stylized ImageNet",
    "mixup": "Mixup",
    "autoaugment": "AutoAugment",
    "gan-augmentation": "GAN augmentation",
    "genint": "GenInt",
    "genint-transfer": "GenInt + Transfer",
}
ADDITIONAL: Final = "-additional"


@dataclass(frozen=True)
class Cell:
    """One number of a table, in percent.

    arch and augmentation are None where the table does not tell rows apart by them. `origin` says whether the paper's
    authors measured it or took it from elsewhere; `source` says where it stands.
    """

    table: str
    row: str
    arch: str | None
    augmentation: str | None
    test_set: str
    metric: str
    value: float
    origin: Literal["measured", "quoted"]
    source: str


@cache
def paper_cells() -> tuple[Cell, ...]:
    """All cells, table by table."""
    document = json.loads((files(__package__) / "data" / "paper.json").read_text("utf-8"))
    return tuple(cell for table in document["tables"] for cell in _cells_of(table))


def paper_accuracy(name: str, test_set: str) -> float | None:
    """Top-1 in percent that the paper has for a checkpoint of that name (ARCH-METHOD[-additional]) on a test set, or
    None. AlexNet's and table 4's rows have no such name."""
    return _of_row(name, test_set).get("top1")


def paper_corruption(name: str) -> dict[str, float]:
    """ "mce" and CE by corruption, in percent, for a checkpoint of that name; empty where table 2 has no such row."""
    return _of_row(name, "imagenet-c")


def _of_row(name: str, test_set: str) -> dict[str, float]:
    arch, _, method = name.removesuffix(ADDITIONAL).partition("-")
    augmentation = "additional" if name.endswith(ADDITIONAL) else "standard"
    # Tables 2 and 3 do not say which augmentation their rows had: they are shown for the standard one alone.
    return {
        cell.metric: cell.value
        for cell in paper_cells()
        if cell.table != "4"
        and cell.test_set == test_set
        and cell.row == METHODS.get(method)
        and cell.arch == arch
        and (cell.augmentation or "standard") == augmentation
    }


def _cells_of(table: Mapping[str, Any]) -> list[Cell]:
    columns = table["columns"]
    quoted = {(entry["row"], column): entry["from"] for entry in table["quoted"] for column in entry["columns"]}
    cells = []
    for row in table["rows"]:
        for number, (column, value) in enumerate(zip(columns, row["values"], strict=True)):
            taken = quoted.get((row["row"], number))
            cells.append(
                Cell(
                    table=table["table"],
                    row=row["row"],
                    arch=column["arch"] or row.get("arch"),
                    augmentation=column["augmentation"],
                    test_set=column["test_set"],
                    metric=column["metric"],
                    value=float(value),
                    origin="quoted" if taken else "measured",
                    source=f"table {table['table']}, row {row['row']}, {column['test_set']} {column['metric']}"
                    + (f", quoted from {taken}" if taken else ""),
                )
            )
    return cells
