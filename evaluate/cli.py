"""`genint-evaluate`: checkpoints in, a measured report out. Heavy imports wait inside the commands."""

import json
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from ..manifests.commands import Group, json_option, run_program
from ..manifests.errors import UsageError, shorten

if TYPE_CHECKING:
    from .report.results import Results

EPILOG = "Exit codes: 0 ok, 1 failed work, 2 bad usage, 130 interrupted."
MINI_DATASET = "datasets/mini"
MOST_WORKERS = 1024  # beyond any machine's cores


@click.group(
    cls=Group, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(package_name="genint")
def cli() -> None:
    """Measure classifiers: accuracy on clean, shifted and corrupted test sets, and the paper's own analyses."""


def main() -> None:
    """Run the command line."""
    run_program(lambda words: (cli, None))


checkpoint_option = click.option(
    "--checkpoint", "checkpoints", multiple=True, required=True, metavar="[LABEL=]PATH",
    help="A run's folder, a checkpoint file, ARCH=FILE for a bare state dict, or torchvision:ARCH. Repeatable; those "
    "of one LABEL, such as the seeds of a method, form one row. Differences are to the first.",
)  # fmt: skip
out_option = click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder of results.json and index.html; added to."
)
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")


def pick_device(request: str, workers: int = 0, threads: int | None = None) -> str:
    """The device that `--device` asks for; a CPU computes with so many threads, or with what `workers` leave it of the
    cores. Raises UsageError where the device is not there."""
    import torch

    from ..manifests.device import choose_device, count_threads

    chosen = choose_device(request, torch.cuda.device_count())
    count = threads or count_threads(workers)
    if count:
        torch.set_num_threads(count)
    return chosen


batch_option = click.option(
    "--batch-size", default=64, show_default=True, type=click.IntRange(1, 65536), help="Images in a forward pass."
)
Command = TypeVar("Command", bound=Callable[..., object])


def results_option(meaning: str) -> Callable[[Command], Command]:
    """Folders of results that a command reads."""
    return click.option(
        "--results", "folders", multiple=True, required=True, metavar="DIR", type=click.Path(path_type=Path),
        help=meaning,
    )  # fmt: skip


workers_option = click.option(
    "--workers", default=0, show_default=True, type=click.IntRange(0, MOST_WORKERS), help="Processes that decode."
)


