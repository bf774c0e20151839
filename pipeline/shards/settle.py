"""Settle everything a dataset depends on before its first shard: generator, inputs, directions, fingerprint."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from pytorch_pretrained_biggan import BigGAN

from ...manifests.dataset import PLAN, Dataset, PlanEntry, directions_name, input_name
from ...manifests.directions import Directions, first_directions, load_directions, save_directions
from ...manifests.errors import FormatError, GenintError, UsageError, shorten
from ...manifests.growth import growth_keys
from ...manifests.inputs import imagenet_wnids
from ...manifests.lock import only_process
from ...manifests.manifest import MANIFEST, RECIPE, RECORDS, Fingerprint, GeneratorEntry, Input, load_dataset_recipe
from ...manifests.recipe import Recipe
from ...manifests.shard import TEMPORARY, sha256_of_file, sweep
from ...manifests.sources.stream import NETWORK_KINDS, Facts, GeneratorFacts, InputKind
from ...manifests.storage import Storage
from ...manifests.tar_inputs import list_input
from ..biggan.generator import PUBLISHED_CONFIGS, make_random_generator
from ..cgn.mechanisms import CONFIG_NAME, WEIGHTS_NAME
from ..cgn.network_files import cgn_facts, cgn_place, find_cgn, make_stand_in, open_cgn
from ..generators.code import check_allowed
from ..generators.directions import exact_directions, sampled_directions
from ..generators.load import load_generator
from ..generators.network import Network, as_network
from ..networks.generator import LoadedGenerator
from ..release.close import reopen
from ..sources import CHECKS
from ..style.network_files import find_network_file, network_place

LOCK = f"{RECORDS}/driver.lock"


@dataclass(frozen=True)
class Ingredients:
    """What a recipe is made of, loaded and checked, before anything is written.

    weights: what the user has given for the generator, from any working folder; bound: names of inputs that they have.
    """

    recipe: Recipe
    weights: str | None
    generator: LoadedGenerator | None
    facts: Facts
    networks: dict[str, Path]
    bound: frozenset[str]
    untrained: BigGAN | None = None  # in place of weights that are not at hand, for timing alone

    @property
    def roots(self) -> dict[str, str]:
        """Folder or file of each input on this machine."""
        networks = {name: str(path) for name, path in self.networks.items()}
        return {**{name: listing.root for name, listing in self.facts.inputs.items()}, **networks}

    @property
    def given_roots(self) -> dict[str, str]:
        """Those that the user has given: the same on every machine, while each finds the others by itself."""
        return {name: root for name, root in self.roots.items() if name in self.bound}

    @property
    def flags(self) -> list[str]:
        """What the user has given of weights, code and inputs, as other commands take it."""
        given = [("--weights", self.weights), ("--allow-code", self.code)]
        flags = [part for name, value in given if value is not None for part in (name, value)]
        return flags + [part for name, root in self.given_roots.items() for part in ("--input", f"{name}={root}")]

    @property
    def stand_ins(self) -> list[str]:
        """Networks that random weights stand for, by name; none but for timing."""
        absent = [name for name in self.recipe.network_inputs() if name not in self.networks]
        untrained = self.recipe.generator if self.untrained is not None else None
        return [*([self.weights or untrained.name] if untrained else []), *absent]

    @property
    def network(self) -> Network | None:
        """The generator, as it is rendered."""
        model = self.generator.model if self.generator else self.untrained
        return None if model is None else as_network(model)

    @property
    def code(self) -> str | None:
        """The code of the recipe's generator, which the user has allowed."""
        return self.recipe.generator.code if self.recipe.generator else None


