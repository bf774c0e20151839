"""A dataset of a million shards: time and memory to open its manifest and one part, and to see what is missing."""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from genint.manifests.manifest import (
    PART_SIZE,
    Environment,
    Fingerprint,
    Manifest,
    Part,
    Record,
    StreamEntry,
    part_name,
    shard_name,
)

READER = """
import resource, sys, time
from genint.manifests.manifest import load_manifest, read_part
from genint.manifests.storage import Storage
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.perf_counter()
storage = Storage(sys.argv[1])
manifest = load_manifest(storage)
stream = manifest.streams[0]
records = list(read_part(storage, stream.parts[len(stream.parts) // 2]))
seconds = time.perf_counter() - started
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(f"counts of {stream.shards:,} shards and the paths of {len(records):,} of them: "
      f"{seconds:.2f} s, {peak / 1024:.0f} MB peak ({base / 1024:.0f} MB before)")
"""
DRIVER = """
import resource, sys, time
from genint.manifests.storage import Storage
from genint.pipeline.release.close import RecordStore
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.perf_counter()
shards = int(sys.argv[2])
missing = RecordStore(Storage(sys.argv[1])).missing_shards("interventional", shards)
seconds = time.perf_counter() - started
print(f"driver: {len(missing):,} of {shards:,} shards missing, found in {seconds:.2f} s, "
      f"{(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024:.0f} MB more than before")
"""


def main() -> None:
    """Write synthetic records, then read them as a trainer would, in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=1_000_000)
    shards = parser.parse_args().shards
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        write_synthetic(Path(folder), shards)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        print(f"wrote {shards:,} synthetic records, {size / 1e6:.0f} MB, in {time.perf_counter() - started:.0f} s")
        subprocess.run([sys.executable, "-c", READER, folder], check=True)
        subprocess.run([sys.executable, "-c", DRIVER, folder, str(shards)], check=True)


def write_synthetic(folder: Path, shards: int) -> None:
    """A manifest and its parts, without the shards themselves."""
    (folder / "manifest").mkdir()
    parts = []
    template = Record(
        stream="interventional", shard_index=0, path="", bytes=241_172_480, sha256="0" * 64, index_bytes=600_000,
        index_sha256="0" * 64, samples=5000, first_key="interventional-00000000", last_key="interventional-00000000",
        parameters_sha256="0" * 64, environment="0" * 12, attempt=1, seconds=61.25,
    )  # fmt: skip
    for start in range(0, shards, PART_SIZE):
        lines = []
        for index in range(start, min(start + PART_SIZE, shards)):
            digest = hashlib.sha256(str(index).encode()).hexdigest()
            path = shard_name("interventional", index)
            record = template.model_copy(update={"shard_index": index, "path": path, "sha256": digest})
            lines.append(record.model_dump_json().encode() + b"\n")
        content = b"".join(lines)
        name = part_name("interventional", start // PART_SIZE)
        (folder / name).write_bytes(content)
        parts.append(
            Part(
                path=name,
                sha256=hashlib.sha256(content).hexdigest(),
                first_shard=start,
                shards=len(lines),
                samples=5000 * len(lines),
            )
        )
    stream = StreamEntry(
        name="interventional", source="interventional", role="generated", split="train", image_extension="jpg",
        class_names=[f"n{i:08d}" for i in range(1000)], samples=5000 * shards, shards=shards,
        bytes=241_172_480 * shards, failures={}, parts=parts,
    )  # fmt: skip
    environment = Environment(
        genint="0", python="3.11", torch="2", numpy="2", pillow="13", libjpeg_turbo="3", device="cpu: any"
    )
    manifest = Manifest(
        name="synthetic", fingerprint=Fingerprint(recipe={"name": "synthetic"}), recipe_sha256="0" * 64,
        sums_sha256="0" * 64, environments={"0" * 12: environment}, streams=[stream],
        finished="2026-01-01T00:00:00+00:00", shard_seconds=61.25 * shards, retried_shards=0, lost_workers=0,
    )  # fmt: skip
    (folder / "manifest.json").write_text(manifest.model_dump_json())


if __name__ == "__main__":
    main()
