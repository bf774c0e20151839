"""Records and manifest: what was made.

A shard's record is its commit mark; the manifest, written last, is the dataset's.

The manifest stays small at any size: records are compacted into parts of 10,000 lines each, and a reader opens only
the parts it needs.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any, Final, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from .errors import FormatError, RecipeError, UsageError, shorten
from .recipe import Recipe, read_recipe, suggest, without_description
from .sources.stream import Name, Role, Table
from .storage import Storage

SCHEMA_VERSION: Final = 1
FOLDER_SIZE = 4_000
PART_SIZE = 10_000

MANIFEST = "manifest.json"
SIGNATURE = f"{MANIFEST}.sig"
RECIPE = "recipe.toml"
SUMS = "SHA256SUMS"
RECORDS = "records"
CARD = "README.md"
CROISSANT = "croissant.json"
PREVIEWS = "preview"
FIDELITY = "fidelity"

Digest = str


class Failure(Table):
    """A sample that could not be made: it leaves a hole in its shard."""

    key: str
    reason: str = Field(description="Kind of failure, for counting: unreadable image, non-finite pixels, ...")
    detail: str = ""


class Record(Table):
    """One finished shard."""

    stream: Name
    shard_index: int = Field(ge=0)
    path: str
    bytes: int = Field(ge=0)
    sha256: Digest
    index_bytes: int = Field(ge=0)
    index_sha256: Digest
    samples: int = Field(ge=0)
    first_key: str
    last_key: str
    parameters_sha256: Digest = Field(description="Digest of the samples' json members, holes left out (level L1).")
    environment: str = Field(
        description="Key of the manifest's environments: where these bytes can be made again (L2)."
    )
    attempt: int = Field(ge=1)
    seconds: float = Field(ge=0)
    failures: list[Failure] = []
    remarks: dict[str, int] = Field({}, description="Samples that were made but are worth a word, counted by it.")


class Environment(Table):
    """Versions and device that decide bytes."""

    genint: str
    python: str
    torch: str
    numpy: str
    pillow: str
    libjpeg_turbo: str
    cuda: str | None = Field(None, description="Of torch, on a GPU.")
    cudnn: str | None = Field(None, description="As torch finds it, on a GPU.")
    device: str = Field(description='Kind of device: "cpu: <model>" or "cuda: <model>".')

    @property
    def id(self) -> str:
        """Short digest, by which records refer to it."""
        return hashlib.sha256(self.to_json()).hexdigest()[:12]

    def to_json(self) -> bytes:
        """What an environment has, by name: what is not of a GPU has no entry for CUDA."""
        return dump_json(self.model_dump(exclude_none=True))


class Input(Table):
    """An outside input as it was: number of files and digest of their names and sizes (or of the one file)."""

    files: int
    sha256: Digest


class Fingerprint(Table):
    """What decides the bytes of a dataset; a build that resumes with another one is refused by name of the change."""

    format_version: int = SCHEMA_VERSION
    recipe: dict[str, Any] = Field(
        description="Every key of the recipe that decides pixels, flattened; in datasets of before, all of its keys."
    )
    weights_sha256: Digest | None = None
    config_sha256: Digest | None = Field(None, description="Of the generator's config.json.")
    code_sha256: Digest | None = Field(None, description="Of the code of a generator of one's own.")
    directions_sha256: Digest | None = None
    inputs: dict[str, Input] = {}

    @model_serializer(mode="wrap")
    def _without_absent_code(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # So that plans and manifests without such a generator keep their bytes.
        tree: dict[str, Any] = serialize(self)
        if self.code_sha256 is None:
            tree.pop("code_sha256", None)
        return tree

    def changes(self, other: "Fingerprint") -> list[str]:
        """What differs in `other`, each as `key: ours -> theirs`."""
        ours, theirs = self._items(), other._items()
        return [
            f"{key}: {ours.get(key, 'absent')} -> {theirs.get(key, 'absent')}"
            for key in sorted(ours.keys() | theirs.keys())
            if ours.get(key) != theirs.get(key)
        ]

    def deciding(self) -> "Fingerprint":
        """The same without what only describes, which datasets of before have in it."""
        return self.model_copy(update={"recipe": without_description(self.recipe)})

    def _items(self) -> dict[str, Any]:
        return {
            "format version": self.format_version,
            "generator weights": self.weights_sha256,
            "generator config": self.config_sha256,
            **({"generator code": self.code_sha256} if self.code_sha256 else {}),
            "directions": self.directions_sha256,
            **{f"input {name}": entry.sha256 for name, entry in self.inputs.items()},
            **without_description(self.recipe),
        }


class GeneratorEntry(Table):
    """The generator as used: enough to plan every sample again without its weights."""

    name: str
    weights_sha256: Digest
    z_dim: int
    resolution: int


class Part(Table):
    """A file of up to 10,000 records, one JSON line each, in shard order."""

    path: str
    sha256: Digest
    first_shard: int
    shards: int
    samples: int


class StreamEntry(Table):
    """One stream of a finished dataset."""

    name: Name
    source: str
    role: Role
    split: Literal["train", "validation", "test"]
    image_extension: str
    class_names: list[str]
    samples: int
    shards: int
    bytes: int
    failures: dict[str, int] = Field(description="Holes by reason.")
    remarks: dict[str, int] = Field({}, description="Samples that were made but are worth a word, counted by it.")
    parts: list[Part]


class ScoresPart(Table):
    """A file of the digests of up to 10,000 files of scores, one JSON line each, in shard order."""

    path: str
    sha256: Digest


class ScoredStream(Table):
    """A stream whose samples a classifier has read."""

    name: Name
    samples: int
    parts: list[ScoresPart]


class Fidelity(Table):
    """Who has read the generated samples, and where its scores are: files beside the shards."""

    checkpoint: str = Field(description="The classifier: mini-reader, torchvision:ARCH, or a file's name.")
    checkpoint_sha256: Digest
    streams: list[ScoredStream]

    def stream(self, name: str) -> ScoredStream | None:
        """The stream of that name; None where it has no scores."""
        return next((stream for stream in self.streams if stream.name == name), None)


class Manifest(Table):
    """A finished dataset."""

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str
    version: str | None = Field(
        None, description="Semantic version of the data. None in datasets of before, whose sums leave the card out."
    )
    fingerprint: Fingerprint
    recipe_sha256: Digest
    sums_sha256: Digest = Field(description="Digest of SHA256SUMS, which lists every reproducible file.")
    plan_sha256: Digest | None = Field(None, description="Digest of records/plan.json.")
    generator: GeneratorEntry | None = None
    directions: str | None = Field(None, description="Path of the directions file.")
    environments: dict[str, Environment]
    streams: list[StreamEntry]
    fidelity: Fidelity | None = Field(None, description="How surely samples are read as their labels, if scored.")
    missing_streams: list[Name] = Field(
        [], description="Streams of the recipe that are not made yet: the dataset is a part of what it will be."
    )
    finished: str = Field(description="UTC time at which the build ended.")
    shard_seconds: float = Field(description="Worker time of all shards together.")
    retried_shards: int
    lost_workers: int
    sha256: Digest | None = Field(None, description="Digest of all else in this file, as canonical JSON.")

    def to_json(self) -> bytes:
        """The file's content, with its own digest."""
        tree = self.model_dump(mode="json", exclude={"sha256"})
        if self.fidelity is None:  # versions of before do not know the key
            del tree["fidelity"]
        return json.dumps({**tree, "sha256": _own_digest(tree)}, indent=1).encode() + b"\n"

    def stream(self, name: str) -> StreamEntry:
        """The stream of that name. Raises UsageError with the known names."""
        return self.find_stream(name, f"dataset {self.name!r}")

    def find_stream(self, name: str, where: str) -> StreamEntry:
        """The same; `where` begins the error."""
        known = {stream.name: stream for stream in self.streams}
        if name in self.missing_streams:
            raise UsageError(
                f"{where}: stream {name!r} is not made yet; the command that built the others makes it, without "
                f"--stream; there are: {', '.join(known)}"
            )
        if name not in known:
            raise UsageError(f"{where}: no stream {shorten(name)!r}{suggest(name, list(known))}")
        return known[name]


