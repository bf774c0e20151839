"""Tars taken apart and put together again with something wrong, and what webdataset makes of the result."""

import io
import random
import struct
import tarfile
from pathlib import Path

BLOCK = 512


def members_of(content: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return [(info, archive.extractfile(info).read()) for info in archive]


def raw_header(
    name: bytes,
    size: bytes,
    typeflag: bytes = b"0",
    linkname: bytes = b"",
    prefix: bytes = b"",
    magic: bytes = b"ustar\x0000",
    checksum: bool = True,
    **fields: bytes,
) -> bytes:
    block = bytearray(BLOCK)
    block[0 : min(len(name), 100)] = name[:100]
    block[100:108] = fields.get("mode", b"0000644\0")
    block[108:116] = fields.get("uid", b"0000000\0")
    block[116:124] = fields.get("gid", b"0000000\0")
    block[124:136] = size[:12].ljust(12, b"\0")
    block[136:148] = fields.get("mtime", b"00000000000\0")
    block[156:157] = typeflag
    block[157 : 157 + min(len(linkname), 100)] = linkname[:100]
    block[257:265] = magic
    block[345 : 345 + min(len(prefix), 155)] = prefix[:155]
    tail = fields.get("tail")
    if tail:
        block[345 : 345 + len(tail)] = tail
    block[148:156] = b" " * 8
    if checksum:
        block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def octal(size: int) -> bytes:
    return b"%011o\0" % size


def base256(size: int) -> bytes:
    return (b"\xff" if size < 0 else b"\x80") + (size & ((1 << 88) - 1)).to_bytes(11, "big")


def pad(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % BLOCK)


def pax(records: bytes, typeflag: bytes = b"x") -> bytes:
    return raw_header(b"pax", octal(len(records)), typeflag) + pad(records)


def pax_record(key: str, value: str) -> bytes:
    body = f" {key}={value}\n".encode("utf-8", "surrogateescape")
    length = len(body) + 1
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


NAMES = [
    "../escape.cls",
    "../../../../tmp/evil.jpg",
    "/etc/passwd.jpg",
    "a/../../b.png",
    "./0001.png",
    "0001.png",
    "",
    ".",
    "..",
    "x",
    ".png",
    "a b.png",
    "a\nb.png",
    "a.png/",
    "A.PNG",
    "ä.png",
    "sample.v2/0001.png",
    "0001.cls.png",
    "0001.",
    "con.png",
    "-rf.png",
    "__meta__.png",
    "very/" * 18 + "x.png",
]

SIZES = [
    octal(0),
    octal(1),
    octal(511),
    octal(513),
    octal(2**30),
    b"77777777777\0",
    b"-0000000001\0",
    b"zzzzzzzzzzz\0",
    b"\0" * 12,
    b" " * 12,
    base256(-1),
    base256(-512),
    base256(-1024),
    base256(-1536),
    base256(2**40),
    base256(2**70),
    b"0x10\0\0\0\0\0\0\0\0",
]

TYPES = [
    b"0",
    b"\0",
    b"1",
    b"2",
    b"3",
    b"4",
    b"5",
    b"6",
    b"7",
    b"S",
    b"L",
    b"K",
    b"x",
    b"g",
    b"X",
    b"N",
    b"V",
    b"M",
    b"D",
    b"Z",
    b"\xff",
]

PAX = [
    pax_record("path", "../../evil.png"),
    pax_record("path", "0001.png"),
    pax_record("path", "a\0b.png"),
    pax_record("path", "x" * 5000),
    pax_record("size", "-512"),
    pax_record("size", "99999999999999"),
    pax_record("size", "abc"),
    pax_record("size", "1"),
    pax_record("linkpath", "/etc/passwd"),
    pax_record("mtime", "nan"),
    pax_record("mtime", "1e400"),
    pax_record("uid", "9" * 5000),
    pax_record("hdrcharset", "BINARY") + b"12 path=\xff\xfe\n",
    b"999999999 path=x\n",
    b"0 path=x\n",
    b"1 =\n",
    b"\n",
    b"abc",
    b"5 a=\n" * 1000,
    b"9" * 5000 + b" a=b\n",
    pax_record("GNU.sparse.major", "1")
    + pax_record("GNU.sparse.minor", "0")
    + pax_record("GNU.sparse.name", "0001.png")
    + pax_record("GNU.sparse.realsize", "100"),
    pax_record("GNU.sparse.map", "0,10,5,x") + pax_record("GNU.sparse.size", "20"),
    pax_record("GNU.sparse.size", "abc"),
    pax_record("GNU.sparse.offset", "1") + pax_record("GNU.sparse.numbytes", "2"),
    pax_record("GNU.sparse.map", "0,1") + pax_record("GNU.sparse.realsize", "-7"),
]


def restructure(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    """The tar's members written anew, with one structural thing wrong."""
    try:
        found = members_of(content)
    except (tarfile.TarError, ValueError, OSError, EOFError):
        found = []
    if not found:
        return content, "as it was"
    pieces = [[raw_header(info.name.encode(), octal(info.size)), pad(data)] for info, data in found]
    at = rng.randrange(len(found))
    info, data = found[at]
    name, size = info.name.encode(), octal(info.size)
    kind = rng.choice(
        [
            "name",
            "name",
            "size",
            "size",
            "type",
            "type",
            "pax",
            "pax",
            "global",
            "longname",
            "sparse",
            "duplicate",
            "drop",
            "reorder",
            "swap data",
            "sample twice",
            "hardlink",
            "symlink",
            "checksum",
            "magic",
            "fields",
            "no end",
            "data after end",
            "cross label",
            "pax size",
            "empty data",
        ]
    )
    note = ""
    if kind == "name":
        note = rng.choice(NAMES)
        pieces[at][0] = raw_header(note.encode("utf-8", "surrogateescape"), size)
    elif kind == "size":
        number = rng.choice(SIZES)
        note = repr(number)
        pieces[at][0] = raw_header(name, number)
    elif kind == "type":
        flag = rng.choice(TYPES)
        note = repr(flag)
        pieces[at][0] = raw_header(
            name, size, flag, linkname=rng.choice([b"/etc/passwd", b"", b"../x", found[0][0].name.encode()])
        )
    elif kind in ("pax", "global"):
        record = rng.choice(PAX)
        note = repr(record[:60])
        pieces[at].insert(0, pax(record, b"x" if kind == "pax" else b"g"))
    elif kind == "pax size":
        true = rng.choice([info.size, info.size - 1, 0, info.size + 512])
        note = str(true)
        pieces[at] = [
            pax(pax_record("size", str(true))),
            raw_header(name, octal(rng.choice([0, info.size]))),
            pad(data),
        ]
    elif kind == "longname":
        long = rng.choice([b"n" * 150 + b".png", b"../" * 40 + b"x.png", b"\xff" * 120, b"", name])
        note = repr(long[:20])
        pieces[at].insert(
            0, raw_header(b"././@LongLink", octal(len(long) + 1), b"L", magic=b"ustar  \0") + pad(long + b"\0")
        )
    elif kind == "sparse":
        hole = rng.choice([0, 512, 1024, 10**6])
        half = len(data) // 2 // 512 * 512
        tail = bytearray(167)
        struct.pack_into(
            "12s12s12s12s", tail, 386 - 345, octal(0), octal(half), octal(half + hole), octal(len(data) - half)
        )
        tail[482 - 345 : 483 - 345] = b"\0"
        tail[483 - 345 : 495 - 345] = octal(len(data) + hole)
        note = f"hole of {hole}"
        pieces[at][0] = raw_header(name, size, b"S", magic=b"ustar  \0", tail=bytes(tail))
    elif kind == "duplicate":
        pieces.insert(rng.choice([at, len(pieces)]), list(pieces[at]))
    elif kind == "drop":
        del pieces[at]
    elif kind == "reorder":
        rng.shuffle(pieces)
    elif kind == "swap data":
        other = rng.randrange(len(found))
        pieces[at] = [raw_header(name, octal(found[other][0].size)), pad(found[other][1])]
    elif kind == "cross label":
        labels = [i for i, (m, _) in enumerate(found) if m.name.endswith(".cls")]
        if labels:
            chosen = rng.choice(labels)
            text = rng.choice(
                [
                    b"3",
                    b"-1",
                    b"99",
                    b"999999",
                    b"1e3",
                    b"",
                    b" 5\n",
                    b"\xb2",
                    b"5\0",
                    b"0x3",
                    b"9" * 30,
                    b"9" * 5000,
                    b"12345678",
                    b"\xef\xbb\xbf1",
                    b"1_0",
                    b"1.0",
                ]
            )
            note = repr(text[:20])
            pieces[chosen] = [raw_header(found[chosen][0].name.encode(), octal(len(text))), pad(text)]
    elif kind == "sample twice":
        key = info.name.partition(".")[0]
        again = [list(p) for p, (m, _) in zip(pieces, found, strict=True) if m.name.partition(".")[0] == key]
        pieces += again
    elif kind in ("hardlink", "symlink"):
        target = rng.choice([found[0][0].name.encode(), b"/etc/passwd", b"../../etc/passwd"])
        note = repr(target)
        pieces[at] = [raw_header(name, octal(0), b"1" if kind == "hardlink" else b"2", target), b""]
    elif kind == "checksum":
        pieces[at][0] = raw_header(name, size, checksum=False)
    elif kind == "magic":
        magic = rng.choice([b"\0" * 8, b"ustar  \0", b"USTAR\x0000", rng.randbytes(8)])
        pieces[at][0] = raw_header(name, size, magic=magic)
        note = repr(magic)
    elif kind == "fields":
        field = rng.choice(["mode", "uid", "gid", "mtime"])
        value = rng.choice([base256(-5)[:8], b"\xff" * 8, b"zzzzzzz\0", b"\x80" + b"\xff" * 7])
        pieces[at][0] = raw_header(name, size, **{field: value.ljust(12 if field == "mtime" else 8, b"\0")})
        note = field
    elif kind == "empty data":
        pieces[at] = [raw_header(name, octal(0)), b""]
    body = b"".join(b"".join(parts) for parts in pieces)
    end = b"" if kind == "no end" else b"\0" * (2 * BLOCK)
    if kind == "data after end":
        end += pieces[0][0] + pieces[0][1] + b"\0" * 1024
    whole = body + end
    if rng.random() < 0.7:
        whole += b"\0" * (-len(whole) % 10240)
    return whole, f"{kind} of {info.name} {note}".strip()


def tar_view(path: Path, images: tuple[str, ...]) -> dict[str, tuple[bytes, bytes]] | None:
    """Samples with an image as webdataset's own iterator reads their members: key -> (image, label).

    Members of a key that do not follow each other are joined; None where a member stands there twice or the tar is
    refused. (Python's tarfile expands sparse members and skips links.)
    """
    import webdataset.tariterators as tariterators

    found: dict[str, dict[str, bytes]] = {}
    with open(path, "rb") as stream:
        for file in tariterators.tar_file_iterator(stream):
            key, extension = tariterators.base_plus_ext(file["fname"])
            if not key or not extension:
                continue
            members = found.setdefault(key, {})
            if extension.lower() in members:
                return None
            members[extension.lower()] = file["data"]
    view = {}
    for key, members in found.items():
        pictures = [ext for ext in members if ext.rpartition(".")[2] in images]
        if pictures:
            # the plain extension rather than mask.png
            view[key] = (members[min(pictures, key=lambda ext: ext.count("."))], members.get("cls", b""))
    return view
