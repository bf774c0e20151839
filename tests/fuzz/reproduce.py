"""Each distinct fault by its smallest case: a line for each, FAULT or ok, and how many; exit code 1 where there is one.

`--only WORD` runs those whose name has the word. Most serious first.
"""

import argparse
import contextlib
import gzip
import hashlib
import io
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import FAST_RECIPE, Outcome, attempt, attempt_apart, bound_memory, build, picture, run_cli, workplace
from fuzz_images import blank, png_header, zeros
from fuzz_shards import dali_index
from fuzz_weights import saved
from tars import base256, octal, pad, raw_header

CASES: list[tuple[str, Callable[["Place"], str | None]]] = []


def case(name: str):
    def keep(function: Callable[["Place"], str | None]):
        CASES.append((name, function))
        return function

    return keep


class Place:
    """Small good inputs; each case gets its own copy of what it spoils."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fast = build(FAST_RECIPE, folder / "fast")
        self.recipe = folder / "fast.toml"
        rng = random.Random(1)
        for label in "ab":
            (folder / "photos" / label).mkdir(parents=True)
            for number in range(3):
                (folder / "photos" / label / f"{number}.png").write_bytes(picture(rng, 40))
        self.run_words = [
            "--preset",
            "mini-erm",
            "--set",
            "arch=squeezenet1_1",
            "--set",
            "batch_sizes.natural=8",
            "--device",
            "cpu",
            "--log-every",
            1,
            "--save-every",
            1,
        ]
        made = self.train("--shards", self.fast, "--steps", 2, "--out", folder / "run")
        assert made.kind == "ok", made

    def copy(self, name: str) -> Path:
        target = self.folder / "work" / name
        shutil.rmtree(target.parent, ignore_errors=True)
        target.parent.mkdir()
        shutil.copytree(self.folder / name, target)
        return target

    def new(self, name: str) -> Path:
        target = self.folder / "work" / name
        shutil.rmtree(target.parent, ignore_errors=True)
        target.mkdir(parents=True)
        return target

    def pipeline(self, *words: Any, limit: float = 60) -> Outcome:
        from genint.pipeline.cli import main

        return attempt_apart(lambda: run_cli(main, *words), limit)

    def train(self, *words: Any, limit: float = 60) -> Outcome:
        from genint.train.cli import main

        return attempt_apart(lambda: run_cli(main, *self.run_words, *words), limit)

    def evaluate(self, *words: Any, limit: float = 60) -> Outcome:
        from genint.evaluate.cli import main

        return attempt_apart(lambda: run_cli(main, *words), limit)

    def images(self, location: Path) -> Any:
        """What training reads at a location: labels with digests."""

        def read():
            from genint.train.streams import open_images

            images = open_images(str(location))
            images.check()
            return sorted(
                (label, hashlib.sha256(content).hexdigest()[:8])
                for content, label in (images.read(i) for i in range(len(images)))
            )

        return attempt_apart(read, 10)

    def listed(self, location: Path) -> Any:
        """What a natural input lists at a location."""

        def read():
            from genint.manifests.tar_inputs import list_input

            listing = list_input("class folders", str(location), "photos")
            return sorted((p.partition("/")[0], hashlib.sha256(listing.read(p)).hexdigest()[:8]) for p in listing.paths)

        return attempt_apart(read, 10)


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


def bad(result: Outcome, also: tuple[str, ...] = ()) -> str | None:
    """The fault of a command that should be done, or refused in words."""
    return (
        f"{result.kind}: {result.signature} {result.message[:110]}"
        if result.kind in ("traceback", "hang", *also)
        else None
    )


def accepted(result: Outcome, what: str) -> str | None:
    return what if result.kind == "ok" else bad(result)


# ---- wrong data taken for good ------------------------------------------------------------------------------------


@case("verify: a manifest without parts, so that no shard is looked at")
def _(p: Place) -> str | None:
    d = p.copy("fast")
    for shard in d.glob("*/0000/*.tar"):
        shard.write_bytes(b"")
    edit(d / "manifest.json", lambda m: [s.update(parts=[]) for s in m["streams"]])
    return accepted(p.pipeline("verify", d), "verified, with every shard empty")


@case("verify: a stream left out of the manifest")
def _(p: Place) -> str | None:
    d = p.copy("fast")
    edit(d / "manifest.json", lambda m: m["streams"].pop(0))
    shutil.rmtree(d / "natural")
    return accepted(p.pipeline("verify", d), "verified without the stream")


@case("verify: class names exchanged in the manifest, which evaluation and training go by")
def _(p: Place) -> str | None:
    d = p.copy("fast")
    edit(d / "manifest.json", lambda m: [s["class_names"].reverse() for s in m["streams"]])
    return accepted(p.pipeline("verify", d), "verified")


@case("verify: split and role changed in the manifest: test images are trained on, natural ones count as generated")
def _(p: Place) -> str | None:
    d = p.copy("fast")
    edit(d / "manifest.json", lambda m: m["streams"][2].update(split="train", role="generated"))
    return accepted(p.pipeline("verify", d), "verified")


@case("verify: a part that lost a record, with its digest in the manifest")
def _(p: Place) -> str | None:
    d = p.copy("fast")
    part = next((d / "manifest").glob("natural-*.jsonl"))
    part.write_bytes(b"".join(part.read_bytes().splitlines(keepends=True)[1:]))
    edit(
        d / "manifest.json",
        lambda m: m["streams"][0]["parts"][0].update(sha256=hashlib.sha256(part.read_bytes()).hexdigest()),
    )
    (d / "natural/0000/natural-0000000.tar").unlink()
    return accepted(p.pipeline("verify", d), "verified without its first shard")


@case("verify: the plan's class names gone (plan.json is in no sum)")
def _(p: Place) -> str | None:
    d = p.copy("fast")
    edit(d / "records/plan.json", lambda m: m["fingerprint"].update(format_version=1) or m.update(class_names=["x"]))
    return accepted(p.pipeline("verify", d), "verified with plan.json altered")


@case("verify: a shard that no record knows, which load_dataset and webdataset's patterns read all the same")
def _(p: Place) -> str | None:
    d = p.copy("fast")
    shutil.copy(d / "natural/0000/natural-0000000.tar", d / "natural/0000/natural-0000099.tar")
    return accepted(p.pipeline("verify", d), "verified")


@case(
    "verify: SHA256SUMS with another digest of a shard (its own digest in the manifest): sha256sum -c fails, verify does not"
)
def _(p: Place) -> str | None:
    d = p.copy("fast")
    lines = (d / "SHA256SUMS").read_text().splitlines(keepends=True)
    (d / "SHA256SUMS").write_text(
        "".join("0" * 64 + line[64:] if line.strip().endswith("natural-0000000.tar") else line for line in lines)
    )
    edit(
        d / "manifest.json", lambda m: m.update(sums_sha256=hashlib.sha256((d / "SHA256SUMS").read_bytes()).hexdigest())
    )
    return accepted(p.pipeline("verify", d), "verified")


def relabel(d: Path, stream: str) -> Path:
    """Every label of a stream's first shard made another digit, in place."""
    shard = d / f"{stream}/0000/{stream}-0000000.tar"
    content = bytearray(shard.read_bytes())
    with tarfile.open(shard) as archive:
        for info in archive:
            if info.name.endswith(".cls"):
                content[info.offset_data] = ord("0") + (content[info.offset_data] - ord("0") + 1) % 10
    shard.write_bytes(content)
    return shard