def shard_name(stream: str, shard_index: int) -> str:
    """Path of a shard in its dataset; a subfolder holds at most 4,000 shards."""
    return f"{stream}/{shard_index // FOLDER_SIZE:04d}/{stream}-{shard_index:07d}.tar"


def record_name(stream: str, shard_index: int) -> str:
    """Path of a shard's record in its dataset."""
    return f"{RECORDS}/{stream}/{shard_index // FOLDER_SIZE:04d}/{shard_index:07d}.json"


def environment_name(environment: str) -> str:
    """Path of an environment in its dataset."""
    return f"{RECORDS}/environments/{environment}.json"


def preview_name(stream: str) -> str:
    """Path of a stream's contact sheet in its dataset."""
    return f"{PREVIEWS}/{stream}.jpg"


def part_name(stream: str, part_index: int) -> str:
    return f"manifest/{stream}-{part_index:05d}.jsonl"


def load_manifest(storage: Storage, altered: bool = False) -> Manifest:
    """Open a finished dataset. Raises FormatError where there is none or it is of another schema.

    altered: whether one that was altered since it was written will do; else it is a FormatError too.
    """
    try:
        content = storage.read(MANIFEST)
    except FileNotFoundError as error:
        raise FormatError(f"{storage}: no {MANIFEST}: not a finished dataset") from error
    manifest = Manifest.from_json(content, storage / MANIFEST)
    if not (altered or is_intact(content)):
        raise FormatError(
            f"{storage / MANIFEST}: altered since it was written; restore it from a copy, or give the command that "
            "built the dataset again: it writes it anew"
        )
    return manifest


