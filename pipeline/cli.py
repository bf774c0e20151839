"""`genint-pipeline`: recipes in, verified shards out. Heavy imports wait inside the commands."""

import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..manifests.console import LONGEST_MESSAGE, command_arguments, exit_codes
from ..manifests.device import count_cores
from ..manifests.errors import GenintError, UsageError, mask_credentials, shorten

if TYPE_CHECKING:
    from ..manifests.dataset import Dataset
    from ..manifests.label_reader import LabelReader
    from ..manifests.manifest import Manifest, Record
    from ..manifests.recipe import Recipe
    from ..manifests.sources import AnyStream
    from ..manifests.storage import Storage
    from .release.progress import Progress
    from .shards.driver import Build
    from .shards.executor import WorkerPool
    from .shards.rebuild import Rebuilt
    from .shards.settle import Ingredients
    from .shards.worker import WorkerSettings

EPILOG = "Exit codes: 0 ok, 1 failed work, 2 bad usage, 130 interrupted."


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="genint")
def cli() -> None:
    """Render interventions on a class-conditional BigGAN into verified, reproducible WebDataset shards."""


def main() -> None:
    """Run the command line; a user's mistake is one line and an exit code, never a traceback."""
    with exit_codes():
        try:
            cli(command_arguments(), standalone_mode=False)
        except click.ClickException as error:
            if len(error.format_message()) > LONGEST_MESSAGE:
                raise UsageError(error.format_message()) from error
            error.show()
            sys.exit(error.exit_code)
        except click.Abort as error:
            raise KeyboardInterrupt from error


recipe_argument = click.argument("recipe", default="mini")
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Derive a recipe, e.g. streams.interventional.truncation=0.5; repeatable.",
)
weights_option = click.option(
    "--weights", metavar="DIR", help="Folder with the generator's config.json and pytorch_model.bin."
)
code_option = click.option(
    "--allow-code",
    "allowed_code",
    metavar="CODE",
    help="Run this code, which the recipe names as its generator's (generator.code), such as my_module:MyGenerator.",
)
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
input_option = click.option(
    "--input", "inputs", multiple=True, metavar="NAME=PATH", help="Bind an outside input of the recipe; repeatable."
)


Command = TypeVar("Command", bound=Callable[..., object])


def pool_options(command: Command) -> Command:
    """Where a command that makes shards makes them."""
    for option in (
        click.option(
            "--address", help="Ray cluster to join: auto, or an address. Without it, ray runs on this machine."
        ),
        click.option(
            "--encoders",
            type=click.IntRange(1, 256),
            help="Threads per worker that encode images.  [default: by its cores]",
        ),
        click.option(
            "--workers-per-device",
            type=click.IntRange(1, 64),
            default=1,
            show_default=True,
            help="Workers that share a GPU: while one writes, another renders.",
        ),
        click.option(
            "--workers", type=click.IntRange(min=1), help="Workers, one device (CPU: one thread) each.  [default: all]"
        ),
        click.option(
            "--executor",
            type=click.Choice(["local", "ray"]),
            default="local",
            show_default=True,
            help="Workers of this command, or Ray's actors; the bytes are the same.",
        ),
    ):
        command = option(command)
    return command


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON in place of a table.")
pem_file = click.Path(path_type=Path, exists=True, dir_okay=False)
license_option = click.option(
    "--license",
    "licenses",
    multiple=True,
    metavar="[NAME=]SPDX",
    help="Licence of an input or a network, such as photos=CC-BY-4.0, or of the whole dataset; repeatable.",
)


def parse_licenses(licenses: tuple[str, ...]) -> tuple[str, ...]:
    """Licences as overrides of a recipe."""
    pairs = [text.rpartition("=") for text in licenses]
    return tuple(f"origins.{name}.license={spdx}" if name else f"license={spdx}" for name, _, spdx in pairs)


def parse_inputs(inputs: tuple[str, ...]) -> dict[str, str]:
    """`NAME=PATH` pairs to a mapping."""
    bound = {}
    for text in inputs:
        name, separator, path = text.partition("=")
        if not separator:
            raise UsageError(f"--input {text}: expected NAME=PATH")
        bound[name] = path
    return bound