@case("evaluate run: labels of a test shard altered; measured under the digest of the record")
def _(p: Place) -> str | None:
    d = p.copy("fast")
    out = p.folder / "work" / "out"
    words = ("run", "--checkpoint", p.folder / "run", "--shards", d, "--corruptions", 0)
    p.evaluate(*words, "--out", out)
    before = json.loads((out / "results.json").read_text())["accuracy"][0]
    for turn in range(9):
        relabel(d, "shown")
        result = p.evaluate(*words, "--out", out.with_name(f"out{turn}"))
        if result.kind != "ok":
            return bad(result)
        after = json.loads((out.with_name(f"out{turn}") / "results.json").read_text())["accuracy"][0]
        if after["top1"] != before["top1"]:
            break
    return f"top-1 {before['top1']:.2f} -> {after['top1']:.2f}, same digest {before['digest'] == after['digest']}"


@case("evaluate run, the same folder again: predictions of the unaltered shards are reported for altered ones")
def _(p: Place) -> str | None:
    d = p.copy("fast")
    out = p.folder / "work" / "out"
    words = ("run", "--checkpoint", p.folder / "run", "--shards", d, "--corruptions", 0, "--out", out)
    p.evaluate(*words)
    relabel(d, "shown")
    return accepted(p.evaluate(*words), "taken from the cache; nothing read, nothing said")


@case("genint-train: the validation stream is never verified")
def _(p: Place) -> str | None:
    d = p.copy("fast")
    relabel(d, "held")
    return accepted(
        p.train("--shards", d, "--steps", 1, "--out", p.folder / "work" / "r"), "validated on altered labels"
    )


@case("checkpoint with one bit of a weight flipped is evaluated and gone on from")
def _(p: Place) -> str | None:
    r = p.copy("run")
    last = r / "last.pt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 0x40
    last.unlink()
    last.write_bytes(content)
    crc = zipfile.ZipFile(last).testzip()
    return accepted(
        p.train("--shards", p.fast, "--steps", 3, "--out", r),
        f"gone on from it (zipfile finds {crc or 'nothing'} damaged)",
    )


