"""Mutated pictures, bombs and odd files, through repacking, transfer, training, validation, evaluation and corruption."""

import io
import os
import random
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from common import Tally, arguments, attempt, attempt_apart, bound_memory, mutate_bytes, picture, truncate, workplace
from PIL import Image

FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "tif": "TIFF", "bmp": "BMP", "ppm": "PPM"}
BOMB_LIMIT = 25.0
BOMB_MEMORY = 3 << 30


def seeds(rng: random.Random) -> list[tuple[str, bytes]]:
    """Whole pictures in many formats and modes, with and without metadata."""
    found = [(ext, picture(rng, 40, name)) for ext, name in FORMATS.items()]
    image = Image.open(io.BytesIO(picture(rng, 40)))

    def add(ext: str, what: Image.Image = image, **options: Any) -> None:
        buffer = io.BytesIO()
        what.save(buffer, **options)
        found.append((ext, buffer.getvalue()))

    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "x" * 200
    add("jpg", format="JPEG", exif=exif.tobytes(), icc_profile=b"\0" * 500, progressive=True)
    add("jpg", image.convert("CMYK"), format="JPEG")
    add("jpg", image.convert("L"), format="JPEG", quality=30)
    add("png", image.convert("P"), format="PNG", transparency=0)
    add("png", image.convert("RGBA"), format="PNG", icc_profile=b"\0" * 300, exif=exif.tobytes())
    add("png", image.convert("1"), format="PNG")
    add("png", Image.fromarray((np.arange(1600).reshape(40, 40) * 40).astype("uint16")), format="PNG")
    add("png", image, format="PNG", save_all=True, append_images=[image.rotate(90)])
    add("gif", image, format="GIF", save_all=True, append_images=[image.rotate(90)])
    for compression in ("tiff_deflate", "tiff_lzw", "jpeg", "packbits", "raw"):
        add("tif", format="TIFF", compression=compression)
    add("tif", Image.fromarray(np.linspace(0, 1, 1600, dtype="float32").reshape(40, 40)), format="TIFF")
    add("tif", Image.fromarray(np.arange(1600, dtype="int32").reshape(40, 40) - 800), format="TIFF")
    add("webp", format="WEBP", lossless=True, exif=exif.tobytes())
    for name in ("JPEG2000", "ICO", "TGA", "PCX", "SGI", "DDS", "MSP", "AVIF", "QOI", "ICNS", "MPO", "BLP", "XBM"):
        try:
            mode = {"MSP": "1", "BLP": "P", "XBM": "1"}.get(name, "RGB")
            add("jpg", image.convert(mode), format=name)
        except (OSError, KeyError, ValueError):
            continue
    found += [
        ("jpg", b""),
        ("png", b"\x89PNG\r\n\x1a\n"),
        ("jpg", b"\xff\xd8\xff"),
        ("jpg", b"<svg/>"),
        ("gif", b"GIF89a"),
    ]
    return found


# ---- bombs ---------------------------------------------------------------------------------------------------------


def png_header(width: int, height: int, depth: int, colour: int, data: bytes, extra: bytes = b"") -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def zeros(count: int) -> bytes:
    """Deflated zeros, made in pieces."""
    worker = zlib.compressobj(9)
    piece = bytes(1 << 20)
    out = [worker.compress(piece) for _ in range(count >> 20)]
    return b"".join([*out, worker.compress(bytes(count & ((1 << 20) - 1))), worker.flush()])


def blank(width: int, height: int, ext: str, name: str, mode: str = "L") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, name)
    return buffer.getvalue()


def text_chunk(size: int) -> bytes:
    body = b"a\0\0" + zeros(size)
    return struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))


