"""results.json: every measured number with what it was measured on, and how."""

import json
import math
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ...manifests.device import cpu_name
from ...manifests.errors import FormatError, UsageError
from ...manifests.json_files import parse_json
from ...manifests.lock import only_process
from ...manifests.shard import sweep
from ...manifests.storage import Storage

RESULTS = "results.json"
LOCK = "lock"
# What a measurement that has not ended may have left in its folder.
UNFINISHED: Final = {"cache", "corrupted", "predictions", LOCK}
FORMAT: Final = "genint-evaluate"
VERSION: Final = 1

CHECKED: Final = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
# A file beside results.json: whoever made that file must not choose others for the page.
FigureName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*\.(svg|png)$")]


@dataclass(frozen=True, config=CHECKED)
class CheckpointEntry:
    """A classifier that was measured. Those of one `group` differ in their training seed alone."""

    name: str
    group: str
    preset: str | None
    arch: str
    sha256: str
    step: int | None
    seed: int | None
    location: str


@dataclass(frozen=True, config=CHECKED)
class Clustered:
    """A 95 % interval by bootstrap over clusters: images of one `unit` (latent, mask, photo, class) are no independent
    draws. In the unit of the number that it belongs to."""

    unit: str
    clusters: Count
    interval: tuple[float, float]


@dataclass(frozen=True, config=CHECKED)
class Accuracy:
    """Top-1 and top-5 of one classifier on one test set, shares in [0, 1]; intervals are Wilson's, 95 %.

    `clustered` is top-1's interval where the set names clusters of its images. `ece` is the calibration error over 15
    bins, `nll` the mean negative log probability of the right labels in nats; None in results of earlier versions.
    `notes` are what a reader of the numbers should be told.
    """

    checkpoint: str
    test_set: str
    protocol: str
    marked: str
    digest: str
    images: Count
    top1: Share
    top1_interval: tuple[Share, Share]
    top5: Share
    top5_interval: tuple[Share, Share]
    environment: str
    ece: Share | None = None
    nll: Annotated[float, Field(ge=0)] | None = None
    notes: tuple[str, ...] = ()
    clustered: Clustered | None = None

    @property
    def incomplete(self) -> bool:
        """Whether the set is not whole, as its protocol or a note says."""
        return any("incomplete" in text for text in (self.protocol, *self.notes))


@dataclass(frozen=True, config=CHECKED)
class Difference:
    """Top-1 of `checkpoint` less that of `baseline` on the same images; paired bootstrap over images, 95 %, and over
    clusters where the set names them."""

    baseline: str
    checkpoint: str
    test_set: str
    images: Count
    difference: float
    interval: tuple[float, float]
    clustered: Clustered | None = None


@dataclass(frozen=True, config=CHECKED)
class RowDifference:
    """Mean over `seeds` of one row of checkpoints less another, in points of the measure: top-1, mCE or mean error.

    Intervals are Student's t, 95 %: over the pairs of one seed, and over seeds as if they were unrelated (Welch).
    """

    baseline: str
    row: str
    test_set: str
    measure: str
    images: Count
    seeds: Annotated[list[int], Field(min_length=2)]
    difference: float
    paired: tuple[float, float]
    unpaired: tuple[float, float]


@dataclass(frozen=True, config=CHECKED)
class CorruptionErrors:
    """Errors on a corrupted set, in percent. `ce`, `mce` and `relative_mce` are AlexNet's = 100; None where the set is
    no official one, for which the constants say nothing.

    images: of each corruption and severity; None in results of earlier versions. clustered: of mCE, or of the mean
    error where there is none, over the photos that all corruptions share.
    """

    checkpoint: str
    test_set: str
    marked: str
    error: dict[str, float]
    mean_error: float
    ce: dict[str, float] | None = None
    mce: float | None = None
    relative_mce: float | None = None
    images: Count | None = None
    clustered: Clustered | None = None