@case("generator weights with one bit flipped are rendered with")
def _(p: Place) -> str | None:
    from importlib.resources import files

    g = p.new("g")
    for name in ("config.json", "pytorch_model.bin"):
        shutil.copy(str(files("genint.pipeline") / "data" / "mini-generator" / name), g)
    content = bytearray((g / "pytorch_model.bin").read_bytes())
    content[len(content) // 2] ^= 0x40
    (g / "pytorch_model.bin").write_bytes(content)
    from genint.pipeline.biggan.generator import load_generator

    crc = zipfile.ZipFile(g / "pytorch_model.bin").testzip()
    return accepted(attempt(lambda: load_generator(g)), f"loaded (zipfile finds {crc or 'nothing'} damaged)")


def tar_of(members: list[tuple[str, bytes]]) -> bytes:
    return b"".join(raw_header(n.encode(), octal(len(c))) + pad(c) for n, c in members) + bytes(1024)


def two_samples(p: Place, prefix: str = "") -> list[tuple[str, bytes]]:
    first, second = (picture(random.Random(i), 12) for i in (1, 2))
    return [
        (f"{prefix}0001.cls", b"1"),
        (f"{prefix}0001.png", first),
        (f"{prefix}0002.cls", b"2"),
        (f"{prefix}0002.png", second),
    ]


@case("tars of others, .idx: a dot in the folder's name (data.v2/0001.png) loses all samples but the last")
def _(p: Place) -> str | None:
    t = p.new("t")
    (t / "a.tar").write_bytes(tar_of(two_samples(p, "data.v2/")))
    without = p.images(t)
    (t / "a.idx").write_bytes(dali_index((t / "a.tar").read_bytes()))
    found = p.images(t)
    if found.kind == "ok" and len(found.value[0]) != len(without.value[0]):
        return f"{len(found.value[0])} of {len(without.value[0])} samples"
    return bad(found)


@case("tars of others, .idx: an index that is not of this tar gives samples other labels")
def _(p: Place) -> str | None:
    t = p.new("t")
    members = two_samples(p)
    (t / "a.tar").write_bytes(tar_of(members))
    right = p.images(t).value[0]
    # The tar was written anew in another order after wds2idx: labels stand where the other's stood.
    (t / "a.idx").write_bytes(dali_index((t / "a.tar").read_bytes()))
    (t / "a.tar").write_bytes(
        tar_of([("0001.cls", b"2"), ("0001.png", members[1][1]), ("0002.cls", b"1"), ("0002.png", members[3][1])])
    )
    stale = (
        (t / "a.idx")
        .read_text()
        .replace("cls 512 1 0001.cls", f"cls {512 * 3 + len(pad(members[1][1])) + 0} 1 0001.cls")
    )
    (t / "a.idx").write_text(stale)
    found = p.images(t)
    return (
        f"{found.value[0]} where the tar's own headers give [(2, {right[0][1]}), (1, {right[1][1]})]"
        if found.kind == "ok" and sorted(found.value[0]) != sorted([(2, right[0][1]), (1, right[1][1])])
        else bad(found)
    )


def sparse_tar() -> tuple[bytes, bytes]:
    """A picture stored sparse, as `tar --sparse` does: a PPM with a run of zeros that is left out."""
    head = b"P6 64 64 255\n"
    first, last = head + b"\xc8" * (1024 - len(head)), b"\x64" * (13 + 64 * 64 * 3 - 9216)
    whole = first + bytes(8192) + last
    tail = bytearray(167)
    struct.pack_into("12s12s12s12s", tail, 386 - 345, octal(0), octal(1024), octal(9216), octal(len(last)))
    tail[483 - 345 : 495 - 345] = octal(len(whole))
    member = raw_header(b"0001.ppm", octal(1024 + len(last)), b"S", magic=b"ustar  \0", tail=bytes(tail)) + pad(
        first + last
    )
    # More after it, so that there are bytes to read by mistake.
    other = tar_of(
        [*two_samples(None, "0"), ("00003.cls", b"1"), ("00003.png", picture(random.Random(3), 12) + bytes(20_000))]
    )
    return raw_header(b"0001.cls", octal(1)) + pad(b"1") + member + other, whole


@case("tars of others: a sparse member's bytes are read as if it were not sparse (training)")
def _(p: Place) -> str | None:
    t = p.new("t")
    content, whole = sparse_tar()
    (t / "a.tar").write_bytes(content)
    digest = hashlib.sha256(whole).hexdigest()[:8]
    found = p.images(t)
    if os.environ.get("FUZZ_REFUSALS"):
        print(found, digest, file=sys.__stderr__)
    return (
        "other bytes than tar extracts"
        if found.kind == "ok" and digest not in {d for _, d in found.value[0]}
        else bad(found)
    )


@case("tars of others: a sparse member's bytes are read as if it were not sparse (natural input)")
def _(p: Place) -> str | None:
    t = p.new("t")
    content, whole = sparse_tar()
    (t / "a.tar").write_bytes(content)
    digest = hashlib.sha256(whole).hexdigest()[:8]
    found = p.listed(t)
    return (
        "other bytes than tar extracts"
        if found.kind == "ok" and digest not in {d for _, d in found.value[0]}
        else bad(found)
    )


@case(
    "tars of others: a member that stands there twice replaces the first, in silence (training; natural inputs refuse it)"
)
def _(p: Place) -> str | None:
    t = p.new("t")
    (t / "a.tar").write_bytes(tar_of([*two_samples(p), ("0001.cls", b"3")]))
    found = p.images(t)
    return f"labels {[label for label, _ in found.value[0]]}" if found.kind == "ok" else bad(found)


@case("natural input from tars: a tar of the same size in another order, put in place of an interrupted build's")
def _(p: Place) -> str | None:
    t, out = p.new("t"), p.folder / "work" / "d"
    recipe = p.folder / "work" / "r.toml"
    text = 'name = "r"\nseed = 1\n' + "".join(
        f'[[streams]]\nname = "{n}"\nsource = "natural"\nimages = "photos"\nimage_format = "png"\n'
        for n in ("one", "two")
    )
    recipe.write_text(text)
    members = two_samples(p)
    same = [(n, c + bytes(600 - len(c)) if n.endswith("png") else c) for n, c in members]  # PNGs of equal length
    (t / "a.tar").write_bytes(tar_of(same))
    words = ("build-shards", recipe, "--out", out, "--workers", 1, "--input", f"photos={t}")
    assert p.pipeline(*words, "--stream", "one").kind == "ok"
    (t / "a.tar").write_bytes(
        tar_of([("0001.cls", b"2"), ("0001.png", same[3][1]), ("0002.cls", b"1"), ("0002.png", same[1][1])])
    )
    result = p.pipeline(*words)
    if result.kind != "ok":
        return bad(result)

    def labels(stream: str) -> dict[str, str]:
        with tarfile.open(out / f"{stream}/0000/{stream}-0000000.tar") as archive:
            found = {m.name: archive.extractfile(m).read() for m in archive}
        return {
            hashlib.sha256(found[n]).hexdigest()[:6]: found[n.replace(".png", ".cls")].decode()
            for n in found
            if n.endswith(".png")
        }

    # The old tar and the new one both say the same of each picture.
    return (
        f"label by picture: {labels('one')} in the tars and in the first stream, {labels('two')} in the second"
        if labels("one") != labels("two")
        else None
    )


@case("resume: recipe.toml in the folder edited: exit 0 with shards of two recipes")
def _(p: Place) -> str | None:
    d = p.new("d")
    words = ("build-shards", p.recipe, "--out", d, "--workers", 1)
    assert p.pipeline(*words, "--stream", "natural").kind == "ok"
    (d / "recipe.toml").write_text(
        (d / "recipe.toml").read_text().replace("background_confounding = 0.8", "background_confounding = 0.1")
    )
    return accepted(p.pipeline(*words), "built with exit 0")


@case("resume: a record whose digest has changed goes into SHA256SUMS and manifest; exit 0, and no build repairs it")
def _(p: Place) -> str | None:
    d = p.new("d")
    words = ("build-shards", p.recipe, "--out", d, "--workers", 1)
    assert p.pipeline(*words, "--stream", "natural").kind == "ok"
    edit(d / "records/natural/0000/0000000.json", lambda r: r.update(sha256="0" * 64))
    result = p.pipeline(*words)
    if result.kind != "ok":
        return bad(result)
    # The shard is made again, and its record with it.
    verified = p.pipeline("verify", d).kind
    return (
        None if verified == "ok" else f"built with exit 0; verify: {verified}; build again: {p.pipeline(*words).kind}"
    )


@case("finished dataset with a lost index: build-shards says complete, exit 0")
def _(p: Place) -> str | None:
    d = p.copy("fast")
    (d / "natural/0000/natural-0000001.idx").unlink()
    again = p.pipeline("build-shards", p.recipe, "--out", d, "--workers", 1)
    # The index is made again from its tar.
    return bad(again) or (None if p.pipeline("verify", d).kind == "ok" else "complete already")


@case("two evaluations at once into one report: one's results are lost, both exit 0")
def _(p: Place) -> str | None:
    shutil.copytree(p.folder / "run", p.folder / "run-b", dirs_exist_ok=True)
    p.train("--shards", p.fast, "--steps", 3, "--out", p.folder / "run-b")
    out = p.new("x").parent / "out"
    from jobs import start, wait

    children = [
        (
            start(
                ["evaluate", "run", "--checkpoint", p.folder / r, "--shards", p.fast, "--corruptions", 0, "--out", out],
                log,
            ),
            log,
        )
        for r, log in (("run", p.folder / "1.log"), ("run-b", p.folder / "2.log"))
    ]
    codes = [wait(c, log, 60).code for c, log in children]
    names = [e["name"] for e in json.loads((out / "results.json").read_text())["checkpoints"]]
    return f"exit codes {codes}, in the report {names}" if codes == [0, 0] and len(names) < 2 else None


# ---- code and files ------------------------------------------------------------------------------------------------


@case("a PostScript program named .jpg is handed to Ghostscript (natural input, training, evaluation)")
def _(p: Place) -> str | None:
    t = p.copy("photos")
    tools = p.folder / "work" / "tools"
    tools.mkdir()
    (tools / "gs").write_text(f"#!/bin/sh\necho $0 >> {tools}/ran\nexit 0\n")
    (tools / "gs").chmod(0o755)
    (t / "a" / "x.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n{ } loop\n")
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{tools}:{before}"
    try:
        recipe = p.folder / "work" / "r.toml"
        recipe.write_text(
            'name = "r"\nseed = 1\n[[streams]]\nname = "one"\nsource = "natural"\nimages = "photos"\nimage_format = "png"\n'
        )
        p.pipeline("build-shards", recipe, "--out", p.folder / "work" / "d", "--workers", 1, "--input", f"photos={t}")
        return "gs was started" if (tools / "ran").exists() else None
    finally:
        os.environ["PATH"] = before


@case("results.json of others: a figure's name reads any file into the published page")
def _(p: Place) -> str | None:
    out = p.new("out")
    secret = p.folder / "work" / "secret.txt"
    secret.write_text("SENTINEL")
    p.evaluate(
        "run",
        "--checkpoint",
        p.folder / "run",
        "--folder",
        p.folder / "nothing",
        "--shards",
        p.fast,
        "--corruptions",
        0,
        "--out",
        out,
    )
    p.evaluate("run", "--checkpoint", p.folder / "run", "--shards", p.fast, "--corruptions", 0, "--out", out)
    edit(
        out / "results.json",
        lambda r: r["analyses"].update(
            x={"title": "x", "texts": [], "columns": [], "rows": [], "data": None, "figures": {"../secret.txt": "c"}}
        ),
    )
    result = p.evaluate("run", "--checkpoint", p.folder / "run", "--shards", p.fast, "--corruptions", 0, "--out", out)
    import base64

    inside = base64.b64encode(b"SENTINEL").decode() in (out / "index.html").read_text()
    return "the file outside is in index.html" if inside else bad(result)


@case("run folder: metrics.jsonl.tmp is a fixed name and follows a link")
def _(p: Place) -> str | None:
    r = p.copy("run")
    victim = p.folder / "work" / "victim"
    victim.write_text("precious")
    (r / "metrics.jsonl.tmp").symlink_to(victim)
    p.train("--shards", p.fast, "--steps", 3, "--out", r)
    return "the link's target was overwritten" if victim.read_text() != "precious" else None


# ---- hangs and bombs ------------------------------------------------------------------------------------------------


@case("tars of others: a negative size sends the reader round in circles (training)")
def _(p: Place) -> str | None:
    t = p.new("t")
    body = (
        tar_of(two_samples(p))[:-1024]
        + raw_header(b"0003.cls", octal(1))
        + pad(b"1")
        + raw_header(b"0003.png", base256(-1536))
        + bytes(1024)
    )
    (t / "a.tar").write_bytes(body)
    return bad(p.images(t))


@case("tars of others: a negative size (natural input)")
def _(p: Place) -> str | None:
    t = p.new("t")
    body = (
        tar_of(two_samples(p))[:-1024]
        + raw_header(b"0003.cls", octal(1))
        + pad(b"1")
        + raw_header(b"0003.png", base256(-1536))
        + bytes(1024)
    )
    (t / "a.tar").write_bytes(body)
    return bad(p.listed(t))


@case("tars of others: a label of 999999999 makes as many class names")
def _(p: Place) -> str | None:
    t = p.new("t")
    (t / "a.tar").write_bytes(tar_of([("0001.cls", b"999999999"), ("0001.png", picture(random.Random(1), 12))]))
    return bad(p.images(t))


@case("pattern of tars {0..99999999} is spelled out before one is looked for")
def _(p: Place) -> str | None:
    return bad(
        p.train("--shards", p.fast, "--imagenet", p.folder / "x-{0..99999999}.tar", "--steps", 1, "--dry-run", limit=20)
    )


@case("class folders with links to themselves: walked 2^40 times")
def _(p: Place) -> str | None:
    t = p.copy("photos")
    (t / "a" / "one").symlink_to(".")
    (t / "a" / "two").symlink_to(".")
    return bad(p.listed(t))


@case("class folder with one link to itself: every picture listed 40 times")
def _(p: Place) -> str | None:
    t = p.copy("photos")
    (t / "a" / "one").symlink_to(".")
    found = p.listed(t)
    return f"{len(found.value[0])} pictures of 6" if found.kind == "ok" and len(found.value[0]) != 6 else bad(found)


@case("a named pipe among the pictures (x.jpg): reading waits for ever")
def _(p: Place) -> str | None:
    t = p.copy("photos")
    os.mkfifo(t / "a" / "x.jpg")
    return bad(p.listed(t))


@case("a link to /dev/zero among the pictures: read until memory ends")
def _(p: Place) -> str | None:
    t = p.copy("photos")
    (t / "a" / "x.jpg").symlink_to("/dev/zero")
    return bad(p.listed(t))


@case("a picture of 1 x 65500 pixels (207 bytes): evaluation and validation resize it to 4.3 billion")
def _(p: Place) -> str | None:
    t = p.copy("photos")
    (t / "a" / "x.png").write_bytes(blank(1, 65500, "png", "PNG"))

    def read():
        from genint.train.checkpoint import Preprocessing
        from genint.train.loader import evaluation_batches
        from genint.train.streams import open_images

        return sum(len(labels) for _, labels in evaluation_batches(open_images(str(t)), Preprocessing(), 4))

    return bad(attempt_apart(read, 40))


@case("augmentation `additional` turns a picture of 65000 x 1300 on a canvas of 2 billion pixels")
def _(p: Place) -> str | None:
    content = png_header(65000, 1300, 1, 0, zeros(1300 * 8126))
    from genint.train.augmentation import WORDS, Augmentation

    words = np.arange(1, WORDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return bad(attempt_apart(lambda: Augmentation("additional", 32)(content, words), 40))


@case("list of an input's files that unpacks to 3 GB (inputs/*.tsv.gz)")
def _(p: Place) -> str | None:
    from genint.manifests.inputs import Listing

    worker = io.BytesIO()
    with gzip.GzipFile(fileobj=worker, mode="wb") as file:
        for _ in range(3072):
            file.write(bytes(1 << 20))
    return bad(attempt_apart(lambda: Listing.from_bytes(worker.getvalue(), ""), 40))


@case("directions .npz of 3 MB that unpacks to 3 GB")
def _(p: Place) -> str | None:
    path = p.new("n") / "d.npz"
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (800000000,), }\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for key in (
            "act_comp",
            "act_mean",
            "act_stdev",
            "lat_comp",
            "lat_mean",
            "lat_stdev",
            "var_ratio",
            "random_stdevs",
        ):
            with archive.open(f"{key}.npy", "w", force_zip64=True) as file:
                file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
                for _ in range(3052 if key == "act_comp" else 1):
                    file.write(bytes(1 << 20))
    from genint.manifests.directions import load_directions

    return bad(attempt_apart(lambda: load_directions(path), 40))


@case("recipe: batches and latents of 100,000 in a dry run")
def _(p: Place) -> str | None:
    return bad(
        p.pipeline(
            "build-shards",
            "mini",
            "--dry-run",
            "--stream",
            "observational",
            "--set",
            "generator.batch_size=1000000000",
            "--set",
            "streams.observational.latents_per_class=1000000000",
            limit=20,
        )
    )


@case("recipe: transfers of 100,000 pixels in a dry run")
def _(p: Place) -> str | None:
    return bad(
        p.pipeline(
            "build-shards",
            "mini",
            "--dry-run",
            "--stream",
            "transfer",
            "--set",
            "streams.transfer.resize=100000",
            "--set",
            "streams.transfer.crop=100000",
            limit=30,
        )
    )


# ---- kills and disks ------------------------------------------------------------------------------------------------


@case(
    "a build killed while recipe.toml is written can never go on: its temporary file makes the folder somebody else's"
)
def _(p: Place) -> str | None:
    d = p.new("d")
    (d / "recipe.toml.tmp.0123456789abcdef").write_text("")
    result = p.pipeline("build-shards", p.recipe, "--out", d, "--workers", 1)
    return f"exit code {result.code}: {result.message[-80:]}" if result.kind == "refused" else bad(result)


@case("a trainer killed with -9: its loader processes keep the lock, and the same command ends with 2")
def _(p: Place) -> str | None:
    import signal

    from fuzz_kills import children_of
    from jobs import start, wait

    r = p.new("x").parent / "r"
    command = ["train", *p.run_words, "--shards", p.fast, "--steps", 200, "--workers", 2, "--out", r]
    child = start(command, p.folder / "1.log")
    end = time.monotonic() + 30
    while time.monotonic() < end and (not children_of(child) or not list(r.glob("step-*.pt"))):
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    wait(child, p.folder / "1.log", 10)
    again = start(command, p.folder / "2.log")
    ended = wait(again, p.folder / "2.log", 6)
    time.sleep(6)
    return f"exit code 2: {ended.text.strip()[-60:]}" if ended.code == 2 and "under way" in ended.text else None


@case("full disk while a checkpoint is written")
def _(p: Place) -> str | None:
    import errno

    from genint.train.checkpoint import save_checkpoint

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            if self.tell() > 100_000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data)

    import builtins

    import torch

    d = p.new("d")
    real = builtins.open
    builtins.open = lambda path, mode="r", *a, **k: (
        Full(path, "w") if "wb" in mode and ".tmp." in str(path) else real(path, mode, *a, **k)
    )
    try:
        return bad(attempt(lambda: save_checkpoint(d / "x.pt", {"model": {"a": torch.zeros(100_000)}})))
    finally:
        builtins.open = real


