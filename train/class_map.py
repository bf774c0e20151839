"""The classes of a run, where streams name theirs otherwise or only some of them take part."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from ..manifests.errors import UsageError, shorten
from ..manifests.inputs import imagenet_wnids
from ..manifests.recipe import suggest
from ..manifests.toml import parse_toml
from .mapped_images import MappedImages
from .streams import Images, TrainStream

# In a class map: streams that have no table of their own.
EVERY = "every-stream"
CSV_HEADER = ["stream", "class", "run_class"]
MAX_BYTES = 10_000_000

ClassMap = Mapping[str, Mapping[str, str]]


def load_class_map(path: Path) -> dict[str, dict[str, str]]:
    """Read a class map: by stream (or `every-stream`), class of the stream to class of the run.

    TOML: `[STREAM]` tables of "class" = "class of the run"; what stands before the first table is for every stream.
    CSV: columns stream, class, run_class; an empty stream means every one. Raises UsageError.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"--class-map {path}: larger than {MAX_BYTES:,} bytes")
        text = path.read_text("utf-8-sig")
    except FileNotFoundError as error:
        raise UsageError(f"--class-map {path}: no such file") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--class-map {path}: not UTF-8") from error
    try:
        return _read_csv(text) if path.suffix == ".csv" else _read_toml(text)
    except ValueError as error:
        raise UsageError(f"--class-map {path}: {shorten(str(error), 400)}") from error


def map_classes(
    streams: Sequence[TrainStream], class_map: ClassMap, classes: Sequence[str] | None, training: Sequence[str]
) -> list[TrainStream]:
    """The streams under the classes of the run: those that `classes` names, or that the map leads to.

    training: names of the natural training streams, whose tables validation images share. Raises UsageError where a
    name is of no stream or class, or a stream has no image of any class of the run.
    """
    lists = [_class_names(stream, streams) for stream in streams]
    _check_keys(class_map, streams, lists)
    if classes is None:
        run = tuple(dict.fromkeys(target for table in class_map.values() for target in table.values()))
    else:
        run = _chosen(classes, class_map, lists)
    mapped = []
    for stream, names in zip(streams, lists, strict=True):
        mapping = _mapping(names, _table(stream.name, class_map, training), run)
        if all(label is None for label in mapping):
            raise UsageError(
                f"stream {stream.name}: none of its classes ({_few(names)}) is one of the run's ({_few(run)}); say "
                f"which is which in class_map.{stream.name} (--class-map FILE), or leave it out with --streams"
            )
        images = MappedImages(stream.images, mapping, run)
        if not len(images):
            raise UsageError(f"stream {stream.name}: has no image of the run's classes ({_few(run)})")
        mapped.append(replace(stream, images=images))
    return mapped


def _read_toml(text: str) -> dict[str, dict[str, str]]:
    tree = parse_toml(text)
    tables = {name: value for name, value in tree.items() if isinstance(value, dict)}
    every = {name: value for name, value in tree.items() if not isinstance(value, dict)}
    if every:
        tables[EVERY] = {**tables.get(EVERY, {}), **every}
    for stream, table in tables.items():
        for name, value in table.items():
            if not isinstance(value, str) or not value:
                raise ValueError(f'{stream}.{name} = {shorten(repr(value))}: expected the name of a class, as "cat"')
    return tables


def _read_csv(text: str) -> dict[str, dict[str, str]]:
    try:
        rows = list(csv.reader(text.splitlines(), strict=True))
    except csv.Error as error:
        raise ValueError(str(error)) from error
    first = [cell.strip() for cell in rows[0]] if rows else []
    if first != CSV_HEADER:
        raise ValueError(f"expected a first line {','.join(CSV_HEADER)}, found {shorten(','.join(first))!r}")
    tables: dict[str, dict[str, str]] = {}
    for number, row in enumerate(rows[1:], 2):
        if not row:
            continue
        cells = [cell.strip() for cell in row]
        if len(cells) != len(CSV_HEADER) or not all(cells[1:]):
            raise ValueError(f"line {number}: expected {','.join(CSV_HEADER)}")
        stream, name, target = cells
        if tables.setdefault(stream or EVERY, {}).setdefault(name, target) != target:
            raise ValueError(f"line {number}: class {name!r} of {stream or EVERY} stands there twice")
    return tables