@cli.command()
@click.argument("name", required=False)
@json_option
def recipes(name: str | None, as_json: bool) -> None:
    """List the shipped recipes, or print one as a start for your own."""
    from ..manifests.recipe import load_recipe, shipped_recipes

    texts = shipped_recipes()
    if name:
        loaded = load_recipe(name)
        if as_json:
            click.echo(json.dumps(loaded.model_dump(mode="json", exclude_none=True), indent=2))
            return
        click.echo(texts.get(name) or Path(name).read_text("utf-8"), nl=False)
        return
    rows = [
        {
            "name": known,
            "description": text.splitlines()[0].removeprefix("# "),
            "streams": [stream.name for stream in load_recipe(known).streams],
        }
        for known, text in texts.items()
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        streams = ", ".join(row["streams"])
        click.echo(f"{row['name']:24} {row['description']}\n{'':24} streams: {streams}")


@cli.command()
@click.argument("kind", type=click.Choice(["recipe", "manifest"]))
def schema(kind: str) -> None:
    """Print the JSON Schema of a recipe or of a manifest."""
    from ..manifests.manifest import Manifest
    from ..manifests.recipe import Recipe

    click.echo(json.dumps((Recipe if kind == "recipe" else Manifest).model_json_schema(), indent=2))


@cli.command()
@recipe_argument
@set_option
@weights_option
@code_option
@input_option
@device_option
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write to.  [default: directions/RECIPE]")
@click.option("--show", default=10, show_default=True, type=click.IntRange(min=1), help="Directions in the picture.")
@click.option("--classes", "class_text", default="0,1,2", show_default=True, help="Class labels in the picture.")
def directions(
    recipe: str, overrides: tuple[str, ...], weights: str | None, allowed_code: str | None, inputs: tuple[str, ...],
    device: str, out: Path | None, show: int, class_text: str,
) -> None:  # fmt: skip
    """Compute a recipe's principal directions: a GANSpace .npz and a picture of what each one does."""
    from ..manifests.console import say_next, say_start
    from ..manifests.recipe import load_recipe
    from .shards.environment import check_device
    from .shards.show_directions import write_directions

    try:
        labels = [int(label) for label in class_text.split(",")]
    except ValueError as error:
        raise UsageError(f"--classes {class_text}: expected class labels such as 0,1,2") from error
    loaded = load_recipe(recipe, overrides)
    folder = out or Path("directions") / loaded.name
    bound, device = parse_inputs(inputs), check_device(device)
    say_start(folder, resumes=False)
    for line in write_directions(loaded, weights, bound, device, folder, show, labels, allowed_code):
        click.echo(line)
    say_next(f"look at the picture; where objects dissolve, narrow step_ranges in {recipe}")


@cli.command("build-shards")
@recipe_argument
@set_option
@weights_option
@code_option
@input_option
@license_option
@device_option
@click.option("--out", help="Folder or bucket URL of the dataset.  [default: datasets/RECIPE]")
@click.option("--stream", "stream_names", multiple=True, metavar="NAME", help="Build only this stream; repeatable.")
@pool_options
@click.option(
    "--dry-run", is_flag=True, help="Print shards, samples, bytes, device hours and free disk; write nothing."
)
@json_option
def build_shards(
    recipe: str, overrides: tuple[str, ...], weights: str | None, allowed_code: str | None, inputs: tuple[str, ...],
    licenses: tuple[str, ...], device: str, out: str | None, stream_names: tuple[str, ...], executor: str,
    workers: int | None, workers_per_device: int, encoders: int | None, address: str | None, dry_run: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Render every missing shard of RECIPE (a shipped name or a file) and write the dataset's manifest.

    The same command continues what was interrupted.
    """
    from ..manifests.recipe import load_recipe
    from ..manifests.storage import Storage
    from .shards.settle import driver_lock, gather, settle

    if as_json and not dry_run:
        raise UsageError("--json: only with --dry-run; manifest.json tells of what is built")
    pool = Pool(executor, workers, workers_per_device, encoders, address, device)
    loaded = load_recipe(recipe, (*overrides, *parse_licenses(licenses)))
    names = [loaded.stream(name).name for name in stream_names] or [stream.name for stream in loaded.streams]
    storage = Storage(out or f"datasets/{loaded.name}")
    own_device = pool.own_device()
    bound, reader = split_inputs(loaded, storage, parse_inputs(inputs))
    ingredients = gather(loaded, weights, bound, dry_run, allowed_code)
    if dry_run:
        _print_estimate(ingredients, storage, own_device, names, as_json)
        return
    with driver_lock(storage):
        _complete(settle(ingredients, storage, own_device), ingredients, names, pool, reader)


@cli.command()
@click.argument("dataset")
@weights_option
@code_option
@input_option
@device_option
@pool_options
def repair(
    dataset: str, weights: str | None, allowed_code: str | None, inputs: tuple[str, ...], device: str, executor: str,
    workers: int | None, workers_per_device: int, encoders: int | None, address: str | None,
) -> None:  # fmt: skip
    """Make what is damaged in DATASET, and what was lost of it, again: those shards and files, and no others."""
    from ..manifests.dataset import load_dataset
    from .shards.settle import driver_lock, gather, settle

    pool = Pool(executor, workers, workers_per_device, encoders, address, device)
    loaded = load_dataset(dataset)
    bound, reader = split_inputs(loaded.recipe, loaded.storage, parse_inputs(inputs))
    ingredients = gather(loaded.recipe, weights, bound, allowed_code=allowed_code)
    with driver_lock(loaded.storage):
        settled = settle(ingredients, loaded.storage, pool.own_device())
        _complete(settled, ingredients, [stream.name for stream in loaded.recipe.streams], pool, reader, refill=True)


@cli.command()
@click.argument("dataset")
@set_option
@weights_option
@code_option
@input_option
@device_option
@pool_options
def extend(
    dataset: str, overrides: tuple[str, ...], weights: str | None, allowed_code: str | None, inputs: tuple[str, ...],
    device: str, executor: str, workers: int | None, workers_per_device: int, encoders: int | None, address: str | None,
) -> None:  # fmt: skip
    """Add samples to DATASET, e.g. --set streams.interventional.latents_per_class=2000.

    What is there keeps its keys and bytes. A stream may grow in latents_per_class, samples_per_class or num_samples,
    unless another one draws from it. The version of the data rises by a minor one.
    """
    from ..manifests.dataset import load_dataset
    from ..manifests.growth import grow_recipe
    from .shards.settle import driver_lock, gather, settle

    pool = Pool(executor, workers, workers_per_device, encoders, address, device)
    loaded = load_dataset(dataset, growing=True)
    recipe = grow_recipe(loaded.recipe, overrides, dataset)
    bound, reader = split_inputs(recipe, loaded.storage, parse_inputs(inputs))
    ingredients = gather(recipe, weights, bound, allowed_code=allowed_code)
    with driver_lock(loaded.storage):
        settled = settle(ingredients, loaded.storage, pool.own_device(), grow=True)
        _complete(settled, ingredients, [stream.name for stream in recipe.streams], pool, reader)


@cli.command()
@click.argument("datasets", nargs=-1, required=True)
@click.option("--out", required=True, help="Folder or bucket URL of the dataset to make.")
@click.option("--name", help="Its name.  [default: the folder's]")
@input_option
def merge(datasets: tuple[str, ...], out: str, name: str | None, inputs: tuple[str, ...]) -> None:
    """Copy the streams of DATASETS, which have the same classes, seed and generator, into one dataset.

    The same command continues what was interrupted.
    """
    from ..manifests.console import ProgressDisplay, say_next, say_start
    from ..manifests.dataset import load_dataset
    from ..manifests.manifest import MANIFEST, load_manifest
    from ..manifests.storage import Storage
    from .release import merge as merging
    from .shards.settle import driver_lock

    if len(datasets) < 2:
        raise UsageError(f"merge {datasets[0]}: expected two datasets or more")
    storage = Storage(out)
    loaded = [load_dataset(dataset, parse_inputs(inputs)) for dataset in datasets]
    with driver_lock(storage):
        merged = merging.plan_merge(loaded, name or Path(out.rstrip("/")).name, storage)
        say_start(storage)
        total = sum(dataset.plan(stream.name).num_shards for dataset in loaded for stream in dataset.recipe.streams)
        with ProgressDisplay("merge", "shards") as display:
            for done, _ in enumerate(merging.merge(loaded, merged), 1):
                display.update(done, total)
    _warn_of_scores(storage, load_manifest(storage))
    click.echo(f"manifest: {storage / MANIFEST}")
    say_next(["genint-pipeline", "verify", out])


@cli.command()
@click.argument("dataset", default="datasets/mini")
@click.option("--dry-run", is_flag=True, help="Name the files; remove nothing.")
@json_option
def clean(dataset: str, dry_run: bool, as_json: bool) -> None:
    """Remove what interrupted builds left in DATASET. What is whole stays, and an unfinished build can go on."""
    from ..manifests.console import format_bytes
    from ..manifests.dataset import load_dataset
    from .release.clean import find_leftovers
    from .shards.settle import driver_lock

    loaded = load_dataset(dataset)
    with driver_lock(loaded.storage, tidy=False):
        leftovers = dict(find_leftovers(loaded))
        for name in leftovers:
            if not as_json:
                click.echo(name)
            if not dry_run:
                loaded.storage.remove(name)
    if as_json:
        click.echo(json.dumps({"removed": not dry_run, "bytes": leftovers}, indent=2))
        return
    verb = "would be removed" if dry_run else "removed"
    click.echo(f"{len(leftovers):,} files {verb}, {format_bytes(sum(leftovers.values()))}")


@dataclass(frozen=True)
class Pool:
    """Where shards are made, as the command line says it."""

    executor: str
    workers: int | None
    per_device: int
    encoders: int | None
    address: str | None
    device: str

    def __post_init__(self) -> None:
        if self.executor == "ray":
            from .shards.ray_executor import check_options

            check_options(self.device, self.address)
        elif self.address:
            raise UsageError(f"--address {self.address}: only with --executor ray")

    def own_device(self) -> str:
        """This machine's device, which only settles the directions where a cluster does the work."""
        from .shards.environment import check_device

        return check_device(self.device if self.executor == "local" else "auto")

    def worker_device(self) -> str:
        return self.own_device() if self.executor == "local" else self.device

    def start(self, settings: "WorkerSettings") -> "WorkerPool":
        if self.executor == "ray":
            from .shards.ray_executor import RayPool

            pool = RayPool(settings, self.workers, self.address, _end_at_once, self.per_device, self.encoders)
            if settings.device == "auto":
                click.echo(f"--device auto: {pool.what}s of the cluster", err=True)
            return pool
        from .shards.executor import LocalPool

        return LocalPool(settings, self.workers, self.per_device, self.encoders)


def split_inputs(recipe: "Recipe", storage: "Storage", inputs: dict[str, str]) -> tuple[dict[str, str], str | None]:
    """What samples are made of, and apart from it the classifier that scores them, if one does."""
    from .release.score import choose_reader

    reader = choose_reader(recipe, storage, inputs)
    scorer = recipe.fidelity.checkpoint if recipe.fidelity else None
    return {name: place for name, place in inputs.items() if name != scorer or name in recipe.inputs()}, reader


def _complete(
    dataset: "Dataset", ingredients: "Ingredients", names: list[str], pool: Pool, reader: str | None,
    refill: bool = False,
) -> None:  # fmt: skip
    """Make whatever a settled dataset lacks, and close it. refill: look at every byte, and try what was lost again.

    reader: the classifier that scores the samples, if one does.
    """
    from ..manifests.console import format_bytes, say_next, say_start
    from ..manifests.manifest import MANIFEST, preview_name
    from .release.close import excess_failures, find_problems, release, reopen
    from .release.preview import draw_previews
    from .shards.estimate import warn_of_long_work
    from .shards.settle import write_derived
    from .shards.worker import WorkerSettings

    storage, recipe = dataset.storage, dataset.recipe
    label_reader = _open_reader(dataset, reader, pool.own_device()) if reader else None
    lacking = find_problems(dataset) if storage.exists(MANIFEST) else []
    sound: set[tuple[str, int]] = set()
    if refill:
        _drop_unsound(dataset, sound, refill=True)
    complete = storage.exists(MANIFEST) and not lacking
    if lacking:
        for line in lacking[:5]:
            click.echo(f"not complete: {shorten(line, LONGEST_MESSAGE)}", err=True)
        reopen(storage)
        write_derived(ingredients, storage)
    worker_device = pool.worker_device()
    settings = WorkerSettings(
        storage.absolute,
        dataset.entry.digest,
        worker_device,
        ingredients.weights,
        ingredients.code,
        ingredients.given_roots,
    )
    cores = pool.workers or count_cores()
    for line in warn_of_long_work(dataset, names, worker_device, cores):
        click.echo(f"warning: {line}", err=True)
    lost_workers = 0
    if not complete:
        say_start(storage)
    while not complete:
        build = _build(dataset, names, lambda: pool.start(settings))
        sound |= build.made
        lost_workers += build.lost_workers
        if set(names) != {stream.name for stream in recipe.streams}:
            click.echo(f"built {', '.join(names)}; the manifest is written when every stream is there")
            return
        complete = not _drop_unsound(dataset, sound)
    if label_reader is not None and not _is_scored(storage, label_reader):
        _score(dataset, label_reader)
        reopen(storage)
    if storage.exists(MANIFEST):
        click.echo("complete already")
    else:
        for name, sheet in draw_previews(dataset, names).items():
            storage.write(name, sheet)
        manifest = release(dataset, lost_workers)
        _warn_of_scores(storage, manifest)
        size = sum(stream.bytes for stream in manifest.streams)
        count = sum(stream.samples for stream in manifest.streams)
        click.echo(f"{count:,} samples in {sum(s.shards for s in manifest.streams):,} shards, {format_bytes(size)}")
        for stream in manifest.streams:
            for remark, number in sorted(stream.remarks.items()):
                click.echo(f"stream {stream.name}: {number:,} of {stream.samples:,} samples {remark}")
        lacking = find_problems(dataset)
        if lacking:
            raise GenintError(f"{storage}: {lacking[0]}{f' (and {len(lacking) - 1} more)' if lacking[1:] else ''}")
    for name in names:
        click.echo(f"contact sheet: {storage / preview_name(name)}")
    click.echo(f"manifest: {storage / MANIFEST}")
    excess = excess_failures(dataset)
    if excess:
        raise GenintError("; ".join(excess))
    say_next(
        "look at the contact sheets",
        ["genint-pipeline", "verify", storage, "--rebuild", "1", *ingredients.flags],
        *training_step(str(storage), recipe.streams),
    )


def training_step(dataset: str, streams: "Iterable[AnyStream]") -> list[list[str]]:
    """The command that trains on a dataset, if it has natural images to train on."""
    if any(stream.role == "natural" and stream.split == "train" for stream in streams):
        return [["genint-train", "--shards", dataset, "--out", f"runs/{Path(dataset).name}"]]
    return []


def _open_reader(dataset: "Dataset", location: str, device: str) -> "LabelReader":
    """A classifier that knows the dataset's classes. Raises UsageError for another."""
    from .release.score import check_reader, open_reader

    reader = open_reader(location, device)
    check_reader(dataset, reader)
    return reader


def _is_scored(storage: "Storage", reader: "LabelReader") -> bool:
    """Whether a finished dataset has the scores of this classifier."""
    from ..manifests.manifest import MANIFEST, load_manifest

    fidelity = load_manifest(storage).fidelity if storage.exists(MANIFEST) else None
    return fidelity is not None and (fidelity.checkpoint, fidelity.checkpoint_sha256) == (reader.name, reader.sha256)


def _score(dataset: "Dataset", reader: "LabelReader") -> None:
    from ..manifests.console import ProgressDisplay
    from .release.score import score

    with ProgressDisplay("score", "samples") as display:
        for progress in score(dataset, reader):
            display.update(progress.done, progress.total, progress.stream)


def _warn_of_scores(storage: "Storage", manifest: "Manifest") -> None:
    """Say so where a dataset was closed without the scores that it had."""
    from ..manifests.fidelity import CLASSIFIER

    if manifest.fidelity is None and storage.exists(CLASSIFIER):
        click.echo(
            "warning: some shards have no scores of label fidelity, so the dataset has none; genint-pipeline score "
            f"{storage} --checkpoint ... gives them to those",
            err=True,
        )


def _build(dataset: "Dataset", names: list[str], start_pool: "Callable[[], WorkerPool]") -> "Build":
    """Make the missing shards of these streams, with all that a user sees of it. Ends the command where it stops."""
    from ..manifests.console import ProgressDisplay
    from .shards.driver import Build

    pool = start_pool()
    build = Build(dataset, pool, names)
    try:
        with _interruptible(build), ProgressDisplay(dataset.recipe.name, "samples") as display:
            for progress in build.run():
                if progress.message:
                    display.print(shorten(progress.message, LONGEST_MESSAGE))
                    continue
                note = f"{progress.done_shards:,} of {progress.total_shards:,} shards"
                display.update(progress.done_samples, progress.total_samples, note)
    except GenintError as error:
        raise type(error)(f"{error}; to resume: {_this_command()}") from error
    finally:
        pool.close()
    if build.stopping:
        click.echo(f"interrupted; to resume: {_this_command()}", err=True)
        sys.exit(130)
    if build.faults:
        (name, index), reason = next(iter(build.faults.items()))
        raise GenintError(
            f"{len(build.faults)} shards failed, first {name} shard {index}: {reason}; to try again: {_this_command()}"
        )
    return build


def _drop_unsound(dataset: "Dataset", sound: set[tuple[str, int]], refill: bool = False) -> int:
    """Check the shards of which nobody knows whether they are sound; the number of those that have to be made again."""
    from ..manifests.console import ProgressDisplay
    from .release.close import drop_unsound

    total = sum(dataset.plan(stream.name).num_shards for stream in dataset.recipe.streams) - len(sound)
    dropped = 0
    with ProgressDisplay("check", "shards") as display:
        for done, (shard, problem) in enumerate(drop_unsound(dataset, frozenset(sound), refill), 1):
            if problem:
                dropped += 1
                display.print(shorten(f"{problem}; made again", LONGEST_MESSAGE))
            else:
                sound.add(shard)
            display.update(done, total)
    return dropped


@contextmanager
def _interruptible(build: "Build") -> Iterator[None]:
    """Ctrl-C lets running shards finish; a second one stops at once."""

    def on_signal(number: int, frame: object) -> None:
        if build.stopping:
            raise KeyboardInterrupt
        build.stop()
        click.echo("\nfinishing the running shards; Ctrl-C again stops at once", err=True)

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _end_at_once(message: str) -> None:
    """End from a thread while the main one may hang; what is on disk is whole at any time."""
    print(f"error: {message}; to resume: {_this_command()}", file=sys.stderr, flush=True)
    os._exit(1)


def _this_command() -> str:
    return mask_credentials(shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]]))