@cli.command()
@checkpoint_option
@click.option(
    "--shards",
    "datasets",
    multiple=True,
    metavar="DATASET[:STREAM]",
    help=f"A built dataset: its natural test streams.  [default, without other data: {MINI_DATASET}]",
)
@click.option("--imagenet", metavar="DIR", help="ImageNet's validation images.")
@click.option("--imagenet-v2", metavar="DIR", help="Folder of ImageNet-V2's three variants, or one of them.")
@click.option("--imagenet-c", metavar="DIR", help="ImageNet-C as published.")
@click.option("--imagenet-c-bar", metavar="DIR", help="ImageNet-C-bar as published: mean error, no CE.")
@click.option("--imagenet-a", metavar="DIR", help="ImageNet-A: among its 200 classes, and among all 1,000.")
@click.option("--imagenet-r", metavar="DIR", help="ImageNet-R: among its 200 classes, and among all 1,000.")
@click.option("--imagenet-sketch", metavar="DIR", help="ImageNet-Sketch.")
@click.option("--imagenet-d", metavar="DIR", help="ImageNet-D's folders background, texture and material.")
@click.option("--imagenet-real", metavar="DIR", help="ImageNet's validation images with ReaL's real.json beside them.")
@click.option("--imagenet-9", metavar="DIR", help="ImageNet-9's variants, with in_to_in9.json beside them.")
@click.option("--cue-conflict", metavar="DIR", help="Shape of one class, texture of another: shape bias.")
@click.option(
    "--objectnet", metavar="DIR[:PROTOCOL]", help="ObjectNet as published: genint, challenge, zoom or restricted."
)
@click.option(
    "--groups",
    "tables",
    multiple=True,
    metavar="FILE.csv",
    help="Images with path, label and group of each: worst-group and mean-group accuracy; repeatable.",
)
@click.option(
    "--group-by",
    metavar="KEY",
    help="Key of the samples' json that tells the group in streams, such as direction or labels.background.  [default: "
    "groups, where they have it]",
)
@click.option(
    "--min-fidelity",
    type=click.FloatRange(0, 1, min_open=True),
    help="Leave out generated images whose label was read less surely than this; see genint-pipeline score.",
)
@click.option("--folder", "folders", multiple=True, metavar="DIR", help="Class folders of your own; repeatable.")
@click.option("--corrupted", "copies", multiple=True, metavar="DIR", help="A copy made by `corrupt`; repeatable.")
@click.option(
    "--corruptions",
    default=20,
    show_default=True,
    type=click.IntRange(min=0),
    metavar="N",
    help="Images per class of a dataset's first test stream to corrupt (15 corruptions, 5 severities) and "
    "measure too; 0: none.",
)
@out_option
@device_option
@click.option(
    "--export", is_flag=True, help="Write predictions/CHECKPOINT/SET.csv too: key, labels, top 5, probabilities."
)
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    type=click.Choice(["fp32", "bf16"]),
    help="bf16: autocast; quicker where the device has it.",
)
@batch_option
@workers_option
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    help="CPU threads that compute. [default: OMP_NUM_THREADS, or the cores that it may use less --workers]",
)
@click.option("--json", "as_json", is_flag=True, help="Print results.json in place of a table.")
def run(
    checkpoints: tuple[str, ...], datasets: tuple[str, ...], folders: tuple[str, ...], copies: tuple[str, ...],
    tables: tuple[str, ...], group_by: str | None, min_fidelity: float | None, corruptions: int, out: Path,
    device: str, precision: str, batch_size: int, workers: int, threads: int | None, export: bool, as_json: bool,
    **published: str | None,
) -> None:  # fmt: skip
    """Accuracy of checkpoints on test sets, side by side, as JSON and as one HTML page."""
    wanted = [f"{kind.replace('_', '-')}={location}" for kind, location in published.items() if location]
    wanted += [f"groups={table}" for table in tables]
    wanted += [f"folder={folder}" for folder in folders] + [f"corrupted={copy}" for copy in copies]
    if not wanted and not datasets:
        if not Path(MINI_DATASET, "manifest.json").exists():
            raise UsageError(
                f"no data given, and the default {MINI_DATASET} is not built: genint-pipeline build-shards --out "
                f"{MINI_DATASET}"
            )
        datasets = (MINI_DATASET,)
    from .report.report import accuracy_lines
    from .report.results import RESULTS
    from .run import check_fit, load_candidates, make_corrupted, measure, open_test_sets
    from .test_sets.streams import open_streams

    chosen = pick_device(device, workers, threads)
    candidates = load_candidates(checkpoints)
    test_sets = open_test_sets([*(f"shards={dataset}" for dataset in datasets), *wanted], group_by, min_fidelity)
    check_fit(candidates, test_sets)
    with results_in(out, resumes=True) as results:
        if datasets and corruptions:
            test_sets += make_corrupted(open_streams(datasets[0], datasets[0])[0], out, corruptions, max(1, workers))
        measure(candidates, test_sets, out, results, chosen, precision, batch_size, workers, export)  # type: ignore[arg-type]
        if not as_json:
            for line in accuracy_lines(results):
                click.echo(line)
        finish(out, results)
        if as_json:
            click.echo((out / RESULTS).read_text("utf-8"), nl=False)


