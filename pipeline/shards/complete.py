"""Make whatever a settled dataset lacks, and close it, with all that a user sees of it."""

import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ...manifests.console import (
    LONGEST_MESSAGE,
    VERBOSE,
    ProgressDisplay,
    format_bytes,
    format_seconds,
    say_next,
    say_start,
    this_command,
    warn,
)
from ...manifests.dataset import Dataset
from ...manifests.device import count_cores
from ...manifests.errors import GenintError, shorten
from ...manifests.fidelity import CLASSIFIER
from ...manifests.label_reader import LabelReader
from ...manifests.manifest import MANIFEST, Record, load_manifest, preview_name
from ...manifests.storage import Storage
from ...manifests.verification import OTHER_WORDS
from ..release.close import (
    RecordStore,
    closed_streams,
    drop_unsound,
    excess_failures,
    find_problems,
    release,
    reopen,
    training_step,
)
from ..release.preview import draw_previews
from ..release.publish import describe_anew
from ..release.score import check_reader, open_reader, score
from .driver import Build, Progress
from .environment import describe_environment
from .estimate import estimate_streams, warn_of_long_work
from .executor import WorkerPool
from .pool import Pool
from .progress import ProgressFile
from .settle import Ingredients, write_derived
from .worker import WorkerSettings

# So much longer than its own work something takes where others use the machine, too.
BUSY = 1.25


def complete(
    dataset: Dataset,
    ingredients: Ingredients,
    names: Sequence[str],
    pool: Pool,
    reader: str | None = None,
    refill: bool = False,
) -> None:
    """Make what a settled dataset lacks of these streams, and close it with all streams that are whole then.

    reader: the classifier that scores the samples of a whole dataset, if one does. refill: look at every byte, and try
    what was lost again. Raises GenintError where more is lost than the recipe allows; the dataset is closed all the
    same.
    """
    storage = dataset.storage
    label_reader = open_label_reader(dataset, reader, pool.own_device()) if reader else None
    lacking = find_problems(dataset) if storage.exists(MANIFEST) else []
    if lacking == [OTHER_WORDS]:
        describe_anew(dataset, dataset.recipe, load_manifest(storage))
        lacking = find_problems(dataset)
    sound: set[tuple[str, int]] = set()
    if refill:
        _drop_unsound(dataset, names, sound, refill=True)
    if lacking:
        for line in lacking[:5]:
            warn(f"not complete: {line}")
        reopen(storage)
        write_derived(ingredients, storage)
    # Streams of a manifest without problems are taken as they are.
    closed = closed_streams(dataset)
    worker_device = pool.worker_device()
    settings = WorkerSettings(
        storage.absolute,
        dataset.entry.digest,
        worker_device,
        ingredients.weights,
        ingredients.code,
        ingredients.given_roots,
    )
    for line in warn_of_long_work(dataset, names, worker_device, pool.workers or count_cores()):
        warn(f"warning: {line}")
    lost_workers, whole = 0, closed
    if set(names) - set(closed):
        say_start(storage)
    while set(names) - set(whole):
        build = _build(dataset, names, lambda: pool.start(settings))
        sound |= build.made
        lost_workers += build.lost_workers
        found = RecordStore(storage).whole_streams(dataset)
        if not _drop_unsound(dataset, [name for name in found if name not in closed], sound):
            whole = found
    all_whole = len(whole) == len(dataset.recipe.streams)
    if label_reader is not None and all_whole and not is_scored(storage, label_reader):
        score_samples(dataset, label_reader)
        reopen(storage)
    if storage.exists(MANIFEST) and whole == closed:
        print("complete already")
    else:
        _close(dataset, names, whole, lost_workers)
    for name in names:
        print(f"contact sheet: {storage / preview_name(name)}")
    print(f"manifest: {storage / MANIFEST}")
    missing = load_manifest(storage).missing_streams
    if missing:
        print(f"partial: {', '.join(missing)} not made yet; what is there can be read, and the next build goes on")
    raise_excess(dataset)
    say_next(
        "look at the contact sheets",
        ["genint-pipeline", "verify", storage, "--rebuild", "1", *ingredients.flags],
        *training_step(str(storage), load_manifest(storage).streams),
    )