def _print_estimate(
    ingredients: "Ingredients", storage: "Storage", device: str, names: list[str], as_json: bool
) -> None:
    from ..manifests.console import format_bytes, format_seconds
    from .shards.environment import describe_environment
    from .shards.estimate import estimate_streams

    if as_json:
        rows = list(estimate_streams(ingredients, storage, device, names))
        tree = {
            "device": describe_environment(device).device,
            "streams": [vars(row) for row in rows],
            "bytes": sum(row.bytes for row in rows),
            "device_seconds": sum(row.device_seconds for row in rows),
            "free_bytes": storage.free_bytes(),
            "timed_with_random_weights": ingredients.stand_ins,
        }
        click.echo(json.dumps(tree, indent=2))
        return
    click.echo(f"{'stream':20} {'samples':>12} {'shards':>8} {'bytes':>10} {'device time':>12}")
    size = seconds = 0.0
    for row in estimate_streams(ingredients, storage, device, names):
        click.echo(
            f"{row.name:20} {row.samples:>12,} {row.shards:>8,} {format_bytes(row.bytes):>10} "
            f"{format_seconds(row.device_seconds):>12}"
        )
        size, seconds = size + row.bytes, seconds + row.device_seconds
    free = storage.free_bytes()
    click.echo(f"one device ({describe_environment(device).device}): {format_seconds(seconds)}")
    if ingredients.stand_ins:
        absent = ", ".join(ingredients.stand_ins)
        click.echo(f"timed with random weights of the same shape for {absent}; bytes from a typical photograph")
    click.echo(f"disk: {format_bytes(size)} needed, {format_bytes(free) if free is not None else 'unknown'} free")


