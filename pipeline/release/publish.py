"""Bring a finished dataset to where others find it: the Hugging Face hub, a bucket, or a folder to deposit for a DOI.

Nothing is sent that `verify` does not accept, and manifest.json goes last: its presence means complete there as well.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ...manifests.dataset import Dataset
from ...manifests.errors import GenintError, UsageError, mask_credentials, shorten
from ...manifests.fidelity import scores_name, scores_sums
from ...manifests.manifest import FIDELITY, MANIFEST, RECIPE, SIGNATURE, SUMS, Manifest, read_records
from ...manifests.origins import unlicensed
from ...manifests.recipe import Recipe
from ...manifests.records import sum_lines
from ...manifests.shard import index_path, sha256_of_file
from ...manifests.storage import Storage
from ...manifests.verification import other_files
from . import description
from .close import release, reopen

# Zenodo takes a hundred files a record, and no folders.
DEPOSIT_FILES = 100
DEPOSIT_SUMS = "DEPOSIT-SHA256SUMS"


def check_terms(recipe: Recipe, accepted: bool) -> None:
    """Raise UsageError where nobody has said on which terms others may have the pictures, or these forbid it."""
    for name, streams in unlicensed(recipe).items():
        raise UsageError(
            f"the licence of {name!r} is not known, of which stream {streams[0]} is made: say it with --license "
            f"{name}=SPDX, such as {name}=CC-BY-4.0"
        )
    terms = description.terms(recipe)
    if terms and not accepted:
        raise UsageError(f"{shorten(terms[0], 600)} Where you may publish all the same, add --accept-terms")


def describe_anew(dataset: Dataset, recipe: Recipe, manifest: Manifest) -> Dataset:
    """The same dataset with other words: recipe, card, sums and manifest are written anew, and no shard."""
    described = Dataset(dataset.storage, recipe, dataset.entry, dataset.roots)
    if recipe.digest() != manifest.recipe_sha256:
        reopen(dataset.storage)
        dataset.storage.write(RECIPE, recipe.to_toml().encode())
        release(described, manifest.lost_workers, [stream.name for stream in manifest.streams])
    return described


def release_files(dataset: Dataset, manifest: Manifest) -> Iterator[str]:
    """Every file of a release but its manifest, in the order in which it is sent."""
    yield SUMS
    yield from other_files(dataset, [stream.name for stream in manifest.streams], manifest.fidelity)
    for stream in manifest.streams:
        for part in stream.parts:
            yield part.path
    for stream in manifest.streams:
        for record in read_records(dataset.storage, stream):
            for _, name in sum_lines(record):
                yield name
    for _, name in scores_sums(dataset.storage, manifest.fidelity):
        yield name


def _last_files(storage: Storage) -> list[str]:
    return [*([SIGNATURE] if storage.exists(SIGNATURE) else []), MANIFEST]


def publish_to_bucket(dataset: Dataset, manifest: Manifest, target: Storage) -> Iterator[str]:
    """Copy a release to a bucket or folder; yields the name of each file. The same call goes on.

    Raises UsageError where something else is there.
    """
    source = dataset.storage
    if target.exists(SUMS):
        # Of these sums: what has its size is there already.
        if target.read(SUMS) != source.read(SUMS):
            raise UsageError(f"{target}: holds another release; remove it, or choose another place")
    elif target.list():
        raise UsageError(f"{target}: not empty; choose another place")
    for name in [*release_files(dataset, manifest), *_last_files(source)]:
        if name in (SIGNATURE, MANIFEST) or target.size(name) != source.size(name):
            with source.fetched(name) as path:
                if target.local:
                    with target.replacing(name) as copy:
                        shutil.copyfile(path, copy)
                else:
                    target.put(path, name)
        yield name


def publish_to_hub(dataset: Dataset, manifest: Manifest, repository: str, private: bool) -> str:
    """Upload a release to the Hugging Face hub as a dataset; returns its address. The same call goes on.

    The token is the hub client's: HF_TOKEN, or what `hf auth login` has stored.
    """
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError as error:
        raise UsageError("the hub needs its client: pip install 'genint[hub]'") from error
    if not dataset.storage.local:
        raise UsageError(f"{dataset.storage}: the hub takes a local folder; fetch the dataset first")
    api: Any = HfApi(library_name="genint")
    root = dataset.storage.absolute
    # Patterns, since a list of a million names would be compared name by name.
    names = [stream.name for stream in manifest.streams]
    folders = [f"{name}/*" for name in names] + ["manifest/*"]
    folders += [f"{FIDELITY}/*"] if manifest.fidelity else []
    others = other_files(dataset, names, manifest.fidelity)
    single = [name for name in (SUMS, *others) if f"{PurePosixPath(name).parts[0]}/*" not in folders]
    try:
        api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            repo_type="dataset",
            folder_path=root,
            allow_patterns=[*folders, *single],
            ignore_patterns=["*.tmp.*"],
            # Of an earlier release; its manifest too, until this one is whole.
            delete_patterns=["*"],
            commit_message=f"{manifest.name} {manifest.version}",
        )
        found = api.upload_folder(
            repo_id=repository,
            repo_type="dataset",
            folder_path=root,
            allow_patterns=_last_files(dataset.storage),
            commit_message=f"{manifest.name} {manifest.version}: complete",
        )
    except (HfHubHTTPError, HFValidationError, OSError, RuntimeError) as error:
        text = shorten(mask_credentials(str(error).strip() or type(error).__name__), 400)
        raise GenintError(f"hf:{repository}: {text}; the same command goes on") from error
    return str(found.repo_url) if hasattr(found, "repo_url") else f"hf:{repository}"


def write_deposit(dataset: Dataset, manifest: Manifest, folder: Path) -> list[str]:
    """Write what a DOI needs into an empty folder without subfolders: all but the shards, of which each stream's first.

    Raises UsageError where the folder is not empty, or a record could not hold it.
    """
    storage = dataset.storage
    others = other_files(dataset, [stream.name for stream in manifest.streams], manifest.fidelity)
    names = [SUMS, *others, *(part.path for stream in manifest.streams for part in stream.parts)]
    names = [name for name in names if not name.endswith("/_info.json")]
    for stream in manifest.streams:
        shard = next(read_records(storage, stream)).path
        names += [shard, str(index_path(PurePosixPath(shard)))]
        if manifest.fidelity and manifest.fidelity.stream(stream.name):
            names.append(scores_name(stream.name, 0))
    names += _last_files(storage)
    flat = {PurePosixPath(name).name: name for name in names}
    if len(flat) < len(names) or len(flat) + 1 >= DEPOSIT_FILES:
        raise UsageError(f"{len(names)} files, or two of one name: a record takes {DEPOSIT_FILES}, without folders")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: not empty; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    sums = []
    for name, original in flat.items():
        with storage.fetched(original) as path:
            shutil.copyfile(path, folder / name)
        sums.append(f"{sha256_of_file(folder / name)}  {name}\n")
    (folder / DEPOSIT_SUMS).write_text("".join(sums))
    return [*flat, DEPOSIT_SUMS]