@case("the worker cannot start (records/environments not writable, recipe.toml damaged): BrokenThreadPool")
def _(p: Place) -> str | None:
    d = p.new("d")
    words = ("build-shards", p.recipe, "--out", d, "--workers", 1)
    assert p.pipeline(*words, "--stream", "natural").kind == "ok"
    shutil.rmtree(d / "records/environments")
    (d / "records/environments").write_text("a file")
    return bad(p.pipeline(*words))


# ---- tracebacks ------------------------------------------------------------------------------------------------------


@case("plan.json damaged: build-shards")
def _(p: Place) -> str | None:
    d = p.copy("fast")
    (d / "records/plan.json").write_text("{}")
    return bad(p.pipeline("build-shards", p.recipe, "--out", d, "--workers", 1))


@case("a record damaged: build-shards")
def _(p: Place) -> str | None:
    d = p.new("d")
    words = ("build-shards", p.recipe, "--out", d, "--workers", 1)
    assert p.pipeline(*words, "--stream", "natural").kind == "ok"
    (d / "records/natural/0000/0000000.json").write_text("{}")
    return bad(p.pipeline(*words))


@case("a part whose line is no record, with its digest in the manifest: verify")
def _(p: Place) -> str | None:
    d = p.copy("fast")
    part = next((d / "manifest").glob("natural-*.jsonl"))
    part.write_bytes(b"{}\n")
    edit(d / "manifest.json", lambda m: m["streams"][0]["parts"][0].update(sha256=hashlib.sha256(b"{}\n").hexdigest()))
    return bad(p.pipeline("verify", d))


