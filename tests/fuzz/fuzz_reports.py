"""Mutated run.json, metrics.jsonl, results.json, corrupted.json and ObjectNet mappings, through the commands that go on from
them."""

import json
import random
import shutil
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
from documents import mutate_json, mutate_text, same_json

LABELS = {"chair": "Chair", "mug": "Mug", "odd": "Odd thing"}


def objectnet(folder: Path) -> Path:
    """A small folder as ObjectNet unpacks."""
    rng = random.Random(2)
    lines = [f"thing {i}" for i in range(1000)]
    lines[10], lines[20], lines[30] = "folding chair", "coffee mug", "rocking chair, rocker"
    mappings = folder / "mappings"
    mappings.mkdir(parents=True)
    (mappings / "folder_to_objectnet_label.json").write_text(json.dumps(LABELS))
    (mappings / "objectnet_to_imagenet_1k.json").write_text(
        json.dumps({"Chair": "folding chair; rocking chair, rocker", "Mug": "coffee mug"})
    )
    (mappings / "pytorch_to_imagenet_2012_id.json").write_text(json.dumps({str(i): i for i in range(1000)}))
    (mappings / "imagenet_to_label_2012_v2").write_text("\n".join(lines) + "\n")
    for name in LABELS:
        (folder / "images" / name).mkdir(parents=True)
        (folder / "images" / name / "0.png").write_bytes(picture(rng, 40))
    return folder


def mutate_lines(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    lines = content.splitlines(keepends=True)
    if rng.random() < 0.3 or not lines:
        return mutate_bytes(rng, content)
    at = rng.randrange(len(lines))
    if rng.random() < 0.6:
        changed, note = mutate_json(rng, lines[at])
        lines[at] = changed.replace(b"\n", b" ") + b"\n"
    else:
        note = rng.choice(
            ["[1]", "7", "null", '"x"', "{}", '{"step": null}', '{"step": "x"}', '{"step": 1e400}', "\udcff", ""]
        )
        lines[at] = note.encode("utf-8", "surrogateescape") + b"\n"
    return b"".join(lines), f"line {at}: {note}"


def main() -> None:
    options = arguments(__doc__, 300)
    rng = random.Random(options.seed)
    tally = Tally("reports")
    with workplace() as folder:
        from genint.evaluate.cli import main as evaluate
        from genint.evaluate.test_sets import open_test_set
        from genint.train.cli import main as train

        for label in ("t-shirt", "trouser"):
            (folder / "photos" / label).mkdir(parents=True)
            for number in range(2):
                (folder / "photos" / label / f"{number}.png").write_bytes(picture(rng, 40))
        fast = build(FAST_RECIPE, folder / "fast")
        words = [
            "--shards",
            fast,
            "--preset",
            "mini-erm",
            "--set",
            "arch=squeezenet1_1",
            "--set",
            "batch_sizes.natural=8",
            "--set",
            "augmentation=none",
            "--log-every",
            1,
            "--device",
            "cpu",
        ]
        for steps, name in ((2, "run"),):
            made = attempt(lambda: run_cli(train, *words, "--steps", steps, "--out", folder / name), 120)
            assert made.kind == "ok", made
        made = attempt(
            lambda: run_cli(
                evaluate,
                "corrupt",
                f"folder={folder / 'photos'}",
                "--out",
                folder / "copy",
                "--corruption",
                "fog",
                "--severity",
                1,
            ),
            120,
        )
        assert made.kind == "ok", made
        measure = [
            "run",
            "--checkpoint",
            folder / "run",
            "--shards",
            f"{fast}:shown",
            "--corruptions",
            0,
            "--out",
            folder / "report",
        ]
        made = attempt(lambda: run_cli(evaluate, *measure), 120)
        assert made.kind == "ok", made
        net = objectnet(folder / "objectnet")

        def opened(text: str):
            found = open_test_set(text)
            return [
                (s.name, len(s), [s.labels(i) for i in range(len(s))], list(s.class_names), s.protocol) for s in found
            ]

        def resume():
            run_cli(train, *words, "--steps", 3, "--out", folder / "run")

        def report():
            run_cli(evaluate, *measure)

        def state(out: Path, name: str):
            if name == "run":
                return [
                    (line["step"], line.get("loss"), line.get("validation_top1"))
                    for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
                ]
            content = json.loads((out / "results.json").read_text())
            content.pop("finished")
            return content

        readers = {
            "run.json": (folder / "run", "run.json", mutate_json, resume),
            "metrics.jsonl": (folder / "run", "metrics.jsonl", mutate_lines, resume),
            "results.json": (folder / "report", "results.json", mutate_json, report),
            "corrupted.json": (
                folder / "copy",
                "corrupted.json",
                mutate_json,
                lambda: opened(f"corrupted={folder / 'copy'}"),
            ),
            **{
                f"ObjectNet's {path.name}": (
                    net,
                    f"mappings/{path.name}",
                    mutate_json if path.suffix else mutate_text,
                    lambda: opened(f"objectnet={net}"),
                )
                for path in sorted((net / "mappings").iterdir())
            },
        }
        backups = {}
        for base in {reader[0] for reader in readers.values()}:
            backups[base] = folder / f"{base.name}.whole"
            shutil.copytree(base, backups[base])
        truths = {}
        for name, (base, _, _, read) in readers.items():
            result = attempt(read, 60)
            assert result.kind == "ok", (name, result)
            truths[name] = result.value[0] if result.value[0] is not None else state(base, base.name)
            shutil.rmtree(base)
            shutil.copytree(backups[base], base)
        bound_memory()
        weights = [3 if name in ("run.json", "metrics.jsonl") else 4 for name in readers]
        for _ in range(options.cases):
            name = options.only or rng.choices(list(readers), weights)[0]
            base, file, mutate, read = readers[name]
            before = (backups[base] / file).read_bytes()
            content, note = mutate(rng, before)
            (base / file).write_bytes(content)
            result = attempt(read, 30)
            wrong = None
            if result.kind == "ok" and content != before and not same_json(content, before):
                found = attempt(lambda: result.value[0] if result.value[0] is not None else state(base, base.name))
                if found.kind != "ok":
                    wrong = "left a file that cannot be read"
                elif name == "corrupted.json" and found.value[0] != truths[name]:
                    wrong = "other images, labels or names"
                elif name.startswith("ObjectNet") and found.value[0] != truths[name]:
                    # A mapping of fewer entries may be what its owner wants; the protocol, beside every number, says so.
                    told = [entry[-1] for entry in found.value[0]] != [entry[-1] for entry in truths[name]]
                    wrong = None if told else "other images, labels or names"
                elif name == "run.json":
                    wrong = (
                        None
                        if (base / file).read_bytes() == (backups[base] / file).read_bytes()
                        else "goes on with an altered run.json"
                    )
                elif name == "metrics.jsonl" and found.value[0] != truths[name]:
                    wrong = (
                        "goes on with altered metrics"
                        if len(found.value[0]) >= len(truths[name])
                        else "goes on with lines of the metrics lost"
                    )
            tally.add(name, note, result, wrong)
            if name in ("run.json", "metrics.jsonl", "results.json"):
                shutil.rmtree(base)
                shutil.copytree(backups[base], base)
            else:
                (base / file).write_bytes(before)
    tally.report(options.verbose)


if __name__ == "__main__":
    main()