@cli.command()
@click.argument("dataset", default="datasets/mini")
@json_option
def status(dataset: str, as_json: bool) -> None:
    """How far a dataset is, finished or under way."""
    import time
    from dataclasses import asdict

    from ..manifests.dataset import load_dataset
    from ..manifests.lock import find_holder
    from ..manifests.manifest import MANIFEST, load_manifest
    from .release.close import RecordStore
    from .release.progress import find_newest, measure_progress
    from .shards.settle import LOCK

    loaded = load_dataset(dataset)
    store = RecordStore(loaded.storage)
    rows: list[dict[str, Any]] = []
    plans = {stream.name: loaded.plan(stream.name) for stream in loaded.recipe.streams}
    lacking = {name: store.missing_shards(name, plan.num_shards) for name, plan in plans.items()}
    for name, plan in plans.items():
        rows.append({"name": name, "shards": plan.num_shards, "missing": len(lacking[name])})
        if not as_json:
            click.echo(f"{name:20} {plan.num_shards - len(lacking[name]):>8,} of {plan.num_shards:,} shards")
    missing = sum(row["missing"] for row in rows)
    has_manifest = loaded.storage.exists(MANIFEST)
    if has_manifest:
        load_manifest(loaded.storage)  # raises where it is damaged
    progress, holder = None, None
    if not has_manifest:
        newest = {name: find_newest(loaded.storage, plan) for name, plan in plans.items()}
        progress = measure_progress(newest, plans, lacking, time.time())
        holder = find_holder(loaded.storage.local_path(LOCK)) if loaded.storage.local else None
    if as_json:
        facts = {"streams": rows, "complete": has_manifest and not missing, "builder": holder}
        click.echo(json.dumps(facts | {"progress": asdict(progress) if progress else None}, indent=2))
        return
    if not has_manifest:
        click.echo("\n".join(_describe_progress(progress, holder, loaded.storage.local)))
        return
    click.echo(
        f"not complete: its manifest is written, but {missing:,} shards are missing; build-shards makes them again"
        if missing
        else "complete: its manifest is written"
    )


