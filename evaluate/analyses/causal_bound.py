"""How tightly an intervention bounds the causal effect: log P(x|z), and Theorem 1 (paper, sections 3.4 and 5.4).

x are held-out natural images, x' images generated under the intervention z, P(x|x') a similarity of their features,
and P(x'|z) uniform over a dictionary of x'. Figures 5 and 6 report the mean over x of

    log P(x|z) = log sum_x' P(x|x') P(x'|z).

The released code takes the best x' alone, drops P(x'|z), and compares images of one class. `score` and `reduction`
are the choices; the defaults are those whose scale agrees with the paper's -5.162. A maximum grows with the
dictionary, so all dictionaries have the same size a class.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ...manifests.dataset import Dataset, load_dataset
from ...manifests.errors import UsageError
from ...manifests.randomness import draw_without_replacement, integers_below, random_words
from ...manifests.sources.generated import InterventionalStream
from ...train.checkpoint import Classifier
from .latents import generated_stream
from .stream_images import StreamImages, check_same_classes, load_stream, open_stream, read_labels

Score = Literal["xent", "cosine", "released"]
Reduction = Literal["max", "logmeanexp"]
ScoreFunction = Callable[[Tensor, Tensor], Tensor]

FLOOR = 1e-100  # of the released code, in double precision
CHUNK = 1024  # rows of a score matrix held at once
BATCH = 100
RESAMPLES = 1000
DICTIONARY_SIZE = 500


def cross_entropy_score(queries: Tensor, dictionary: Tensor) -> Tensor:
    """Minus the cross-entropy between feature softmaxes, sum_d p_d log p'_d, [Q, D]: the released `Pxx_KL`."""
    return F.softmax(queries, 1) @ F.log_softmax(dictionary, 1).T


def cosine_score(queries: Tensor, dictionary: Tensor) -> Tensor:
    """Log of the cosine of two feature vectors, [Q, D]."""
    return (F.normalize(queries) @ F.normalize(dictionary).T).clamp_min(FLOOR).log()


def released_score(queries: Tensor, dictionary: Tensor) -> Tensor:
    """As `cosine_score`, with the released code's slip: vectors over their squared norms, [Q, D]."""
    over_squares = [features / features.square().sum(1, keepdim=True) for features in (queries, dictionary)]
    return (over_squares[0] @ over_squares[1].T).clamp_min(FLOOR).log()


SCORES: dict[Score, ScoreFunction] = {
    "xent": cross_entropy_score,
    "cosine": cosine_score,
    "released": released_score,
}


def best_of(scores: Tensor) -> Tensor:
    """log max_j P(x|x'_j) [Q] of log scores [Q, D]: the nearest image alone."""
    return scores.amax(1)


def log_mean_exp(scores: Tensor) -> Tensor:
    """log 1/D sum_j P(x|x'_j) [Q] of log scores [Q, D]: the mixture's density."""
    return scores.logsumexp(1) - math.log(scores.shape[1])


REDUCTIONS: dict[Reduction, Callable[[Tensor], Tensor]] = {"max": best_of, "logmeanexp": log_mean_exp}


def log_likelihoods(
    queries: Tensor, dictionary: Tensor, score: ScoreFunction, reduction: Callable[[Tensor], Tensor]
) -> NDArray[np.float64]:
    """log P(x|z) [Q] of query features [Q, F] against a dictionary's [D, F], a few rows at a time."""
    rows = [reduction(score(chunk.double(), dictionary.double())) for chunk in queries.split(CHUNK)]
    return np.asarray(torch.cat(rows).cpu().numpy(), np.float64)


def class_log_likelihoods(
    queries: Tensor,
    query_labels: NDArray[np.int64],
    dictionary: Tensor,
    dictionary_labels: NDArray[np.int64],
    score: ScoreFunction = cross_entropy_score,
    reduction: Callable[[Tensor], Tensor] = best_of,
) -> NDArray[np.float64]:
    """log P(x|z) [Q] of each query against the dictionary of its own class, as the released code compares them."""
    values = np.empty(len(queries))
    for label in np.unique(query_labels):
        rows, entries = query_labels == label, dictionary_labels == label
        if not entries.any():
            raise UsageError(f"no image of class {label} in the dictionary")
        values[rows] = log_likelihoods(
            queries[torch.from_numpy(rows)], dictionary[torch.from_numpy(entries)], score, reduction
        )
    return values


