"""Measure checkpoints on test sets, into one folder of results."""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..manifests.console import ProgressDisplay, warn
from ..manifests.errors import UsageError
from ..train.checkpoint import Classifier, known_archs, load_classifier
from .biases import measure_biases
from .corrupt import corrupt
from .heads import measure_heads
from .metrics.accuracy import Hits, accuracy
from .metrics.bootstrap import bootstrap_over_clusters, paired_bootstrap
from .metrics.calibration import calibration_error, negative_log_likelihood
from .metrics.corruption_error import ALEXNET_ERRORS, TEST_CORRUPTIONS, ce, mce, mean_error, photo_errors, relative_mce
from .metrics.groups import group_accuracies, mean_over_groups, worst_group
from .prediction import CACHE, Cache, Precision, Predictions, match_classes, predict_sets, write_table
from .report.results import (
    Accuracy,
    CheckpointEntry,
    Clustered,
    CorruptionErrors,
    Difference,
    GroupAccuracy,
    Groups,
    Results,
    describe_environment,
    shown_locations,
)
from .test_sets import CorruptionSet, FileSet, TestSet, open_test_set
from .test_sets.masked import validation_of
from .test_sets.streams import StreamSet, read_as_labelled
from .test_sets.subset import first_of_each_class
from .test_sets.test_set import Clusters, Grouping

CORRUPTED = "corrupted"
PREDICTIONS = "predictions"


@dataclass(frozen=True)
class Candidate:
    """A classifier to be measured, under the name that the report gives it."""

    name: str
    group: str
    location: str  # as the report names it
    classifier: Classifier

    def entry(self) -> CheckpointEntry:
        found = self.classifier
        return CheckpointEntry(
            self.name, self.group, found.preset, found.arch, found.sha256, found.step, found.seed, self.location
        )


def load_candidates(texts: Sequence[str]) -> list[Candidate]:
    """Classifiers given as `LOCATION` or `LABEL=LOCATION`; those of one label form a row of the report.

    Raises UsageError where two of one label are the same file.
    """
    candidates: list[Candidate] = []
    for text in texts:
        label, separator, rest = text.partition("=")
        # ARCH=FILE says what a bare state dict is of.
        labelled = bool(separator) and label not in known_archs()
        location = rest if labelled else text
        classifier = load_classifier(location)
        for note in classifier.notes:
            warn(f"{text}: {note}")
        group = label if labelled else classifier.name
        same = [candidate for candidate in candidates if candidate.group == group]
        if any(candidate.classifier.sha256 == classifier.sha256 for candidate in same):
            raise UsageError(f"--checkpoint {text}: the same checkpoint is given twice as {group!r}")
        if same and not labelled:
            raise UsageError(f"--checkpoint {text}: another one is called {group!r}; tell them apart as LABEL={text}")
        if labelled and sum(other.partition("=")[0] == label for other in texts) > 1:
            name = f"{group}/{classifier.name}"
            name = name if all(name != c.name for c in same) else f"{group}/{classifier.sha256[:8]}"
        else:
            name = group
        # Progress and errors name it as the report does.
        candidates.append(Candidate(name, group, location, replace(classifier, name=name)))
    shown = _shown([candidate.location for candidate in candidates])
    return [replace(candidate, location=location) for candidate, location in zip(candidates, shown, strict=True)]


def _shown(locations: Sequence[str]) -> list[str]:
    """Locations of checkpoints as a report may name them; ARCH= stays before a file's."""
    split = [location.partition("=") if location.partition("=")[0] in known_archs() else ("", "", location)
             for location in locations]  # fmt: skip
    paths = shown_locations([path for _, _, path in split])
    return [f"{arch}{separator}{path}" for (arch, separator, _), path in zip(split, paths, strict=True)]


def open_test_sets(
    texts: Sequence[str], group_by: str | None = None, min_fidelity: float | None = None
) -> list[TestSet]:
    """All sets asked for, streams with their groups by a key of their samples' json; ImageNet-A and -R come with the
    validation images of their classes where these are asked for too. min_fidelity: of generated streams the images
    alone whose label is read at least so surely. Raises UsageError where two have one name."""
    found = [test_set for text in texts for test_set in open_test_set(text)]
    if group_by is not None:
        found = [replace(one, group_by=group_by) if isinstance(one, StreamSet) else one for one in found]
    if min_fidelity is not None:
        found = [read_as_labelled(one, min_fidelity) if isinstance(one, StreamSet) else one for one in found]
    validation = next((test_set for test_set in found if test_set.name == "imagenet"), None)
    if isinstance(validation, FileSet):
        masked = [name for name in ("imagenet-a", "imagenet-r") if any(s.name.startswith(f"{name}:") for s in found)]
        found += [validation_of(name, validation) for name in masked]
    names = [test_set.name for test_set in found]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two test sets are called {name!r}: {', '.join(texts)}")
    return found