def _describe_progress(progress: "Progress | None", holder: str | None, local: bool) -> Iterator[str]:
    """Lines on a build that has no manifest yet."""
    from ..manifests.console import format_seconds

    if holder:
        yield f"under way: {holder}"
    else:
        yield "stopped: no build runs here; the same command continues it" if local else "no manifest yet"
    if progress is None:
        yield "no shard has been finished since it began"
        return
    left = "time left unknown: a stream has no finished shard yet"
    if progress.seconds_left is not None:
        left = f"{format_seconds(progress.seconds_left)} left"
    yield f"{progress.samples_per_second:,.1f} samples/s by {progress.workers:,.1f} workers, {left}"
    yield f"last shard {format_seconds(progress.idle)} ago" + (
        f"; {progress.lost:,} samples lost" if progress.lost else ""
    )


@cli.command()
@click.argument("dataset", default="datasets/mini")
@click.option(
    "--rebuild",
    metavar="N|all",
    help="Make N shards again, or all, and compare parameters and pixels with what is there.",
)
@click.option(
    "--report", type=click.Path(path_type=Path, dir_okay=False), help="Page on what was made again, FILE.html."
)
@click.option("--signature", is_flag=True, help="Check first that the manifest is signed by whom you trust.")
@click.option("--public-key", type=pem_file, help="Trust this key (PEM).")
@click.option("--certificate", "roots", type=pem_file, multiple=True, help="Trust what these roots certify (PEM).")
@click.option("--identity", metavar="NAME", help="Trust this OpenID identity, such as a mail address; with --issuer.")
@click.option("--issuer", metavar="URL", help="Who vouches for the identity, such as https://accounts.google.com.")
@weights_option
@code_option
@input_option
@device_option
@json_option
def verify(
    dataset: str, rebuild: str | None, report: Path | None, signature: bool, public_key: Path | None,
    roots: tuple[Path, ...], identity: str | None, issuer: str | None, weights: str | None, allowed_code: str | None,
    inputs: tuple[str, ...], device: str, as_json: bool,
) -> None:  # fmt: skip
    """Check every byte of DATASET against its digests, and manifest and samples against the recipe's plan."""
    from ..manifests.console import say_next
    from ..manifests.dataset import load_dataset
    from ..manifests.manifest import load_manifest
    from ..manifests.verification import other_files

    count = None if rebuild in (None, "all") else parse_count(rebuild)
    if report is not None and (rebuild is None or report.suffix != ".html" or not report.parent.is_dir()):
        raise UsageError(
            f"--report {report}: expected a .html in a folder that exists, and --rebuild N or --rebuild all"
        )
    named = [public_key is not None, bool(roots), identity is not None and issuer is not None]
    if sum(named) != signature or (identity is None) != (issuer is None):
        raise UsageError(
            "--signature goes with one of --public-key FILE, --certificate FILE, or --identity NAME and --issuer URL"
        )
    loaded = load_dataset(dataset, parse_inputs(inputs))
    if signature:
        from .release.signature import Trusted, verify_signature

        verify_signature(loaded.storage, Trusted(public_key, roots, identity, issuer))
        signer = public_key or identity or "a holder of a certificate below the roots given"
        click.echo(f"signed by {signer}", err=as_json)
    manifest = load_manifest(loaded.storage, altered=True)
    shards, samples = _verify_bytes(loaded, manifest)
    others = other_files(loaded, manifest.fidelity, has_card=manifest.version is not None)
    found = {"streams": len(loaded.recipe.streams), "shards": shards, "samples": samples, "other_files": len(others)}
    click.echo(
        f"{found['streams']} streams, {shards:,} shards, {samples:,} samples and {len(others)} "
        "other files: every byte and every parameter as recorded, every record and the manifest as planned",
        err=as_json,
    )
    again = _rebuild(loaded, manifest, count, device, weights, allowed_code, report, as_json) if rebuild else []
    if as_json:
        click.echo(json.dumps({**found, "rebuilt": [vars(each) for each in again]}, indent=2, default=_name_shard))
    failed = sum(not result.is_reproduced for result in again)
    if failed:
        raise GenintError(f"{failed} shards could not be made again as they were")
    if not rebuild:
        say_next(["genint-pipeline", "verify", dataset, "--rebuild", "1"])


def _name_shard(record: "Record") -> dict[str, object]:
    return {"stream": record.stream, "shard_index": record.shard_index}


def _verify_bytes(dataset: "Dataset", manifest: "Manifest") -> tuple[int, int]:
    """Check everything of a dataset that can be checked without rendering; the number of its shards and samples."""
    from ..manifests.console import ProgressDisplay
    from ..manifests.errors import FormatError
    from ..manifests.verification import verify_manifest, verify_shards

    problems: dict[str, None] = {}  # in order, each once
    shards = samples = 0
    try:
        for problem in verify_manifest(dataset, manifest):
            problems[problem] = None
        total = sum(dataset.plan(stream.name).num_shards for stream in dataset.recipe.streams)
        with ProgressDisplay("verify", "shards") as display:
            for checked in verify_shards(dataset):
                problems |= dict.fromkeys(checked.problems)
                shards, samples = shards + 1, samples + checked.record.samples
                display.update(shards, total)
    except FormatError as error:
        problems[str(error)] = None
    for problem in list(problems)[:20]:
        click.echo(shorten(problem, LONGEST_MESSAGE), err=True)
    if problems:
        raise GenintError(f"{dataset.storage}: {len(problems)} problems")
    return shards, samples


def parse_count(text: str) -> int:
    """A number of shards to make again."""
    if not text.isdecimal() or int(text[:9]) < 1:
        raise UsageError(f"--rebuild {text}: expected a number of shards, or all")
    return int(text[:9])


