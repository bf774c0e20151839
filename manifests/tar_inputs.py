"""Inputs in WebDataset tars that others made, or that are another dataset's stream, listed without an index."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .digits import list_digits
from .errors import FormatError, GenintError, UsageError
from .folders import find_files, refuse_mixture
from .inputs import Listing, Tar, check_folder, is_utf8, list_images, list_pictures, number_classes
from .manifest import MANIFEST, load_manifest
from .pictures import IMAGE_EXTENSIONS
from .sources.stream import InputKind
from .storage import Storage
from .table_inputs import list_table
from .tar_members import Member, iterate_members, split_name

# A class label is a few digits, and what describes a sample fits a screen; more is not read.
MAX_LABEL_BYTES = 64
MAX_LABEL_DIGITS = 6
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


def list_input(kind: InputKind, root: str, name: str) -> Listing:
    """List an input of images: a folder of them, a tar, a folder of tars such as a dataset's stream, or a CSV of them.

    Raises UsageError that names the input for whatever cannot be listed.
    """
    where = f"--input {name}={root}"
    if "://" in root or root.startswith("pipe:"):
        raise UsageError(f"{where}: commands and URLs are refused; expected a folder, a tar or a CSV here")
    if kind == "digits":
        return list_digits(root, name)
    top = Path(root)
    if top.is_file():
        if top.suffix.lower() == ".csv":
            return list_table(top, kind == "class folders", where)
        if top.suffix != ".tar":
            raise UsageError(
                f"{where}: a file; expected a folder, a .tar (not compressed) or a .csv that lists pictures"
            )
        return _list_tars(top.parent, (Tar(top.name, top.stat().st_size),), kind, top, where)
    if (top / MANIFEST).is_file():
        streams = ", ".join(entry.name for entry in load_manifest(Storage(root)).streams)
        raise UsageError(f"{where}: a dataset; expected one of its streams' folders: {streams}")
    found = find_files(check_folder(top, where), where)
    refuse_mixture(found, where)
    if not found.tars:
        return list_images(root, where, found) if kind == "class folders" else list_pictures(root, where, found)
    odd = next((tar for tar, _ in found.tars if ".tar/" in tar or "\n" in tar or not is_utf8(tar)), None)
    if odd is not None:
        raise UsageError(f"{where}: {odd!r}: a folder named .tar, or a name that is not one line of UTF-8; rename it")
    return _list_tars(top, tuple(Tar(*tar) for tar in sorted(found.tars)), kind, top, where)


def _list_tars(top: Path, tars: tuple[Tar, ...], kind: InputKind, root: Path, where: str) -> Listing:
    try:
        return list_tars(top, tars, kind == "class folders", _class_names(root, tars))
    except (GenintError, PermissionError) as error:
        raise UsageError(f"{where}: {error}") from error


def list_tars(top: Path, tars: tuple[Tar, ...], labelled: bool, class_names: tuple[str, ...] = ()) -> Listing:
    """List the images of tars at or below `top`.

    labelled: every sample must say its class, by a number in `.cls` or the `class_name` of its `.json`; otherwise
    classes are known where every sample says its own. class_names: by number, where they are known already.
    Raises GenintError that names tar and sample.
    """
    samples = [sample for tar in tars for sample in read_tar(top, tar.name)]
    if not samples:
        raise FormatError(f"no image in {len(tars)} tars")
    labels, names = number_classes(samples, labelled, class_names)
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
        for sample in group_members(top / tar):
            where = f"{tar}: sample {sample.key!r}"
            if "\n" in sample.key or not is_utf8(sample.key):
                raise FormatError(f"{where}: a name that is not one line of UTF-8")
            label = read_label(file.fileno(), sample.members.get("cls"), where)
            name = _read_class_name(file.fileno(), sample.members.get("json"), where)
            yield TarSample(tar, sample.name, sample.image, label, name)


@dataclass(frozen=True)
class TarGroup:
    """The members of a sample by extension in lower case; `name` and `image` are those of its one picture."""

    key: str
    members: dict[str, Member]
    name: str
    image: Member


def group_members(path: Path) -> list[TarGroup]:
    """Samples of a tar: members whose names agree up to the first dot, wherever they stand; in the order of the tar.

    A sample's picture is the one with the fewest dots: `jpg` rather than `mask.png`. Raises FormatError where a sample
    has none or two, or a member stands there twice.
    """
    found: dict[str, dict[str, tuple[str, Member]]] = {}
    for name, member in iterate_members(path):
        key, extension = split_name(name) or ("", "")
        if not key:
            continue  # as webdataset does: such a member belongs to no sample
        members = found.setdefault(key, {})
        if extension.lower() in members:
            raise FormatError(f"{path}: member {name!r} stands there twice")
        members[extension.lower()] = (name, member)
    groups = []
    for key, members in found.items():
        pictures = [extension for extension in members if f".{extension.rpartition('.')[2]}" in IMAGE_EXTENSIONS]
        fewest = min((extension.count(".") for extension in pictures), default=0)
        pictures = [extension for extension in pictures if extension.count(".") == fewest]
        if len(pictures) != 1:
            what = f"{len(pictures)} images" if pictures else "no image"
            raise FormatError(f"{path}: sample {key!r} has {what}; expected one, found {', '.join(members)}")
        name, image = members[pictures[0]]
        groups.append(TarGroup(key, {extension: member for extension, (_, member) in members.items()}, name, image))
    return groups


def read_label(file: int, member: Member | None, where: str) -> int | None:
    """The class label that a `.cls` holds; None where there is none. Raises FormatError where it is no label."""
    if member is None:
        return None
    text = _read_member(file, member, MAX_LABEL_BYTES, f"{where}: .cls").decode("ascii", "replace").strip()
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_LABEL_DIGITS):
        raise FormatError(f"{where}: .cls is {text!r}; expected a class label such as 7")
    return int(text)


def _read_class_name(file: int, member: Member | None, where: str) -> str | None:
    if member is None:
        return None
    content = _read_member(file, member, MAX_JSON_BYTES, f"{where}: .json")
    try:
        described: Any = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: .json cannot be read: {error}") from error
    found = described.get("class_name") if isinstance(described, dict) else None
    if found is None:
        return None
    if not isinstance(found, str) or not found.isprintable() or not found:
        raise FormatError(f"{where}: class_name {str(found)[:80]!r} in .json; expected a text")
    return found


def _read_member(file: int, member: Member, limit: int, where: str) -> bytes:
    if member.size > limit:
        raise FormatError(f"{where} of {member.size} bytes; expected at most {limit}")
    return os.pread(file, member.size, member.offset)


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