def gather(
    recipe: Recipe,
    weights: str | None = None,
    inputs: Mapping[str, str] | None = None,
    timing_only: bool = False,
    allowed_code: str | None = None,
) -> Ingredients:
    """Load the generator's weights, list the inputs and check every stream against them.

    weights: a folder with the package's two files; None takes the shipped or published generator of the recipe's name.
    allowed_code: what the user lets run of the code that a recipe may name for its generator.
    timing_only: random weights stand in for published ones, and nothing is downloaded.
    Raises UsageError or GenintError for whatever is missing or does not fit.
    """
    check_allowed(recipe.generator.code if recipe.generator else None, allowed_code, f"recipe {recipe.name!r}")
    bound = dict(inputs or {})
    for name in bound.keys() - set(recipe.inputs()):
        known = ", ".join(recipe.inputs()) or "none"
        raise UsageError(f"--input {name}: recipe {recipe.name!r} has no such input; known: {known}")
    listings = {}
    for name, kind in recipe.inputs().items():
        if name not in bound and name not in recipe.network_inputs():
            raise UsageError(f"recipe {recipe.name!r} reads input {name!r}: give it with --input {name}=PATH")
        if name in recipe.listed_inputs():
            listings[name] = list_input(kind, bound[name], name)

    if weights is not None and weights not in PUBLISHED_CONFIGS and Path(weights).is_dir():
        weights = str(Path(weights).resolve())
    generator: LoadedGenerator | None = None
    untrained: BigGAN | None = None
    facts = None
    if recipe.generator is not None and any(stream.uses_generator for stream in recipe.streams):
        location = weights or recipe.generator.name
        if timing_only and location in PUBLISHED_CONFIGS and recipe.generator.code is None:
            model = untrained = _untrained(location)
        else:
            generator = load_generator(recipe.generator.name, weights, recipe.generator.code)
            model = generator.model
        names = generator.class_names if generator else None
        facts = generator_facts(recipe.generator.name, as_network(model), names)
    elif weights is not None:
        raise UsageError(f"--weights {weights}: recipe {recipe.name!r} renders nothing with a generator")
    directions = None
    if "directions" in bound:
        directions = load_directions(Path(bound["directions"]))
    networks = find_networks(recipe, "cgn", bound, known_only=timing_only)
    everything = Facts(
        recipe.seed,
        facts,
        directions,
        listings,
        streams={stream.name: stream for stream in recipe.streams},
        cgns={
            name: cgn_facts(open_cgn(name, networks[name]) if name in networks else make_stand_in(name))
            for name, kind in recipe.inputs().items()
            if kind == "cgn"
        },
    )
    for stream in recipe.streams:
        stream.check(everything)
        _ = everything.plan(stream.name).count  # raises where samples are too many
    networks |= find_networks(recipe, "weights", bound, known_only=timing_only)
    ingredients = Ingredients(recipe, weights, generator, everything, networks, frozenset(bound), untrained)
    for stream in recipe.streams:
        if stream.source in CHECKS:
            CHECKS[stream.source](stream, everything, ingredients.roots)
    return ingredients


def find_networks(
    recipe: Recipe, kind: InputKind, bound: Mapping[str, str], known_only: bool = False
) -> dict[str, Path]:
    """Files (a CGN's may be a folder) of a recipe's networks of one kind, downloaded where need be.

    known_only: leave out what is neither bound to a file nor on this machine.
    """
    networks = {}
    place_of, find = (cgn_place, find_cgn) if kind == "cgn" else (network_place, find_network_file)
    for name in (name for name, its_kind in recipe.inputs().items() if its_kind == kind):
        place = place_of(name)
        if known_only and name not in bound and not (place is not None and place.exists()):
            continue
        path = Path(bound[name]) if name in bound else find(name, f"recipe {recipe.name!r}")
        if not (path.is_file() or (kind == "cgn" and path.is_dir())):
            raise UsageError(f"--input {name}={path}: no such file")
        networks[name] = path.resolve()
    return networks


def network_digest(path: Path) -> str:
    """sha256 of a network's file; of a folder, of the digests of what is in it."""
    if path.is_file():
        return sha256_of_file(path)
    parts = [file for file in (path / WEIGHTS_NAME, path / CONFIG_NAME) if file.exists()]
    digests = [f"{sha256_of_file(file)}  {file.name}\n" for file in parts]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def check_plan(dataset: Dataset, digest: str) -> None:
    """Raise GenintError where a dataset is not, or not as a whole, the one whose plan has that digest."""
    if dataset.entry.digest != digest:
        raise GenintError(f"{dataset.storage}: not the dataset of this build; is it one folder on every machine?")
    if dataset.recipe.deciding() != dataset.entry.fingerprint.deciding().recipe:
        raise GenintError(f"{dataset.storage / RECIPE}: another recipe than that of {PLAN}")