@cli.command()
@click.argument("source", metavar="KIND=LOCATION")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the copy.")
@click.option(
    "--corruption", "names", multiple=True, metavar="NAME", help="One to apply; repeatable.  [default: all 15]"
)
@click.option(
    "--severity", "severities", multiple=True, type=click.IntRange(1, 5), help="Repeatable.  [default: 1 to 5]"
)
@click.option("--resize", type=click.IntRange(min=1), help="Shorter side before the crop (ImageNet-C: 256).")
@click.option(
    "--crop", type=click.IntRange(min=1), help="Side of the centre crop (ImageNet-C: 224).  [default: as it is]"
)
@click.option(
    "--frost-images",
    metavar="DIR",
    help="The official frost photographs (hendrycks/robustness, ImageNet-C/create_c).  [default: frost that is grown]",
)
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Random seed for the corruptions."
)
@click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(min=1), help="Processes that corrupt images."
)
def corrupt(
    source: str, out: Path, names: tuple[str, ...], severities: tuple[int, ...], resize: int | None, crop: int | None,
    frost_images: str | None, seed: int, workers: int,
) -> None:  # fmt: skip
    """Make a corrupted copy of a test set, in ImageNet-C's layout; it is marked generated, and is no ImageNet-C.

    KIND=LOCATION is folder=DIR, imagenet=DIR or shards=DATASET:STREAM.

    JPEG stays JPEG, of quality 85 as ImageNet-C; PNG stays lossless. That matters: in memory, a ResNet-50 is 3.2 points
    better than on saved JPEGs over 14 corruptions (10 on fog and contrast; imagenet-testbed's table). saved-difference
    measures it.
    """
    from ..manifests.console import ProgressDisplay, say_next, say_start
    from .corrupt import corrupt as make_copy
    from .corruptions.frost import load_frost
    from .metrics.corruption_error import SEVERITIES, TEST_CORRUPTIONS
    from .test_sets import open_test_set

    sets = open_test_set(source)
    if len(sets) != 1:
        raise UsageError(f"{source}: {len(sets)} sets ({', '.join(s.name for s in sets)}); name one of them")
    say_start(out)
    with ProgressDisplay(f"corrupting {sets[0].name}", "images") as display:
        made = make_copy(
            sets[0],
            out,
            names or TEST_CORRUPTIONS,
            severities or SEVERITIES,
            seed,
            workers,
            resize,
            crop,
            load_frost(frost_images) if frost_images else None,
            display.update,
        )
    click.echo(f"{len(made)} sets of {len(made[0]):,} images in {out}")
    say_next(f"genint-evaluate run --checkpoint PATH --corrupted {shlex.quote(str(out))} --out reports/corrupted")


@cli.command("saved-difference")
@click.argument("source", metavar="KIND=LOCATION")
@click.option("--checkpoint", "checkpoints", multiple=True, metavar="[LABEL=]PATH", help="As for run; repeatable.")
@click.option(
    "--images", default=200, show_default=True, type=click.IntRange(min=1), help="Spread evenly over the set."
)
@click.option("--resize", type=click.IntRange(min=1), help="Shorter side before the crop (ImageNet-C: 256).")
@click.option(
    "--crop", type=click.IntRange(min=1), help="Side of the centre crop (ImageNet-C: 224).  [default: as it is]"
)
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Random seed for the corruptions."
)
@out_option
@device_option
def saved_difference(
    source: str, checkpoints: tuple[str, ...], images: int, resize: int | None, crop: int | None, seed: int, out: Path,
    device: str,
) -> None:  # fmt: skip
    """How far corruptions in memory differ from the same saved as JPEG: in pixels, and in accuracy of checkpoints."""
    from ..manifests.console import ProgressDisplay
    from .run import load_candidates
    from .saved_difference import analyse_saved
    from .test_sets import open_test_set

    sets = open_test_set(source)
    if len(sets) != 1:
        raise UsageError(f"{source}: {len(sets)} sets ({', '.join(s.name for s in sets)}); name one of them")
    if resize is not None and (crop is None or resize < crop):
        raise UsageError(f"--resize {resize}: expected a --crop too, no larger than it")
    chosen = pick_device(device)
    classifiers = [(candidate.name, candidate.classifier) for candidate in load_candidates(checkpoints)]
    with results_in(out) as results:
        with ProgressDisplay(f"corrupting {sets[0].name}", "images") as display:
            found = analyse_saved(sets[0], classifiers, images, resize, crop, seed, chosen, display.update)
        results.analyses["saved-difference"] = found
        finish(out, results)