def _check_keys(class_map: ClassMap, streams: Sequence[TrainStream], lists: Sequence[tuple[str, ...]]) -> None:
    """Raise UsageError for a stream or a class that is not there."""
    known = [EVERY, *dict.fromkeys(stream.name for stream in streams)]
    for name, table in class_map.items():
        if name not in known:
            raise UsageError(f"class_map.{shorten(name)}: no such stream{suggest(name, known)}")
        pairs = zip(streams, lists, strict=True)
        own = dict.fromkeys(names for stream, names in pairs if name in (EVERY, stream.name))
        for key in table:
            if all(_place(key, names) is None for names in own):
                classes = [one for names in own for one in names]
                raise UsageError(f"class_map.{name}: no class {shorten(key)!r}{suggest(key, classes)}")


def _table(stream: str, class_map: ClassMap, training: Sequence[str]) -> dict[str, str]:
    """What the map says of a stream: its own table, or that of the training images that it validates, over all's."""
    own = class_map.get(stream)
    if own is None and stream.startswith("validation "):
        own = class_map.get(stream.removeprefix("validation "))
        if own is None:
            own = {name: target for other in training for name, target in class_map.get(other, {}).items()}
    return {**class_map.get(EVERY, {}), **(own or {})}


def _class_names(stream: TrainStream, streams: Sequence[TrainStream]) -> tuple[str, ...]:
    """Names of a stream's classes; of one that only numbers them, those of a stream that has as many."""
    images: Images = stream.images
    if images.names_classes:
        return images.class_names
    if len(images.class_names) == len(imagenet_wnids()):
        return imagenet_wnids()
    others = [other.images.class_names for other in streams if other.images.names_classes]
    return next((names for names in others if len(names) == len(images.class_names)), images.class_names)


def _chosen(classes: Sequence[str], class_map: ClassMap, lists: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The classes that a run names: of the map, or of a stream by name, English name or number."""
    targets = {target for table in class_map.values() for target in table.values()}
    run = []
    for name in classes:
        if name in targets:
            run.append(name)
            continue
        found = [names[place] for names in lists if (place := _place(name, names)) is not None]
        if not found:
            known = sorted(targets) + [one for names in dict.fromkeys(lists) for one in names]
            raise UsageError(f"--classes: no stream has a class {shorten(name)!r}{suggest(name, known)}")
        run.append(found[0])
    doubled = next((name for name in run if run.count(name) > 1), None)
    if doubled is not None:
        raise UsageError(f"--classes: {doubled!r} stands there twice")
    return tuple(run)


def _mapping(names: tuple[str, ...], table: Mapping[str, str], run: tuple[str, ...]) -> list[int | None]:
    """Class of the run, or None, for each class of a stream: by the map, else by its name."""
    labels = {name: label for label, name in enumerate(run)}
    mapping = [labels.get(name) for name in names]
    for key, target in table.items():
        place = _place(key, names)
        if place is not None:
            mapping[place] = labels.get(target)
    return mapping


def _place(name: str, names: tuple[str, ...]) -> int | None:
    """The class of that name, that English name (of ImageNet's), or that number; None where there is none."""
    if name in names:
        return names.index(name)
    if name.isascii() and name.isdecimal() and len(name) <= 6:
        return int(name) if int(name) < len(names) else None
    wnid = _english_names().get(name.lower()) if _are_wnids(names) else None
    return names.index(wnid) if wnid in names else None


@cache
def _are_wnids(names: tuple[str, ...]) -> bool:
    return set(names) <= set(imagenet_wnids())


@cache
def _english_names() -> dict[str, str]:
    """wnid of each of ImageNet's English class names, less the two that stand for two classes each."""
    from .vision import models

    names = [name.lower() for name in models.ResNet18_Weights.IMAGENET1K_V1.meta["categories"]]
    return {name: wnid for name, wnid in zip(names, imagenet_wnids(), strict=True) if names.count(name) == 1}


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
