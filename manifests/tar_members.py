"""The members of a tar, whoever wrote it, from its headers alone; what readers could understand in two ways is refused.

Python's tarfile is not used to read: it follows negative sizes in circles, gives sparse members under the size of what
they unpack to, and raises more kinds of errors than it names.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import FormatError

BLOCK = 512
END = bytes(BLOCK)
# Of a pax or GNU header's content: names are at most 4,096 bytes long.
MAX_EXTENSION_BYTES = 1 << 20
CHUNK = 1 << 20

REGULAR = frozenset(b"0\x007")
FOLDER = ord("5")
PAX, PAX_GLOBAL, LONG_NAME, LONG_LINK = b"xgLK"
KINDS = {
    "1": "a hard link", "2": "a link", "3": "a device", "4": "a device", "6": "a named pipe", "D": "a folder's listing",
    "M": "a part of a file in another tar", "S": "a sparse file", "V": "a label of the tar",
}  # fmt: skip
OCTAL = re.compile(rb" *([0-7]*) *")
PAX_RECORD = re.compile(rb"([1-9][0-9]{0,6}) ")


@dataclass(frozen=True)
class Member:
    """Where the bytes of one member lie in the tar."""

    offset: int
    size: int


@dataclass(frozen=True)
class Header:
    """What a header block says by itself."""

    name: bytes
    size: int
    kind: int


def iterate_members(path: Path) -> Iterator[tuple[str, Member]]:
    """Regular members of a tar in order, each name once; folders are passed over.

    Raises FormatError where the tar is cut, damaged or followed by more, or has a member that is no plain file, that
    stands there twice, or whose name leads elsewhere. A tar cut at a block boundary reads short without an error in
    most tools: the end-of-archive blocks are required.
    """
    with open(path, "rb") as file:
        try:
            yield from _iterate(file.fileno(), os.fstat(file.fileno()).st_size)
        except ValueError as error:
            raise FormatError(f"{path}: not a complete tar: {error}") from error


def split_name(name: str) -> tuple[str, str] | None:
    """Sample key and extension of a member, at the first dot after the last slash, as webdataset splits them.

    None where it belongs to no sample: it has no dot, or begins with one.
    """
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    return (f"{folder}{slash}{stem}", extension) if stem and dot and extension else None


def is_header_of(block: bytes, name: str, size: int) -> bool:
    """Whether a header block is that of a member of this name and size, as far as a block alone can say."""
    try:
        header = parse_header(block)
    except ValueError:
        return False
    encoded = name.encode("utf-8", "surrogateescape")
    # Longer names, and those of other alphabets, stand whole in a block before this one.
    same = header.name == encoded or len(encoded) > 99 or not name.isascii()
    return same and header.size == size and header.kind in REGULAR


def parse_header(block: bytes) -> Header:
    """Read a header block. Raises ValueError where it is none."""
    if len(block) < BLOCK:
        raise ValueError("a header is cut short")
    fields = block[:148] + b" " * 8 + block[156:]
    excess = sum(fields) - _number(block[148:156])
    if excess and excess != 256 * sum(byte > 127 for byte in fields):  # old tars sum signed bytes
        raise ValueError("the checksum of a header is wrong")
    name = block[:100].partition(b"\0")[0]
    prefix = block[345:500].partition(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    kind = block[156]
    if kind == 0 and name.endswith(b"/"):
        kind = FOLDER  # as tars of before 1988 write them
    return Header(prefix + b"/" + name if prefix else name, _number(block[124:136]), kind)


def _iterate(file: int, end: int) -> Iterator[tuple[str, Member]]:
    seen: set[str] = set()
    offset, name = 0, b""  # name: of the next member, where a header before it holds one
    while True:
        block = os.pread(file, BLOCK, offset)
        if block == END:
            _check_end(file, offset, end)
            return
        if len(block) < BLOCK:
            raise ValueError(f"no end-of-archive mark in {end} bytes; the file is cut short")
        try:
            header = parse_header(block)
        except ValueError as error:
            raise ValueError(f"{error} (at byte {offset})") from error
        data = offset + BLOCK
        offset = data if header.kind == FOLDER else data + -(-header.size // BLOCK) * BLOCK
        if offset > end:
            raise ValueError(f"member {_show(header.name)} of {header.size} bytes at byte {data} of {end}")
        if header.kind in (PAX, PAX_GLOBAL, LONG_NAME, LONG_LINK):
            given = _extend(header, os.pread(file, min(header.size, MAX_EXTENSION_BYTES + 1), data))
            if given and name:
                raise ValueError(f"two names of one member, {_show(name)} and {_show(given)}")
            name = given or name
            continue
        whole, name = name or header.name, b""
        if header.kind == FOLDER:
            continue
        if header.kind not in REGULAR:
            what = KINDS.get(chr(header.kind), f"of type {chr(header.kind)!r}")
            raise ValueError(f"member {_show(whole)} is {what}; expected plain files")
        text = _check_name(whole)
        if text in seen:
            raise ValueError(f"member {_show(whole)} stands there twice")
        seen.add(text)
        yield text, Member(data, header.size)


def _extend(header: Header, content: bytes) -> bytes:
    """The name that an extension header gives to the member after it, or nothing."""
    if header.size > MAX_EXTENSION_BYTES:
        raise ValueError(f"an extended header of {header.size} bytes")
    if header.kind == LONG_LINK:
        return b""  # of a link, which is refused when it comes
    if header.kind == LONG_NAME:
        return content.partition(b"\0")[0] or b"\0"  # the empty name is no name that is accepted
    records = _pax_records(content)
    sparse = next((key for key in records if key.startswith(b"GNU.sparse")), None)
    if sparse is not None:
        raise ValueError(f"a member is a sparse file ({_show(sparse)}); expected plain files")
    if b"size" in records:
        raise ValueError("a member's size stands in an extended header, which is for files of 8 GiB and more")
    if header.kind == PAX_GLOBAL and b"path" in records:
        raise ValueError("one name for all members")
    return records.get(b"path", b"")


def _pax_records(content: bytes) -> Mapping[bytes, bytes]:
    records: dict[bytes, bytes] = {}
    while content:
        match = PAX_RECORD.match(content)
        length = int(match[1]) if match else 0
        key, separator, value = content[match.end() : length].partition(b"=") if match else (b"", b"", b"")
        if not separator or not key or content[length - 1 : length] != b"\n" or length > len(content):
            raise ValueError(f"an extended header's record {_show(content[:20])} cannot be read")
        records[key] = value[:-1]
        content = content[length:]
    return records


def _check_name(name: bytes) -> str:
    text = name.decode("utf-8", "surrogateescape")
    if not text or "\0" in text or text.startswith("/") or ".." in text.split("/"):
        raise ValueError(f"member {_show(name)}: a name that leads out of the tar's own folder, or none")
    return text


def _check_end(file: int, offset: int, end: int) -> None:
    """After the end mark come zeros alone. A second tar, appended with cat, would be passed over by every reader."""
    if os.pread(file, 2 * BLOCK, offset) != 2 * END:
        raise ValueError(f"no end-of-archive mark in {end} bytes; the file is cut short")
    while chunk := os.pread(file, CHUNK, offset):
        if chunk.count(0) != len(chunk):
            raise ValueError(f"more stands after its end-of-archive mark at byte {offset}; is it two tars in one file?")
        offset += len(chunk)


def _number(field: bytes) -> int:
    """A number of a header: octal digits, or base 256 after a byte of 0x80."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    match = OCTAL.fullmatch(field.partition(b"\0")[0])
    if not match:
        raise ValueError(f"{_show(field)} is no number of a header")
    return int(match[1] or b"0", 8)


def _show(text: bytes) -> str:
    return repr(text[:80].decode("utf-8", "backslashreplace"))