@case("a NUL in a part's path: verify")
def _(p: Place) -> str | None:
    d = p.copy("fast")
    edit(d / "manifest.json", lambda m: m["streams"][0]["parts"][0].update(path="a\0b"))
    return bad(p.pipeline("verify", d))


@case("inspect natural-² (a digit that is no number)")
def _(p: Place) -> str | None:
    return bad(p.pipeline("inspect", p.fast, "natural-²"))


@case("inspect: the sample's json damaged")
def _(p: Place) -> str | None:
    d = p.copy("fast")
    for shard in d.glob("natural/0000/*.tar"):
        shard.write_bytes(shard.read_bytes().replace(b'{"', b'x"', 24))
    return bad(p.pipeline("inspect", d, "natural-00000003"))


@case("list of an input's files damaged: verify")
def _(p: Place) -> str | None:
    recipe = p.new("x").parent / "r.toml"
    recipe.write_text(
        'name = "r"\nseed = 1\n[[streams]]\nname = "one"\nsource = "natural"\nimages = "photos"\nimage_format = "png"\n'
    )
    d = recipe.parent / "d"
    assert (
        p.pipeline("build-shards", recipe, "--out", d, "--workers", 1, "--input", f"photos={p.folder / 'photos'}").kind
        == "ok"
    )
    (d / "inputs/photos.tsv.gz").write_bytes(
        gzip.compress(gzip.decompress((d / "inputs/photos.tsv.gz").read_bytes()).replace(b"a/1.png", b"1.png"))
    )
    return bad(p.pipeline("verify", d))