@dataclass(frozen=True, config=CHECKED)
class Bias:
    """What several answers of one classifier say together, a share or difference of shares; `words` say how.

    interval: 95 %; None in results of earlier versions.
    """

    checkpoint: str
    name: str
    value: Annotated[float, Field(ge=-1, le=1)]
    images: Count
    words: str
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, config=CHECKED)
class HeadAccuracy:
    """How often one head of a classifier answers with the label of one mechanism; the interval is Wilson's, 95 %.

    nll: mean negative log probability of the label in nats, where it is the head's own.
    """

    checkpoint: str
    test_set: str
    head: str
    label: str
    images: Count
    top1: Share
    interval: tuple[Share, Share]
    nll: Annotated[float, Field(ge=0)] | None = None


@dataclass(frozen=True, config=CHECKED)
class LineModel:
    """A checkpoint through which a line was fitted: its top-1 on both sets."""

    checkpoint: str
    sha256: str
    clean: Share
    shifted: Share


@dataclass(frozen=True, config=CHECKED)
class FittedLine:
    """logit(accuracy on `test_set`) = slope * logit(accuracy on `clean`) + intercept, through checkpoints of one's own.

    residual_sd is in points; digests are the sets'.
    """

    test_set: str
    clean: str
    digest: str
    clean_digest: str
    slope: float
    intercept: float
    r2: float
    residual_sd: Annotated[float, Field(ge=0)]
    through: Annotated[list[LineModel], Field(min_length=3)]

    @property
    def models(self) -> int:
        return len(self.through)


@dataclass(frozen=True, config=CHECKED)
class GroupAccuracy:
    """Top-1 of one group of a set's images; the interval is Wilson's, 95 %."""

    group: str
    images: Count
    top1: Share
    interval: tuple[Share, Share]


@dataclass(frozen=True, config=CHECKED)
class Groups:
    """Accuracy by group of one classifier on one set: the worst group by name, and the mean over groups.

    digest: of which image is in which group.
    """

    checkpoint: str
    test_set: str
    digest: str
    groups: Annotated[list[GroupAccuracy], Field(min_length=1)]
    worst: str
    mean: Share


@dataclass(frozen=True, config=CHECKED)
class Analysis:
    """A section of the report that one command made: words, a table of texts, pictures in files beside results.json
    (name to caption), and the numbers behind them."""

    title: str
    texts: list[str]
    columns: list[str]
    rows: list[list[str]]
    data: Any
    figures: dict[FigureName, str] = field(default_factory=dict)


@dataclass(config=CHECKED)
class Results:
    """Everything measured into one folder, by any number of commands."""

    environments: dict[str, dict[str, str]] = field(default_factory=dict)
    checkpoints: list[CheckpointEntry] = field(default_factory=list)
    accuracy: list[Accuracy] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    row_differences: list[RowDifference] = field(default_factory=list)
    corruption: list[CorruptionErrors] = field(default_factory=list)
    biases: list[Bias] = field(default_factory=list)
    groups: list[Groups] = field(default_factory=list)
    heads: list[HeadAccuracy] = field(default_factory=list)
    lines: list[FittedLine] = field(default_factory=list)
    analyses: dict[str, Analysis] = field(default_factory=dict)
    finished: str = ""


@contextmanager
def open_results(folder: Path) -> Iterator[Results]:
    """What earlier commands measured into `folder`, while no other process writes there.

    Raises UsageError where another one does or the folder holds something else, FormatError where its results cannot
    be read.
    """
    check_folder(folder)
    with only_process(folder / LOCK, f"--out {folder}: another command writes its results there"):
        sweep(folder)
        yield load_results(folder)


