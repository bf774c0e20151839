"""`genint-pipeline`: recipes in, verified shards out. Heavy imports wait inside the commands."""

import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..manifests.console import LONGEST_MESSAGE, command_arguments, exit_codes
from ..manifests.errors import GenintError, UsageError, mask_credentials, shorten

if TYPE_CHECKING:
    from ..manifests.dataset import Dataset
    from ..manifests.manifest import Manifest
    from ..manifests.storage import Storage
    from .shards.driver import Build
    from .shards.executor import WorkerPool
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
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
input_option = click.option(
    "--input", "inputs", multiple=True, metavar="NAME=PATH", help="Bind an outside input of the recipe; repeatable."
)


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
def recipes(name: str | None) -> None:
    """List the shipped recipes, or print one as a start for your own."""
    from ..manifests.recipe import load_recipe, shipped_recipes

    texts = shipped_recipes()
    if name:
        load_recipe(name)
        click.echo(texts.get(name) or Path(name).read_text("utf-8"), nl=False)
        return
    for known, text in texts.items():
        recipe = load_recipe(known)
        streams = ", ".join(stream.name for stream in recipe.streams)
        click.echo(f"{known:24} {text.splitlines()[0].removeprefix('# ')}\n{'':24} streams: {streams}")


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
@input_option
@device_option
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write to.  [default: directions/RECIPE]")
@click.option("--show", default=10, show_default=True, type=click.IntRange(min=1), help="Directions in the picture.")
@click.option("--classes", "class_text", default="0,1,2", show_default=True, help="Class labels in the picture.")
def directions(
    recipe: str, overrides: tuple[str, ...], weights: str | None, inputs: tuple[str, ...], device: str,
    out: Path | None, show: int, class_text: str,
) -> None:  # fmt: skip
    """Compute a recipe's principal directions: a GANSpace .npz and a picture of what each one does."""
    from ..manifests.recipe import load_recipe
    from .shards.environment import check_device
    from .shards.show_directions import write_directions

    try:
        labels = [int(label) for label in class_text.split(",")]
    except ValueError as error:
        raise UsageError(f"--classes {class_text}: expected class labels such as 0,1,2") from error
    loaded = load_recipe(recipe, overrides)
    folder = out or Path("directions") / loaded.name
    for line in write_directions(loaded, weights, parse_inputs(inputs), check_device(device), folder, show, labels):
        click.echo(line)


