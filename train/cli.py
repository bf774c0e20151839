"""`genint-train`: shards and natural images in, a checkpoint out. Heavy imports wait inside the command."""

import json
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..manifests.commands import Command, json_option, run_program
from ..manifests.errors import GenintError, UsageError, mask_credentials, shorten

if TYPE_CHECKING:
    from .configuration import Configuration
    from .inputs import Inputs
    from .trainer import Settings

EPILOG = """Exit codes: 0 ok, 1 failed work, 2 bad usage, 130 interrupted (SIGINT), 143 terminated (SIGTERM); after the
last two everything is saved, and the same command goes on. Several processes: torchrun --nproc-per-node N --no-python
genint-train ... Presets: `genint-train presets` lists them, `genint-train presets NAME` prints one."""


def main() -> None:
    """Run the command line."""
    run_program(lambda words: (presets, "genint-train presets") if words[:1] == ["presets"] else (train, None))


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name", required=False)
@click.option("--differences", is_flag=True, help="What each says of where the paper and its released code disagree.")
@json_option
def presets(name: str | None, differences: bool, as_json: bool) -> None:
    """List the shipped presets, or print preset NAME with its comments and those that it extends."""
    from .configuration import (
        describe_differences,
        describe_preset,
        load_configuration,
        preset_texts,
        shipped_presets,
    )

    if name is not None and as_json:
        click.echo(load_configuration(name).model_dump_json(indent=2))
        return
    if name is not None:
        texts = preset_texts(name)
        click.echo("\n".join(f"# {of}\n{text}" if len(texts) > 1 else text for of, text in texts.items()), nl=False)
        return
    texts = shipped_presets()
    if differences:
        found = {of: comment for of, text in texts.items() if (comment := describe_differences(text))}
        lines = [f"{of}\n    " + "\n    ".join(comment) for of, comment in found.items()]
    else:
        found = {of: [describe_preset(text)] for of, text in texts.items()}
        lines = [f"{of:40} {description}" for of, (description,) in found.items()]
    if as_json:
        click.echo(json.dumps({of: "\n".join(comment) for of, comment in found.items()}, indent=2))
        return
    for line in lines:
        click.echo(line)


