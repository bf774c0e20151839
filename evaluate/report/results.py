"""results.json: every measured number with what it was measured on, and how."""

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch

from ...manifests.device import cpu_name
from ...manifests.errors import FormatError, UsageError
from ...manifests.storage import Storage

RESULTS = "results.json"
FORMAT: Final = "genint-evaluate"
VERSION: Final = 1


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Accuracy:
    """Top-1 and top-5 of one classifier on one test set, shares in [0, 1]; intervals are Wilson's, 95 %."""

    checkpoint: str
    test_set: str
    protocol: str
    marked: str
    digest: str
    images: int
    top1: float
    top1_interval: tuple[float, float]
    top5: float
    top5_interval: tuple[float, float]
    environment: str


@dataclass(frozen=True)
class Difference:
    """Top-1 of `checkpoint` less that of `baseline` on the same images; paired bootstrap, 95 %."""

    baseline: str
    checkpoint: str
    test_set: str
    images: int
    difference: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class CorruptionErrors:
    """Errors on a corrupted set, in percent. `ce`, `mce` and `relative_mce` are AlexNet's = 100; None where the set is
    no official one, for which the constants say nothing."""

    checkpoint: str
    test_set: str
    marked: str
    error: dict[str, float]
    mean_error: float
    ce: dict[str, float] | None = None
    mce: float | None = None
    relative_mce: float | None = None


@dataclass(frozen=True)
class Analysis:
    """A section of the report that one command made: words, a table of texts, pictures in files beside results.json
    (name to caption), and the numbers behind them."""

    title: str
    texts: list[str]
    columns: list[str]
    rows: list[list[str]]
    data: Any
    figures: dict[str, str] = field(default_factory=dict)


@dataclass
class Results:
    """Everything measured into one folder, by any number of commands."""

    environments: dict[str, dict[str, str]] = field(default_factory=dict)
    checkpoints: list[CheckpointEntry] = field(default_factory=list)
    accuracy: list[Accuracy] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    corruption: list[CorruptionErrors] = field(default_factory=list)
    analyses: dict[str, Analysis] = field(default_factory=dict)
    finished: str = ""


def load_results(folder: Path) -> Results:
    """What an earlier command left in `folder`; empty where none did. Raises FormatError where it cannot be read."""
    path = folder / RESULTS
    if not path.exists():
        return Results()
    try:
        content = json.loads(path.read_text())
        if content.pop("format") != FORMAT or content.pop("version") != VERSION:
            raise ValueError(f"not version {VERSION} of {FORMAT}")
        return Results(
            **{
                **content,
                "checkpoints": [CheckpointEntry(**entry) for entry in content["checkpoints"]],
                "accuracy": [Accuracy(**_tuples(entry)) for entry in content["accuracy"]],
                "differences": [Difference(**_tuples(entry)) for entry in content["differences"]],
                "corruption": [CorruptionErrors(**entry) for entry in content["corruption"]],
                "analyses": {name: Analysis(**entry) for name, entry in content["analyses"].items()},
            }
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{path}: not a file of results: {error}") from error


def save_results(folder: Path, results: Results) -> None:
    """Write results.json, whole or not at all."""
    results.finished = datetime.now(UTC).isoformat(timespec="seconds")
    content = {"format": FORMAT, "version": VERSION, **asdict(results)}
    Storage(folder).write(RESULTS, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def check_folder(folder: Path) -> None:
    """Raise UsageError where the folder for results holds something else."""
    if folder.is_file() or (folder.is_dir() and os.listdir(folder) and not (folder / RESULTS).exists()):
        known = {"cache", "corrupted"}
        if folder.is_file() or set(os.listdir(folder)) - known:
            raise UsageError(f"--out {folder}: holds something else; give a new folder or one with a {RESULTS}")


def describe_environment(device: str) -> dict[str, str]:
    """Versions and device behind a number."""
    return {
        "genint": version("genint"),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "torchvision", "numpy", "pillow")},
        "device": f"cuda: {torch.cuda.get_device_name(device)}" if device.startswith("cuda") else f"cpu: {cpu_name()}",
    }


def _tuples(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}