def draw_dictionary(class_labels: NDArray[np.int64], per_class: int, seed: int) -> NDArray[np.int64]:
    """Rows of `per_class` random images of each class that occurs, [classes * per_class].

    Raises UsageError where a class has fewer: dictionaries of different sizes cannot be compared.
    """
    rows = []
    for label in np.unique(class_labels):
        members = np.flatnonzero(class_labels == label)
        if len(members) < per_class:
            raise UsageError(
                f"class {label}: {len(members)} generated images, a dictionary takes {per_class}; "
                "build more or ask for smaller dictionaries"
            )
        words = random_words(seed, "dictionary", int(label), count=per_class)
        rows.append(members[draw_without_replacement(len(members), words)])
    return np.concatenate(rows)


def bootstrap_over_classes(
    values: NDArray[np.float64], class_labels: NDArray[np.int64], seed: int, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """95 % interval of the mean of `values` [Q]: whole classes are drawn again, as other classes might have been."""
    labels = np.unique(class_labels)
    sums = np.array([values[class_labels == label].sum() for label in labels])
    counts = np.array([(class_labels == label).sum() for label in labels])
    words = random_words(seed, "bootstrap over classes", count=resamples * len(labels))
    drawn = integers_below(len(labels), words).reshape(resamples, len(labels))
    low, high = np.quantile(sums[drawn].sum(1) / counts[drawn].sum(1), (0.025, 0.975))
    return float(low), float(high)


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """Images of one stream as a classifier sees them, read in one pass."""

    stream: str
    class_names: tuple[str, ...]
    class_labels: NDArray[np.int64]  # [N]
    features: Tensor  # [N, F], on the CPU
    label_probabilities: NDArray[np.float64]  # [N], of each image's own label
    classifier: str

    @property
    def images_per_class(self) -> int:
        """Images of each class that occurs. Raises UsageError where classes differ."""
        counts = set(np.unique(self.class_labels, return_counts=True)[1].tolist())
        if len(counts) > 1:
            raise UsageError(
                f"stream {self.stream!r}: {min(counts)} to {max(counts)} images a class, expected equally many"
            )
        return int(counts.pop())


def extract_features(classifier: Classifier, images: StreamImages, layer: str = "avgpool") -> ImageFeatures:
    """Output of a layer, flattened, and probabilities of the labels, for the images of a stream.

    `avgpool` is the last layer before the classes in torchvision's ResNets, 512 numbers in ResNet-18.
    """
    modules = dict(classifier.model.named_modules())
    if layer not in modules:
        raise UsageError(f"{classifier.name} ({classifier.arch}): no layer {layer!r} to take features from")
    device = next(classifier.model.parameters()).device
    features: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        features.append(output.flatten(1).cpu())

    hook = modules[layer].register_forward_hook(keep)
    try:
        with torch.inference_mode():
            logits = torch.cat(
                [
                    classifier.model(classifier.preprocessing.normalize(batch.to(device))).cpu()
                    for batch in images.images.split(BATCH)
                ]
            )
    finally:
        hook.remove()
    of_labels = logits.double().softmax(1)[torch.arange(len(logits)), torch.from_numpy(images.class_labels)]
    return ImageFeatures(
        images.stream, images.class_names, images.class_labels, torch.cat(features), of_labels.numpy(), classifier.name
    )


@dataclass(frozen=True)
class CausalBound:
    """log P(x|z) of one generated stream, mean over the queries."""

    stream: str
    query_stream: str
    score: str
    reduction: str
    log_likelihood: float
    interval: tuple[float, float]  # 95 %, bootstrap over classes
    per_class: tuple[float, ...]  # mean of each class, in order of the class labels
    queries: int
    dictionary_size: int  # images a class
    features: str  # name of the classifier whose features are compared


def measure_causal_bound(
    queries: ImageFeatures,
    dictionary: ImageFeatures,
    score: Score = "xent",
    reduction: Reduction = "max",
    seed: int = 0,
) -> CausalBound:
    """Mean log P(x|z) of held-out natural `queries` under the intervention that made `dictionary` (Figures 5 and 6).

    Raises UsageError where the classes of the two differ, or the dictionary has more images of one than of another.
    """
    check_same_classes(queries, dictionary)
    values = class_log_likelihoods(
        queries.features,
        queries.class_labels,
        dictionary.features,
        dictionary.class_labels,
        SCORES[score],
        REDUCTIONS[reduction],
    )
    return CausalBound(
        stream=dictionary.stream,
        query_stream=queries.stream,
        score=score,
        reduction=reduction,
        log_likelihood=float(values.mean()),
        interval=bootstrap_over_classes(values, queries.class_labels, seed),
        per_class=tuple(float(values[queries.class_labels == c].mean()) for c in np.unique(queries.class_labels)),
        queries=len(queries.class_labels),
        dictionary_size=dictionary.images_per_class,
        features=queries.classifier,
    )


@dataclass(frozen=True)
class BoundDifference:
    """log P(x|z) of one intervention less that of another: means of classes, paired.

    The interval of a single bound is mostly that classes differ from each other; this one leaves that out.
    """

    first: str
    second: str
    difference: float
    interval: tuple[float, float]  # 95 %, bootstrap over classes


def compare_bounds(first: CausalBound, second: CausalBound, seed: int = 0) -> BoundDifference:
    """Which of two interventions is the more effective, on the same queries, by dictionaries of the same size."""
    for name in ("query_stream", "score", "reduction", "queries", "dictionary_size", "features"):
        ours, theirs = getattr(first, name), getattr(second, name)
        if ours != theirs:
            raise UsageError(f"{first.stream} and {second.stream} cannot be compared: {name} {ours!r} and {theirs!r}")
    differences = np.array(first.per_class) - np.array(second.per_class)
    interval = bootstrap_over_classes(differences, np.arange(len(differences)), seed)
    return BoundDifference(first.stream, second.stream, float(differences.mean()), interval)


# Theorem 1


def normalized_likelihoods(queries: Tensor, dictionary: Tensor, score: ScoreFunction) -> NDArray[np.float64]:
    """P(x|z) [Q] as probabilities over the set of queries: they sum to 1.

    A similarity is no probability. Theorem 1 needs one, and the queries are the only x at hand, so each x' spreads
    its mass over them: P(x|x') = exp score(x, x') / sum over all queries, and P(x|z) is the mean over x'.
    """
    scores = torch.cat([score(chunk.double(), dictionary.double()) for chunk in queries.split(CHUNK)])
    log_p = log_mean_exp(F.log_softmax(scores, 0))
    return np.asarray(log_p.exp().cpu().numpy(), np.float64)


def causal_interval(
    label_given_image: NDArray[np.float64], image_given_intervention: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper bound of P(y|do(x)): P(y|x) P(x|z), and that plus 1 - P(x|z) (Theorem 1)."""
    lower = label_given_image * image_given_intervention
    return lower, lower + 1.0 - image_given_intervention


@dataclass(frozen=True)
class TheoremBound:
    """Theorem 1's bound on P(y|do(x)) for the true label y, mean over the queries.

    Any P(x|z) that sums to 1 over Q queries has mean 1/Q: the mean width says how many queries there are, not how
    good the intervention is. What interventions differ in is the mean log, whose largest value -log Q is reached by
    one that makes every query equally likely, and the share of queries whose bound is tighter (`share_tighter`).
    """

    stream: str
    lower: float
    upper: float
    width: float
    log_likelihood: float  # mean of the normalised log P(x|z), at most -log(queries)
    queries: int


@dataclass(frozen=True, eq=False)
class TheoremValues:
    """The normalised P(x|z) of every query [Q] and its bound, for comparing interventions query by query."""

    stream: str
    likelihood: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]

    def summary(self) -> TheoremBound:
        return TheoremBound(
            self.stream,
            float(self.lower.mean()),
            float(self.upper.mean()),
            float((self.upper - self.lower).mean()),
            float(np.log(self.likelihood).mean()),
            len(self.likelihood),
        )


def measure_theorem_bound(queries: ImageFeatures, dictionary: ImageFeatures, score: Score = "xent") -> TheoremValues:
    """Theorem 1's bound of every query with its true label, P(y|x) being the classifier's own."""
    check_same_classes(queries, dictionary)
    likelihood = normalized_likelihoods(queries.features, dictionary.features, SCORES[score])
    return TheoremValues(dictionary.stream, likelihood, *causal_interval(queries.label_probabilities, likelihood))


def share_tighter(first: TheoremValues, second: TheoremValues) -> float:
    """Share of the queries for which `first` is the more effective intervention: P(x|z1) > P(x|z2) (Theorem 1).

    Both sum to 1 over the queries, so neither can be so for all of them; where they are equal, each counts half.
    """
    wins, ties = first.likelihood > second.likelihood, first.likelihood == second.likelihood
    return float(wins.mean() + 0.5 * ties.mean())


# The sweep over t, k and s


@dataclass(frozen=True)
class SweepPoint:
    """One intervention I(t, k, s) with its causal bound, and what a classifier trained on its images reaches."""

    dataset: str
    stream: str
    truncation: float  # t
    num_directions: int  # k; 0: no intervention
    step_scale: float  # s; 0: no intervention
    step_ranges: str  # what s multiplies, as the recipe gives it: a number, a name, or their mean
    bound: CausalBound
    theorem: TheoremValues
    accuracy: float | None


def read_intervention(dataset: Dataset, stream: str) -> tuple[float, int, float, str]:
    """t, k, s and step ranges of a generated stream, from its dataset's recipe; k = s = 0 for an observational one."""
    entry = generated_stream(dataset, stream)
    if not isinstance(entry, InterventionalStream):
        return entry.truncation, 0, 0.0, "0"
    ranges = entry.step_ranges
    if isinstance(ranges, list):
        described = f"by direction, {np.abs(entry.ranges).mean() / entry.step_scale:.1f} on average"
    else:
        described = ranges if isinstance(ranges, str) else f"{ranges:g}"
    return entry.truncation, entry.num_directions, entry.step_scale, described


def load_dictionary(
    dataset: Dataset, stream: str, classifier: Classifier, per_class: int, seed: int = 0
) -> StreamImages:
    """`per_class` random images of each class of a generated stream; the rest is not decoded."""
    samples = open_stream(dataset, stream)
    rows = draw_dictionary(read_labels(samples), per_class, seed)
    return load_stream(samples, classifier.preprocessing, np.sort(rows).tolist())


def measure_sweep(
    locations: Sequence[str],
    stream: str,
    classifier: Classifier,
    queries: StreamImages,
    accuracies: Mapping[str, float] | None = None,
    score: Score = "xent",
    reduction: Reduction = "max",
    dictionary_size: int = DICTIONARY_SIZE,
    seed: int = 0,
) -> list[SweepPoint]:
    """Both bounds of `stream` in each dataset, with t, k and s as their recipes say (Figure 6).

    `accuracies`, by location, are of classifiers trained on that stream (Figure 5).
    """
    asked = extract_features(classifier, queries)
    points = []
    for location in locations:
        dataset = load_dataset(location)
        images = load_dictionary(dataset, stream, classifier, dictionary_size, seed)
        dictionary = extract_features(classifier, images)
        points.append(
            SweepPoint(
                location,
                stream,
                *read_intervention(dataset, stream),
                measure_causal_bound(asked, dictionary, score, reduction, seed),
                measure_theorem_bound(asked, dictionary, score),
                None if accuracies is None else accuracies.get(location),
            )
        )
    return points
