"""Files with something wrong, by seed: read as they were, or refused in words. The long runs are in tests/fuzz.

A reader may give what the unspoiled file holds, or what another reader of the format makes of the spoiled one; anything
else it says in one line. Whatever it raises besides GenintError fails the test, as does a reader that takes long.
"""

import hashlib
import io
import os
import random
import shutil
import signal
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from genint.manifests.dataset import load_dataset
from genint.manifests.errors import GenintError
from genint.manifests.manifest import load_manifest
from genint.manifests.pictures import DAMAGE, MAX_PIXELS, PictureError, damage_named, decode_picture
from genint.manifests.sources.natural import NaturalStream
from genint.manifests.storage import Storage
from genint.manifests.tar_inputs import list_input
from genint.manifests.verification import verify_manifest, verify_shards
from genint.pipeline.sources.natural import repack_image
from genint.train.augmentation import AUGMENTATIONS, WORDS, Augmentation
from genint.train.checkpoint import Preprocessing, load_classifier
from genint.train.streams import open_images
from PIL import Image

BLOCK = 512
# Far more than any case takes, on a machine that is busy.
SECONDS = 60


@contextmanager
def refused_or_equal(note: str) -> Iterator[None]:
    """Fails, naming the case, for whatever is no GenintError of one line, and for what does not end."""

    def stop(number: int, frame: FrameType | None) -> None:
        pytest.fail(f"{note}: takes more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    except GenintError as error:
        text = str(error)
        assert text and "\n" not in text and " at 0x" not in text and len(text) < 2000, f"{note}: {text[:300]}"
    except Exception as error:
        raise AssertionError(f"{note}: {type(error).__name__}: {error}") from error
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def spoil(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    """Bytes with bits flipped, cut, or with a range deleted, repeated, zeroed, exchanged or put in."""
    kind = rng.choice(["flip", "flip", "cut", "delete", "repeat", "zero", "insert", "exchange"])
    a = rng.randrange(len(content))
    b = min(len(content), a + rng.choice([1, 16, 512, 4096]))
    data = bytearray(content)
    if kind == "flip":
        for _ in range(rng.choice([1, 1, 8])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del data[rng.choice([0, 1, len(data) // 2, a, a // BLOCK * BLOCK]) :]
    elif kind == "delete":
        del data[a:b]
    elif kind == "repeat":
        data[b:b] = content[a:b]
    elif kind == "zero":
        data[a:b] = bytes(b - a)
    elif kind == "insert":
        data[a:a] = rng.randbytes(rng.choice([1, 16, 512]))
    else:
        i, j = (rng.randrange(max(1, len(data) // BLOCK)) * BLOCK for _ in range(2))
        data[i : i + BLOCK], data[j : j + BLOCK] = data[j : j + BLOCK], data[i : i + BLOCK]
    return bytes(data), f"{kind} at {a}"


# Pictures.


def gradient(side: int = 40) -> Image.Image:
    grid = np.add.outer(np.arange(side), np.arange(side)) * 3 % 256
    return Image.fromarray(np.stack([grid, grid[::-1], np.full_like(grid, 90)], 2).astype(np.uint8))


def encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def pictures() -> list[bytes]:
    image = gradient()
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "x" * 200
    found = [encode(image, name) for name in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM")]
    found += [encode(image, "TIFF", compression=kind) for kind in ("tiff_deflate", "tiff_lzw", "jpeg", "packbits")]
    found += [encode(image, "JPEG", exif=exif, icc_profile=bytes(500), progressive=True)]
    found += [encode(image.convert("CMYK"), "JPEG"), encode(image.convert("P"), "PNG", transparency=0)]
    found += [encode(image, "GIF", save_all=True, append_images=[image.rotate(90)])]
    found += [encode(Image.fromarray((np.arange(1600).reshape(40, 40) * 40).astype(np.uint16)), "PNG")]
    return [*found, b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a"]


WORDS_OF_A_SAMPLE = np.arange(1, WORDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def repack(**keys: Any) -> Callable[[bytes], object]:
    stream = NaturalStream(source="natural", name="n", images="n", **keys)

    def read(content: bytes) -> object:
        with damage_named("x"):
            return repack_image(content, stream)

    return read


def prepare(content: bytes) -> object:
    with damage_named("x"):
        return Preprocessing(64, 48).prepare(decode_picture(content))


PICTURE_READERS: dict[str, Callable[[bytes], object]] = {
    "decode": lambda content: decode_picture(content, "x"),
    "repack as it is": repack(),
    "repack resized": repack(resize=48, crop=32),
    "evaluate": prepare,
    **{
        f"train {name}": lambda content, name=name: Augmentation(name, 40 if name == "pad-crop" else 32)(
            content, WORDS_OF_A_SAMPLE
        )
        for name in AUGMENTATIONS
    },
}


def test_spoiled_pictures_are_decoded_or_refused() -> None:
    rng = random.Random(1)
    whole = pictures()
    readers = list(PICTURE_READERS.items())
    for number in range(900):
        content = rng.choice(whole)
        spoiled, note = spoil(rng, content) if content else (content, "empty")
        name, read = readers[number % len(readers)]
        with refused_or_equal(f"case {number}: {name}, {content[:4]!r}: {note}"):
            read(spoiled)


@pytest.mark.parametrize("reader", PICTURE_READERS)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP", "PPM"])
def test_half_a_picture_is_never_taken_for_a_whole_one(reader: str, file_format: str) -> None:
    content = encode(gradient(), file_format)
    with pytest.raises(PictureError, match="unreadable image: "):
        PICTURE_READERS[reader](content[: len(content) // 2])


def png_header(width: int, height: int, data: bytes = b"") -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("reader", PICTURE_READERS)
@pytest.mark.parametrize(
    "content",
    [
        png_header(100_000, 100_000),
        b"P6 1000000 1000000 255\n",
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 30000, 30000, 1, 24, 0, 0, 0, 0, 0, 0),
    ],
)
def test_bombs_are_refused_before_they_are_decoded(reader: str, content: bytes) -> None:
    with pytest.raises(PictureError, match=rf"image too large: .*(limit {MAX_PIXELS:,}|exceeds limit)"):
        PICTURE_READERS[reader](content)


@pytest.mark.parametrize("reader", PICTURE_READERS)
def test_no_program_is_started_for_a_picture(reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n{ } loop\n"
    with pytest.raises(PictureError, match="no image of a known format"):
        PICTURE_READERS[reader](program)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("file_format", ["AVIF", "ICO", "TGA", "JPEG2000"])
def test_other_formats_are_no_pictures_whatever_their_name(file_format: str) -> None:
    try:
        content = encode(gradient(), file_format)
    except (KeyError, *DAMAGE):
        pytest.skip(f"this Pillow writes no {file_format}")
    with pytest.raises(PictureError, match="no image of a known format"):
        decode_picture(content)


# Tars of others.


def header(name: bytes, size: bytes, kind: bytes = b"0", tail: bytes = b"") -> bytes:
    """A header block, with whatever is wrong in it under a right checksum."""
    block = bytearray(BLOCK)
    block[0 : len(name[:100])] = name[:100]
    block[100:124] = b"0000644\0" + b"0000000\0" * 2
    block[124:136] = size.ljust(12, b"\0")
    block[136:148] = b"00000000000\0"
    block[148:157] = b" " * 8 + kind
    block[257:265] = b"ustar\x0000"
    block[345 : 345 + len(tail)] = tail
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def octal(size: int) -> bytes:
    return b"%011o\0" % size


def base256(size: int) -> bytes:
    return (b"\xff" if size < 0 else b"\x80") + (size & ((1 << 88) - 1)).to_bytes(11, "big")


def pad(content: bytes) -> bytes:
    return content + bytes(-len(content) % BLOCK)


def member(name: str, content: bytes) -> bytes:
    return header(name.encode(), octal(len(content))) + pad(content)


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    return header(b"pax", octal(len(records)), kind) + pad(records)


def samples() -> list[tuple[str, bytes]]:
    found = []
    for number in range(3):
        picture = encode(gradient(12).rotate(90 * number), "PNG")
        found += [(f"{number:04d}.cls", b"%d" % (2 - number)), (f"{number:04d}.png", picture)]
    return found


def tar(*parts: bytes) -> bytes:
    return b"".join(parts) + bytes(2 * BLOCK)


WHOLE = tar(*(member(*sample) for sample in samples()))
SMALL = member("x.cls", b"1")


def read_trained(folder: Path) -> list[tuple[int, str]]:
    images = open_images(str(folder))
    images.check()
    read = [images.read(position) for position in range(len(images))]
    return sorted((label, hashlib.sha256(content).hexdigest()) for content, label in read)


def read_built(folder: Path) -> list[tuple[int, str]]:
    listing = list_input("class folders", str(folder), "photos")
    return sorted((int(p.partition("/")[0]), hashlib.sha256(listing.read(p)).hexdigest()) for p in listing.paths)


TAR_READERS = {"train": read_trained, "build": read_built}
TRUTH = sorted((2 - number, hashlib.sha256(samples()[2 * number + 1][1]).hexdigest()) for number in range(3))


def read_by_tarfile(path: Path) -> list[tuple[int, str]] | None:
    """Labels and pictures as Python's tarfile reads them; None where it does not, or a name stands there twice."""
    try:
        with tarfile.open(path) as archive:
            content = [(info.name, archive.extractfile(info).read()) for info in archive if info.isfile()]  # type: ignore[union-attr]
    except (tarfile.TarError, ValueError, OSError, EOFError, IndexError):
        return None
    members = dict(content)
    if len(members) < len(content):
        return None
    keys = [name.removesuffix(".png") for name in members if name.endswith(".png")]
    found = [(members.get(f"{key}.cls", b"x"), members[f"{key}.png"]) for key in keys]
    return sorted((int(label) if label.isdigit() else -1, hashlib.sha256(image).hexdigest()) for label, image in found)


@pytest.mark.parametrize("reader", TAR_READERS)
def test_spoiled_tars_give_the_samples_that_stand_in_them_or_are_refused(reader: str, tmp_path: Path) -> None:
    rng = random.Random(2)
    path = tmp_path / "a.tar"
    for number in range(200):
        spoiled, note = spoil(rng, WHOLE)
        path.write_bytes(spoiled)
        with refused_or_equal(f"case {number}: {note}"):
            found = TAR_READERS[reader](tmp_path)
            assert found == TRUTH or found == read_by_tarfile(path), f"case {number}: {note}"


HOSTILE = {
    "a negative size": (SMALL, header(b"x.png", base256(-1536))),
    "a size of 2^70": (SMALL, header(b"x.png", base256(2**70))),
    "a size that is no number": (SMALL, header(b"x.png", b"zzzzzzzzzzz\0")),
    "a negative octal size": (SMALL, header(b"x.png", b"-0000000001\0")),
    "a sparse member": (SMALL, header(b"x.png", octal(3), b"S") + pad(b"abc")),
    "a pax sparse member": (SMALL, pax(b"22 GNU.sparse.major=1\n"), member("x.png", b"abc")),
    "a pax sparse size that is no number": (SMALL, pax(b"23 GNU.sparse.size=abc\n"), member("x.png", b"abc")),
    "a pax length of 5,000 digits": (SMALL, pax(b"9" * 5000 + b" a=b\n"), member("x.png", b"abc")),
    "a pax size": (SMALL, pax(b"10 size=1\n"), member("x.png", b"abc")),
    "one name for all": (pax(b"14 path=x.png\n", b"g"), SMALL, member("x.png", b"abc")),
    "two names for one": (SMALL, pax(b"14 path=x.png\n") * 2, member("y.png", b"abc")),
    "a member twice": (SMALL, member("x.png", b"abc"), member("x.cls", b"2")),
    "a name above": (SMALL, member("../x.png", b"abc")),
    "an absolute name": (SMALL, member("/x.png", b"abc")),
    "a link": (SMALL, header(b"x.png", octal(0), b"2", b"")),
    "a device": (SMALL, header(b"x.png", octal(0), b"3")),
    "an unknown kind": (SMALL, header(b"x.png", octal(0), b"Z")),
    "a label of 20 digits": (member("x.cls", b"9" * 20), member("x.png", b"abc")),
    "a label of 999999999": (member("x.cls", b"999999999"), member("x.png", b"abc")),
    "two pictures": (SMALL, member("x.png", b"abc"), member("x.jpg", b"abc")),
    "a second tar": (SMALL, member("x.png", b"abc"), bytes(2 * BLOCK), member("y.png", b"abc")),
}


@pytest.mark.parametrize("reader", TAR_READERS)
@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_tars_are_refused_in_one_line(reader: str, case: str, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar(*HOSTILE[case]))
    with pytest.raises(GenintError) as caught:
        TAR_READERS[reader](tmp_path)
    assert "a.tar: " in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 600


# Our own files.


@pytest.fixture(scope="module")
def copied(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny dataset, every file of which is as it was whenever a test begins or ends."""
    return shutil.copytree(reference, tmp_path_factory.mktemp("hostile") / "dataset")


def verify(url: Path) -> int:
    dataset = load_dataset(str(url))
    manifest = load_manifest(Storage(url))
    problems, names = list(verify_manifest(dataset, manifest)), [entry.name for entry in manifest.streams]
    return len(problems) + sum(len(checked.problems) for checked in verify_shards(dataset, names))


def test_no_spoiled_file_of_a_dataset_is_verified(copied: Path) -> None:
    rng = random.Random(3)
    files = sorted(path for path in copied.rglob("*") if path.suffix in (".tar", ".idx", ".json", ".jsonl", ".npz"))
    files += [copied / "SHA256SUMS", copied / "recipe.toml"]
    assert not verify(copied)
    for number in range(40):
        path = files[number % len(files)]
        content = path.read_bytes()
        spoiled, note = spoil(rng, content)
        path.write_bytes(spoiled)
        try:
            with refused_or_equal(f"case {number}: {path.name}: {note}"):
                found = verify(copied)
                # A manifest holds times too, which nothing else says.
                assert found or spoiled == content or path.suffix == ".json", f"case {number}: {path.name}: {note}"
        finally:
            path.write_bytes(content)


def test_spoiled_shards_give_no_other_images(copied: Path) -> None:
    rng = random.Random(4)

    def read() -> list[tuple[bytes, int]]:
        images = open_images(f"{copied}:natural")
        images.check()
        for shard in range(len(images.shard_sizes)):
            images.check_shard(shard)
        return [images.read(position) for position in range(len(images))]

    truth = read()
    files = sorted(path for path in copied.glob("natural/*/*") if path.suffix in (".tar", ".idx"))
    for number in range(60):
        path = rng.choice(files)
        content = path.read_bytes()
        spoiled, note = spoil(rng, content)
        path.write_bytes(spoiled)
        try:
            with refused_or_equal(f"case {number}: {path.name}: {note}"):
                assert read() == truth, f"case {number}: {path.name}: {note}"
        finally:
            path.write_bytes(content)


def test_spoiled_checkpoints_give_the_same_weights_or_are_refused(tmp_path: Path) -> None:
    rng = random.Random(5)
    torch.manual_seed(0)
    from torchvision.models import squeezenet1_1

    model = squeezenet1_1(num_classes=3)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    content = buffer.getvalue()
    path = tmp_path / "weights.pt"
    for number in range(12):
        spoiled, note = spoil(rng, content)
        path.write_bytes(spoiled)
        with refused_or_equal(f"case {number}: {note}"):
            loaded = load_classifier(f"squeezenet1_1={path}").model.state_dict()
            for name, value in model.state_dict().items():
                assert torch.equal(loaded[name], value), f"case {number}: {note}: {name}"
