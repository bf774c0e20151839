"""What a classifier says about every image of a test set, streamed with bounded memory, and kept once known."""

import csv
import hashlib
import io
import json
import math
import os
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ..manifests.console import ProgressDisplay
from ..manifests.errors import GenintError, UsageError
from ..manifests.kernels import hold_kernels
from ..manifests.pictures import damage_named, decode_picture
from ..manifests.shard import sync_folder
from ..manifests.storage import Storage
from ..train.checkpoint import Classifier, Preprocessing
from ..train.workers import load_items
from .metrics.accuracy import Hits, topk_hits
from .test_sets.test_set import TestSet

Precision = Literal["fp32", "bf16"]
Progress = Callable[[int], None]

TOP: Final = 5
# Folder of what is kept, in a folder of results.
CACHE: Final = "cache"
# Of what is kept: entries of another one are made again.
CACHE_VERSION: Final = 3
KEPT: Final = ("top5", "labels", "confidence", "log_likelihood")
MAX_PIXELS: Final = 178_956_970  # Pillow's own limit, at which it only warns
# Batches that each worker holds ready.
PREFETCH: Final = 2


@dataclass(frozen=True)
class Predictions:
    """Of every image of a test set, by position.

    top5: [N, 5] classes of the classifier (or groups of them, where the set has groups), likeliest first; -1 where
    there are fewer.
    labels: [N, M] classes of the classifier that count as right; -1 fills rows of images that have fewer.
    confidence: [N] probability of the likeliest class.
    log_likelihood: [N] log probability of the right labels together.
    """

    top5: NDArray[np.int32]
    labels: NDArray[np.int32]
    confidence: NDArray[np.float32]
    log_likelihood: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.top5)

    @cached_property
    def hit1(self) -> Hits:
        """[N]: whether the likeliest class is right."""
        return topk_hits(self.top5[:, :1], self.labels)

    @cached_property
    def hit5(self) -> Hits:
        """[N]: whether one of the five likeliest classes is."""
        return topk_hits(self.top5, self.labels)


def predict(
    classifier: Classifier,
    test_set: TestSet,
    batch_size: int = 64,
    workers: int = 0,
    device: str | torch.device = "cpu",
    precision: Precision = "fp32",
    progress: Progress | None = None,
) -> Predictions:
    """Predictions for a whole test set; `progress` is called with the number of images done so far.

    Workers decode; at most PREFETCH batches each are in memory. Raises UsageError where the classifier knows other
    classes, FormatError that names an image which cannot be read, GenintError where logits are not finite.
    """
    classes = match_classes(test_set, classifier)
    model = classifier.model.to(device).eval()
    allowed = _allowed(test_set, classes, len(classifier.class_names), device)
    groups = [torch.from_numpy(classes[list(group)]).long().to(device) for group in test_set.groups or ()]
    answers = np.arange(len(groups), dtype=np.int32) if groups else classes
    images = _Batches(test_set, classifier.preprocessing, answers, batch_size)
    on_gpu = torch.device(device).type == "cuda"
    batches = load_items(images, range(len(images)), workers, on_gpu, PREFETCH)
    top5: list[Tensor] = []
    sure: list[Tensor] = []
    labels: list[NDArray[np.int32]] = []
    finite = torch.ones((), dtype=torch.bool, device=device)
    done = 0
    mixed = torch.autocast(torch.device(device).type, torch.bfloat16, precision == "bf16")
    # A report that says fp32 has none of TF32, which torch has convolutions on a GPU in.
    with torch.inference_mode(), mixed, hold_kernels(torch.backends):
        for batch in batches:
            pictures = batch.pictures.to(device, non_blocking=True)
            logits = model(classifier.preprocessing.normalize(pictures)).float()
            finite &= torch.isfinite(logits).all()
            if allowed is not None:
                logits = logits.masked_fill(~allowed, -torch.inf)
            if groups:
                log_p = logits.log_softmax(1)
                logits = torch.stack([log_p[:, group].logsumexp(1) - math.log(len(group)) for group in groups], 1)
            # Left on the device until the end: fetching a result would wait for it.
            top5.append(_likeliest(logits))
            sure.append(_log_probabilities(logits, torch.from_numpy(batch.labels).to(device)))
            labels.append(batch.labels)
            done += len(batch.labels)
            if progress:
                progress(done)
    if not finite.item():
        raise GenintError(f"{test_set.name}: {classifier.name} gives logits that are not finite")
    width = max(own.shape[1] for own in labels)
    padded = [np.pad(own, ((0, 0), (0, width - own.shape[1])), constant_values=-1) for own in labels]
    confidence, likelihood = torch.cat(sure, dim=1).cpu().numpy()
    return Predictions(torch.cat(top5).cpu().numpy(), np.concatenate(padded), np.exp(confidence), likelihood)