def make_corrupted(source: StreamSet, folder: Path, images_per_class: int, workers: int) -> list[CorruptionSet]:
    """A corrupted copy of the first images of each class, made once: the 15 corruptions at 5 severities."""
    subset = first_of_each_class(source, images_per_class)
    with ProgressDisplay(f"corrupting {source.name}", "images") as display:
        return corrupt(subset, folder / CORRUPTED, workers=workers, progress=display.update)


def check_fit(candidates: Sequence[Candidate], test_sets: Sequence[TestSet]) -> None:
    """Raise UsageError where a classifier does not know a set's classes, or a set lacks something."""
    for candidate in candidates:
        for test_set in test_sets:
            match_classes(test_set, candidate.classifier)
    for test_set in test_sets:
        test_set.labels(0)  # lists ImageNet-C's folders, and finds what lacks in them


def measure(
    candidates: Sequence[Candidate],
    test_sets: Sequence[TestSet],
    folder: Path,
    results: Results,
    device: str = "cpu",
    precision: Precision = "fp32",
    batch_size: int = 64,
    workers: int = 0,
    export: bool = False,
) -> Results:
    """Add the accuracy of every candidate on every set to `results`, and what follows: corruption errors and paired
    differences from the first candidate.

    Predictions are kept in `folder`: an interrupted measurement goes on where it was. `export` writes them as CSV too.
    Raises UsageError before any work where a classifier does not know a set's classes.
    """
    check_fit(candidates, test_sets)
    clusters = {test_set.name: test_set.clusters() for test_set in test_sets}
    groupings = {test_set.name: test_set.grouping() for test_set in test_sets}
    environment = {**describe_environment(device), "precision": precision}
    key = hashlib.sha256(json.dumps(environment, sort_keys=True).encode()).hexdigest()[:12]
    results.environments[key] = environment
    names = {candidate.name for candidate in candidates}
    sets = {test_set.name for test_set in test_sets}
    corrupted = [test_set for test_set in test_sets if isinstance(test_set, CorruptionSet)]
    copies = {copy_name(test_set) for test_set in corrupted}
    _forget_others(results, candidates, folder)
    entries = {candidate.name: candidate.entry() for candidate in candidates}
    # In place, so that the first row stays the one that others are compared with.
    results.checkpoints = [entries.pop(e.name, e) for e in results.checkpoints] + list(entries.values())
    results.accuracy = [e for e in results.accuracy if not (e.checkpoint in names and e.test_set in sets)]
    results.corruption = [e for e in results.corruption if not (e.checkpoint in names and e.test_set in copies)]
    results.groups = [e for e in results.groups if not (e.checkpoint in names and e.test_set in sets)]
    results.heads = [e for e in results.heads if not (e.checkpoint in names and e.test_set in sets)]
    results.differences = [e for e in results.differences if e.test_set not in sets]
    baseline: dict[str, Predictions] = {}
    share_photos = {name: _share_photos([s for s in corrupted if copy_name(s) == name]) for name in copies}
    cache = Cache(folder / CACHE, environment)
    for candidate in candidates:
        found = predict_sets(candidate.classifier, test_sets, cache, batch_size, workers, device, precision)
        wrong: dict[str, dict[str, dict[int, Hits]]] = defaultdict(lambda: defaultdict(dict))
        whole: list[tuple[TestSet, Predictions]] = []
        for test_set, predictions in found:
            if not isinstance(test_set, CorruptionSet):
                whole.append((test_set, predictions))
            if export:
                table = folder / PREDICTIONS / file_name(candidate.name) / f"{file_name(test_set.name)}.csv"
                write_table(table, test_set, candidate.classifier.class_names, predictions)
            top1, top5 = accuracy(predictions.hit1), accuracy(predictions.hit5)
            results.accuracy.append(
                Accuracy(
                    candidate.name, test_set.name, test_set.protocol, test_set.marked, test_set.digest(), top1.count,
                    top1.value, (top1.low, top1.high), top5.value, (top5.low, top5.high), key,
                    calibration_error(predictions.confidence, predictions.hit1),
                    max(0.0, negative_log_likelihood(predictions.log_likelihood)), test_set.notes,
                    over_clusters(predictions.hit1, clusters[test_set.name]),
                )
            )  # fmt: skip
            grouping = groupings[test_set.name]
            if grouping:
                results.groups.append(measure_groups(candidate.name, test_set.name, grouping, predictions.hit1))
            if isinstance(test_set, CorruptionSet):
                wrong[copy_name(test_set)][test_set.corruption][test_set.severity] = ~predictions.hit1
            elif candidate is candidates[0]:
                baseline[test_set.name] = predictions
            else:
                own, other = predictions.hit1, baseline[test_set.name].hit1
                value, low, high = paired_bootstrap(own, other)
                results.differences.append(
                    Difference(
                        candidates[0].name, candidate.name, test_set.name, len(predictions), value, (low, high),
                        over_clusters(own.astype(int) - other, clusters[test_set.name]),
                    )
                )  # fmt: skip
        predict = partial(
            predict_sets, cache=cache, batch_size=batch_size, workers=workers, device=device, precision=precision
        )
        of_heads, heads = measure_heads(candidate.name, candidate.classifier, test_sets, predict)
        results.heads += heads
        biases = measure_biases(candidate.name, whole) + of_heads
        measured = {(bias.checkpoint, bias.name) for bias in biases}
        results.biases = [b for b in results.biases if (b.checkpoint, b.name) not in measured] + biases
        for name, by_corruption in wrong.items():
            marked, images = next((s.marked, len(s)) for s in corrupted if copy_name(s) == name)
            clean = next(
                (e.top1 for e in results.accuracy if e.checkpoint == candidate.name and e.test_set == "imagenet"), None
            )
            errors = {c: {s: float(hits.mean()) for s, hits in by.items()} for c, by in by_corruption.items()}
            entry = corruption_errors(candidate.name, name, marked, errors, clean)
            over_photos = None
            if share_photos[name]:
                listed = {corruption: list(by.values()) for corruption, by in by_corruption.items()}
                values = photo_errors(listed, entry.mce is not None)
                over_photos = over_clusters(values, Clusters("photo", np.arange(images)))
            results.corruption.append(replace(entry, images=images, clustered=over_photos))
    return results


