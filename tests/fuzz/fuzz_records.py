"""Mutated manifest, parts, plan, records, sums, recipe, indexes, input lists and results, through every command that reads
them."""

import gzip
import hashlib
import json
import random
import shutil
import tomllib
from pathlib import Path

from common import (
    FAST_RECIPE,
    Tally,
    arguments,
    attempt,
    bound_memory,
    build,
    mutate_bytes,
    picture,
    run_cli,
    workplace,
)
from documents import mutate_json, mutate_text, mutate_tree, same_json
from fuzz_shards import Own, mutate_index

NATURAL = """
[[streams]]
name = "photos"
source = "natural"
images = "photos"
samples_per_shard = 4
image_format = "png"
"""


def mutate_toml(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    import tomli_w

    if rng.random() < 0.3:
        return mutate_text(rng, content)
    tree, note = mutate_tree(rng, tomllib.loads(content.decode()))
    try:
        return tomli_w.dumps(tree).encode(), note
    except (TypeError, ValueError, AttributeError):
        return mutate_text(rng, content)


def mutate_lines(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    """A line of a part (JSON) or of the sums changed, lost or repeated."""
    lines = content.splitlines(keepends=True)
    kind = rng.choice(["line", "line", "drop", "repeat", "swap", "text"])
    at = rng.randrange(len(lines))
    if kind == "drop":
        del lines[at]
    elif kind == "repeat":
        lines.insert(at, lines[at])
    elif kind == "swap":
        other = rng.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == "line" and lines[at].startswith(b"{"):
        changed, note = mutate_json(rng, lines[at])
        lines[at] = changed.replace(b"\n", b" ") + b"\n"
        kind = note
    else:
        return mutate_bytes(rng, content)
    return b"".join(lines), f"{kind} in line {at}"


def mutate_list(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    """The gzipped list of an input's files."""
    if rng.random() < 0.3:
        return mutate_bytes(rng, content)
    text = gzip.decompress(content)
    lines = text.split(b"\n")
    at = rng.randrange(len(lines))
    lines[at] = rng.choice(
        [
            b"",
            b"x",
            b"a/b\tx",
            b"../../etc/passwd\t3",
            b"/etc/passwd\t3",
            b"a/b\t-1",
            b"a/b\t" + b"9" * 5000,
            b"/tars\t1\t1",
            b"/tars\t999999999\t9",
            b"/tars\t-1\t-1",
            b"\xff\xfe\t1",
            b"a\0b/c.png\t3",
        ]
    )
    return gzip.compress(b"\n".join(lines), mtime=0), f"line {at} of the list {lines[at][:24]!r}"


MUTATORS = {
    "manifest.json": mutate_json,
    "records/plan.json": mutate_json,
    "recipe.toml": mutate_toml,
    "SHA256SUMS": mutate_lines,
    ".jsonl": mutate_lines,
    ".idx": mutate_index,
    ".gz": mutate_list,
    ".npz": mutate_bytes,
}


class Finished(Own):
    """A finished dataset with an outside input, for the commands that read one."""

    def __init__(self, folder: Path) -> None:
        rng = random.Random(1)
        for label in "ab":
            (folder / "photos" / label).mkdir(parents=True)
            for number in range(3):
                (folder / "photos" / label / f"{number}.png").write_bytes(picture(rng, 24))
        self.inputs = ("--input", f"photos={folder / 'photos'}")
        import common

        plain = common.build
        build_with = lambda recipe, out, *more: plain(recipe + NATURAL, out, *self.inputs)
        import fuzz_shards

        fuzz_shards.build = build_with
        super().__init__(folder)
        fuzz_shards.build = plain
        self.recipe = folder / "fast.toml"
        self.documents = [
            p
            for p in sorted(self.url.rglob("*"))
            if p.is_file() and any(str(p.relative_to(self.url)).endswith(end) for end in MUTATORS)
        ]
        self.originals = {p: p.read_bytes() for p in self.documents}
        self.trained = self.train()
        self.stated = attempt(self.status).value[1]
        self.sums = hashlib.sha256((self.url / "SHA256SUMS").read_bytes()).hexdigest()

    def status(self):
        from genint.pipeline.cli import main

        run_cli(main, "status", self.url)

    def again(self):
        from genint.pipeline.cli import main

        run_cli(main, "build-shards", self.recipe, "--out", self.url, "--workers", 1, *self.inputs)

    def train(self):
        """What training would see: streams with their term, classes, and every image and label, verified."""
        from genint.train.streams import open_shards

        found = []
        for stream in open_shards(str(self.url)):
            stream.images.check()
            for shard in range(len(stream.images.shard_sizes)):
                stream.images.check_shard(shard)
            read = [stream.images.read(i) for i in range(len(stream.images))]
            digest = hashlib.sha256(b"".join(content + b"%d" % label for content, label in read)).hexdigest()
            found.append((stream.name, stream.term, stream.images.class_names, digest))
        return found


# What nothing else says, and nothing can contradict.
UNTESTABLE = ("finished", "shard_seconds", "retried_shards", "lost_workers", "seconds", "attempt")


def kind_of(own: "Finished", path: Path) -> str:
    return next(end for end in MUTATORS if str(path.relative_to(own.url)).endswith(end))


def altered_keys(before: bytes, after: bytes) -> list[str]:
    """Keys, without positions, under which two JSON documents (or lines of them) differ; the untestable ones left out."""
    try:
        first, second = (
            [json.loads(line) for line in c.splitlines()] if b"\n{" in c else json.loads(c) for c in (before, after)
        )
    except (ValueError, RecursionError):
        return ["text"]
    return sorted({key for key in differences(first, second) if key.rpartition(".")[2] not in UNTESTABLE})


def differences(first, second, at: str = "") -> list[str]:
    if isinstance(first, dict) and isinstance(second, dict):
        return [
            d
            for key in first.keys() | second.keys()
            for d in differences(first.get(key), second.get(key), f"{at}.{key}".strip("."))
        ]
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        return [d for a, b in zip(first, second, strict=True) for d in differences(a, b, at)]
    return [] if first == second and type(first) is type(second) else [at or "lines"]


def finished_case(rng: random.Random, own: Finished, tally: Tally, only: str | None) -> None:
    by_kind: dict[str, list[Path]] = {}
    for document in own.documents:
        by_kind.setdefault(kind_of(own, document), []).append(document)
    kind = rng.choice([*by_kind, "manifest.json", ".jsonl"])
    path = rng.choice(by_kind[kind])
    content, note = MUTATORS[kind](rng, own.originals[path])
    same = content == own.originals[path] or (kind.endswith(".json") and same_json(content, own.originals[path]))
    consistent = ""
    path.write_bytes(content)
    if kind == ".jsonl" and rng.random() < 0.6:
        # The manifest agrees with the altered part: what is left is the records' own sense.
        manifest = json.loads(own.originals[own.url / "manifest.json"])
        name = str(path.relative_to(own.url))
        for stream in manifest["streams"]:
            for part in stream["parts"]:
                if part["path"] == name:
                    part["sha256"] = hashlib.sha256(content).hexdigest()
        (own.url / "manifest.json").write_text(json.dumps(manifest))
        consistent = " (the manifest has its new sha256)"
    case = f"{path.relative_to(own.url)}: {note}{consistent}"
    try:
        target = only or rng.choice(
            ["verify", "verify", "verify", "status", "inspect", "train", "evaluate", "again", "preview"]
        )
        if target == "preview" and rng.random() < 0.7:
            target = "verify"
        if target == "verify":
            result = attempt(own.verify)
            wrong = None
            if not same and result.kind == "ok":
                keys = altered_keys(own.originals[path], content) if "json" in kind else ["bytes"]
                wrong = f"verified although altered: {', '.join(keys[:2])}" if keys else None
            tally.add(f"verify {kind}", case, result, wrong)
        elif target == "status":
            result = attempt(own.status)
            wrong = "other state shown" if result.kind == "ok" and result.value[1] != own.stated else None
            tally.add(f"status {kind}", case, result, wrong)
        elif target == "inspect":
            key = rng.choice(list(own.inspected))
            result = attempt(lambda: own.inspect(key))
            wrong = None
            if (
                result.kind == "ok"
                and result.value[1] != own.inspected[key]
                and not json.loads(result.value[1])["differs_from_plan"]
            ):
                wrong = "other sample shown, nothing said"
            tally.add(f"inspect {kind}", case, result, wrong)
        elif target == "preview":
            result = attempt(own.preview)
            changed = [n for n, sheet in own.sheets.items() if (own.url / "preview" / n).read_bytes() != sheet]
            tally.add(
                f"preview {kind}", case, result, "another sheet drawn" if result.kind == "ok" and changed else None
            )
        elif target == "train":
            result = attempt(own.train)
            wrong = None
            if result.kind == "ok" and result.value[0] != own.trained:
                now, before = result.value[0], own.trained
                if [s[:2] for s in now] != [s[:2] for s in before]:
                    wrong = "other streams or terms of the loss"
                elif [s[2] for s in now] != [s[2] for s in before]:
                    wrong = "other class names"
                else:
                    wrong = "other images or labels"
            tally.add(f"train {kind}", case, result, wrong)
        elif target == "evaluate":
            result = attempt(own.evaluate)
            wrong = (
                "other predictions, labels or digest"
                if result.kind == "ok" and result.value[0] != own.predicted
                else None
            )
            tally.add(f"evaluate {kind}", case, result, wrong)
        elif target == "again":
            result = attempt(own.again, 20)
            wrong = None
            if result.kind == "ok":
                # Bytes are verify's to check; a file of another size, or a damaged manifest, is cheap to see.
                cheap = len(content) != len(own.originals[path]) or kind == "manifest.json"
                wrong = "said to be complete; verify refuses it" if cheap and attempt(own.verify).kind != "ok" else None
            tally.add(f"build-shards again {kind}", case, result, wrong)
            restore(own)
    finally:
        restore(own, path)


def restore(own: Finished, path: Path | None = None) -> None:
    for p in [path, own.url / "manifest.json"] if path is not None else own.documents:
        p.parent.mkdir(parents=True, exist_ok=True)
        if not p.exists() or p.read_bytes() != own.originals[p]:
            p.write_bytes(own.originals[p])


class UnderWay:
    """A dataset whose first stream is built: its plan, recipe, environment and records are read by the next build."""

    def __init__(self, folder: Path) -> None:
        self.recipe = folder / "way.toml"
        self.whole = build(FAST_RECIPE.replace('"fast"', '"way"'), folder / "whole")
        self.begun = build(FAST_RECIPE.replace('"fast"', '"way"'), folder / "way", "--stream", "natural")
        self.work = folder / "work"
        self.sums = (self.whole / "SHA256SUMS").read_bytes()
        self.documents = [p.relative_to(self.begun) for p in sorted(self.begun.rglob("*.json"))] + [Path("recipe.toml")]

    def finish(self):
        from genint.pipeline.cli import main

        run_cli(main, "build-shards", self.recipe, "--out", self.work, "--workers", 1)


def under_way_case(rng: random.Random, way: UnderWay, tally: Tally) -> None:
    shutil.rmtree(way.work, ignore_errors=True)
    shutil.copytree(way.begun, way.work)
    name = rng.choice(way.documents)
    before = (way.work / name).read_bytes()
    content, note = (mutate_toml if name.suffix == ".toml" else mutate_json)(rng, before)
    (way.work / name).write_bytes(content)
    kind = (
        "record"
        if name.parts[:2] == ("records", "natural")
        else name.name
        if name.suffix == ".toml" or "plan" in name.name
        else "environment"
    )
    result = attempt(way.finish, 20)
    wrong = None
    if result.kind == "ok" and (way.work / "SHA256SUMS").read_bytes() != way.sums:
        wrong = "finished with other sums"
    elif result.kind == "ok" and not same_json(content, before) and kind in ("record", "environment"):
        # The sums are right; do the records say what they should?
        from genint.pipeline.cli import main

        checked = attempt(lambda: run_cli(main, "verify", way.work))
        wrong = None if checked.kind == "ok" else "finished; verify refuses it"
    tally.add(f"resume with altered {kind}", f"{name}: {note}", result, wrong)


def main() -> None:
    options = arguments(__doc__)
    rng = random.Random(options.seed)
    tally = Tally("records")
    with workplace() as folder:
        (folder / "a").mkdir()
        own, way = Finished(folder / "a"), UnderWay(folder)
        bound_memory()
        for _ in range(options.cases):
            if options.only is None and rng.random() < 0.15:
                under_way_case(rng, way, tally)
            else:
                finished_case(rng, own, tally, options.only)
    tally.report(options.verbose)


if __name__ == "__main__":
    main()