@click.command(
    cls=Command,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option("--shards", multiple=True, metavar="DIR", help="A dataset of genint-pipeline; repeatable.")
@click.option(
    "--imagenet",
    metavar="DIR",
    help="Natural images: class folders, WebDataset tars, or DATASET:STREAM of a genint dataset.",
)
@click.option("--out", type=click.Path(path_type=Path), metavar="RUN", help="Folder of the run; it continues there.")
@click.option(
    "--preset",
    metavar="NAME|PATH",
    help="What to learn and how; `genint-train presets` lists the shipped ones. [default: the one for these streams]",
)
@click.option("--steps", type=click.IntRange(min=1), help="Steps of each stage.")
@click.option("--epochs", type=click.IntRange(min=1), help="Epochs of each stage.")
@click.option("--streams", metavar="A,B", help="Train on these streams; by default on all of split train that fit.")
@click.option("--classes", metavar="A,B", help="Train on these classes alone, by name, wnid or number.")
@click.option(
    "--class-map",
    "class_map",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help='Which classes are the same: TOML tables [STREAM] of "its class" = "class of the run", or CSV with columns '
    "stream, class, run_class.",
)
@click.option("--lambda-int", type=click.FloatRange(min=0), help="Weight of generated images in equation 1.")
@click.option("--lambda-transfer", type=click.FloatRange(min=0), help="Weight of transferred images in equation 1.")
@click.option(
    "--lambda-counterfactual", type=click.FloatRange(min=0), help="Weight of counterfactual and recomposed images."
)
@click.option(
    "--heads",
    metavar="A,B=WEIGHT",
    help="A linear layer for each of these labels of counterfactuals, such as shape,texture,background.",
)
@click.option(
    "--min-fidelity",
    type=click.FloatRange(0, 1, min_open=True),
    help="Leave out generated images whose label a classifier reads less surely; see genint-pipeline score.",
)
@click.option("--as-released", is_flag=True, help="The released code's loss, which adds lambda_int; for ablation.")
@click.option(
    "--bn-statistics", type=click.Choice(["mixed", "natural"]), help="What batch norm's running statistics see."
)
@click.option("--arch", help="Any torchvision classifier, such as resnet50, or mnist-cnn or resnet18-half.")
@click.option("--init", metavar="CHECKPOINT", help="Fine-tune a run, a checkpoint file, or torchvision:ARCH[:WEIGHTS].")
@click.option(
    "--seed", type=click.IntRange(min=0), help="Random seed for initial weights, data order and augmentation."
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any key of the preset; repeatable.")
@click.option(
    "--validation",
    metavar="LOCATION|SHARE",
    help="Natural images to validate on (as --imagenet), a share of the training images such as 0.05, or none. "
    "[default: the dataset's natural stream of split validation]",
)
@click.option("--dry-run", is_flag=True, help="Print the configuration, streams and steps, and stop.")
@json_option
@click.option("--workers", type=click.IntRange(min=0), default=0, show_default=True, help="Processes that read images.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    help="CPU threads that compute. [default: OMP_NUM_THREADS, or the cores that it may use less --workers]",
)
@click.option(
    "--accumulate", type=click.IntRange(min=1), default=1, show_default=True, help="Parts that a step is computed in."
)
@click.option("--keep", type=click.IntRange(min=1), default=3, show_default=True, help="Numbered checkpoints to keep.")
@click.option(
    "--profile",
    type=click.IntRange(min=0),
    default=0,
    metavar="STEPS",
    help="Time the parts of so many steps, after the first two, and say where the time goes.",
)
@click.option(
    "--log-every",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    metavar="STEPS",
    help="Steps between lines of metrics.jsonl.",
)
@click.option(
    "--save-every", type=click.IntRange(min=1), metavar="STEPS", help="Steps between checkpoints.  [default: an epoch]"
)
@click.option(
    "--validate-every",
    type=click.IntRange(min=1),
    metavar="STEPS",
    help="Steps between validations.  [default: an epoch]",
)
@click.option(
    "--verify/--no-verify", default=True, show_default=True, help="Check each shard's sha256 when it is first read."
)
@click.option(
    "--skip-unreadable",
    is_flag=True,
    help="Leave out images that cannot be read: the next ones stand in for them, RUN/left-out.jsonl lists them.",
)
@click.version_option(package_name="genint")
def train(
    shards: tuple[str, ...],
    imagenet: str | None,
    out: Path | None,
    preset: str | None,
    steps: int | None,
    epochs: int | None,
    streams: str | None,
    classes: str | None,
    class_map: Path | None,
    lambda_int: float | None,
    lambda_transfer: float | None,
    lambda_counterfactual: float | None,
    heads: str | None,
    min_fidelity: float | None,
    as_released: bool,
    bn_statistics: str | None,
    arch: str | None,
    init: str | None,
    seed: int | None,
    overrides: tuple[str, ...],
    validation: str | None,
    dry_run: bool,
    as_json: bool,
    workers: int,
    device: str,
    threads: int | None,
    accumulate: int,
    keep: int,
    log_every: int,
    profile: int,
    save_every: int | None,
    validate_every: int | None,
    verify: bool,
    skip_unreadable: bool,
) -> int:
    """Train a classifier on natural, generated, transferred and counterfactual images with equation 1 of the paper.

    The same command continues what was interrupted.
    """
    from .class_map import load_class_map
    from .configuration import load_configuration

    if as_json and not dry_run:
        raise UsageError("--json: only with --dry-run; a run's numbers are in RUN/metrics.jsonl")
    if steps and epochs:
        raise UsageError("--steps and --epochs: give one of them")
    share = _share(validation)
    names = streams.split(",") if streams else None
    flags = {
        "steps": steps,
        "epochs": epochs,
        "streams": names,
        "classes": classes.split(",") if classes else None,
        "class_map": load_class_map(class_map) if class_map else None,
        "lambda_int": lambda_int,
        "lambda_transfer": lambda_transfer,
        "lambda_counterfactual": lambda_counterfactual,
        "heads": _heads(heads) if heads else None,
        "min_fidelity": min_fidelity,
        "as_released": as_released or None,
        "bn_statistics": bn_statistics,
        "arch": arch,
        "init": init,
        "seed": seed,
        "validation_share": share,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    opened, note = None, None
    if preset is None:
        from .choice import choose_preset
        from .inputs import open_streams

        opened = open_streams(shards, imagenet, names)
        choice = choose_preset(opened)
        preset, overrides, note = choice.preset, (*choice.overrides, *overrides), f"# {choice.note}"
    configuration = load_configuration(preset, overrides, given)

    from .checkpoint import check_arch
    from .inputs import open_inputs
    from .trainer import Settings

    check_arch(configuration.arch)
    if configuration.streams != names:
        opened = None  # the preset names its own
    inputs = open_inputs(configuration, shards, imagenet, None if share else validation, opened)
    settings = Settings(
        workers, accumulate, keep, log_every, save_every, validate_every, verify, skip_unreadable, profile
    )
    if dry_run:
        _describe(configuration, inputs, note, as_json)
        return 0
    if out is None:
        raise UsageError("--out RUN is missing: the folder of the run")
    _set_threads(threads, workers)
    return _train(configuration, inputs, out, device, settings, note, shards)


def _train(
    configuration: "Configuration", inputs: "Inputs", out: Path, device: str, settings: "Settings", note: str | None,
    shards: tuple[str, ...],
) -> int:  # fmt: skip
    from ..manifests.console import ProgressDisplay, say, say_next, say_start, warn
    from .distributed import LostRank, join
    from .trainer import describe_line
    from .trainer import train as train_steps

    with join(device) as ranks:
        stopped, progress = 0, ""
        reports = train_steps(configuration, inputs, out, ranks, settings)
        if not ranks.is_main:
            try:
                for report in reports:
                    stopped = report.signal or stopped
            except LostRank:
                return 1  # who has failed says why
            return 128 + stopped if stopped else 0
        first = next(reports)
        if first.finished:
            click.echo(f"{out}: finished already, at step {first.step:,}")
            return 0
        say_start(out)
        for line in (note, *first.notes) if note else first.notes:
            say(line)
        with ProgressDisplay("train", "steps") as display:
            if first.step:
                display.print(f"{out}: goes on at step {first.step:,} of {first.steps:,}")
            display.update(first.step, first.steps)
            for report in reports:
                stopped = report.signal or 0
                for line in report.notes:
                    display.print(line)
                if report.metrics:
                    progress = describe_line(report.metrics)
                    if "validation_top1" in report.metrics:
                        display.print(f"step {report.step:,}: {progress}")
                display.update(report.step, report.steps, progress)
        if stopped:
            name = signal.Signals(stopped).name
            warn(f"stopped by {name} at step {report.step:,}, saved; to go on: {_command()}")
            return 128 + stopped
        click.echo(f"checkpoint: {out / 'last.pt'}")
        measure = ["genint-evaluate", "run", "--checkpoint", str(out), "--out", f"reports/{out.name}"]
        tested = next(filter(_has_test, shards), None)
        elsewhere = f"{shlex.join(measure)} with a test set, such as --folder DIR"
        say_next([*measure, "--shards", tested] if tested else elsewhere, ["tensorboard", "--logdir", out])
        return 0


def _has_test(dataset: str) -> bool:
    """Whether `genint-evaluate run` finds a test stream in a dataset by itself."""
    from ..manifests.manifest import load_manifest
    from ..manifests.storage import Storage

    try:
        streams = load_manifest(Storage(dataset)).streams
    except (GenintError, OSError):  # it may have gone while the run was under way, which has ended well
        return False
    return any(stream.role == "natural" and stream.split == "test" for stream in streams)


def _set_threads(threads: int | None, workers: int) -> None:
    """As many as asked for, or as the cores and the loaders leave to each process of the run on this machine."""
    import torch

    from ..manifests.device import count_threads

    chosen = threads or count_threads(workers, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if chosen:
        torch.set_num_threads(chosen)


def _command() -> str:
    """This command, as it is to be given again."""
    words = ["genint-train", *sys.argv[1:]]
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        nodes = int(os.environ["WORLD_SIZE"]) // int(processes)
        words = ["torchrun", *(["--nnodes", str(nodes)] if nodes > 1 else []), "--nproc-per-node", processes,
                 "--no-python", *words]  # fmt: skip
    return mask_credentials(shlex.join(words))


def _describe(configuration: "Configuration", inputs: "Inputs", note: str | None, as_json: bool) -> None:
    from .plan import describe_plan, plan_stages, tabulate_plan

    plans = plan_stages(configuration, inputs)
    if as_json:
        tree = {"configuration": configuration.model_dump(mode="json"), **tabulate_plan(plans, inputs)}
        click.echo(json.dumps(tree, indent=2))
        return
    click.echo(configuration.to_toml())
    for line in ([note] if note else []) + describe_plan(plans, inputs):
        click.echo(line)


def _heads(text: str) -> dict[str, float]:
    """Heads and their weights, as --heads gives them."""
    heads = {}
    for part in text.split(","):
        name, separator, weight = part.partition("=")
        try:
            heads[name] = float(weight) if separator else 1.0
        except ValueError as error:
            raise UsageError(f"--heads {shorten(part)}: expected NAME or NAME=WEIGHT, such as texture=0.5") from error
    return heads


def _share(validation: str | None) -> float | None:
    """The held-out share that --validation gives, if it is a number."""
    try:
        return None if validation is None else float(validation)
    except ValueError:
        return None