def measure_groups(checkpoint: str, test_set: str, grouping: Grouping, hits: Hits) -> Groups:
    """Accuracy by group, of the worst and over all."""
    measured = group_accuracies(hits, grouping.numbers)
    listed = [
        GroupAccuracy(name, group.count, group.value, (group.low, group.high))
        for name, group in zip(grouping.names, measured, strict=True)
    ]
    worst = grouping.names[worst_group(measured)]
    return Groups(checkpoint, test_set, grouping.digest(), listed, worst, mean_over_groups(measured))


def over_clusters(values: NDArray[np.generic], clusters: Clusters | None) -> Clustered | None:
    """The interval of a mean of values [N] where images were drawn in clusters."""
    if clusters is None:
        return None
    return Clustered(clusters.unit, clusters.count, bootstrap_over_clusters(values, clusters.numbers))


def _share_photos(sets: Sequence[CorruptionSet]) -> bool:
    """Whether sets are corruptions of the same photos, in the same order."""
    first, *others = ([one.key(position) for position in range(len(one))] for one in sets)
    return all(keys == first for keys in others)


def _forget_others(results: Results, candidates: Sequence[Candidate], folder: Path) -> None:
    """Drop the numbers of checkpoints that were measured under a candidate's name, and say so."""
    before = {entry.name: entry.sha256 for entry in results.checkpoints}
    others = {c.name for c in candidates if before.get(c.name, c.classifier.sha256) != c.classifier.sha256}
    for name in sorted(others):
        warn(f"{name}: another checkpoint had this name in {folder}; its numbers are dropped")
    results.accuracy = [e for e in results.accuracy if e.checkpoint not in others]
    results.corruption = [e for e in results.corruption if e.checkpoint not in others]
    results.biases = [e for e in results.biases if e.checkpoint not in others]
    results.groups = [e for e in results.groups if e.checkpoint not in others]
    results.heads = [e for e in results.heads if e.checkpoint not in others]
    results.differences = [e for e in results.differences if not {e.checkpoint, e.baseline} & others]


def corruption_errors(
    checkpoint: str, name: str, marked: str, errors: dict[str, dict[int, float]], clean_top1: float | None
) -> CorruptionErrors:
    """Errors by corruption; for official ImageNet-C CE and mCE as well, and relative mCE where the clean accuracy on
    ImageNet's validation images was measured too. Raises UsageError where a corruption or severity of it lacks."""
    listed = {corruption: [by[severity] for severity in sorted(by)] for corruption, by in errors.items()}
    means = {corruption: 100 * mean_error(values) for corruption, values in listed.items()}
    tested = [means[corruption] for corruption in means if corruption in TEST_CORRUPTIONS] or list(means.values())
    mean = sum(tested) / len(tested)
    if marked != "official" or not errors.keys() <= ALEXNET_ERRORS.keys():
        return CorruptionErrors(checkpoint, name, marked, means, mean)
    return CorruptionErrors(
        checkpoint,
        name,
        marked,
        means,
        mean,
        ce={corruption: ce(corruption, values) for corruption, values in listed.items()},
        mce=mce(listed),
        relative_mce=None if clean_top1 is None else relative_mce(listed, 1.0 - clean_top1),
    )


def file_name(name: str) -> str:
    """A name of a checkpoint or set as one of a file; what it cannot hold is told by a digest."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip(".")[:100]
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def copy_name(test_set: CorruptionSet) -> str:
    """Name of the whole of which a set is one corruption and severity."""
    return test_set.name.removesuffix(f"/{test_set.corruption}/{test_set.severity}")