@cli.command("failure-points")
@checkpoint_option
@click.option(
    "--shards",
    "streams",
    multiple=True,
    required=True,
    metavar="DATASET:STREAM",
    help="The same samples at one strength, such as a point of figure-5-256; two or more.",
)
@out_option
@device_option
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    type=click.Choice(["fp32", "bf16"]),
    help="bf16: autocast; quicker where the device has it.",
)
@batch_option
@workers_option
def failure_points(
    checkpoints: tuple[str, ...], streams: tuple[str, ...], out: Path, device: str, precision: str, batch_size: int,
    workers: int,
) -> None:  # fmt: skip
    """The strength of a shift at which each sample is first misread, and how these failure points are distributed."""
    from .failure_points import analyse_failure_points
    from .run import load_candidates
    from .test_sets.strength_axis import open_strength_axis

    chosen = pick_device(device)
    classifiers = [(candidate.name, candidate.classifier) for candidate in load_candidates(checkpoints)]
    axis = open_strength_axis(streams)
    with results_in(out, resumes=True) as results:
        results.analyses["failure-points"] = analyse_failure_points(
            classifiers, axis, out, chosen, precision, batch_size, workers,  # type: ignore[arg-type]
        )  # fmt: skip
        finish(out, results)


@cli.command("fit-line")
@results_option("Folder of `run`, whose checkpoints are the ordinary models; repeatable.")
@click.option("--clean", required=True, metavar="SET", help="Name of the clean set, as the report has it.")
@click.option("--shifted", required=True, metavar="SET", help="Name of the shifted set.")
@click.option(
    "--row",
    "rows",
    multiple=True,
    metavar="LABEL",
    help="Rows whose checkpoints are taken; repeatable.  [default: all]",
)
@out_option
def fit_line(folders: tuple[Path, ...], clean: str, shifted: str, rows: tuple[str, ...], out: Path) -> None:
    """Fit a line of effective robustness through checkpoints of your own; the report sets its rows against it."""
    from .fit_line import fit_own_line

    line = fit_own_line(folders, clean, shifted, rows)
    with results_in(out) as results:
        results.lines = [e for e in results.lines if (e.test_set, e.clean) != (shifted, clean)] + [line]
        click.echo(
            f"logit({shifted}) = {line.slope:.4f} logit({clean}) {line.intercept:+.4f}, through {line.models} "
            f"checkpoints; R2 {line.r2:.4f}, s.d. of residuals {line.residual_sd:.2f} points"
        )
        finish(out, results)


@cli.command()
@click.argument("baseline")
@click.argument("row")
@results_option("Folder of `run` that has the rows; repeatable, for rows of different reports.")
@json_option
def compare(baseline: str, row: str, folders: tuple[Path, ...], as_json: bool) -> None:
    """Print row ROW less row BASELINE on every test set that both were measured on, over the seeds that both have.

    A row is what `run` was given as LABEL of --checkpoint LABEL=PATH.
    """
    from .compare import compare_reports

    found = compare_reports(folders, baseline, row)
    if as_json:
        click.echo(json.dumps([asdict(each) for each in found], indent=2))
        return
    heads = [shorten(name, 16) for name in (baseline, row)]
    click.echo(f"{'':32} {'measure':>10} {heads[0]:>16} {heads[1]:>16} {'difference':>11}  95 %, paired       seeds")
    for each in found:
        interval = f"{each.paired[0]:+.2f} to {each.paired[1]:+.2f}" if each.paired else "one pair of seeds"
        means = f"{each.baseline:>16.2f} {each.row:>16.2f} {each.difference:>+11.2f}"
        seeds = ", ".join(map(str, each.seeds))
        click.echo(f"{each.test_set:32} {each.measure:>10} {means}  {interval:18} {seeds}")


@contextmanager
def results_in(out: Path, resumes: bool = False) -> "Iterator[Results]":
    """What earlier commands measured into a folder, while this one adds to it. resumes: it keeps its predictions."""
    from ..manifests.console import say_start
    from .report.results import open_results

    with open_results(out) as results:
        say_start(out, resumes, with_progress=True)
        yield results


def finish(out: Path, results: "Results") -> None:
    """Save what was measured, and the page with it."""
    from ..manifests.console import say_next
    from .analyses.agreement import analyse_agreement
    from .report.report import write_report
    from .report.results import save_results
    from .report.seeds import compare_rows

    if results.analyses.keys() >= {"correlation", "nuisances"}:
        agreement = analyse_agreement(results.analyses["correlation"], results.analyses["nuisances"])
        results.analyses.pop("rank-agreement", None)
        if agreement:
            results.analyses["rank-agreement"] = agreement

    results.row_differences = compare_rows(results)
    save_results(out, results)
    say_next(f"look at {write_report(out, results)}")