def find_roots(dataset: Dataset) -> dict[str, str]:
    """Where the inputs of a dataset are here. Raises UsageError where one is missing, or network weights are others."""
    for name in dataset.recipe.listed_inputs():
        if name in dataset.roots and not Path(dataset.roots[name]).exists():
            raise UsageError(f"--input {name}={dataset.roots[name]}: nothing there on this machine")
    networks: dict[str, Path] = {}
    for kind in NETWORK_KINDS:
        networks |= find_networks(dataset.recipe, kind, dataset.roots)
    for name, path in networks.items():
        expected = dataset.entry.fingerprint.inputs[name].sha256
        found = network_digest(path)
        if found != expected:
            raise UsageError(f"{path}: weights {found[:12]}, the dataset is rendered with {expected[:12]}")
    return {**dataset.roots, **{name: str(path) for name, path in networks.items()}}


@cache
def _untrained(name: str) -> BigGAN:
    """A published generator's shape with random weights; several estimates in one process share it."""
    return make_random_generator(PUBLISHED_CONFIGS[name], seed=0, calibration_samples=1)


def open_generator(dataset: Dataset, weights: str | None, allowed_code: str | None = None) -> LoadedGenerator | None:
    """The generator a dataset is rendered with, from the folder `weights` or where it is found here; None: it has none.

    Raises UsageError where the files at hand are others, or where it is of code that the user has not allowed.
    """
    entry, fingerprint = dataset.entry.generator, dataset.entry.fingerprint
    if entry is None:
        return None
    code = dataset.recipe.generator.code if dataset.recipe.generator else None
    check_allowed(code, allowed_code, str(dataset.storage))
    found = load_generator(entry.name, weights, code)
    for what, ours, theirs in (
        ("weights", found.weights_sha256, fingerprint.weights_sha256),
        ("configuration", found.config_sha256, fingerprint.config_sha256),
        (f"code of {code}", found.code_sha256, fingerprint.code_sha256),
    ):
        if ours != theirs:
            where = weights or entry.name
            raise UsageError(f"{where}: {what} {str(ours)[:12]}, the dataset is rendered with {str(theirs)[:12]}")
    return found


def generator_facts(name: str, network: Network, class_names: tuple[str, ...] | None) -> GeneratorFacts:
    """What planning needs to know. Classes without names are ImageNet's where there are 1,000, else numbers."""
    if class_names is None:
        numbers = tuple(str(label) for label in range(network.num_classes))
        class_names = imagenet_wnids() if network.num_classes == 1000 else numbers
    return GeneratorFacts(name, network.z_dim, network.resolution, class_names)


def find_directions(recipe: Recipe, generator: LoadedGenerator, imported: Directions | None, device: str) -> Directions:
    """The directions a recipe asks for, as many as its streams draw from."""
    table = recipe.directions
    count = max(getattr(stream, "num_directions", 0) for stream in recipe.streams)
    if imported is not None:
        z_dim = as_network(generator.model).z_dim
        if imported.latent.shape[1] != z_dim:
            raise UsageError(
                f"--input directions: made for latents of size {imported.latent.shape[1]}, the generator has {z_dim}"
            )
        return first_directions(imported, count)
    if table.method == "exact":
        return exact_directions(generator.model, count, table.class_label, table.layer)
    try:
        model = generator.model.to(device)
        return sampled_directions(model, table.layer, count, table.samples, table.class_label, seed=recipe.seed)
    finally:
        # A worker beside this process needs the device's memory.
        generator.model.to("cpu")
        torch.cuda.empty_cache()


