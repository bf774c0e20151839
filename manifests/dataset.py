"""A dataset on disk, finished or under way: its recipe, and the facts from which any sample can be planned."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .directions import Directions, load_directions
from .errors import FormatError
from .inputs import Listing
from .manifest import RECIPE, Fingerprint, GeneratorEntry, load_dataset_recipe
from .recipe import Recipe
from .shard import sha256_of_file
from .sources.stream import CgnFacts, Facts, GeneratorFacts, StreamPlan, Table
from .storage import Storage

PLAN = "records/plan.json"


class PlanEntry(Table):
    """What a build settled before its first shard: the fingerprint that guards resume, and what planning needs."""

    fingerprint: Fingerprint
    generator: GeneratorEntry | None = None
    class_names: list[str] = []
    directions: str | None = None
    cgns: dict[str, CgnFacts] = {}

    @property
    def digest(self) -> str:
        """sha256 by which processes compare what each has read."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def directions_name(generator: str, layer: str) -> str:
    """Path of the directions file in a dataset."""
    return f"directions/{generator}-{layer.replace('.', '-')}.npz"


def input_name(name: str) -> str:
    """Path of the list of an outside input's files in a dataset."""
    return f"inputs/{name}.tsv.gz"


@dataclass(frozen=True)
class Dataset:
    """A dataset's folder with what was settled about it. `roots` say where outside inputs lie on this machine."""

    storage: Storage
    recipe: Recipe
    entry: PlanEntry
    roots: dict[str, str]

    @cached_property
    def facts(self) -> Facts:
        generator = self.entry.generator
        return Facts(
            seed=self.recipe.seed,
            generator=GeneratorFacts(
                generator.name, generator.z_dim, generator.resolution, tuple(self.entry.class_names)
            )
            if generator
            else None,
            directions=self._directions(),
            inputs={name: self._listing(name) for name in self.recipe.listed_inputs()},
            cgns=self.entry.cgns,
            streams={stream.name: stream for stream in self.recipe.streams},
        )

    def plan(self, stream: str) -> StreamPlan:
        """The plan of a stream's samples. Raises RecipeError where there is no such stream."""
        return StreamPlan(self.recipe.stream(stream), self.facts)

    def _listing(self, name: str) -> Listing:
        path = input_name(name)
        try:
            listing = Listing.from_bytes(self.storage.read(path), _folder(self.roots.get(name, "")))
        except FileNotFoundError as error:
            raise FormatError(f"{self.storage / path}: missing") from error
        except FormatError as error:
            raise FormatError(f"{self.storage / path}: {error}") from error
        expected = self.entry.fingerprint.inputs.get(name)
        if expected is None or listing.digest != expected.sha256:
            raise FormatError(f"{self.storage / path}: another list than that of {PLAN}")
        if self.recipe.inputs()[name] == "class folders" and not listing.folders:
            raise FormatError(f"{self.storage / path}: lists images that are in no class folder")
        return listing

    def _directions(self) -> Directions | None:
        if self.entry.directions is None:
            return None
        if not self.storage.exists(self.entry.directions):
            raise FormatError(f"{self.storage / self.entry.directions}: missing")
        with self.storage.fetched(self.entry.directions) as path:
            if sha256_of_file(path) != self.entry.fingerprint.directions_sha256:
                raise FormatError(f"{self.storage / self.entry.directions}: other directions than those of {PLAN}")
            return load_directions(path)


def _folder(root: str) -> str:
    """Where an input's pictures lie: beside the tar or the table that was given for it."""
    return str(Path(root).parent) if root and Path(root).is_file() else root


def load_dataset(url: str, roots: dict[str, str] | None = None, growing: bool = False) -> Dataset:
    """Open a dataset, finished or not. Raises FormatError where there is none.

    growing: its recipe may be ahead of its plan, as an extension that was interrupted leaves it.
    """
    storage = Storage(url)
    try:
        entry = PlanEntry.from_json(storage.read(PLAN), storage / PLAN)
    except FileNotFoundError as error:
        raise FormatError(f"{url}: not a dataset of genint ({PLAN} is missing)") from error
    recipe = load_dataset_recipe(storage)
    if not growing and recipe.deciding() != entry.fingerprint.deciding().recipe:
        raise FormatError(f"{storage / RECIPE}: not the recipe of {PLAN}; one was altered: restore it from a copy")
    return Dataset(storage, recipe, entry, roots or {})