def is_intact(content: bytes) -> bool:
    """Whether a manifest is as it was written. One without its digest is of an earlier version, left to `verify`."""
    tree = json.loads(content)
    digest = tree.pop("sha256", None)
    return digest is None or digest == _own_digest(tree)


def _own_digest(tree: dict[str, Any]) -> Digest:
    return hashlib.sha256(dump_json(tree)).hexdigest()


def load_dataset_recipe(storage: Storage) -> Recipe:
    """The recipe a dataset was built from. Raises FormatError where the file is no recipe."""
    try:
        return read_recipe(storage.read(RECIPE).decode(), storage / RECIPE)
    except FileNotFoundError as error:
        raise FormatError(f"{storage / RECIPE}: missing") from error
    except (RecipeError, UnicodeDecodeError) as error:
        raise FormatError(f"{storage / RECIPE}: damaged: {error}") from error


def read_pinned(storage: Storage, path: str, sha256: str) -> bytes:
    """A file that the manifest names with its digest. Raises FormatError where it is missing or another."""
    try:
        content = storage.read(path)
    except FileNotFoundError as error:
        raise FormatError(f"{storage / path}: missing") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise FormatError(f"{storage / path}: sha256 differs from the manifest's")
    return content


def read_part(storage: Storage, part: Part) -> Iterator[Record]:
    """Records of one part. Raises FormatError where the file is not what the manifest says."""
    lines = read_pinned(storage, part.path, part.sha256).splitlines()
    records = [Record.from_json(line, storage / part.path) for line in lines]
    shards = list(range(part.first_shard, part.first_shard + part.shards))
    if [record.shard_index for record in records] != shards or sum(r.samples for r in records) != part.samples:
        raise FormatError(
            f"{storage / part.path}: not the records of {part.shards} shards from {part.first_shard} on, with "
            f"{part.samples} samples, as the manifest says"
        )
    yield from records


def read_records(storage: Storage, stream: StreamEntry) -> Iterator[Record]:
    """All records of a stream, a part at a time."""
    for part in stream.parts:
        yield from read_part(storage, part)


def digest_parameters(members: list[bytes]) -> Digest:
    """Digest of the json members of a shard's samples, in order."""
    return hashlib.sha256(b"\n".join(members)).hexdigest()


def dump_json(value: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces that could differ."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