@cli.command()
@click.option("--predictor", required=True, metavar="DATASET:STREAM", help="Interventional images with known latents.")
@click.option(
    "--distribution",
    "distributions",
    multiple=True,
    required=True,
    metavar="DATASET:STREAM",
    help="A training distribution; repeatable. Natural ones also count with mixup and with AutoAugment.",
)
@click.option("--test", required=True, metavar="DATASET:STREAM", help="Natural images to test on.")
@click.option(
    "--images", default=4000, show_default=True, type=click.IntRange(min=1), help="Images of each distribution."
)
@click.option(
    "--epochs",
    default=6,
    show_default=True,
    type=click.IntRange(min=1),
    help="Passes of the predictor over its images.",
)
@out_option
@device_option
def correlation(
    predictor: str, distributions: tuple[str, ...], test: str, images: int, epochs: int, out: Path, device: str
) -> None:
    """How much labels can be told from nuisances in each training distribution (Figure 3)."""
    from .analyses.correlation import analyse_correlation

    chosen = pick_device(device)
    with results_in(out) as results:
        results.analyses["correlation"] = analyse_correlation(
            predictor, distributions, test, images, epochs, out, chosen
        )
        finish(out, results)


@cli.command("causal-bound")
@click.option("--checkpoint", required=True, metavar="PATH", help="Classifier whose features are compared.")
@click.option(
    "--shards",
    "datasets",
    multiple=True,
    required=True,
    metavar="DATASET[=RUN]",
    help="A dataset with an intervention, and the run of a classifier trained on it; repeatable.",
)
@click.option("--stream", default="interventional", show_default=True, help="Name of the stream in each dataset.")
@click.option(
    "--queries", required=True, metavar="DATASET:STREAM", help="Natural images to explain: a validation split."
)
@click.option(
    "--score",
    default="xent",
    show_default=True,
    type=click.Choice(["xent", "cosine", "released"]),
    help="How alike two images are.",
)
@click.option(
    "--reduction",
    default="max",
    show_default=True,
    type=click.Choice(["max", "logmeanexp"]),
    help="Over generated images: the most alike one, or all of them.",
)
@click.option("--dictionary-size", default=500, show_default=True, type=click.IntRange(min=1), help="Images per class.")
@out_option
@device_option
def causal_bound(
    checkpoint: str, datasets: tuple[str, ...], stream: str, queries: str, score: str, reduction: str,
    dictionary_size: int, out: Path, device: str,
) -> None:  # fmt: skip
    """log P(x|z) of interventions that differ in t, k and s (Figures 5 and 6), and Theorem 1's bound."""
    from ..train.checkpoint import load_classifier
    from .analyses.causal_bound import analyse_causal_bound

    chosen = pick_device(device)
    pairs = [text.partition("=") for text in datasets]
    trained = {location: load_classifier(run) for location, separator, run in pairs if separator}
    classifier = load_classifier(checkpoint)
    for own in (classifier, *trained.values()):
        own.model.to(chosen)
    with results_in(out) as results:
        results.analyses["causal-bound"] = analyse_causal_bound(
            classifier, [location for location, _, _ in pairs], stream, queries, trained,
            score, reduction, dictionary_size, out,  # type: ignore[arg-type]
        )  # fmt: skip
        finish(out, results)


@cli.command()
@click.option(
    "--reader",
    required=True,
    metavar="DATASET:STREAM",
    help="Natural images with true nuisances that are free of the class, to learn reading from.",
)
@click.option("--reference", required=True, metavar="DATASET:STREAM", help="The natural training stream.")
@click.option("--held-out", multiple=True, required=True, metavar="DATASET:STREAM", help="For the reader's error.")
@click.option(
    "--distribution", "distributions", multiple=True, required=True, metavar="DATASET:STREAM", help="Repeatable."
)
@click.option(
    "--images", default=4000, show_default=True, type=click.IntRange(min=1), help="Images of each distribution."
)
@click.option(
    "--epochs", default=8, show_default=True, type=click.IntRange(min=1), help="Passes of the reader over its images."
)
@out_option
@device_option
def nuisances(
    reader: str, reference: str, held_out: tuple[str, ...], distributions: tuple[str, ...], images: int, epochs: int,
    out: Path, device: str,
) -> None:  # fmt: skip
    """The true dependence of nuisances and labels, in the mini world, where nuisances can be read."""
    from .analyses.nuisances import analyse_nuisances

    chosen = pick_device(device)
    with results_in(out) as results:
        results.analyses["nuisances"] = analyse_nuisances(
            reader, reference, held_out, distributions, images, epochs, out, chosen
        )
        finish(out, results)