def settle(ingredients: Ingredients, storage: Storage, device: str, grow: bool = False) -> Dataset:
    """Write what the build depends on into the dataset, or check that it is what is there already.

    grow: the recipe may have more samples than the dataset's, which is then one under way.

    Raises UsageError where the folder belongs to another recipe, naming what changed, or where its plan or recipe was
    edited since.
    """
    recipe = ingredients.recipe
    former = PlanEntry.from_json(storage.read(PLAN), storage / PLAN) if storage.exists(PLAN) else None
    growing = False

    directions: str | None = None
    if any(stream.uses_directions for stream in recipe.streams):
        assert recipe.generator is not None and ingredients.generator is not None
        directions = directions_name(recipe.generator.name, recipe.directions.layer)
        expected = former.fingerprint.directions_sha256 if former else None
        # Kept as first made: another machine's linear algebra would differ in the last bits.
        if not storage.exists(directions) or (expected and storage.sha256(directions) != expected):
            found = find_directions(recipe, ingredients.generator, ingredients.facts.directions, device)
            with storage.replacing(directions) as path:
                save_directions(found, path)
                if expected and sha256_of_file(path) != expected:
                    raise UsageError(
                        f"{storage / directions}: missing or damaged, and what is found now differs from it; restore "
                        "it from a copy, or choose another --out"
                    )

    generator = ingredients.generator
    facts = ingredients.facts
    entry = PlanEntry(
        fingerprint=Fingerprint(
            recipe=recipe.deciding(),
            weights_sha256=generator.weights_sha256 if generator else None,
            config_sha256=generator.config_sha256 if generator else None,
            code_sha256=generator.code_sha256 if generator else None,
            directions_sha256=storage.sha256(directions) if directions else None,
            inputs={
                **{name: Input(files=len(list_.paths), sha256=list_.digest) for name, list_ in facts.inputs.items()},
                **{name: Input(files=1, sha256=network_digest(path)) for name, path in ingredients.networks.items()},
            },
        ),
        generator=GeneratorEntry(
            name=facts.generator.name,
            weights_sha256=generator.weights_sha256,
            z_dim=facts.generator.z_dim,
            resolution=facts.generator.resolution,
        )
        if facts.generator and generator
        else None,
        class_names=list(facts.generator.class_names) if facts.generator else [],
        directions=directions,
        cgns=dict(facts.cgns),
    )
    if former is not None:
        changes = former.fingerprint.changes(entry.fingerprint)
        allowed = growth_keys(recipe) if grow else set()
        growing = any(change.partition(":")[0] in allowed for change in changes)
        changes = [change for change in changes if change.partition(":")[0] not in allowed]
        if changes:
            raise UsageError(
                f"{storage}: begun with another recipe ({'; '.join(changes[:3])}"
                f"{f'; and {len(changes) - 3} more' if len(changes) > 3 else ''}); choose another --out"
            )
        if growing:
            former = former.model_copy(update={"fingerprint": entry.fingerprint})
        if entry != former.model_copy(update={"fingerprint": former.fingerprint.deciding()}):
            raise UsageError(
                f"{storage / PLAN}: edited since the build began: it has the fingerprint of this command but not what "
                "follows from it; restore it from a copy, or choose another --out"
            )
        if growing:
            reopen(storage)
        elif storage.exists(RECIPE):
            _check_recipe(storage, recipe)
    if not storage.exists(MANIFEST):
        write_derived(ingredients, storage)
    if former is None or growing:
        storage.write(PLAN, entry.model_dump_json().encode())
    # The former one as it is: what was settled stays, to the byte.
    return Dataset(storage, recipe, former or entry, ingredients.roots)


def write_derived(ingredients: Ingredients, storage: Storage) -> None:
    """Write recipe and lists of inputs into a dataset that is under way, where they are missing or others."""
    contents = {input_name(name): listing.to_bytes() for name, listing in ingredients.facts.inputs.items()}
    contents[RECIPE] = ingredients.recipe.to_toml().encode()
    for name, content in contents.items():
        if not storage.exists(name) or storage.read(name) != content:
            storage.write(name, content)


def _check_recipe(storage: Storage, recipe: Recipe) -> None:
    try:
        found = load_dataset_recipe(storage)
    except FormatError as error:
        raise UsageError(f"{error}; remove it, and the same command writes it again") from error
    # What describes may change: it is written anew.
    ours, theirs = recipe.deciding(), found.deciding()
    changed = [key for key in sorted(ours.keys() | theirs.keys()) if ours.get(key) != theirs.get(key)]
    if changed:
        key = changed[0]
        raise UsageError(
            f"{storage / RECIPE}: edited since the build began ({key}: {shorten(ours.get(key, 'absent'))} -> "
            f"{shorten(theirs.get(key, 'absent'))}); remove it, and the same command writes it again"
        )


@contextmanager
def driver_lock(storage: Storage, tidy: bool = True) -> Iterator[None]:
    """Hold the dataset for one driver; the kernel lets go when the process ends, however it ends.

    tidy: remove files that are half written.

    Raises UsageError where another driver has it, or where the folder is something else's. A bucket has no locks: two
    drivers there do work twice, but end with the same bytes.
    """
    # What a build writes before its plan may be there from one that was interrupted early.
    others = {name for name in storage.list() if TEMPORARY not in name} - {RECORDS, RECIPE, "directions", "inputs"}
    if others and not storage.exists(PLAN):
        raise UsageError(f"{storage}: not empty and not a dataset of genint; choose another --out")
    if not storage.local:
        yield
        return
    with only_process(storage.local_path(LOCK), f"{storage}: another build is running here"):
        if tidy:
            sweep(Path(storage.absolute))
        yield