def _rebuild(
    dataset: "Dataset", manifest: "Manifest", count: int | None, device: str, weights: str | None,
    allowed_code: str | None, report: Path | None, as_json: bool,
) -> "list[Rebuilt]":  # fmt: skip
    """Make shards again and say of each how it compares."""
    from .shards.environment import check_device, describe_environment
    from .shards.rebuild import rebuild_shards
    from .shards.report import make_report

    device = check_device(device)
    results = []
    for result in rebuild_shards(dataset, manifest, count, device, weights, allowed_code):
        results.append(result)
        parameters = "equal" if result.same_parameters else "DIFFERENT"
        if result.same_bytes:
            pixels = "bytes equal"
        else:
            where = "the same environment" if result.same_environment else "another environment"
            pixels = f"bytes differ in {where}, largest pixel difference {result.largest_difference} of 255"
        name = f"{result.record.stream} shard {result.record.shard_index}"
        click.echo(f"{name}: parameters {parameters}, {pixels}", err=as_json)
    if report is not None:
        report.write_text(make_report(dataset, manifest, results, describe_environment(device)), "utf-8")
        click.echo(f"report: {report}", err=as_json)
    return results


@cli.command("score")
@click.argument("dataset", default="datasets/mini")
@click.option(
    "--checkpoint",
    metavar="FILE|torchvision:ARCH",
    help="The classifier: a run's folder, a checkpoint file, ARCH=FILE for a bare state dict, torchvision:ARCH, or "
    "mini-reader.  [default: the recipe's, or the mini world's own]",
)
@device_option
@json_option
def score_command(dataset: str, checkpoint: str | None, device: str, as_json: bool) -> None:
    """Read every generated sample of DATASET with a classifier, and keep how surely it reads the label beside the
    shards: in files of their own, in the card, and for --min-fidelity of training and evaluation.

    The same command continues what was interrupted.
    """
    from ..manifests.console import say_next, say_start
    from ..manifests.dataset import load_dataset
    from ..manifests.manifest import CARD, MANIFEST, load_manifest
    from .release.close import RecordStore, find_problems, release, reopen
    from .release.score import default_reader, describe_scores, tabulate_scores
    from .shards.environment import check_device
    from .shards.settle import driver_lock

    loaded = load_dataset(dataset)
    storage = loaded.storage
    reader = _open_reader(loaded, checkpoint or default_reader(loaded), check_device(device))
    lost_workers = 0
    if storage.exists(MANIFEST):
        for problem in find_problems(loaded)[:1]:
            raise GenintError(f"{dataset}: {problem}; genint-pipeline repair mends it, then it can be scored")
        lost_workers = load_manifest(storage).lost_workers
    store = RecordStore(storage)
    for stream in loaded.recipe.streams:
        if len(store.missing_shards(stream.name, loaded.plan(stream.name).num_shards)):
            raise UsageError(f"{dataset}: not finished: stream {stream.name} lacks shards; build-shards makes them")
    with driver_lock(storage):
        if not _is_scored(storage, reader):
            say_start(storage)
            _score(loaded, reader)
            reopen(storage)
            release(loaded, lost_workers)
    if as_json:
        click.echo(json.dumps([*tabulate_scores(storage)], indent=2))
    else:
        for line in describe_scores(storage):
            click.echo(line)
    say_next(
        f"read {storage / CARD}: how scores are distributed, by stream and class",
        ["genint-train", "--shards", dataset, "--min-fidelity", "0.5", "--out", f"runs/{Path(dataset).name}-faithful"],
    )


@cli.command()
@click.argument("dataset")
@click.option("--key", type=pem_file, help="Private key, of an elliptic curve (PEM).")
@click.option("--certificate", type=pem_file, help="Certificate of the key (PEM).")
@click.option("--chain", type=pem_file, multiple=True, help="What leads from the certificate to a root; repeatable.")
@click.option("--keyless", is_flag=True, help="Without a key, by an OpenID identity and Sigstore's public log.")
def sign(dataset: str, key: Path | None, certificate: Path | None, chain: tuple[Path, ...], keyless: bool) -> None:
    """Sign DATASET's manifest, which pins every other file of it, and write the signature beside it.

    The password of a key that has one is read from GENINT_KEY_PASSWORD.
    """
    from ..manifests.dataset import load_dataset
    from ..manifests.manifest import SIGNATURE
    from .release.close import find_problems
    from .release.signature import Signer, sign_manifest

    if keyless == (key is not None) or (certificate is not None and key is None) or (chain and certificate is None):
        raise UsageError("expected --key FILE, --key FILE and --certificate FILE, or --keyless")
    loaded = load_dataset(dataset)
    for problem in find_problems(loaded)[:1]:
        raise GenintError(f"{dataset}: {problem}; nothing is signed that is not sound")
    sign_manifest(loaded.storage, Signer(key, os.environ.get("GENINT_KEY_PASSWORD"), certificate, chain))
    click.echo(f"signature: {loaded.storage / SIGNATURE}")


@cli.command()
@click.argument("dataset")
@click.argument("place", metavar="hf:OWNER/NAME|URL|zenodo-folder:DIR")
@license_option
@click.option("--accept-terms", is_flag=True, help="You may publish in spite of what an origin's terms forbid.")
@click.option("--private", is_flag=True, help="Make the hub's repository a private one.")
def publish(dataset: str, place: str, licenses: tuple[str, ...], accept_terms: bool, private: bool) -> None:
    """Bring DATASET to the Hugging Face hub, to a bucket, or into a small folder to deposit for a DOI.

    Every byte is verified first. The same command continues what was interrupted. Credentials are those of the hub's
    and the bucket's own clients.
    """
    from ..manifests.console import ProgressDisplay, say_next, say_start
    from ..manifests.dataset import load_dataset
    from ..manifests.errors import FormatError
    from ..manifests.manifest import load_manifest
    from ..manifests.recipe import override_recipe
    from ..manifests.storage import Storage
    from .release import publish as publishing

    loaded = load_dataset(dataset)
    manifest = load_manifest(loaded.storage)
    if manifest.version is None:
        raise FormatError(f"{dataset}: of before version 0.2; build-shards with its recipe brings it up to date")
    recipe = override_recipe(loaded.recipe, parse_licenses(licenses), dataset)
    publishing.check_terms(recipe, accept_terms)
    if recipe != loaded.recipe:
        from .shards.settle import driver_lock

        with driver_lock(loaded.storage):
            loaded = publishing.describe_anew(loaded, recipe, manifest)
        manifest = load_manifest(loaded.storage)
    kind, _, name = place.partition(":")
    target = None if kind in ("hf", "zenodo-folder") else Storage(place)
    _verify_bytes(loaded, manifest)
    if kind != "zenodo-folder":  # a small copy, made at once
        say_start(place)
    if target is not None:
        total = len(list(publishing.release_files(loaded, manifest))) + 1
        with ProgressDisplay("publish", "files") as display:
            for done, _ in enumerate(publishing.publish_to_bucket(loaded, manifest, target), 1):
                display.update(done, max(done, total))
        click.echo(f"published: {target}")
    elif kind == "hf":
        click.echo(f"published: {publishing.publish_to_hub(loaded, manifest, name, private)}")
    else:
        written = publishing.write_deposit(loaded, manifest, Path(name))
        click.echo(f"{len(written)} files to deposit: {name}")
        say_next(f"upload what is in {name}, and put the DOI into the recipe's [card]")
        return
    say_next(f"others get it with genint-pipeline fetch {shlex.quote(place)} FOLDER")