def load_results(folder: Path) -> Results:
    """What an earlier command left in `folder`; empty where none did. Raises FormatError where it cannot be read."""
    path = folder / RESULTS
    if not path.exists():
        return Results()
    content = path.read_bytes()
    tree = parse_json(content, path)
    if not isinstance(tree, dict) or (tree.pop("format", None), tree.pop("version", None)) != (FORMAT, VERSION):
        raise FormatError(f"{path}: not a file of results: not version {VERSION} of {FORMAT}")
    try:
        # As JSON, where a list may stand for a tuple.
        results = TypeAdapter(Results).validate_json(json.dumps(tree))
        _check_references(results)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise FormatError(f"{path}: not a file of results: {place[:100]}: {first['msg'][:200]}") from error
    except ValueError as error:
        raise FormatError(f"{path}: not a file of results: {error}") from error
    return results


def _check_references(results: Results) -> None:
    """Raise ValueError where an entry speaks of what is not there."""
    known = {entry.name for entry in results.checkpoints}
    named = {entry.checkpoint for entry in results.accuracy}
    named |= {entry.checkpoint for entry in results.differences} | {entry.checkpoint for entry in results.corruption}
    named |= {entry.checkpoint for entry in results.biases} | {entry.checkpoint for entry in results.groups}
    named |= {entry.checkpoint for entry in results.heads}
    unknown = named - known
    if unknown or len(known) < len(results.checkpoints):
        raise ValueError(f"no checkpoint {min(unknown)[:100]!r}" if unknown else "two checkpoints have one name")
    rows = {entry.group for entry in results.checkpoints}
    for entry in results.row_differences:
        if not {entry.baseline, entry.row} <= rows:
            raise ValueError(f"no row {min({entry.baseline, entry.row} - rows)[:100]!r}")
    if any(not entry.error for entry in results.corruption):
        raise ValueError("a corrupted set without corruptions")
    if any(entry.worst not in {group.group for group in entry.groups} for entry in results.groups):
        raise ValueError("a worst group that is none of the groups")
    for analysis in results.analyses.values():
        if any(len(row) != len(analysis.columns) for row in analysis.rows):
            raise ValueError(f"analysis {analysis.title[:100]!r}: rows and columns differ")


def save_results(folder: Path, results: Results) -> None:
    """Write results.json, whole or not at all."""
    results.finished = datetime.now(UTC).isoformat(timespec="seconds")
    content = {"format": FORMAT, "version": VERSION, **asdict(results)}
    Storage(folder).write(RESULTS, (json.dumps(_finite(content), indent=2, allow_nan=False) + "\n").encode())


def _finite(value: Any) -> Any:
    """The same with None for each number that JSON has no word for, such as a ratio to a spread of 0."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_folder(folder: Path) -> None:
    """Raise UsageError where the folder for results holds something else."""
    if folder.is_file() or (
        folder.is_dir() and not (folder / RESULTS).exists() and set(os.listdir(folder)) - UNFINISHED
    ):
        raise UsageError(f"--out {folder}: holds something else; give a new folder or one with a {RESULTS}")


def shown_locations(locations: Sequence[str]) -> list[str]:
    """Locations as a report may name them: relative paths as given; of absolute ones and URLs what tells them apart,
    so that neither folders of a machine nor credentials are in it."""
    fixed = [location for location in locations if location.startswith(("/", "~")) or "://" in location]
    shown = dict(zip(fixed, without_common_folder([text.partition("?")[0] for text in fixed]), strict=True))
    return [shown.get(location, location) for location in locations]


def without_common_folder(locations: Sequence[str]) -> list[str]:
    """Paths or URLs without the folder that all lie in; one alone is its last component."""
    trimmed = [location.rstrip("/") for location in locations]
    # Whole components alone; `commonpath` would take a URL for a path.
    folder, slash, _ = os.path.commonprefix(trimmed).rpartition("/")  # noqa: RUF071
    return [location.removeprefix(folder + slash) for location in trimmed]


def describe_environment(device: str) -> dict[str, str]:
    """Versions and device behind a number."""
    return {
        "genint": version("genint"),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "torchvision", "numpy", "pillow")},
        "device": f"cuda: {torch.cuda.get_device_name(device)}" if device.startswith("cuda") else f"cpu: {cpu_name()}",
    }