@cli.command()
@click.option(
    "--object-reader", required=True, metavar="PATH", help="A classifier trained on pictures free of confounding."
)
@click.option(
    "--reader",
    required=True,
    metavar="DATASET:STREAM",
    help="Natural images with true nuisances that are free of the class, to learn reading from.",
)
@click.option("--reference", required=True, metavar="DATASET:STREAM", help="The natural training stream.")
@click.option("--held-out", required=True, metavar="DATASET:STREAM", help="Natural images on which readers are tried.")
@click.option(
    "--distribution",
    "distributions",
    multiple=True,
    required=True,
    metavar="DATASET:STREAM",
    help="A source; repeatable.",
)
@click.option(
    "--brings",
    multiple=True,
    metavar="STREAM=ROW",
    help="The row of --results that was trained with a source; repeatable.",
)
@click.option(
    "--results", "measured", metavar="DIR", type=click.Path(path_type=Path), help="Folder of `run`.  [default: --out]"
)
@click.option(
    "--shifted", default="mini/test-background", show_default=True, metavar="SET", help="On which its gain counts."
)
@click.option("--images", default=4000, show_default=True, type=click.IntRange(min=1), help="Images of each source.")
@click.option(
    "--epochs",
    default=8,
    show_default=True,
    type=click.IntRange(min=1),
    help="Passes of the nuisance reader over its images.",
)
@out_option
@device_option
def sources(
    object_reader: str, reader: str, reference: str, held_out: str, distributions: tuple[str, ...],
    brings: tuple[str, ...], measured: Path | None, shifted: str, images: int, epochs: int, out: Path, device: str,
) -> None:  # fmt: skip
    """All sources of the mini world in one figure: label from background, object recognised, and what it brings."""
    from ..train.checkpoint import load_classifier
    from .analyses.sources import analyse_sources
    from .report.means import row_gains
    from .report.results import load_results

    rows = dict(_pair("--brings", text, "STREAM=ROW") for text in brings)
    chosen = pick_device(device)
    classifier = load_classifier(object_reader)
    with results_in(out) as results:
        gains = row_gains(load_results(measured) if measured else results, shifted, rows) if rows else {}
        results.analyses |= analyse_sources(
            classifier, reader, reference, held_out, distributions, gains, images, epochs, out, chosen
        )
        finish(out, results)


def _pair(option: str, text: str, form: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name or not value:
        raise UsageError(f"{option} {text}: expected {form}")
    return name, value


@cli.command("grad-cam")
@checkpoint_option
@click.option("--shards", "streams", multiple=True, required=True, metavar="DATASET:STREAM", help="Images; repeatable.")
@click.option("--images", default=1000, show_default=True, type=click.IntRange(min=1), help="Images of each stream.")
@click.option("--show", default=8, show_default=True, type=click.IntRange(min=1), help="Rows of a sheet.")
@click.option(
    "--layer", metavar="NAME", help="Module whose channels are weighted, of every checkpoint.  [default: the last map]"
)
@out_option
@device_option
def grad_cam(
    checkpoints: tuple[str, ...], streams: tuple[str, ...], images: int, show: int, layer: str | None, out: Path,
    device: str,
) -> None:  # fmt: skip
    """Where classifiers look, and how much of it is the object (Figure 7)."""
    from .analyses.grad_cam import analyse_attention
    from .run import load_candidates

    chosen = pick_device(device)
    classifiers = [(candidate.name, candidate.classifier) for candidate in load_candidates(checkpoints)]
    for _, classifier in classifiers:
        classifier.model.to(chosen)
    with results_in(out) as results:
        results.analyses["grad-cam"] = analyse_attention(classifiers, streams, images, show, out, layer)
        finish(out, results)