@case("a bucket that cannot be reached, or no credentials: botocore's own traceback")
def _(p: Place) -> str | None:
    found = []
    kept = {
        name: os.environ.pop(name, None) for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL")
    }
    for settings in (
        {"AWS_EC2_METADATA_DISABLED": "true"},
        {
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "y",
            "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
            "AWS_MAX_ATTEMPTS": "1",
        },
    ):
        os.environ.update(settings)
        result = p.pipeline("status", "s3://bucket/x")
        found += [result.signature.partition(" in ")[0]] if result.kind in ("traceback", "hang") else []
    for name, value in kept.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    return "; ".join(found) or None


@case("credentials in a URL are printed: https://user:secret@host/x")
def _(p: Place) -> str | None:
    result = p.pipeline("status", "https://someone:topsecret@127.0.0.1:9/x")
    return result.message[-90:] if "topsecret" in result.message else None


@case("a release holds the host's name (records/driver.lock)")
def _(p: Place) -> str | None:
    import socket

    text = (p.fast / "records/driver.lock").read_text() if (p.fast / "records/driver.lock").exists() else ""
    return "`process N on HOST`" if socket.gethostname() in text else None


@case("genint-train --imagenet alone with a preset that names streams")
def _(p: Place) -> str | None:
    result = p.train("--imagenet", p.folder / "photos", "--steps", 1, "--dry-run")
    return result.message[-70:] if result.message.rstrip().endswith("known:") else bad(result)


@case("--set seed=999... of 5,000 digits")
def _(p: Place) -> str | None:
    return bad(p.pipeline("build-shards", "mini", "--dry-run", "--set", "seed=" + "9" * 5000))


