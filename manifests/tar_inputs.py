"""Inputs in WebDataset tars that others made, or that are another dataset's stream: listed once, without an index."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .digits import list_digits
from .errors import FormatError, GenintError, UsageError
from .inputs import Listing, Tar, list_images, list_pictures
from .manifest import MANIFEST, load_manifest
from .pictures import IMAGE_EXTENSIONS
from .shard import Member, iterate_members
from .sources.stream import InputKind
from .storage import Storage

# A class label is a few digits, and what describes a sample fits a screen; more is not read.
MAX_LABEL_BYTES = 64
MAX_JSON_BYTES = 1 << 20
UNLABELLED = "."


@dataclass(frozen=True)
class TarSample:
    """An image in a tar: the member, and what its sample's `.cls` and the `class_name` of its `.json` say, if there."""

    tar: str
    name: str
    member: Member
    label: int | None
    class_name: str | None

    @property
    def place(self) -> str:
        return f"{self.tar}/{self.name}"


def list_input(kind: InputKind, root: str, name: str, former: Listing | None = None) -> Listing:
    """List an input of images: a folder of them, a tar, or a folder of tars such as a dataset's stream.

    former: an earlier list of the same input, kept where its tars are still the same (by name and size).
    Raises UsageError that names the input for whatever cannot be listed.
    """
    if "://" in root or root.startswith("pipe:"):
        raise UsageError(f"--input {name}={root}: commands and URLs are refused; expected a folder or a tar here")
    if kind == "digits":
        return list_digits(root, name)
    tars = find_tars(root, name)
    if not tars:
        return list_images(root, name) if kind == "class folders" else list_pictures(root, name)
    top = Path(root) if Path(root).is_dir() else Path(root).parent
    if former is not None and former.tars == tars:
        return Listing(str(top.resolve()), *_fields(former))
    try:
        return list_tars(top, tars, kind == "class folders", _class_names(Path(root), tars))
    except (GenintError, PermissionError) as error:
        raise UsageError(f"--input {name}={root}: {error}") from error


def find_tars(root: str, name: str) -> tuple[Tar, ...]:
    """The tar at `root`, or all below it where it is a folder; none where there is an image outside of tars."""
    top = Path(root)
    if top.is_file():
        if top.suffix != ".tar":
            raise UsageError(f"--input {name}={root}: a file; expected a folder or a .tar (not compressed)")
        return (Tar(top.name, top.stat().st_size),)
    if (top / MANIFEST).is_file():
        streams = ", ".join(entry.name for entry in load_manifest(Storage(root)).streams)
        raise UsageError(f"--input {name}={root}: a dataset; expected one of its streams' folders: {streams}")
    found = []
    for parent, _, names in os.walk(top, followlinks=True):
        for file in names:
            path = Path(parent, file)
            if path.suffix.lower() in IMAGE_EXTENSIONS:
                return ()
            if path.suffix == ".tar":
                found.append(Tar(path.relative_to(top).as_posix(), path.stat().st_size))
    for tar in found:
        if ".tar/" in tar.name or "\n" in tar.name:
            raise UsageError(
                f"--input {name}={root}: {tar.name!r}: a folder named .tar, or a name of two lines; rename it"
            )
    return tuple(sorted(found, key=lambda tar: tar.name))


def list_tars(top: Path, tars: tuple[Tar, ...], labelled: bool, class_names: tuple[str, ...] = ()) -> Listing:
    """List the images of tars at or below `top`.

    labelled: every sample must say its class, by a number in `.cls` or the `class_name` of its `.json`; otherwise
    classes are known where every sample says its own. class_names: by number, where they are known already.
    Raises GenintError that names tar and sample.
    """
    samples = [sample for tar in tars for sample in read_tar(top, tar.name)]
    if not samples:
        raise FormatError(f"no image in {len(tars)} tars")
    labels, names = _number_classes(samples, labelled, class_names)
    width = len(str(len(names) - 1))
    rows = sorted(
        (f"{UNLABELLED if not names else f'{label:0{width}d}'}/{sample.place}", sample.member)
        for sample, label in zip(samples, labels, strict=True)
    )
    return Listing(
        str(top.resolve()),
        tuple(f"{label:0{width}d}" for label in range(len(names))),
        tuple(path for path, _ in rows),
        tuple(member.size for _, member in rows),
        tuple(member.offset for _, member in rows),
        names,
        tars,
    )


def read_tar(top: Path, tar: str) -> Iterator[TarSample]:
    """Samples of one tar by its headers; of members, only labels and descriptions are read. Pickles are never touched.

    Raises FormatError where the tar is cut short, or a sample has no image, two, or no meaning as a label.
    """
    with open(top / tar, "rb") as file:
        for key, members in _group(top / tar):
            images = [ext for ext in members if f".{ext}" in IMAGE_EXTENSIONS]
            where = f"{tar}: sample {key!r}"
            if len(images) != 1:
                raise FormatError(f"{where} has {len(images)} images; expected one of {', '.join(members)}")
            if "\n" in key:
                raise FormatError(f"{where}: a name of more than one line")
            label = _read_label(file.fileno(), members.get("cls"), where)
            name = _read_class_name(file.fileno(), members.get("json"), where)
            original, member = members[images[0]]
            yield TarSample(tar, original, member, label, name)