@cli.command("build-shards")
@recipe_argument
@set_option
@weights_option
@input_option
@device_option
@click.option("--out", help="Folder or bucket URL of the dataset.  [default: datasets/RECIPE]")
@click.option("--stream", "stream_names", multiple=True, metavar="NAME", help="Build only this stream; repeatable.")
@click.option("--executor", type=click.Choice(["local", "ray"]), default="local", show_default=True)
@click.option(
    "--workers", type=click.IntRange(min=1), help="Workers, one device (CPU: one thread) each.  [default: all]"
)
@click.option(
    "--workers-per-device",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Workers that share a GPU: while one writes, another renders.",
)
@click.option(
    "--encoders", type=click.IntRange(1, 256), help="Threads a worker that encode images.  [default: by its cores]"
)
@click.option("--address", help="Ray cluster to join: auto, or an address. Without it, ray runs on this machine.")
@click.option(
    "--dry-run", is_flag=True, help="Print shards, samples, bytes, device hours and free disk; write nothing."
)
def build_shards(
    recipe: str, overrides: tuple[str, ...], weights: str | None, inputs: tuple[str, ...], device: str,
    out: str | None, stream_names: tuple[str, ...], executor: str, workers: int | None, workers_per_device: int,
    encoders: int | None, address: str | None, dry_run: bool,
) -> None:  # fmt: skip
    """Render every missing shard of RECIPE (a shipped name or a file) and write the dataset's manifest.

    The same command continues what was interrupted.
    """
    from ..manifests.console import format_bytes
    from ..manifests.manifest import MANIFEST
    from ..manifests.recipe import load_recipe
    from ..manifests.storage import Storage
    from .release.close import excess_failures, find_problems, release, reopen
    from .release.preview import write_previews
    from .shards.environment import check_device
    from .shards.estimate import warn_of_long_work
    from .shards.settle import driver_lock, gather, settle, write_derived
    from .shards.worker import WorkerSettings

    if executor == "ray":
        from .shards.ray_executor import check_options

        check_options(device, address)
    elif address:
        raise UsageError(f"--address {address}: only with --executor ray")
    loaded = load_recipe(recipe, overrides)
    names = [loaded.stream(name).name for name in stream_names] or [stream.name for stream in loaded.streams]
    storage = Storage(out or f"datasets/{loaded.name}")
    # A cluster's devices are not this machine's, which only settles the directions.
    own_device = check_device(device if executor == "local" else "auto")
    worker_device = own_device if executor == "local" else device
    ingredients = gather(loaded, weights, parse_inputs(inputs), timing_only=dry_run)
    if dry_run:
        _print_estimate(ingredients, storage, own_device, names)
        return
    with driver_lock(storage):
        dataset = settle(ingredients, storage, own_device)
        lacking = find_problems(dataset) if storage.exists(MANIFEST) else []
        complete = storage.exists(MANIFEST) and not lacking
        if lacking:
            for line in lacking[:5]:
                click.echo(f"not complete: {shorten(line, LONGEST_MESSAGE)}", err=True)
            reopen(dataset)
            write_derived(ingredients, storage)
        settings = WorkerSettings(
            storage.absolute, dataset.entry.digest, worker_device, ingredients.weights, ingredients.given_roots
        )
        cores = workers or len(os.sched_getaffinity(0))
        for line in warn_of_long_work(dataset, names, worker_device, cores):
            click.echo(f"warning: {line}", err=True)
        made: set[tuple[str, int]] = set()
        lost_workers = 0
        while not complete:
            build = _build(
                dataset, names, lambda: _make_pool(settings, executor, workers, workers_per_device, encoders, address)
            )
            made |= build.made
            lost_workers += build.lost_workers
            if set(names) != {stream.name for stream in loaded.streams}:
                click.echo(f"built {', '.join(names)}; the manifest is written when every stream is there")
                return
            complete = not _drop_unsound(dataset, made)
        if storage.exists(MANIFEST):
            click.echo("complete already")
        else:
            write_previews(dataset, names)
            manifest = release(dataset, lost_workers)
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
            click.echo(f"contact sheet: {storage / f'preview/{name}.jpg'}")
        click.echo(f"manifest: {storage / MANIFEST}")
        excess = excess_failures(dataset)
        if excess:
            raise GenintError("; ".join(excess))


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


def _drop_unsound(dataset: "Dataset", made: set[tuple[str, int]]) -> int:
    """Check the shards that earlier commands made; the number of those that have to be made again."""
    from ..manifests.console import ProgressDisplay
    from .release.close import drop_unsound

    total = sum(dataset.plan(stream.name).num_shards for stream in dataset.recipe.streams) - len(made)
    dropped = 0
    with ProgressDisplay("check", "shards") as display:
        for done, problem in enumerate(drop_unsound(dataset, made), 1):
            if problem:
                dropped += 1
                display.print(shorten(f"{problem}; made again", LONGEST_MESSAGE))
            display.update(done, total)
    return dropped


def _make_pool(
    settings: "WorkerSettings", executor: str, workers: int | None, per_device: int, encoders: int | None,
    address: str | None,
) -> "WorkerPool":  # fmt: skip
    if executor == "ray":
        from .shards.ray_executor import RayPool

        pool = RayPool(settings, workers, address, _end_at_once, per_device, encoders)
        if settings.device == "auto":
            click.echo(f"--device auto: {pool.what}s of the cluster", err=True)
        return pool
    from .shards.executor import LocalPool

    return LocalPool(settings, workers, per_device, encoders)


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


def _print_estimate(ingredients: "Ingredients", storage: "Storage", device: str, names: list[str]) -> None:
    from ..manifests.console import format_bytes, format_seconds
    from .shards.environment import describe_environment
    from .shards.estimate import estimate_streams

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
def status(dataset: str) -> None:
    """How far a dataset is, finished or under way."""
    from ..manifests.dataset import load_dataset
    from ..manifests.manifest import MANIFEST, load_manifest
    from .release.close import RecordStore

    loaded = load_dataset(dataset)
    store = RecordStore(loaded.storage)
    missing = 0
    for stream in loaded.recipe.streams:
        plan = loaded.plan(stream.name)
        lacking = len(store.missing_shards(stream.name, plan.num_shards))
        missing += lacking
        click.echo(f"{stream.name:20} {plan.num_shards - lacking:>8,} of {plan.num_shards:,} shards")
    if not loaded.storage.exists(MANIFEST):
        click.echo("under way: no manifest yet")
        return
    load_manifest(loaded.storage)  # raises where it is damaged
    click.echo(
        f"not complete: its manifest is written, but {missing:,} shards are missing; build-shards makes them again"
        if missing
        else "complete: its manifest is written"
    )


