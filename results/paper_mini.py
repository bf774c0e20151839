"""Train and measure the rows of the paper in miniature, each with as many seeds as asked for.

    python results/paper_mini.py --seeds 10 --jobs 2

A training leaves OUT/runs/ROW/seed-N.json and is not made again while that is of the row's present data and preset,
also in a fresh checkout where its checkpoint is gone. Seed by seed, so that what is stopped early has all rows.
"""

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import platform
import resource
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

# One thread a process: as many processes as cores do more than threads. Set before torch is imported.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import numpy as np
import torch
from genint.evaluate.heads import only_heads
from genint.evaluate.prediction import predict
from genint.evaluate.run import make_corrupted
from genint.evaluate.test_sets import CorruptionSet, open_test_set
from genint.evaluate.test_sets.streams import StreamSet
from genint.manifests.manifest import Manifest, load_manifest
from genint.manifests.storage import Storage
from genint.train.checkpoint import load_classifier
from genint.train.cli import train
from genint.train.configuration import load_configuration
from genint.train.inputs import open_inputs
from genint.train.plan import plan_stages
from mini_rows import DATASETS, ROWS, TEST_SETS, Row

ROOT = Path(__file__).parents[1]
PACKAGES = ("genint", "torch", "torchvision", "numpy", "pillow", "simplejpeg")
# Keys of a recipe that decide no pixel.
WORDS = ("name", "notes", "license")
CORRUPTED_PER_CLASS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "mini", help="folder of the results")
    parser.add_argument("--work", type=Path, default=Path("runs/paper-mini"), help="folder of datasets and checkpoints")
    parser.add_argument("--seeds", type=int, default=10, help="seeds per row: 0, 1, ...")
    parser.add_argument("--rows", help="names of rows, by commas; all by default")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once, one core each")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE for every row, to try something")
    options = parser.parse_args()
    names = options.rows.split(",") if options.rows else [row.name for row in ROWS]
    unknown = set(names) - {row.name for row in ROWS}
    if unknown:
        parser.error(f"no rows {', '.join(sorted(unknown))}; there are {', '.join(row.name for row in ROWS)}")
    rows = [replace(row, overrides=(*row.overrides, *options.set)) for row in ROWS if row.name in names]
    data = options.work / "data"
    for name in dict.fromkeys(["mini", *(name for row in rows for name in row.datasets)]):
        build(name, data, options.out)
    corrupted_sets(data, options.work)
    tasks = [(row, seed) for seed in range(options.seeds) for row in rows]
    missing = [task for task in tasks if not is_done(*task, data, options.out)]
    print(f"{len(tasks) - len(missing)} of {len(tasks)} trainings are there already", flush=True)
    spawn = multiprocessing.get_context("spawn")
    started = time.monotonic()
    with ProcessPoolExecutor(options.jobs, mp_context=spawn, initializer=end_with_parent) as pool:
        waited = {pool.submit(make_run, *task, data, options.work, options.out): task for task in missing}
        for count, future in enumerate(as_completed(waited), 1):
            row, seed = waited[future]
            if error := future.exception():
                pool.shutdown(wait=False, cancel_futures=True)
                raise SystemExit(f"{row.name} seed {seed}: {error}")
            left = (time.monotonic() - started) / count * (len(waited) - count)
            print(f"{future.result()} ({count} of {len(waited)}, {left / 60:.0f} min left)", flush=True)


def end_with_parent() -> None:
    """Have this worker end where its parent is killed: it would go on with what it was given."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def build(name: str, data: Path, out: Path) -> None:
    """Render a dataset where it is not there, and note what each of its streams costs in CPU seconds."""
    folder = data / name
    if (folder / "manifest.json").is_file():
        return
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", "from genint.pipeline.cli import main; main()", "build-shards", *DATASETS[name]()]
    subprocess.run([*command, "--workers", "1", "--out", str(folder)], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    seconds: dict[str, float] = {}
    for path in sorted((folder / "records").glob("*/*/*.json")):
        record = json.loads(path.read_text())
        seconds[path.parts[-3]] = seconds.get(path.parts[-3], 0.0) + record["seconds"]
    whole = sum(seconds.values())
    path = out / "rendering.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    known |= {f"{name}:{stream}": round(spent * own / whole, 1) for stream, own in seconds.items()}
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")


def is_done(row: Row, seed: int, data: Path, out: Path) -> bool:
    """Whether a row's result is there, of its present data and preset."""
    path = run_path(row, seed, out)
    if not path.is_file():
        return False
    run = json.loads(path.read_text())
    return bool(run["row_key"] == row_key(row, data) and run["tests"] == tests_key(data))


def run_path(row: Row, seed: int, out: Path) -> Path:
    return out / "runs" / row.name / f"seed-{seed}.json"