@case("--set seed=[[[... nested 2,000 deep (and the same in a recipe's or preset's file)")
def _(p: Place) -> str | None:
    return bad(p.pipeline("build-shards", "mini", "--dry-run", "--set", "seed=" + "[" * 2000 + "]" * 2000))


@case("genint-train --set stages=[1]")
def _(p: Place) -> str | None:
    return bad(p.train("--shards", p.fast, "--dry-run", "--set", "stages=[1]"))


@case("genint-train --init with a character beyond U+FFFF is looked for under another name")
def _(p: Place) -> str | None:
    shutil.copytree(p.folder / "run", p.new("x").parent / "läufe-😀")
    result = p.train(
        "--shards", p.fast, "--steps", 1, "--out", p.folder / "work" / "r", "--init", p.folder / "work" / "läufe-😀"
    )
    return f"refused: {result.message[-90:]}" if result.kind == "refused" else bad(result)


@case("checkpoint without a version; with a number as a weight's name; with preprocessing = {}")
def _(p: Place) -> str | None:
    import torch

    r = p.copy("run")
    content = torch.load(r / "last.pt", weights_only=True)
    found = []
    for change in (
        lambda c: c.pop("version"),
        lambda c: c["model"].update({7: torch.zeros(1)}),
        lambda c: c.update(preprocessing={"a": 1}),
        lambda c: c.update(class_names=7),
        lambda c: c.update(configuration=None),
        lambda c: c.update(arch=["x"]),
    ):
        spoiled = torch.load(r / "last.pt", weights_only=True)
        change(spoiled)
        (p.folder / "work" / "x.pt").write_bytes(saved(spoiled))
        from genint.train.checkpoint import load_classifier

        result = attempt(lambda: load_classifier(str(p.folder / "work" / "x.pt")))
        found += [result.signature] if result.kind == "traceback" else []
    del content
    return "; ".join(found) or None


@case("run folder: run.json is a list; metrics.jsonl has a line that is no object; last.pt lacks its step")
def _(p: Place) -> str | None:
    import torch

    found = []
    for spoil in ("run.json", "metrics", "step", "interval", "optimizer"):
        r = p.copy("run")
        if spoil == "run.json":
            (r / "run.json").write_text("[]")
        elif spoil == "metrics":
            (r / "metrics.jsonl").write_text("[1]\n")
        else:
            content = torch.load(r / "last.pt", weights_only=True)
            content.pop(spoil)
            (r / "last.pt").unlink()
            (r / "last.pt").write_bytes(saved(content))
        result = p.train("--shards", p.fast, "--steps", 3, "--out", r)
        found += [f"{spoil}: {result.signature}"] if result.kind == "traceback" else []
    return "; ".join(found) or None


@case("directions .npz: a member that is no array; encrypted; of another compression; a shape of 10^12")
def _(p: Place) -> str | None:
    from importlib.resources import files

    from fuzz_weights import mutate_npz
    from genint.manifests.directions import load_directions, save_directions
    from genint.pipeline.biggan.generator import load_generator
    from genint.pipeline.generators.directions import exact_directions

    path = p.new("n") / "d.npz"
    save_directions(
        exact_directions(load_generator(str(files("genint.pipeline") / "data" / "mini-generator")).model, 4), path
    )
    original, found = path.read_bytes(), {}
    rng = random.Random(0)
    for _ in range(400):
        content, note = mutate_npz(rng, original)
        what = note.partition(" in ")[0]
        if what in ("not npy", "encrypted", "method 99", "header of 10^12") and what not in found:
            path.write_bytes(content)
            result = attempt_apart(lambda: load_directions(path))
            if result.kind == "traceback":
                found[what] = result.signature.partition(" in ")[0]
    return "; ".join(f"{k}: {v}" for k, v in found.items()) or None


@case("generator's config.json nested 100,000 deep")
def _(p: Place) -> str | None:
    from importlib.resources import files

    from genint.pipeline.biggan.generator import load_generator

    g = p.new("g")
    shutil.copy(str(files("genint.pipeline") / "data" / "mini-generator" / "pytorch_model.bin"), g)
    (g / "config.json").write_text("[" * 100_000)
    return bad(attempt(lambda: load_generator(g)))


@case("generator with NaN in gen_z: directions")
def _(p: Place) -> str | None:
    from importlib.resources import files

    import torch

    g = p.new("g")
    source = Path(str(files("genint.pipeline") / "data" / "mini-generator"))
    shutil.copy(source / "config.json", g)
    state = torch.load(source / "pytorch_model.bin", weights_only=True)
    for name in state:
        if "gen_z.weight_orig" in name:
            state[name][0, 0] = float("nan")
    (g / "pytorch_model.bin").write_bytes(saved(state))
    result = p.pipeline("directions", "mini", "--weights", g, "--out", g / "out", "--show", 1, "--classes", "0")
    return accepted(result, "directions written")


@case("tars of others: sparse or pax headers that are no numbers; a label of 20 digits; sizes of 2^70")
def _(p: Place) -> str | None:
    from tars import pax, pax_record

    found = []
    member = raw_header(b"0001.png", octal(3)) + pad(b"abc") + bytes(1024)
    start = raw_header(b"0001.cls", octal(1)) + pad(b"1")
    for name, body in (
        ("sparse size", start + pax(pax_record("GNU.sparse.size", "abc")) + member),
        ("pax length", start + pax(b"9" * 5000 + b" a=b\n") + member),
        ("size 2^70", start + raw_header(b"0001.png", base256(2**70)) + bytes(1024)),
        ("label", tar_of([("1.cls", b"9" * 20), ("1.png", b"x")])),
    ):
        t = p.new("t")
        (t / "a.tar").write_bytes(body)
        for where, result in (("training", p.images(t)), ("natural input", p.listed(t))):
            found += [f"{where}, {name}: {result.signature.partition(' in ')[0]}"] if result.kind == "traceback" else []
    return "; ".join(found) or None