def predict_sets(
    classifier: Classifier,
    test_sets: Sequence[TestSet],
    cache: "Cache | None" = None,
    batch_size: int = 64,
    workers: int = 0,
    device: str | torch.device = "cpu",
    precision: Precision = "fp32",
) -> Iterator[tuple[TestSet, Predictions]]:
    """Predictions for set after set with one classifier, showing progress over all; what the cache has is not made
    again, so an interrupted run goes on where it was."""
    total, before = sum(len(test_set) for test_set in test_sets), 0
    with ProgressDisplay(classifier.name, "images") as display:
        for test_set in test_sets:
            kept = cache.entry(classifier, test_set, precision) if cache else None
            found = kept.load() if kept else None
            if found is None:

                def show(done: int, before: int = before, name: str = test_set.name) -> None:
                    display.update(before + done, total, name)

                show(0)
                found = predict(classifier, test_set, batch_size, workers, device, precision, show)
                if kept:
                    kept.save(found)
            before += len(found)
            yield test_set, found


def write_table(path: Path, test_set: TestSet, class_names: Sequence[str], found: Predictions) -> None:
    """Write predictions as CSV, whole or not at all: key, right labels, five likeliest answers, probabilities of the
    first and of the labels. Where answers are groups of classes, labels and answers are their numbers."""

    def names(numbers: NDArray[np.int32]) -> list[str]:
        return [str(n) if test_set.groups else class_names[n] for n in numbers.tolist() if n >= 0]

    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    answers = [f"answer_{place}" for place in range(1, TOP + 1)]
    writer.writerow(["key", "labels", *answers, "confidence", "label_probability"])
    probabilities = np.exp(found.log_likelihood)
    for position in range(len(found)):
        top = names(found.top5[position])
        writer.writerow(
            [
                test_set.key(position),
                ";".join(names(found.labels[position])),
                *(top + [""] * (TOP - len(top))),
                f"{found.confidence[position]:.6g}",
                f"{probabilities[position]:.6g}",
            ]
        )
    Storage(path.parent).write(path.name, text.getvalue().encode())


def match_classes(test_set: TestSet, classifier: Classifier) -> NDArray[np.int32]:
    """Class of the classifier for each class of the test set, by name. Raises UsageError where it knows one not."""
    places = {name: place for place, name in enumerate(classifier.class_names)}
    unknown = [name for name in test_set.class_names if name not in places]
    if unknown:
        known = ", ".join(classifier.class_names[:3])
        raise UsageError(
            f"{test_set.name}: {classifier.name} knows no class {unknown[0]!r}, nor {len(unknown) - 1:,} others of the "
            f"set's {len(test_set.class_names):,}; it knows {len(places):,}: {known}, ..."
        )
    return np.array([places[name] for name in test_set.class_names], np.int32)


class Cache:
    """Predictions in a folder, one file for each classifier (by its file's sha256), test set (by digest, what would be
    read now, and protocol), preprocessing, precision, and environment: device and versions that decide a number."""

    def __init__(self, folder: str | os.PathLike[str], environment: Mapping[str, str]) -> None:
        self.folder = Path(folder)
        self.environment = dict(environment)

    def entry(self, classifier: Classifier, test_set: TestSet, precision: Precision) -> "CacheEntry":
        """The place of one prediction. Ask before images are read: what is written meanwhile is of another entry.

        Raises FormatError where a shard of the set is not what its record says.
        """
        identity = {
            "version": CACHE_VERSION,
            "checkpoint": classifier.sha256,
            "arch": classifier.arch,
            "class_names": _digest(list(classifier.class_names)),
            "preprocessing": repr(classifier.preprocessing),
            "name": test_set.name,
            "test_set": test_set.digest(),
            "stamp": test_set.stamp(),
            "set_class_names": _digest(list(test_set.class_names)),
            "protocol": test_set.protocol,
            "groups": _digest(test_set.groups),
            "precision": precision,
            "environment": self.environment,
            # Of a classifier's heads, those that answer.
            **({"heads": list(classifier.heads)} if classifier.heads else {}),
        }
        return CacheEntry(self.folder / f"{_digest(identity)}.npz", identity, len(test_set))