def row_key(row: Row, data: Path) -> str:
    """Digest of what a row is trained on and how, but for the seed.

    Streams by recipe and weights, not by bytes, which differ in the last bit from CPU to CPU.
    """
    configuration = load_configuration(row.preset, row.overrides, {"seed": 0}).flatten()
    manifests = {name: load_manifest(Storage(str(data / name))) for name in row.datasets}
    streams = {name: identity(manifests[name.partition(":")[0]], name.partition(":")[2]) for name in row.all_streams}
    return digest({"configuration": configuration, "streams": streams})


def tests_key(data: Path) -> str:
    """Digest of what all rows are measured on."""
    manifest = load_manifest(Storage(str(data / "mini")))
    return digest({name: identity(manifest, name) for name in TEST_SETS} | {"corrupted": CORRUPTED_PER_CLASS})


def images_per_step(row: Row, data: Path) -> int:
    """Images of all streams that a step sees."""
    overrides = [*row.overrides, *([f"streams={row.names}"] if row.streams else [])]
    configuration = load_configuration(row.preset, overrides, {})
    inputs = open_inputs(configuration, row.shards(data), f"{data}/{row.natural}" if row.natural else None, "none")
    (plan,) = plan_stages(configuration, inputs)
    return sum(plan.batch_sizes.values())


def corrupted_sets(data: Path, work: Path) -> list[CorruptionSet]:
    """The first test images of each class under 15 corruptions at 5 severities, made once."""
    (source,) = open_test_set(f"shards={data / 'mini'}:test")
    assert isinstance(source, StreamSet)
    return make_corrupted(source, work, CORRUPTED_PER_CLASS, 1)


def identity(manifest: Manifest, stream: str) -> dict[str, Any]:
    """What decides a stream's pixels: its keys, those of the streams that it is made of, and what all streams share."""
    recipe = manifest.fingerprint.recipe
    wanted, keys = [stream], {}
    for name in wanted:
        own = {key: value for key, value in recipe.items() if key.startswith(f"streams.{name}.")}
        keys |= own
        wanted += [value for value in own.values() if f"streams.{value}.source" in recipe and value not in wanted]
    shared = {key: value for key, value in recipe.items() if not key.startswith("streams.") and key not in WORDS}
    files = manifest.fingerprint.model_dump(mode="json", exclude={"recipe"})
    return {**keys, **shared, **files}


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def make_run(row: Row, seed: int, data: Path, work: Path, out: Path) -> str:
    """Train and measure one row with one seed; a line for people."""
    torch.set_num_threads(1)
    key = row_key(row, data)
    # A folder of the present data and preset alone goes on.
    folder = work / "train" / row.name / f"seed-{seed}-{key[:8]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    log_path = folder.with_suffix(".log")
    fresh = not folder.exists()
    began = time.process_time()
    with (
        open(log_path, "a") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        code = train([*row.arguments(data, seed), "--out", str(folder)], standalone_mode=False)
    if code:
        raise SystemExit(f"{log_path}: the training ended with {code}")
    seconds = time.process_time() - began
    classifier = load_classifier(str(folder))
    answering = {"": classifier, **{head: only_heads(classifier, [head]) for head in classifier.heads}}
    sets = {name: open_test_set(f"shards={data / 'mini'}:{name}")[0] for name in TEST_SETS}
    top1 = {
        who: {name: round(float(predict(each, found, 250).hit1.mean()), 6) for name, found in sets.items()}
        for who, each in answering.items()
    }
    corrupted = [predict(classifier, found, 250).hit1 for found in corrupted_sets(data, work)]
    manifests = {name: load_manifest(Storage(str(data / name))) for name in ("mini", *row.datasets)}
    result = {
        "row": row.name,
        "seed": seed,
        "row_key": key,
        "tests": tests_key(data),
        "images_per_step": images_per_step(row, data),
        "images": {name: len(found) for name, found in sets.items()},
        "top1": top1.pop(""),
        "corrupted_error": round(1 - float(np.mean([hits.mean() for hits in corrupted])), 6),
        **({"heads": top1} if top1 else {}),
        # Of a training that goes on, what it took before is not known.
        "cpu_seconds": round(seconds, 1) if fresh else None,
        "datasets": {name: manifest.sums_sha256 for name, manifest in manifests.items()},
        "checkpoint_sha256": classifier.sha256,
        "versions": {name: version(name) for name in PACKAGES},
        "cpu": cpu_name(),
    }
    path = run_path(row, seed, out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    shifted = 100 * result["top1"]["test-shifted"]
    return f"{row.name} seed {seed}: {shifted:.1f} % on test-shifted, {seconds:.0f} CPU s"


def cpu_name() -> str:
    """As the system calls it."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