@cli.command()
@click.argument("dataset", default="datasets/mini")
@click.option(
    "--rebuild", type=click.IntRange(min=1), help="Make so many shards again and compare parameters and pixels."
)
@weights_option
@input_option
@device_option
def verify(dataset: str, rebuild: int | None, weights: str | None, inputs: tuple[str, ...], device: str) -> None:
    """Check every byte of DATASET against its digests, and manifest and samples against the recipe's plan."""
    from ..manifests.console import ProgressDisplay
    from ..manifests.dataset import load_dataset
    from ..manifests.errors import FormatError
    from ..manifests.manifest import load_manifest
    from ..manifests.verification import other_files, verify_manifest, verify_shards

    loaded = load_dataset(dataset, parse_inputs(inputs))
    manifest = load_manifest(loaded.storage, altered=True)
    problems: dict[str, None] = {}  # in order, each once
    shards = samples = 0
    try:
        for problem in verify_manifest(loaded, manifest):
            problems[problem] = None
        total = sum(loaded.plan(stream.name).num_shards for stream in loaded.recipe.streams)
        with ProgressDisplay("verify", "shards") as display:
            for checked in verify_shards(loaded):
                problems |= dict.fromkeys(checked.problems)
                shards, samples = shards + 1, samples + checked.record.samples
                display.update(shards, total)
    except FormatError as error:
        problems[str(error)] = None
    for problem in list(problems)[:20]:
        click.echo(shorten(problem, LONGEST_MESSAGE), err=True)
    if problems:
        raise GenintError(f"{dataset}: {len(problems)} problems")
    click.echo(
        f"{len(loaded.recipe.streams)} streams, {shards:,} shards, {samples:,} samples and {len(other_files(loaded))} "
        "other files: every byte and every parameter as recorded, every record and the manifest as planned"
    )
    if rebuild:
        _rebuild(loaded, manifest, rebuild, device, weights)


def _rebuild(dataset: "Dataset", manifest: "Manifest", count: int, device: str, weights: str | None) -> None:
    from .shards.environment import check_device
    from .shards.rebuild import rebuild_shards

    failed = 0
    for result in rebuild_shards(dataset, manifest, count, check_device(device), weights):
        parameters = "equal" if result.same_parameters else "DIFFERENT"
        if result.same_bytes:
            pixels = "bytes equal"
        else:
            where = "the same environment" if result.same_environment else "another environment"
            pixels = f"bytes differ in {where}, largest pixel difference {result.largest_difference} of 255"
        failed += not result.same_parameters or (not result.same_bytes and result.same_environment)
        click.echo(f"{result.record.stream} shard {result.record.shard_index}: parameters {parameters}, {pixels}")
    if failed:
        raise GenintError(f"{failed} shards could not be made again as they were")


@cli.command()
@click.argument("dataset", default="datasets/mini")
@input_option
def preview(dataset: str, inputs: tuple[str, ...]) -> None:
    """Draw a contact sheet of each finished stream."""
    from ..manifests.dataset import load_dataset
    from .release.close import RecordStore
    from .release.preview import write_previews

    loaded = load_dataset(dataset, parse_inputs(inputs))
    store = RecordStore(loaded.storage)
    names = [s.name for s in loaded.recipe.streams if 0 not in store.missing_shards(s.name, 1)]
    for location in write_previews(loaded, names):
        click.echo(location)


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

    click.echo(json.dumps(inspect_sample(load_dataset(dataset, parse_inputs(inputs)), key, sheet), indent=2))


@cli.command()
@click.option("--cgn", default="mini-cgn", show_default=True, help="mini-cgn, a folder of fit-cgn or an official file.")
@click.option("--mechanism", type=click.Choice(["shape", "texture", "background"]), default="shape", show_default=True)
@click.option("--classes", "class_text", default="0,1", show_default=True, help="Class labels to begin and end with.")
@click.option("--steps", type=click.IntRange(2, 64), default=8, show_default=True, help="Pictures in a row.")
@click.option("--latents", type=click.IntRange(1, 64), default=3, show_default=True, help="Latents, two rows each.")
@click.option("--truncation", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default="interpolation.png", show_default=True)
def interpolate(
    cgn: str, mechanism: str, class_text: str, steps: int, latents: int, truncation: float, seed: int, out: Path
) -> None:
    """Draw how one mechanism of a CGN changes between two classes, latent and other mechanisms held fixed."""
    from .release.interpolate import draw_interpolation

    try:
        first, last = (int(label) for label in class_text.split(","))
    except ValueError as error:
        raise UsageError(f"--classes {class_text}: expected two class labels such as 0,1") from error
    if out.suffix != ".png" or not out.parent.is_dir():
        raise UsageError(f"--out {out}: expected a .png in a folder that exists")
    draw_interpolation(cgn, mechanism, (first, last), steps, latents, truncation, seed).save(out)
    click.echo(out)