def bombs() -> list[tuple[str, str, bytes]]:
    jpeg = blank(64, 64, "jpg", "JPEG", "RGB")
    start = jpeg.index(b"\xff\xc0")
    huge = jpeg[: start + 5] + struct.pack(">HH", 65500, 65500) + jpeg[start + 9 :]
    wide = jpeg[: start + 5] + struct.pack(">HH", 8, 65500) + jpeg[start + 9 :]
    gif = bytearray(blank(8, 8, "gif", "GIF", "P"))
    gif[6:10] = struct.pack("<HH", 65535, 65535)
    return [
        ("1 x 65500", "png", blank(1, 65500, "png", "PNG")),
        ("65500 x 1", "png", blank(65500, 1, "png", "PNG")),
        ("1 x 4000", "png", blank(1, 4000, "png", "PNG")),
        ("65500 x 8 JPEG", "jpg", blank(65500, 8, "jpg", "JPEG", "RGB")),
        ("65500 x 8 JPEG, data of 64 x 64", "jpg", wide),
        ("65500 x 65500 JPEG header", "jpg", huge),
        ("9400 x 9400 PNG of 1 bit", "png", png_header(9400, 9400, 1, 0, zeros(9400 * 1176))),
        ("9400 x 9400 PNG of RGB", "png", png_header(9400, 9400, 8, 2, zeros(9400 * 28201))),
        ("13000 x 13000 PNG of 1 bit", "png", png_header(13000, 13000, 1, 0, zeros(13000 * 1626))),
        ("100000 x 100000 PNG of 1 bit, no data", "png", png_header(100000, 100000, 1, 0, b"")),
        ("PNG with 500 MB of text", "png", png_header(8, 8, 8, 2, zeros(8 * 25), text_chunk(500 << 20))),
        ("GIF with a screen of 65535 x 65535", "gif", bytes(gif)),
        ("65000 x 1300 PNG of 1 bit", "png", png_header(65000, 1300, 1, 0, zeros(1300 * 8126))),
        ("1 x 1", "png", blank(1, 1, "png", "PNG")),
        ("1 x 1 GIF", "gif", blank(1, 1, "gif", "GIF")),
        ("2 x 2 JPEG", "jpg", blank(2, 2, "jpg", "JPEG")),
        ("TIFF of 9000 x 9000, deflated", "tif", tiff_bomb(9000)),
        ("TIFF of 30000 x 30000, deflated", "tif", tiff_bomb(30000)),
        (
            "BMP that says 30000 x 30000",
            "bmp",
            b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 30000, 30000, 1, 24, 0, 0, 0, 0, 0, 0),
        ),
        (
            "BMP that says 9000 x -9000, RLE",
            "bmp",
            b"BM"
            + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 1078, 40, 9000, 9000, 1, 8, 1, 4, 0, 0, 256, 0)
            + bytes(1024)
            + b"\0\1",
        ),
        ("PPM that says 9000 x 9000", "ppm", b"P6 9000 9000 255\n"),
        ("PPM of 10^12 pixels", "ppm", b"P6 1000000 1000000 255\n"),
    ]


def tiff_bomb(side: int) -> bytes:
    data = zeros(side * side)
    tags = [
        (256, 4, side),
        (257, 4, side),
        (258, 3, 8),
        (259, 3, 8),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, side),
        (279, 4, len(data)),
    ]
    offset = 8 + len(data)
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", t, k, 1, v) for t, k, v in tags) + bytes(4)
    return b"II*\0" + struct.pack("<I", offset) + data + directory


# ---- readers -------------------------------------------------------------------------------------------------------


class Readers:
    """The ways by which genint reads a picture of somebody else; each gives its size, or raises as the command would."""

    def __init__(self, folder: Path) -> None:
        import torch
        from genint.evaluate.prediction import predict
        from genint.evaluate.test_sets import open_test_set
        from genint.manifests.pictures import damage_named, decode_picture
        from genint.manifests.sources.natural import NaturalStream
        from genint.pipeline.images.pictures import fit_picture
        from genint.pipeline.sources.natural import repack_image
        from genint.train.augmentation import AUGMENTATIONS, WORDS, Augmentation
        from genint.train.checkpoint import Classifier, Preprocessing
        from genint.train.loader import evaluation_batches
        from genint.train.plan import image_size
        from genint.train.streams import open_images
        from torch import nn

        torch.manual_seed(0)
        self.folder = folder / "pictures"
        for label in "ab":
            (self.folder / label).mkdir(parents=True)
            (self.folder / label / "whole.png").write_bytes(picture(random.Random(0), 40))
        as_is = NaturalStream(source="natural", name="n", images="n")
        png = NaturalStream(source="natural", name="n", images="n", image_format="png")
        cropped = NaturalStream(source="natural", name="n", images="n", resize=48, crop=32)
        words = np.arange(1, WORDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        classifier = Classifier(
            "c",
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)),
            "x",
            ("a", "b"),
            Preprocessing(256, 224),
            "0" * 64,
        )

        def repack(stream: NaturalStream, content: bytes):
            with damage_named("x"):
                result = repack_image(content, stream)
            with Image.open(io.BytesIO(result)) as again:
                again.load()
                assert again.mode == "RGB", "repacked picture is not RGB"
                return again.size

        def transfer(content: bytes):
            with damage_named("x"):
                return fit_picture(decode_picture(content), 48, 32).size

        def train(name: str, content: bytes):
            return tuple(Augmentation(name, 40 if name == "pad-crop" else 32)(content, words).shape)

        def placed(ext: str, content: bytes) -> Path:
            for old in self.folder.glob("a/0.*"):
                old.unlink()
            path = self.folder / "a" / f"0.{ext}"
            path.write_bytes(content)
            return path

        def folder_of(content: bytes, ext: str, use):
            path = placed(ext, content)
            try:
                return use()
            finally:
                path.unlink()

        def validate():
            images = open_images(str(self.folder))
            images.check()
            return sum(len(labels) for _, labels in evaluation_batches(images, Preprocessing(256, 224), 4))

        def evaluate():
            (test_set,) = open_test_set(f"folder={self.folder}")
            return len(predict(classifier, test_set))

        def plan():
            images = open_images(str(self.folder))
            return [image_size(_At(images, i)) for i in range(len(images))]

        self.direct = {
            "repack as it is": lambda c: repack(as_is, c),
            "repack as PNG": lambda c: repack(png, c),
            "repack resized": lambda c: repack(cropped, c),
            "transfer": transfer,
            **{f"train {name}": (lambda c, name=name: train(name, c)) for name in AUGMENTATIONS},
        }
        self.placed = {
            "validation": lambda c, e: folder_of(c, e, validate),
            "evaluate": lambda c, e: folder_of(c, e, evaluate),
            "plan": lambda c, e: folder_of(c, e, plan),
            "corrupt": lambda c, e: self.corrupt(c),
        }

    def corrupt(self, content: bytes):
        from genint.evaluate.corrupt import _Job

        return _Job(None, self.folder, (), (), 0, 64, 48, None).prepare(content, "x").size

    def action(self, target: str, ext: str, content: bytes):
        if target in self.direct:
            return lambda: self.direct[target](content)
        return lambda: self.placed[target](content, ext)

    @property
    def targets(self) -> list[str]:
        return [*self.direct, *self.placed]