@case("an .idx of others with an offset beyond 2^63")
def _(p: Place) -> str | None:
    t = p.new("t")
    (t / "a.tar").write_bytes(tar_of(two_samples(p)))
    (t / "a.idx").write_bytes(dali_index((t / "a.tar").read_bytes()).replace(b"cls 512 ", b"cls 99999999999999999999 "))
    return bad(p.images(t))


@case("the first picture of a stream is a bomb, or a PNG with much text: the plan of genint-train")
def _(p: Place) -> str | None:
    found = []
    for content in (b"P6 1000000 1000000 255\n",):
        t = p.copy("photos")
        for path in t.rglob("*.png"):
            path.unlink()
        for label in "ab":
            for number in range(4):
                (t / label / f"{number}.ppm").write_bytes(content)
        result = p.train(
            "--imagenet", t, "--steps", 1, "--dry-run", "--set", "augmentation=none", "--set", "streams=[]"
        )
        if os.environ.get("FUZZ_REFUSALS"):
            print(result, file=sys.__stderr__)
        found += [result.signature] if result.kind == "traceback" else []
    return "; ".join(found) or None


@case("a damaged AVIF among the pictures: evaluation, training, natural input")
def _(p: Place) -> str | None:
    from fuzz_images import Readers
    from PIL import Image

    buffer = io.BytesIO()
    try:
        Image.open(io.BytesIO(picture(random.Random(1), 40))).save(buffer, "AVIF")
    except (OSError, KeyError):
        return None
    readers = Readers(p.new("x"))
    content = bytearray(buffer.getvalue())
    found = set()
    for at in range(100, len(content)):
        content[at] ^= 0x10
        for target in ("repack as PNG", "train none", "corrupt"):
            result = attempt(readers.action(target, "jpg", bytes(content)), 10)
            if result.kind == "traceback":
                found.add(f"{target}: {result.signature.partition(' in ')[0]}")
        content[at] ^= 0x10
        if len(found) == 3:
            break
    return "; ".join(sorted(found)) or None


@case("genint-evaluate nuisances on few images: scikit-learn's own error")
def _(p: Place) -> str | None:
    return bad(
        p.evaluate(
            "nuisances",
            "--reader",
            f"{p.fast}:natural",
            "--reference",
            f"{p.fast}:natural",
            "--held-out",
            f"{p.fast}:held",
            "--distribution",
            f"{p.fast}:natural",
            "--epochs",
            1,
            "--out",
            p.new("x").parent / "out",
        )
    )


@case("a label beyond the classes, or no number, in a test shard: genint-evaluate run")
def _(p: Place) -> str | None:
    found = []
    for label in (b"x", b"9"):
        d = p.copy("fast")
        shard = d / "shown/0000/shown-0000000.tar"
        content = bytearray(shard.read_bytes())
        with tarfile.open(shard) as archive:
            for info in archive:
                if info.name.endswith(".cls"):
                    content[info.offset_data : info.offset_data + 1] = label
        shard.write_bytes(content)
        if label == b"9":
            edit(d / "manifest.json", lambda m: m["streams"][2].update(class_names=m["streams"][2]["class_names"][:5]))
        result = p.evaluate(
            "run", "--checkpoint", p.folder / "run", "--shards", d, "--corruptions", 0, "--out", d.parent / "out"
        )
        found += [f"{label!r}: {result.signature}"] if result.kind == "traceback" else []
    return "; ".join(found) or None


@case("results.json damaged in its depth: genint-evaluate run")
def _(p: Place) -> str | None:
    found = set()
    words = ("run", "--checkpoint", p.folder / "run", "--shards", p.fast, "--corruptions", 0)
    out = p.new("out")
    p.evaluate(*words, "--out", out)
    original = (out / "results.json").read_bytes()
    for change in (
        lambda r: r["accuracy"][0].update(top1="x", checkpoint="y"),
        lambda r: r["accuracy"][0].update(top1=float("nan"), test_set="z"),
        lambda r: r.update(environments=[]),
        lambda r: r.update(analyses={"correlation": {"title": 1, "texts": 2, "columns": 3, "rows": 4, "data": 5}}),
    ):
        (out / "results.json").write_bytes(original)
        edit(out / "results.json", change)
        result = p.evaluate(*words, "--out", out)
        found |= {result.signature} if result.kind == "traceback" else set()
    (out / "results.json").write_text("[" * 100_000)
    result = p.evaluate(*words, "--out", out)
    found |= {result.signature} if result.kind == "traceback" else set()
    return "; ".join(sorted(found)) or None


@case("the report is written to a closed pipe: genint-pipeline recipes | true")
def _(p: Place) -> str | None:
    command = f"{Path(sys.executable).parent / 'genint-pipeline'} recipes"
    done = subprocess.run(["bash", "-c", f"{command} | true; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True)
    code = done.stdout.strip()
    return (
        f"exit code {code}: {done.stderr.strip()[:120]}"
        if code not in ("0", "1", "141") or "Exception ignored" in done.stderr or "Traceback" in done.stderr
        else None
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    faults = 0
    with workplace() as folder:
        place = Place(folder)
        bound_memory(3 << 30)
        for name, function in CASES:
            if options.only not in name:
                continue
            try:
                with contextlib.redirect_stderr(io.StringIO()):
                    found = function(place)
            except Exception as error:
                found = f"?? the case itself: {type(error).__name__}: {error}"
            faults += found is not None
            text = " ".join((found or "").replace(str(folder), "…").split())
            print(f"{'FAULT' if found else 'ok   '} {name}" + (f"\n        {text[:230]}" if text else ""), flush=True)
    print(f"{faults} faults in {len(CASES)} cases")
    if faults:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