def raise_excess(dataset: Dataset) -> None:
    """Raise GenintError where a finished dataset has lost more than its recipe allows, with what can be done."""
    excess = excess_failures(dataset)
    if not excess:
        return
    flags = " ".join(one.flag for one in excess)
    raise GenintError(
        f"{shorten('; '.join(map(str, excess)), LONGEST_MESSAGE - 900)}. The rest is whole and can be read. To accept "
        f"the loss: {shorten(this_command(), 400)} {flags}; to try these samples again: genint-pipeline repair "
        f"{dataset.storage}, with the same --input; with other files in their place: build into another --out"
    )


def _close(dataset: Dataset, names: Sequence[str], whole: Sequence[str], lost_workers: int) -> None:
    """Write what closes a dataset of whole streams, of which `names` were made now."""
    storage = dataset.storage
    sheets = [name for name in whole if name in names or not storage.exists(preview_name(name))]
    for name, sheet in draw_previews(dataset, sheets).items():
        storage.write(name, sheet)
    manifest = release(dataset, lost_workers, whole)
    warn_of_scores(storage)
    size = sum(stream.bytes for stream in manifest.streams)
    count = sum(stream.samples for stream in manifest.streams)
    print(f"{count:,} samples in {sum(s.shards for s in manifest.streams):,} shards, {format_bytes(size)}")
    for stream in manifest.streams:
        for remark, number in sorted(stream.remarks.items()):
            print(f"stream {stream.name}: {number:,} of {stream.samples:,} samples {remark}")
    lacking = find_problems(dataset)
    if lacking:
        raise GenintError(f"{storage}: {lacking[0]}{f' (and {len(lacking) - 1} more)' if lacking[1:] else ''}")


def open_label_reader(dataset: Dataset, location: str, device: str) -> LabelReader:
    """A classifier that knows the dataset's classes. Raises UsageError for another."""
    reader = open_reader(location, device)
    check_reader(dataset, reader)
    return reader


def is_scored(storage: Storage, reader: LabelReader) -> bool:
    """Whether a finished dataset has the scores of this classifier."""
    fidelity = load_manifest(storage).fidelity if storage.exists(MANIFEST) else None
    return fidelity is not None and (fidelity.checkpoint, fidelity.checkpoint_sha256) == (reader.name, reader.sha256)


def score_samples(dataset: Dataset, reader: LabelReader) -> None:
    """Score what this classifier has not read yet; the dataset is to be closed again afterwards."""
    with ProgressDisplay("score", "samples") as display:
        for progress in score(dataset, reader):
            display.update(progress.done, progress.total, progress.stream)


def warn_of_scores(storage: Storage) -> None:
    """Say so where a dataset was closed without the scores that it had."""
    if load_manifest(storage).fidelity is None and storage.exists(CLASSIFIER):
        warn(
            "warning: some shards have no scores of label fidelity, so the dataset has none; genint-pipeline score "
            f"{storage} --checkpoint ... gives them to those"
        )


def print_estimate(ingredients: Ingredients, storage: Storage, pool: Pool, names: Sequence[str], as_json: bool) -> None:
    """What the streams will cost."""
    device = pool.own_device()
    found = describe_environment(device).device
    workers, unit = (pool.workers or count_cores(), "core") if device == "cpu" else (pool.workers or 1, "GPU")
    if not as_json:
        print(f"{'stream':20} {'samples':>12} {'shards':>8} {'bytes':>10}   time on one {unit}")
    rows = []
    for row in estimate_streams(ingredients, storage, device, names):
        rows.append(row)
        if not as_json:
            times = format_range(row.device_seconds, row.busy_seconds)
            print(f"{row.name:20} {row.samples:>12,} {row.shards:>8,} {format_bytes(row.bytes):>10}   {times}")
    size, free = sum(row.bytes for row in rows), storage.free_bytes()
    seconds, busy = sum(row.device_seconds for row in rows), sum(row.busy_seconds for row in rows)
    if as_json:
        tree = {
            "device": found,
            "streams": [vars(row) for row in rows],
            "bytes": size,
            "device_seconds": seconds,
            "busy_seconds": busy,
            "workers": workers,
            "free_bytes": free,
            "timed_with_random_weights": ingredients.stand_ins,
        }
        print(json.dumps(tree, indent=2))
        return
    print(f"one {unit} ({found}): {format_range(seconds, busy)}; {seconds / 3600:,.2f} {unit} hours")
    many = f"{workers} {unit}{'s' if workers > 1 else ''}"
    print(f"with {many}, one worker each: {format_range(seconds / workers, busy / workers)}")
    if busy > BUSY * seconds:
        print("the lower time is for a machine that does nothing else, the upper one for what goes on here now")
    if ingredients.stand_ins:
        absent = ", ".join(ingredients.stand_ins)
        print(f"timed with random weights of the same shape for {absent}; bytes from a typical photograph")
    print(f"disk: {format_bytes(size)} needed, {format_bytes(free) if free is not None else 'unknown'} free")
    if free is not None and size > free:
        warn(f"warning: {storage}: the disk is too small by {format_bytes(size - free)}; choose another --out")


