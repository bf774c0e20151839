"""Inputs that a CSV lists: pictures with their classes, and whatever else is known of them, such as groups."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .errors import FormatError, UsageError, shorten
from .inputs import MAX_CLASSES, Listing, is_utf8, number_classes
from .pictures import IMAGE_EXTENSIONS

# Names of columns, as others write them; the first that is there counts.
PATH_COLUMNS = ("file_name", "path", "image")
CLASS_COLUMNS = ("class_name", "class")
LABEL_COLUMNS = ("label", "class_label")
# Before the names of a counterfactual's mechanisms, such as labels.shape.
LABELS = "labels."
MAX_TABLE_BYTES = 1 << 30
# Of what is known of one picture, as JSON.
MAX_DESCRIPTION = 4_000
UNLABELLED = "."


@dataclass(frozen=True)
class Row:
    """A line of the table: a picture's relative path, its class, and the other columns that are not empty."""

    place: str
    label: int | None
    class_name: str | None
    others: Mapping[str, str]


def list_table(path: Path, labelled: bool, where: str) -> Listing:
    """List the pictures that a CSV names, whose paths are relative to its folder.

    Columns: `file_name` (or `path`), `class_name` or `label` (else the folder that a picture is in is its class), and
    any others, which join each sample's json. labelled: every picture must have a class.
    Raises UsageError that begins with `where` and names the line.
    """
    try:
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise FormatError(f"larger than {MAX_TABLE_BYTES:,} bytes")
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(_read_rows(file))
        if not rows:
            raise FormatError("lists no picture")
        labels, names = number_classes(rows, labelled)
        if len(names) > MAX_CLASSES:
            raise FormatError(f"{len(names):,} classes; at most {MAX_CLASSES:,}")
        width = len(str(len(names) - 1))
        listed = sorted(
            (f"{UNLABELLED if not names else f'{label:0{width}d}'}/{row.place}", _describe(row, names), row.place)
            for row, label in zip(rows, labels, strict=True)
        )
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{where}: not a CSV: {shorten(str(error))}") from error
    except FormatError as error:
        raise UsageError(f"{where}: {error}") from error
    sizes = tuple(_size(path.parent / place) for _, _, place in listed)
    if not any(sizes):
        raise UsageError(f"{where}: none of its pictures is there, e.g. {path.parent / listed[0][2]}")
    return Listing(
        str(path.parent.resolve()),
        tuple(f"{label:0{width}d}" for label in range(len(names))),
        tuple(listed_path for listed_path, _, _ in listed),
        sizes,
        names=names,
        described=tuple(description for _, description, _ in listed),
    )


def _read_rows(file: Iterator[str]) -> Iterator[Row]:
    reader = csv.DictReader(file, strict=True)
    columns = list(reader.fieldnames or [])
    doubled = next((name for name in columns if columns.count(name) > 1), None)
    if doubled is not None:
        raise FormatError(f"two columns {shorten(doubled)!r}")
    path_column = next((name for name in PATH_COLUMNS if name in columns), None)
    if path_column is None:
        raise FormatError(
            f"no column {' or '.join(PATH_COLUMNS)}; its columns: {shorten(', '.join(columns)) or 'none'}"
        )
    class_column = next((name for name in CLASS_COLUMNS if name in columns), None)
    label_column = next((name for name in LABEL_COLUMNS if name in columns), None)
    known = (path_column, class_column, label_column)
    seen: set[str] = set()
    for cells in reader:
        where = f"line {reader.line_num}"
        if None in cells or None in cells.values():
            raise FormatError(f"{where}: expected {len(columns)} cells")
        place = _check_path(cells[path_column], where)
        if place in seen:
            raise FormatError(f"{where}: {shorten(place)} stands there twice")
        seen.add(place)
        others = {name: value for name, value in cells.items() if value and name not in known}
        name = _class_name(cells, class_column, label_column, place)
        yield Row(place, _label(cells, label_column, where), name, others)


def _check_path(text: str, where: str) -> str:
    path = PurePosixPath(text)
    place = str(path)
    if not text or path.is_absolute() or ".." in path.parts or not place.isprintable() or not is_utf8(place):
        raise FormatError(f"{where}: {shorten(text)!r}: expected a path below the table's folder")
    if path.suffix.lower() not in IMAGE_EXTENSIONS:
        raise FormatError(f"{where}: {shorten(place)}: no picture by its name")
    return place


def _label(cells: Mapping[str, str], column: str | None, where: str) -> int | None:
    if column is None:
        return None
    text = cells[column].strip()
    if not (text.isascii() and text.isdecimal() and len(text) <= 6):
        raise FormatError(f"{where}: {column} = {shorten(text)!r}: expected a class number; names are in class_name")
    return int(text)


def _class_name(cells: Mapping[str, str], column: str | None, label_column: str | None, place: str) -> str | None:
    if column is not None:
        name = cells[column].strip()
        if not name.isprintable():
            raise FormatError(f"{shorten(place)}: {column} = {shorten(repr(name))}: expected a name in one line")
        return name or None
    folder, slash, _ = place.partition("/")
    return folder if slash and label_column is None else None


def _describe(row: Row, names: tuple[str, ...]) -> str:
    """The other columns as JSON; labels of mechanisms are class numbers."""
    described: dict[str, object] = {}
    labels: dict[str, int] = {}
    for name, text in row.others.items():
        if not name.startswith(LABELS):
            described[name] = text
        elif text in names:
            labels[name.removeprefix(LABELS)] = names.index(text)
        elif text.isascii() and text.isdecimal() and len(text) <= 6 and int(text) < len(names):
            labels[name.removeprefix(LABELS)] = int(text)
        else:
            raise FormatError(
                f"{shorten(row.place)}: {name} = {shorten(text)!r}: no class; expected a name or a number"
            )
    found = json.dumps({**described, **({"labels": labels} if labels else {})}, sort_keys=True)
    if len(found) > MAX_DESCRIPTION:
        raise FormatError(
            f"{shorten(row.place)}: {len(found):,} characters in other columns; at most {MAX_DESCRIPTION:,}"
        )
    return found


def _size(path: Path) -> int:
    """0 for a file that is not there, which leaves a hole."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
