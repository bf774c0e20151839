"""What the heads of an invariant classifier (Sauer & Geiger 2021) do apart, and on labels of the other mechanisms."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from ..train.checkpoint import Classifier
from .biases import RANDOM, SAME, measure_biases
from .metrics.accuracy import accuracy
from .metrics.calibration import negative_log_likelihood
from .prediction import Predictions
from .report.results import Bias, HeadAccuracy
from .test_sets import CueConflictSet, TestSet
from .test_sets.streams import StreamSet

# Of the mean of these heads the authors report ImageNet-9: what is of the object.
OF_THE_OBJECT = ("shape", "texture")

Predict = Callable[[Classifier, Sequence[TestSet]], Iterator[tuple[TestSet, Predictions]]]


class MeanOfHeads(nn.Module):
    """Normalised images to the mean logits of some of a classifier's heads."""

    def __init__(self, classifier: Classifier, heads: Sequence[str]) -> None:
        super().__init__()
        self.model = classifier.model
        self._each, self._heads = classifier.head_logits, tuple(heads)

    def forward(self, images: Tensor) -> Tensor:
        each = self._each(images)
        return torch.stack([each[head] for head in self._heads]).mean(0)


def only_heads(classifier: Classifier, heads: Sequence[str]) -> Classifier:
    """A classifier that answers by the mean of some of its heads."""
    name = f"{classifier.name}, {' and '.join(heads)}"
    return replace(classifier, name=name, model=MeanOfHeads(classifier, heads).eval(), heads=tuple(heads))


def measure_heads(
    checkpoint: str, classifier: Classifier, test_sets: Sequence[TestSet], predict: Predict
) -> tuple[list[Bias], list[HeadAccuracy]]:
    """Shape bias by head, ImageNet-9's gap for the heads of the object, and how each head reads the labels of all
    mechanisms where samples have them; nothing for a classifier without heads."""
    biases: list[Bias] = []
    accuracies: list[HeadAccuracy] = []
    conflicts = [one for one in test_sets if isinstance(one, CueConflictSet)]
    for head in classifier.heads:
        alone = only_heads(classifier, [head])
        biases += measure_biases(checkpoint, list(predict(alone, conflicts)), f", {head} head")
        for one in test_sets:
            if isinstance(one, StreamSet) and head in one.mechanisms():
                accuracies += _read_labels(checkpoint, head, one, alone, predict)
    pair = [one for one in test_sets if one.name in (SAME, RANDOM)]
    if set(OF_THE_OBJECT) <= set(classifier.heads) and len(pair) == 2:
        found = predict(only_heads(classifier, OF_THE_OBJECT), pair)
        biases += measure_biases(checkpoint, list(found), f", {' and '.join(OF_THE_OBJECT)} heads")
    return biases, accuracies


def _read_labels(
    checkpoint: str, head: str, one: StreamSet, alone: Classifier, predict: Predict
) -> Iterator[HeadAccuracy]:
    """A head on the labels of every mechanism, its own with its cross-entropy."""
    ((labelled, found),) = predict(alone, [one.labelled_by(head)])
    answers = found.top5[:, 0]
    for mechanism in one.mechanisms():
        told = labelled if mechanism == head else one.labelled_by(mechanism)
        names = [told.class_names[told.labels(position)[0]] for position in range(len(told))]
        top1 = accuracy(np.array([alone.class_names[answer] for answer in answers]) == np.array(names))
        loss = max(0.0, negative_log_likelihood(found.log_likelihood)) if mechanism == head else None
        yield HeadAccuracy(checkpoint, one.name, head, mechanism, top1.count, top1.value, (top1.low, top1.high), loss)