@cli.command("fit-generator")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder for config.json and pytorch_model.bin."
)
@click.option("--steps", type=click.IntRange(min=1), default=5000, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--confounding", type=click.FloatRange(0, 1), default=0.8, show_default=True, help="a of the training pictures."
)
@click.option("--start", metavar="mini|DIR", help="A fitted generator to begin with, instead of fresh weights.")
@device_option
def fit_generator(out: Path, steps: int, seed: int, confounding: float, start: str | None, device: str) -> None:
    """Train the mini world's generator, write the package's two files, and measure what it can do.

    The same command continues what was interrupted.
    """
    from ..manifests.console import ProgressDisplay
    from .biggan.generator import load_generator
    from .mini import fit_generator as fitting
    from .mini.measure_generator import measure_generator
    from .shards.environment import check_device
    from .shards.settle import weights_location

    device = check_device(device)
    settings = fitting.FitSettings(seed=seed, steps=steps, confounding=confounding)
    fitted = load_generator(weights_location(start)) if start else None
    with ProgressDisplay("fit-generator", "steps") as display:
        for progress in fitting.fit_generator(out, settings, device, fitted):
            losses = f"losses {progress.loss_generator:+.2f} {progress.loss_discriminator:.2f}"
            display.update(progress.step, steps, losses)
    click.echo(f"wrote {out / 'config.json'} and {out / 'pytorch_model.bin'}")
    report = measure_generator(out, settings.confounding, device)
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    click.echo(json.dumps(report, indent=2))


@cli.command("fit-encoder")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for encoder.pth.")
@click.option("--epochs", type=click.IntRange(min=1), default=6, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--confounding", type=click.FloatRange(0, 1), default=0.8, show_default=True, help="a of the training pictures."
)
def fit_encoder(out: Path, epochs: int, seed: int, confounding: float) -> None:
    """Train the mini world's perceptual encoder, which its transfers compare pictures by, and measure it."""
    from ..manifests.console import ProgressDisplay
    from .mini import fit_encoder as fitting

    settings = fitting.EncoderSettings(seed=seed, epochs=epochs, confounding=confounding)
    with ProgressDisplay("fit-encoder", "steps") as display:
        for progress in fitting.fit_encoder(out, settings):
            display.update(progress.step, progress.steps, f"cross entropy {progress.loss:.2f}")
    report = fitting.measure_encoder(out, confounding)
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    click.echo(json.dumps(report, indent=2))


@cli.command("fit-saliency")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for saliency.pth.")
@click.option("--steps", type=click.IntRange(min=1), default=600, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--confounding", type=click.FloatRange(0, 1), default=0.8, show_default=True, help="a of the training pictures."
)
def fit_saliency(out: Path, steps: int, seed: int, confounding: float) -> None:
    """Train the mini world's saliency network, which makes the masks of its CGN, and measure it."""
    from ..manifests.console import ProgressDisplay
    from .fitting import fit_saliency as fitting

    settings = fitting.SaliencySettings(seed=seed, steps=steps, confounding=confounding)
    with ProgressDisplay("fit-saliency", "steps") as display:
        for progress in fitting.fit_saliency(out, settings):
            display.update(progress.step, steps, f"cross entropy {progress.loss:.3f}")
    report = fitting.measure_saliency(out, confounding)
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    click.echo(json.dumps(report, indent=2))


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
    from ..manifests.console import ProgressDisplay
    from ..manifests.recipe import MINI_GENERATOR
    from .cgn.fit import fit
    from .cgn.settings import BigGanFit, load_settings
    from .fitting.fit_cgn import prepare
    from .fitting.measure_cgn import measure_cgn
    from .shards.environment import check_device
    from .shards.settle import weights_location

    device = check_device(device)
    settings = load_settings(preset, overrides)
    if weights and not isinstance(settings, BigGanFit):
        raise UsageError(f"--weights {weights}: preset {preset!r} starts from no generator")
    folder = out or Path("cgns") / Path(preset).name.removesuffix(".toml")
    prepared = prepare(settings, weights or weights_location, parse_inputs(inputs), device)
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