class _At:
    """Images whose first is another one: the plan looks at the first alone."""

    def __init__(self, images: Any, start: int) -> None:
        self._images, self._start = images, start

    def read(self, position: int):
        return self._images.read(position + self._start)

    def key(self, position: int) -> str:
        return self._images.key(position + self._start)


def postscript(readers: Readers, folder: Path, tally: Tally) -> None:
    """A picture that is a PostScript program: no interpreter may be started for it."""
    tools = folder / "tools"
    tools.mkdir()
    (tools / "gs").write_text(f"#!/bin/sh\necho ran >> {tools}/ran\nexit 1\n")
    (tools / "gs").chmod(0o755)
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{tools}:{before}"
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n{ } loop\n"
    try:
        for ext in ("jpg", "png"):
            for target in readers.targets:
                result = attempt_apart(readers.action(target, ext, program), 10)
                ran = (tools / "ran").exists()
                (tools / "ran").unlink(missing_ok=True)
                wrong = "PostScript handed to an interpreter" if ran else None
                if wrong:
                    result.kind = "ok"
                tally.add(f"PostScript: {target}", f"EPS named .{ext}", result, wrong)
    finally:
        os.environ["PATH"] = before


def main() -> None:
    options = arguments(__doc__)
    rng = random.Random(options.seed)
    tally = Tally("images")
    with workplace() as folder:
        warnings.simplefilter("ignore")
        readers = Readers(folder)
        pictures = seeds(rng)
        if options.only in (None, "postscript"):
            postscript(readers, folder, tally)
        if options.only in (None, "bombs"):
            cases = bombs()
            bound_memory(BOMB_MEMORY)
            for note, ext, content in cases:
                for target in readers.targets:
                    if target in ("repack as PNG", "train autoaugment", "train pad-crop"):
                        continue  # they decode as their neighbours do
                    result = attempt_apart(readers.action(target, ext, content), BOMB_LIMIT)
                    tally.add(f"bomb: {target}", f"{note} ({len(content):,} bytes)", result)
        bound_memory(2 << 30)
        for _ in range(options.cases if options.only in (None, "random") else 0):
            ext, content = rng.choice(pictures)
            cut = rng.random() < 0.2
            mutated, note = (truncate if cut else mutate_bytes)(rng, content)
            name = content[:4]
            for target in rng.sample(readers.targets, 3):
                result = attempt(readers.action(target, ext, mutated), 10)
                # Data of the first picture end near the end of the file in these; a tenth less is lost pixels.
                lost = cut and len(mutated) < 0.6 * len(content) and ext in ("jpg", "png", "bmp", "ppm")
                lost = lost and b"acTL" not in content  # the first picture of an animated PNG may end before the cut
                wrong = (
                    "picture cut in half taken as whole" if lost and result.kind == "ok" and target != "plan" else None
                )
                tally.add(target, f"{ext} {name!r}: {note}", result, wrong)
    tally.report(options.verbose)


if __name__ == "__main__":
    main()
