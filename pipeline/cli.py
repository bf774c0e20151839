"""`genint-pipeline`: recipes in, verified shards out. Heavy imports wait inside the commands."""

import json
import os
import shlex
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from ..manifests.commands import Group, json_option, run_program
from ..manifests.console import LONGEST_MESSAGE, warn
from ..manifests.errors import GenintError, UsageError, shorten

if TYPE_CHECKING:
    from ..manifests.dataset import Dataset
    from ..manifests.manifest import Manifest, Record
    from ..manifests.recipe import Recipe
    from ..manifests.storage import Storage
    from .shards.rebuild import Rebuilt

EPILOG = "Exit codes: 0 ok, 1 failed work, 2 bad usage, 130 interrupted."


@click.group(
    cls=Group, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(package_name="genint")
def cli() -> None:
    """Render interventions on a class-conditional BigGAN into verified, reproducible WebDataset shards."""


def main() -> None:
    """Run the command line."""
    run_program(lambda words: (cli, None))


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


pem_file = click.Path(path_type=Path, exists=True, dir_okay=False)
license_option = click.option(
    "--license",
    "licenses",
    multiple=True,
    metavar="[NAME=]SPDX",
    help="Licence of an input or a network, such as photos=CC-BY-4.0, or of the whole dataset; repeatable.",
)


max_failures_option = click.option(
    "--max-failures",
    "max_failures",
    multiple=True,
    metavar="[STREAM=]SHARE",
    help="Share of samples that a stream, or each, may lose, in place of the recipe's; repeatable.",
)


def allow_failures(recipe: "Recipe", max_failures: tuple[str, ...], origin: str) -> "Recipe":
    """A recipe whose streams may lose these shares of their samples."""
    from ..manifests.recipe import override_recipe

    overrides = []
    for text in max_failures:
        name, _, share = text.rpartition("=")
        try:
            value = float(share)
        except ValueError:
            value = -1.0
        if not 0 <= value <= 1:
            raise UsageError(f"--max-failures {text}: expected a share from 0 to 1, such as 0.01 or photos=0.01")
        streams = [recipe.stream(name)] if name else recipe.streams
        overrides += [f"streams.{stream.name}.max_failures={value!r}" for stream in streams]
    return override_recipe(recipe, overrides, origin)


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
    say_next(f"look at the picture; where objects dissolve, narrow step_ranges of the recipe {recipe}")


@cli.command("build-shards")
@recipe_argument
@set_option
@weights_option
@code_option
@input_option
@license_option
@device_option
@click.option("--out", help="Folder or bucket URL of the dataset.  [default: datasets/RECIPE]")
@click.option(
    "--stream",
    "stream_names",
    multiple=True,
    metavar="NAME",
    help="Build this stream alone, into a dataset that can be read and that later builds complete; repeatable.",
)
@max_failures_option
@pool_options
@click.option(
    "--dry-run", is_flag=True, help="Print shards, samples, bytes, device hours and free disk; write nothing."
)
@json_option
def build_shards(
    recipe: str, overrides: tuple[str, ...], weights: str | None, allowed_code: str | None, inputs: tuple[str, ...],
    licenses: tuple[str, ...], device: str, out: str | None, stream_names: tuple[str, ...],
    max_failures: tuple[str, ...], executor: str, workers: int | None, workers_per_device: int, encoders: int | None,
    address: str | None, dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    """Render every missing shard of RECIPE (a shipped name or a file) and write the dataset's manifest.

    The same command continues what was interrupted.
    """
    from ..manifests.recipe import load_recipe
    from ..manifests.storage import Storage
    from .shards.pool import Pool

    if as_json and not dry_run:
        raise UsageError("--json: only with --dry-run; manifest.json tells of what is built")
    pool = Pool(executor, workers, workers_per_device, encoders, address, device)
    loaded = allow_failures(load_recipe(recipe, (*overrides, *parse_licenses(licenses))), max_failures, recipe)
    names = [loaded.stream(name).name for name in stream_names] or [stream.name for stream in loaded.streams]
    storage = Storage(out or f"datasets/{loaded.name}")
    own_device = pool.own_device()
    bound, reader = split_inputs(loaded, storage, parse_inputs(inputs))

    from .shards.complete import complete, print_estimate
    from .shards.settle import driver_lock, gather, settle

    ingredients = gather(loaded, weights, bound, dry_run, allowed_code)
    if dry_run:
        print_estimate(ingredients, storage, pool, names, as_json)
        return
    with driver_lock(storage):
        complete(settle(ingredients, storage, own_device), ingredients, names, pool, reader)


@cli.command()
@click.argument("dataset")
@weights_option
@code_option
@input_option
@device_option
@max_failures_option
@pool_options
def repair(
    dataset: str, weights: str | None, allowed_code: str | None, inputs: tuple[str, ...], device: str,
    max_failures: tuple[str, ...], executor: str, workers: int | None, workers_per_device: int, encoders: int | None,
    address: str | None,
) -> None:  # fmt: skip
    """Make what is damaged in DATASET, and what was lost of it, again: those shards and files, and no others."""
    from ..manifests.dataset import load_dataset
    from .shards.pool import Pool

    pool = Pool(executor, workers, workers_per_device, encoders, address, device)
    loaded = load_dataset(dataset)
    recipe = allow_failures(loaded.recipe, max_failures, dataset)
    bound, reader = split_inputs(recipe, loaded.storage, parse_inputs(inputs))

    from .release.close import closed_streams
    from .shards.complete import complete
    from .shards.settle import driver_lock, gather, settle

    ingredients = gather(recipe, weights, bound, allowed_code=allowed_code)
    with driver_lock(loaded.storage):
        settled = settle(ingredients, loaded.storage, pool.own_device())
        names = closed_streams(settled) or [stream.name for stream in recipe.streams]
        complete(settled, ingredients, names, pool, reader, refill=True)


@cli.command()
@click.argument("dataset")
@set_option
@weights_option
@code_option
@input_option
@device_option
@max_failures_option
@pool_options
def extend(
    dataset: str, overrides: tuple[str, ...], weights: str | None, allowed_code: str | None, inputs: tuple[str, ...],
    device: str, max_failures: tuple[str, ...], executor: str, workers: int | None, workers_per_device: int,
    encoders: int | None, address: str | None,
) -> None:  # fmt: skip
    """Add samples to DATASET, e.g. --set streams.interventional.latents_per_class=2000.

    What is there keeps its keys and bytes. A stream may grow in latents_per_class, samples_per_class or num_samples,
    unless another one draws from it. The version of the data rises by a minor one.
    """
    from ..manifests.dataset import load_dataset
    from ..manifests.growth import grow_recipe
    from .shards.pool import Pool

    pool = Pool(executor, workers, workers_per_device, encoders, address, device)
    loaded = load_dataset(dataset, growing=True)
    recipe = allow_failures(grow_recipe(loaded.recipe, overrides, dataset), max_failures, dataset)
    bound, reader = split_inputs(recipe, loaded.storage, parse_inputs(inputs))

    from .shards.complete import complete
    from .shards.settle import driver_lock, gather, settle

    ingredients = gather(recipe, weights, bound, allowed_code=allowed_code)
    with driver_lock(loaded.storage):
        settled = settle(ingredients, loaded.storage, pool.own_device(), grow=True)
        complete(settled, ingredients, [stream.name for stream in recipe.streams], pool, reader)


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
    from ..manifests.manifest import MANIFEST
    from ..manifests.storage import Storage
    from .release import merge as merging
    from .shards.complete import warn_of_scores
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
    warn_of_scores(storage)
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


def split_inputs(recipe: "Recipe", storage: "Storage", inputs: dict[str, str]) -> tuple[dict[str, str], str | None]:
    """What samples are made of, and apart from it the classifier that scores them, if one does."""
    from .release.score import choose_reader

    reader = choose_reader(recipe, storage, inputs)
    scorer = recipe.fidelity.checkpoint if recipe.fidelity else None
    return {name: place for name, place in inputs.items() if name != scorer or name in recipe.inputs()}, reader


@cli.command()
@click.argument("dataset", default="datasets/mini")
@json_option
def status(dataset: str, as_json: bool) -> None:
    """How far a dataset is, finished or under way."""
    from ..manifests.dataset import load_dataset
    from .shards.status import read_status

    found = read_status(load_dataset(dataset))
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
        return
    for stream in found.streams:
        click.echo(f"{stream.name:20} {stream.shards - stream.missing:>8,} of {stream.shards:,} shards")
    for line in found.message.splitlines():
        click.echo(shorten(line, LONGEST_MESSAGE))


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
    from .release.close import excess_failures

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
    others = other_files(
        loaded, [entry.name for entry in manifest.streams], manifest.fidelity, manifest.version is not None
    )
    found = {"streams": len(manifest.streams), "shards": shards, "samples": samples, "other_files": len(others)}
    click.echo(
        f"{found['streams']} streams, {shards:,} shards, {samples:,} samples and {len(others)} "
        "other files: every byte and every parameter as recorded, every record and the manifest as planned",
        err=as_json,
    )
    if manifest.missing_streams:
        click.echo(f"partial: {', '.join(manifest.missing_streams)} not made yet", err=as_json)
    for excess in excess_failures(loaded):
        warn(f"warning: {excess}; build-shards with {excess.flag} accepts the loss")
    again = _rebuild(loaded, manifest, count, device, weights, allowed_code, report, as_json) if rebuild else []
    if as_json:
        missing = {"missing_streams": manifest.missing_streams} if manifest.missing_streams else {}
        rebuilt = [vars(each) for each in again]
        click.echo(json.dumps({**found, **missing, "rebuilt": rebuilt}, indent=2, default=_name_shard))
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
        names = [entry.name for entry in manifest.streams]
        total = sum(dataset.plan(name).num_shards for name in names)
        with ProgressDisplay("verify", "shards") as display:
            for checked in verify_shards(dataset, names):
                problems |= dict.fromkeys(checked.problems)
                shards, samples = shards + 1, samples + checked.record.samples
                display.update(shards, total)
    except FormatError as error:
        problems[str(error)] = None
    for problem in list(problems)[:20]:
        warn(problem)
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
        page = make_report(dataset, manifest, results, describe_environment(device))
        report.write_text(page, "utf-8", "backslashreplace")  # names of files may hold bytes that are no text
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
    from .shards.complete import is_scored, open_label_reader, score_samples
    from .shards.environment import check_device
    from .shards.settle import driver_lock

    loaded = load_dataset(dataset)
    storage = loaded.storage
    reader = open_label_reader(loaded, checkpoint or default_reader(loaded), check_device(device))
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
        if not is_scored(storage, reader):
            say_start(storage)
            score_samples(loaded, reader)
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
    from .release.close import require_whole
    from .release.signature import Signer, sign_manifest

    if keyless == (key is not None) or (certificate is not None and key is None) or (chain and certificate is None):
        raise UsageError("expected --key FILE, --key FILE and --certificate FILE, or --keyless")
    loaded = load_dataset(dataset)
    require_whole(loaded)
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
    from .release.close import require_whole

    loaded = load_dataset(dataset)
    manifest = load_manifest(loaded.storage)
    if manifest.version is None:
        raise FormatError(f"{dataset}: of before version 0.2; build-shards with its recipe brings it up to date")
    require_whole(loaded)
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
    from ..manifests.storage import Storage
    from .release import fetch as fetching
    from .release.close import training_step
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
    say_next(*training_step(folder, wanted))


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


fit_seed_option = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Random seed for weights and data order."
)


def confounding_option(default: float) -> Callable[[Command], Command]:
    """How much the class explains of the backgrounds and poses that a network is trained on."""
    return click.option(
        "--confounding", type=click.FloatRange(0, 1), default=default, show_default=True,
        help="a of the training pictures.",
    )  # fmt: skip


def write_fit_report(folder: Path, report: object) -> None:
    """Keep what was measured of a network beside it, and show it."""
    text = json.dumps(report, indent=2)
    (folder / "report.json").write_text(text + "\n")
    click.echo(text)


@cli.command("fit-generator")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder for config.json and pytorch_model.bin."
)
@click.option("--steps", type=click.IntRange(min=1), default=5000, show_default=True, help="Updates of the generator.")
@fit_seed_option
@confounding_option(0.8)
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
    write_fit_report(out, report)
    say_next(["genint-pipeline", "directions", "--weights", out])


@cli.command("fit-encoder")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for encoder.pth.")
@click.option("--epochs", type=click.IntRange(min=1), default=6, show_default=True, help="Passes over the images.")
@fit_seed_option
@confounding_option(0.8)
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
    write_fit_report(out, report)
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
@fit_seed_option
@confounding_option(0.0)
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
    write_fit_report(out, report)
    say_next(f"{out / 'report.json'} has what it can do; the shipped one's is genint/pipeline/data/mini-reader")


@cli.command("fit-saliency")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for saliency.pth.")
@click.option("--steps", type=click.IntRange(min=1), default=600, show_default=True, help="Updates of the network.")
@fit_seed_option
@confounding_option(0.8)
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
    write_fit_report(out, report)
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
        write_fit_report(folder, report)
    say_next(["genint-pipeline", "interpolate", "--cgn", folder])