def _group(path: Path) -> Iterator[tuple[str, dict[str, tuple[str, Member]]]]:
    """Samples of a tar: members that follow each other and agree up to the first dot of the name, as in WebDataset."""
    seen: set[str] = set()
    current: str | None = None
    members: dict[str, tuple[str, Member]] = {}
    for name, member in iterate_members(path):
        folder, slash, base = name.rpartition("/")
        stem, dot, extension = base.partition(".")
        if not dot or not stem:
            continue  # as webdataset does: such a member belongs to no sample
        key = f"{folder}{slash}{stem}"
        if key != current:
            if current is not None:
                yield current, members
            if key in seen:
                raise FormatError(f"{path.name}: sample {key!r} stands there twice")
            seen.add(key)
            current, members = key, {}
        if extension.lower() in members:
            raise FormatError(f"{path.name}: member {name!r} stands there twice")
        members[extension.lower()] = (name, member)
    if current is not None:
        yield current, members


def _read_member(file: int, member: tuple[str, Member] | None, limit: int, where: str) -> bytes | None:
    if member is None:
        return None
    name, place = member
    if place.size > limit:
        raise FormatError(f"{where}: {name} of {place.size} bytes; expected at most {limit}")
    return os.pread(file, place.size, place.offset)


def _read_label(file: int, member: tuple[str, Member] | None, where: str) -> int | None:
    content = _read_member(file, member, MAX_LABEL_BYTES, where)
    if content is None:
        return None
    text = content.decode("ascii", "replace").strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 6):
        raise FormatError(f"{where}: .cls is {text!r}; expected a class label such as 7")
    return int(text)


def _read_class_name(file: int, member: tuple[str, Member] | None, where: str) -> str | None:
    content = _read_member(file, member, MAX_JSON_BYTES, where)
    if content is None:
        return None
    try:
        described: Any = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: .json cannot be read: {error}") from error
    found = described.get("class_name") if isinstance(described, dict) else None
    if found is None:
        return None
    if not isinstance(found, str) or not found.isprintable() or not found:
        raise FormatError(f"{where}: class_name {found!r} in .json; expected a text")
    return found


def _number_classes(
    samples: list[TarSample], labelled: bool, known: tuple[str, ...]
) -> tuple[list[int], tuple[str, ...]]:
    """Class number of each sample, and the name of each number: its own digits where nothing names it.

    Numbers are those of `.cls`; where there are none, the sorted class names are counted.
    """
    if all(sample.label is not None for sample in samples):
        labels = [sample.label for sample in samples if sample.label is not None]
        names = dict(enumerate(known))
        for sample, label in zip(samples, labels, strict=True):
            if sample.class_name is not None and names.setdefault(label, sample.class_name) != sample.class_name:
                raise FormatError(
                    f"{sample.place}: class {label} is {sample.class_name!r} here, {names[label]!r} before"
                )
        return labels, tuple(names.get(label, str(label)) for label in range(max([*labels, *names]) + 1))
    if all(sample.class_name is not None for sample in samples):
        sorted_names = tuple(sorted({sample.class_name for sample in samples if sample.class_name is not None}))
        numbers: dict[str | None, int] = {name: number for number, name in enumerate(sorted_names)}
        return [numbers[sample.class_name] for sample in samples], sorted_names
    if labelled:
        lacking = next((s for s in samples if s.label is None and s.class_name is None), samples[0])
        raise FormatError(f"{lacking.place}: no class; expected a number in .cls, or class_name in .json")
    return [0] * len(samples), ()


def _class_names(root: Path, tars: tuple[Tar, ...]) -> tuple[str, ...]:
    """Class names of a dataset's stream by its manifest; none for other tars. Raises FormatError where shards lack."""
    if not (root.parent / MANIFEST).is_file():
        return ()
    manifest = load_manifest(Storage(str(root.parent)))
    if root.name not in {entry.name for entry in manifest.streams}:
        return ()
    entry = manifest.stream(root.name)
    if (len(tars), sum(tar.bytes for tar in tars)) != (entry.shards, entry.bytes):
        raise FormatError(
            f"{len(tars)} shards of {sum(tar.bytes for tar in tars)} bytes; the dataset's manifest says {entry.shards} "
            f"of {entry.bytes}"
        )
    return tuple(entry.class_names)


def _fields(listing: Listing) -> tuple[Any, ...]:
    return listing.folders, listing.paths, listing.sizes, listing.offsets, listing.names, listing.tars
