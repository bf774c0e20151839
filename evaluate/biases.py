"""What answers on two sets, or on cue conflicts, say together of one classifier."""

from collections.abc import Sequence

import numpy as np

from .metrics.accuracy import accuracy, difference_interval
from .metrics.bootstrap import bootstrap_over_clusters
from .metrics.shape_bias import shape_bias
from .prediction import Predictions
from .report.results import Bias
from .test_sets import CueConflictSet, TestSet

SAME, RANDOM = "imagenet-9:mixed_same", "imagenet-9:mixed_rand"


def measure_biases(checkpoint: str, found: Sequence[tuple[TestSet, Predictions]], whose: str = "") -> list[Bias]:
    """ImageNet-9's background gap, and the shape bias of cue conflicts; `whose` says of which heads they are."""
    by_name = {test_set.name: predictions for test_set, predictions in found}
    same, rand = by_name.get(SAME), by_name.get(RANDOM)
    biases = []
    if same and rand:
        both = accuracy(same.hit1), accuracy(rand.hit1)
        gap, images = both[0].value - both[1].value, len(same) + len(rand)
        words = "ImageNet-9: top-1 where backgrounds are of the object's own class, less that where they are of any"
        biases.append(Bias(checkpoint, f"background gap{whose}", gap, images, words, difference_interval(*both)))
    for test_set, predictions in found:
        if isinstance(test_set, CueConflictSet):
            answers, shapes, textures = predictions.top5[:, 0], predictions.labels[:, 0], np.array(test_set.textures)
            share = shape_bias(answers, shapes, textures)
            if share:
                words = "cue conflicts: of the answers that are the shape's class or the texture's, those for the shape"
                either = (answers == shapes) | (answers == textures)
                photos = test_set.clusters().numbers[either]
                interval = bootstrap_over_clusters((answers == shapes)[either], photos)
                biases.append(Bias(checkpoint, f"shape bias{whose}", *share, words, interval))
    return biases
