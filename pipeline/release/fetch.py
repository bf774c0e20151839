"""Download a published release, every file compared with the release's own digests before it takes its place."""

import hashlib
import shutil
from collections.abc import Iterator, Sequence

from ...manifests.dataset import PLAN, Dataset, PlanEntry
from ...manifests.errors import FormatError, UsageError, shorten
from ...manifests.fidelity import scores_sums
from ...manifests.manifest import (
    FIDELITY,
    MANIFEST,
    RECIPE,
    SIGNATURE,
    SUMS,
    Digest,
    Manifest,
    load_dataset_recipe,
    load_manifest,
    read_records,
    shard_name,
)
from ...manifests.records import sum_lines
from ...manifests.shard import sha256_of_file
from ...manifests.storage import Storage
from ...manifests.verification import other_files


def plan_fetch(source: Storage, target: Storage, streams: Sequence[str]) -> Manifest:
    """The manifest of a release that may be fetched there. Raises UsageError where it may not, or lacks a stream."""
    manifest = load_manifest(source)
    if not target.local:
        raise UsageError(f"{target}: expected a folder")
    for name in streams:
        if name not in [stream.name for stream in manifest.streams]:
            known = shorten(", ".join(stream.name for stream in manifest.streams))
            raise UsageError(f"--stream {name}: {source} has no such stream; known: {known}")
    if (target.exists(SUMS) and target.sha256(SUMS) != manifest.sums_sha256) or (
        target.exists(PLAN) and target.read(PLAN) != source.read(PLAN)
    ):
        raise UsageError(f"{target}: holds another dataset, or another version of it; choose another folder")
    return manifest


def fetch(source: Storage, manifest: Manifest, target: Storage, streams: Sequence[str]) -> Iterator[str]:
    """Copy a release's words and the shards of these streams (of all, if none); yields the name of each file.

    What is there already and whole is left alone. Raises FormatError that names a file that is not what the release
    says of it; nothing takes its place but what is.
    """
    sums = _read_sums(source, manifest)
    # First what makes the folder a dataset under way.
    for name, digest in ((PLAN, sums.get(PLAN) or manifest.plan_sha256), (RECIPE, sums.get(RECIPE))):
        _copy(source, name, digest, target)
        yield name
    recipe = load_dataset_recipe(target)
    entry = PlanEntry.from_json(target.read(PLAN), target / PLAN)
    names = [stream.name for stream in manifest.streams]
    others = other_files(Dataset(target, recipe, entry, {}), names, manifest.fidelity, manifest.version is not None)
    for name in [name for name in others if name not in (PLAN, RECIPE)]:
        _copy(source, name, sums.get(name), target)
        yield name
    for stream in manifest.streams:
        for part in stream.parts:
            _copy(source, part.path, part.sha256, target)
            yield part.path
    target.write(SUMS, source.read(SUMS))
    for stream in manifest.streams:
        if streams and stream.name not in streams:
            continue
        for record in read_records(target, stream):
            if record.path != shard_name(stream.name, record.shard_index):
                raise FormatError(f"{source}: a record of {stream.name} has path {shorten(record.path)}")
            # The index first: who finds a tar finds its index.
            for digest, name in reversed(list(sum_lines(record))):
                _copy(source, name, digest, target)
                yield name
        for digest, name in scores_sums(target, manifest.fidelity):
            if name.startswith(f"{FIDELITY}/{stream.name}/"):
                _copy(source, name, digest, target)
                yield name
    if source.exists(SIGNATURE):
        target.write(SIGNATURE, source.read(SIGNATURE))
    target.write(MANIFEST, source.read(MANIFEST))
    yield MANIFEST


def _read_sums(source: Storage, manifest: Manifest) -> dict[str, Digest]:
    """The digests of a release by name, shards left out: their records have them."""
    content = source.read(SUMS)
    if hashlib.sha256(content).hexdigest() != manifest.sums_sha256:
        raise FormatError(f"{source / SUMS}: not the sums of its manifest")
    lines = (line.partition("  ") for line in content.decode().splitlines())
    return {name: digest for digest, _, name in lines if not name.endswith((".tar", ".idx"))}


def _copy(source: Storage, name: str, digest: Digest | None, target: Storage) -> None:
    if digest is not None and target.exists(name) and target.sha256(name) == digest:
        return
    try:
        with target.replacing(name) as copy, source.fetched(name) as path:
            shutil.copyfile(path, copy)
            # The plan of a release of before is in no sums; the manifest has its fingerprint.
            if digest is not None and sha256_of_file(copy) != digest:
                raise FormatError(
                    f"{source / name}: not what the release says of it; fetch it again, or tell its owner"
                )
    except FileNotFoundError as error:
        raise FormatError(f"{source / name}: missing") from error