@cli.command()
@click.argument("url", metavar="hf:OWNER/NAME|URL")
@click.argument("folder")
@click.option(
    "--stream", "stream_names", multiple=True, metavar="NAME", help="Fetch the shards of this stream; repeatable."
)
def fetch(url: str, folder: str, stream_names: tuple[str, ...]) -> None:
    """Download a published release into FOLDER, every file compared with the release's digests.

    The same command continues what was interrupted.
    """
    from ..manifests.console import ProgressDisplay, say_next, say_start
    from ..manifests.manifest import load_dataset_recipe
    from ..manifests.storage import Storage
    from .release import fetch as fetching
    from .shards.settle import driver_lock

    source = Storage(f"hf://datasets/{url.removeprefix('hf:')}" if url.startswith("hf:") else url)
    target = Storage(folder)
    manifest = fetching.plan_fetch(source, target, stream_names)
    wanted = [stream for stream in manifest.streams if not stream_names or stream.name in stream_names]
    say_start(target)
    with driver_lock(target), ProgressDisplay("fetch", "files") as display:
        total = 2 * sum(stream.shards for stream in wanted)
        for done, _ in enumerate(fetching.fetch(source, manifest, target, stream_names), 1):
            display.update(done, max(done, total))
    left_out = ", ".join(stream.name for stream in manifest.streams if stream not in wanted)
    click.echo(f"fetched: {target}{f' (without {left_out})' if left_out else ''}")
    if not left_out:
        say_next(["genint-pipeline", "verify", folder])
    say_next(*training_step(folder, load_dataset_recipe(target).streams))


@cli.command()
@click.argument("dataset", default="datasets/mini")
@input_option
def preview(dataset: str, inputs: tuple[str, ...]) -> None:
    """Draw a contact sheet of each finished stream; those of a finished dataset stay as they are."""
    from ..manifests.dataset import load_dataset
    from ..manifests.manifest import MANIFEST, preview_name
    from .release.close import RecordStore
    from .release.preview import draw_previews

    loaded = load_dataset(dataset, parse_inputs(inputs))
    store = RecordStore(loaded.storage)
    names = [s.name for s in loaded.recipe.streams if 0 not in store.missing_shards(s.name, 1)]
    finished = loaded.storage.exists(MANIFEST)  # its sums list the sheets
    lacking = [name for name in names if not (finished and loaded.storage.exists(preview_name(name)))]
    for path, sheet in draw_previews(loaded, lacking).items():
        loaded.storage.write(path, sheet)
    for name in names:
        click.echo(loaded.storage / preview_name(name))


@cli.command()
@click.argument("dataset")
@click.argument("key")
@click.option(
    "--sheet", type=click.Path(path_type=Path, dir_okay=False), help="Draw the sample and its parts as FILE.png."
)
@input_option
def inspect(dataset: str, key: str, sheet: Path | None, inputs: tuple[str, ...]) -> None:
    """Everything known of one sample: where it stands, its members and its parameters."""
    from ..manifests.dataset import load_dataset
    from .release.inspect_sample import inspect_sample

    if sheet is not None:
        check_png("--sheet", sheet)
    click.echo(json.dumps(inspect_sample(load_dataset(dataset, parse_inputs(inputs)), key, sheet), indent=2))


@cli.command()
@click.option("--cgn", default="mini-cgn", show_default=True, help="mini-cgn, a folder of fit-cgn or an official file.")
@click.option(
    "--mechanism",
    type=click.Choice(["shape", "texture", "background"]),
    default="shape",
    show_default=True,
    help="The one that changes; the other two stay.",
)
@click.option("--classes", "class_text", default="0,1", show_default=True, help="Class labels to begin and end with.")
@click.option("--steps", type=click.IntRange(2, 64), default=8, show_default=True, help="Pictures in a row.")
@click.option("--latents", type=click.IntRange(1, 64), default=3, show_default=True, help="Latents, two rows each.")
@click.option(
    "--truncation",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Scale of the latent.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Random seed for the latent."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default="interpolation.png",
    show_default=True,
    help="The picture to write.",
)
def interpolate(
    cgn: str, mechanism: str, class_text: str, steps: int, latents: int, truncation: float, seed: int, out: Path
) -> None:
    """Draw how one mechanism of a CGN changes between two classes, latent and other mechanisms held fixed."""
    from .release.interpolate import draw_interpolation

    try:
        first, last = (int(label) for label in class_text.split(","))
    except ValueError as error:
        raise UsageError(f"--classes {class_text}: expected two class labels such as 0,1") from error
    check_png("--out", out)
    draw_interpolation(cgn, mechanism, (first, last), steps, latents, truncation, seed).save(out)
    click.echo(out)


def check_png(option: str, path: Path) -> None:
    """Raise UsageError where no picture can be written to `path`, before it is drawn."""
    if path.suffix != ".png" or not path.parent.is_dir():
        raise UsageError(f"{option} {shorten(str(path))}: expected a .png in a folder that exists")


@cli.command("fit-generator")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder for config.json and pytorch_model.bin."
)
@click.option("--steps", type=click.IntRange(min=1), default=5000, show_default=True, help="Updates of the generator.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Random seed for weights and data order."
)
@click.option(
    "--confounding", type=click.FloatRange(0, 1), default=0.8, show_default=True, help="a of the training pictures."
)
@click.option("--start", metavar="mini|DIR", help="A fitted generator to begin with, instead of fresh weights.")
@device_option
def fit_generator(out: Path, steps: int, seed: int, confounding: float, start: str | None, device: str) -> None:
    """Train the mini world's generator, write the package's two files, and measure what it can do.

    The same command continues what was interrupted.
    """
    from ..manifests.console import ProgressDisplay, say_next, say_start
    from .biggan.generator import load_generator
    from .generators.load import weights_location
    from .mini import fit_generator as fitting
    from .mini.measure_generator import measure_generator
    from .shards.environment import check_device

    device = check_device(device)
    settings = fitting.FitSettings(seed=seed, steps=steps, confounding=confounding)
    fitted = load_generator(weights_location(start)) if start else None
    say_start(out)
    with ProgressDisplay("fit-generator", "steps") as display:
        for progress in fitting.fit_generator(out, settings, device, fitted):
            losses = f"losses {progress.loss_generator:+.2f} {progress.loss_discriminator:.2f}"
            display.update(progress.step, steps, losses)
    click.echo(f"wrote {out / 'config.json'} and {out / 'pytorch_model.bin'}")
    report = measure_generator(out, settings.confounding, device)
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    click.echo(json.dumps(report, indent=2))
    say_next(["genint-pipeline", "directions", "--weights", out])