def format_range(least: float, most: float) -> str:
    """One duration, or two where they differ by more than a measurement does."""
    if most <= BUSY * least:
        return format_seconds(most)
    return f"{format_seconds(least)} to {format_seconds(most)}"


def _build(dataset: Dataset, names: Sequence[str], start_pool: Callable[[], WorkerPool]) -> Build:
    """Make the missing shards of these streams, with all that a user sees of it. Ends the command where it stops."""
    pool = start_pool()
    build = Build(dataset, pool, names)
    told = ProgressFile(dataset.storage)
    try:
        with _interruptible(build), ProgressDisplay(dataset.recipe.name, "samples") as display:
            for progress in build.run():
                told.write(_tell(build, progress), now=bool(progress.message))
                if progress.message:
                    display.print(shorten(progress.message, LONGEST_MESSAGE))
                    continue
                if progress.record:
                    display.print(_describe_shard(progress.record), VERBOSE)
                note = f"{progress.done_shards:,} of {progress.total_shards:,} shards"
                display.update(progress.done_samples, progress.total_samples, note, str(progress.left))
    except GenintError as error:
        told.end(str(error))
        raise type(error)(f"{error}; to resume: {this_command()}") from error
    finally:
        pool.close()
    if build.stopping:
        warn(f"interrupted; to resume: {this_command()}")
        sys.exit(130)
    if build.faults:
        (name, index), reason = next(iter(build.faults.items()))
        raise GenintError(
            f"{len(build.faults)} shards failed, first {name} shard {index}: {reason}; to try again: {this_command()}"
        )
    told.remove()
    return build


def _tell(build: Build, progress: Progress) -> dict[str, object]:
    """How a build is coming on, for `status`."""
    return {
        "done_samples": progress.done_samples,
        "total_samples": progress.total_samples,
        "samples_per_second": build.rate(progress),
        "seconds_left": None if progress.left.not_measured else round(progress.left.seconds, 1),
        "left": str(progress.left),
        "retries": build.retries,
        "faults": {f"{stream} shard {index}": reason for (stream, index), reason in build.faults.items()},
        "lost_workers": build.lost_workers,
        "lost_samples": build.lost_samples,
    }


def _describe_shard(record: Record) -> str:
    again = f", attempt {record.attempt}" if record.attempt > 1 else ""
    lost = f", {len(record.failures)} lost" if record.failures else ""
    return f"{record.path}: {record.samples:,} samples in {format_seconds(record.seconds)}{lost}{again}"


def _drop_unsound(dataset: Dataset, streams: Sequence[str], sound: set[tuple[str, int]], refill: bool = False) -> int:
    """Check the shards of which nobody knows whether they are sound; the number of those that have to be made again."""
    total = sum(dataset.plan(name).num_shards for name in streams) - sum(name in streams for name, _ in sound)
    dropped = 0
    with ProgressDisplay("check", "shards") as display:
        for done, (shard, problem) in enumerate(drop_unsound(dataset, streams, frozenset(sound), refill), 1):
            if problem:
                dropped += 1
                display.print(shorten(f"{problem}; made again", LONGEST_MESSAGE))
            else:
                sound.add(shard)
            display.update(done, total)
    return dropped


@contextmanager
def _interruptible(build: Build) -> Iterator[None]:
    """Ctrl-C lets running shards finish; a second one stops at once."""

    def on_signal(number: int, frame: object) -> None:
        if build.stopping:
            raise KeyboardInterrupt
        build.stop()
        print("\nfinishing the running shards; Ctrl-C again stops at once", file=sys.stderr)

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
