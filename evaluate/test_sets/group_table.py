"""A table of images with label and group of each: Waterbirds, CelebA, or any set of one's own."""

import csv
import os
from dataclasses import dataclass
from pathlib import Path

from ...manifests.errors import FormatError, UsageError, shorten
from .test_set import FileSet, Grouping, group_images

COLUMNS = ("path", "label", "group")


@dataclass(frozen=True)
class GroupedSet(FileSet):
    """Images with the group of each."""

    path_groups: tuple[str, ...] = ()

    def grouping(self) -> Grouping:
        return group_images(self.path_groups, self.name)


def open_group_table(location: str, where: str) -> list[GroupedSet]:
    """The images of a CSV with the columns path (from the table's folder on), label (a class's name) and group.

    Raises UsageError where there is no such file, FormatError with the line that is wrong.
    """
    path = Path(location)
    if not path.is_file():
        raise UsageError(f"{where}: no such file; expected a CSV with the columns {', '.join(COLUMNS)}")
    rows = _read_rows(path)
    sizes, seen = [], set()
    for line, row in rows:
        if row["path"] in seen:
            raise FormatError(f"{path}: line {line}: {shorten(row['path'])} stands there twice")
        seen.add(row["path"])
        try:
            sizes.append(os.stat(path.parent / row["path"]).st_size)
        except (OSError, ValueError) as error:
            raise FormatError(f"{path}: line {line}: no file {shorten(row['path'])} in {path.parent}") from error
    names = tuple(sorted({row["label"] for _, row in rows}))
    labels = {name: label for label, name in enumerate(names)}
    return [
        GroupedSet(
            name=path.stem,
            protocol="the classifier's own resize and crop; label of the table, matched with its classes by name",
            class_names=names,
            root=str(path.parent.resolve()),
            paths=tuple(row["path"] for _, row in rows),
            sizes=tuple(sizes),
            path_labels=tuple((labels[row["label"]],) for _, row in rows),
            marked="own",
            path_groups=tuple(row["group"] for _, row in rows),
        )
    ]


def _read_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Line and columns of each image. Raises FormatError."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            known = reader.fieldnames or ()
            lacking = [name for name in COLUMNS if name not in known]
            if lacking:
                raise FormatError(
                    f"{path}: line 1: no column {lacking[0]}; expected {', '.join(COLUMNS)}, found "
                    f"{shorten(', '.join(known))}"
                )
            rows = [(reader.line_num, {name: (row[name] or "").strip() for name in COLUMNS}) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise FormatError(f"{path}: no CSV: {shorten(str(error))}") from error
    if not rows:
        raise FormatError(f"{path}: no image in it")
    for line, row in rows:
        empty = next((name for name in COLUMNS if not row[name]), None)
        if empty:
            raise FormatError(f"{path}: line {line}: no {empty}")
    return rows