@cli.command("fit-encoder")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for encoder.pth.")
@click.option("--epochs", type=click.IntRange(min=1), default=6, show_default=True, help="Passes over the images.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Random seed for weights and data order."
)
@click.option(
    "--confounding", type=click.FloatRange(0, 1), default=0.8, show_default=True, help="a of the training pictures."
)
def fit_encoder(out: Path, epochs: int, seed: int, confounding: float) -> None:
    """Train the mini world's perceptual encoder, which its transfers compare pictures by, and measure it."""
    from ..manifests.console import ProgressDisplay, say_next, say_start
    from .mini import fit_encoder as fitting

    settings = fitting.EncoderSettings(seed=seed, epochs=epochs, confounding=confounding)
    say_start(out, resumes=False)
    with ProgressDisplay("fit-encoder", "steps") as display:
        for progress in fitting.fit_encoder(out, settings):
            display.update(progress.step, progress.steps, f"cross entropy {progress.loss:.2f}")
    report = fitting.measure_encoder(out, confounding)
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    click.echo(json.dumps(report, indent=2))
    say_next(
        [
            "genint-pipeline",
            "build-shards",
            "--input",
            f"mini-encoder={out / 'encoder.pth'}",
            "--out",
            "datasets/own-encoder",
        ]
    )


@cli.command("fit-reader")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for reader.pth.")
@click.option(
    "--epochs", type=click.IntRange(min=1), default=10, show_default=True, help="Times that it sees an object."
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Random seed for weights and data order."
)
@click.option(
    "--confounding", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="a of the training pictures."
)
def fit_reader(out: Path, epochs: int, seed: int, confounding: float) -> None:
    """Train the mini world's reader of objects, which scores its generated samples, and measure it."""
    from ..manifests.console import ProgressDisplay, say_next, say_start
    from .mini import fit_reader as fitting

    settings = fitting.ReaderSettings(seed=seed, epochs=epochs, confounding=confounding)
    say_start(out, resumes=False)
    with ProgressDisplay("fit-reader", "steps") as display:
        for progress in fitting.fit_reader(out, settings):
            display.update(progress.step, progress.steps, f"cross entropy {progress.loss:.2f}")
    report = fitting.measure_reader(out)
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    click.echo(json.dumps(report, indent=2))
    say_next(f"{out / 'report.json'} has what it can do; the shipped one's is genint/pipeline/data/mini-reader")


@cli.command("fit-saliency")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for saliency.pth.")
@click.option("--steps", type=click.IntRange(min=1), default=600, show_default=True, help="Updates of the network.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Random seed for weights and data order."
)
@click.option(
    "--confounding", type=click.FloatRange(0, 1), default=0.8, show_default=True, help="a of the training pictures."
)
def fit_saliency(out: Path, steps: int, seed: int, confounding: float) -> None:
    """Train the mini world's saliency network, which makes the masks of its CGN, and measure it."""
    from ..manifests.console import ProgressDisplay, say_next, say_start
    from .fitting import fit_saliency as fitting

    settings = fitting.SaliencySettings(seed=seed, steps=steps, confounding=confounding)
    say_start(out, resumes=False)
    with ProgressDisplay("fit-saliency", "steps") as display:
        for progress in fitting.fit_saliency(out, settings):
            display.update(progress.step, steps, f"cross entropy {progress.loss:.3f}")
    report = fitting.measure_saliency(out, confounding)
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    click.echo(json.dumps(report, indent=2))
    say_next(["genint-pipeline", "fit-cgn", "--input", f"mini-saliency={out / 'saliency.pth'}", "--out", "cgns/own"])


@cli.command("fit-cgn")
@click.argument("preset", default="mini")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the network.  [default: cgns/PRESET]")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting, e.g. steps=1000; repeatable."
)
@weights_option
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="NAME=PATH",
    help="Bind what the training reads: u2net, vgg16 (files), mnist, textures (folders); repeatable.",
)
@device_option
@click.option("--sheet-every", type=click.IntRange(min=1), default=100, show_default=True, help="Steps between sheets.")
@click.option("--save-every", type=click.IntRange(min=1), default=100, show_default=True, help="Steps between saves.")
def fit_cgn(
    preset: str, out: Path | None, overrides: tuple[str, ...], weights: str | None, inputs: tuple[str, ...],
    device: str, sheet_every: int, save_every: int,
) -> None:  # fmt: skip
    """Train a Counterfactual Generative Network by PRESET: mini, imagenet-256, colored-mnist, double-colored-mnist,
    wildlife-mnist, or a file. Sheets and TensorBoard's events show how it comes on; the mini world's is measured.

    The same command continues what was interrupted.
    """
    from ..manifests.console import ProgressDisplay, say_next, say_start
    from ..manifests.recipe import MINI_GENERATOR
    from .cgn.fit import fit
    from .cgn.settings import BigGanFit, load_settings
    from .fitting.fit_cgn import prepare
    from .fitting.measure_cgn import measure_cgn
    from .generators.load import weights_location
    from .shards.environment import check_device

    device = check_device(device)
    settings = load_settings(preset, overrides)
    if weights and not isinstance(settings, BigGanFit):
        raise UsageError(f"--weights {weights}: preset {preset!r} starts from no generator")
    folder = out or Path("cgns") / Path(preset).name.removesuffix(".toml")
    prepared = prepare(settings, weights or weights_location, parse_inputs(inputs), device)
    say_start(folder)
    with ProgressDisplay("fit-cgn", "steps") as display:
        for progress in fit(folder, prepared.learner, prepared.identity, sheet_every, save_every):
            display.update(progress.step, progress.steps, progress.describe())
            if progress.sheet:
                display.print(f"step {progress.step}: {progress.sheet}: {progress.describe()}")
    click.echo(f"wrote {folder / 'cgn.pth'}")
    if isinstance(settings, BigGanFit) and settings.generator == MINI_GENERATOR:
        report = measure_cgn(folder, weights or weights_location(settings.generator), device=device)
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        click.echo(json.dumps(report, indent=2))
    say_next(["genint-pipeline", "interpolate", "--cgn", folder])