@dataclass(frozen=True)
class CacheEntry:
    """One file of a cache, there or not yet; `count` images belong into it."""

    path: Path
    identity: Mapping[str, Any]
    count: int

    def load(self) -> Predictions | None:
        """What was saved; None where there is nothing, or nothing whole."""
        try:
            with open(self.path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                found = Predictions(*(arrays[name] for name in KEPT))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return found if {len(getattr(found, name)) for name in KEPT} == {self.count} else None

    def save(self, found: Predictions) -> None:
        """Put predictions in place, whole or not at all."""
        buffer = io.BytesIO()
        identity = np.array(json.dumps(self.identity, sort_keys=True))
        np.savez_compressed(buffer, identity=identity, **{name: getattr(found, name) for name in KEPT})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f"{self.path.name}.tmp.{uuid.uuid4().hex}")
        try:
            with open(temporary, "wb") as file:
                file.write(buffer.getvalue())
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
            sync_folder(self.path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@dataclass(frozen=True, eq=False)
class _Batch:
    """uint8 images [B, 3, H, W] and their labels [B, M]; -1 fills rows of fewer."""

    pictures: Tensor
    labels: NDArray[np.int32]

    def tensors(self) -> list[Tensor]:
        return [self.pictures]

    def pin_memory(self) -> "_Batch":
        return _Batch(self.pictures.pin_memory(), self.labels)


@dataclass(frozen=True)
class _Batches(Dataset[_Batch]):
    """Batches of a test set."""

    test_set: TestSet
    preprocessing: Preprocessing
    classes: NDArray[np.int32]
    batch_size: int

    def __len__(self) -> int:
        return -(-len(self.test_set) // self.batch_size)

    def __getitem__(self, index: int) -> _Batch:
        start = index * self.batch_size
        positions = range(start, min(start + self.batch_size, len(self.test_set)))
        transform = self.test_set.transform(self.preprocessing)
        pictures, labels = [], []
        for position in positions:
            content = self.test_set.read(position)
            with damage_named(f"{self.test_set.name}: {self.test_set.key(position)}"):
                pictures.append(transform(decode_picture(content)))
            labels.append(self.test_set.labels(position))
        return _Batch(torch.stack(pictures), self._pad(labels))

    def _pad(self, labels: list[tuple[int, ...]]) -> NDArray[np.int32]:
        width = max(map(len, labels))
        padded = np.full((len(labels), width), -1, np.int32)
        for row, own in zip(padded, labels, strict=True):
            row[: len(own)] = self.classes[list(own)]
        return padded


def _likeliest(logits: Tensor) -> Tensor:
    """The TOP likeliest classes [N, TOP], filled with -1 where there are fewer."""
    values, indices = logits.topk(min(TOP, logits.shape[1]), dim=1)
    found = indices.int().masked_fill(values == -torch.inf, -1)
    return torch.nn.functional.pad(found, (0, TOP - found.shape[1]), value=-1)


def _log_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """Log probability of the likeliest class and of the labels [N, M] together, [2, N]; -1 is no label."""
    log_p = logits.log_softmax(1)
    of_labels = log_p.gather(1, labels.long().clamp_min(0)).masked_fill(labels < 0, -torch.inf)
    return torch.stack([log_p.amax(1), of_labels.logsumexp(1)])


def _allowed(test_set: TestSet, classes: NDArray[np.int32], count: int, device: str | torch.device) -> Tensor | None:
    if test_set.allowed is None:
        return None
    allowed = torch.zeros(count, dtype=torch.bool)
    allowed[torch.from_numpy(classes[list(test_set.allowed)]).long()] = True
    return allowed.to(device)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
