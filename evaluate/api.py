"""In one's own code: measure one's own classifier on a test set, and the metrics of the field as functions of arrays.

The names in `__all__` stay: one that has to change is announced in the CHANGELOG and works for another release. The
first call that needs torch imports it; the metrics need none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .metrics.accuracy import Measured, accuracy
from .metrics.corruption_error import ce, mce, mean_error, relative_ce, relative_mce
from .metrics.effective_robustness import LineFit, effective_robustness, fit_line, predicted_accuracy
from .metrics.shape_bias import shape_bias

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..train.checkpoint import Preprocessing
    from .prediction import Predictions

__all__ = [
    "Evaluation",
    "LineFit",
    "Measured",
    "accuracy",
    "ce",
    "effective_robustness",
    "evaluate_model",
    "fit_line",
    "mce",
    "mean_error",
    "predicted_accuracy",
    "relative_ce",
    "relative_mce",
    "shape_bias",
]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a classifier scores on one test set.

    protocol: transform and label rule, in words. notes: what a reader of the numbers should be told, such as that
    images are missing. top1, top5: shares of right images with their 95 % intervals. predictions: of every image.
    """

    test_set: str
    protocol: str
    notes: tuple[str, ...]
    top1: Measured
    top5: Measured
    predictions: "Predictions"


def evaluate_model(
    model: "nn.Module",
    test_set: str,
    class_names: Sequence[str],
    *,
    preprocessing: "Preprocessing | None" = None,
    batch_size: int = 64,
    workers: int = 0,
    device: "str | torch.device" = "cpu",
    precision: Literal["fp32", "bf16"] = "fp32",
) -> list[Evaluation]:
    """Measure a classifier on the test sets that `KIND=LOCATION` stands for.

    model: standardised images [N, 3, crop, crop] to logits [N, classes]. It is moved to `device`, and its training mode
    is as before afterwards.
    test_set: such as `shards=datasets/mini:test-shifted`, `folder=DIR`, `imagenet-a=DIR`; one set, or the several of a
    benchmark.
    class_names: of the logits, by which the set's classes are found: wnids for ImageNet's.
    preprocessing: None: shorter side to 256 px, centre crop of 224, ImageNet's mean and standard deviation.

    Raises UsageError where there is no such test set or the model knows other classes, FormatError that names an image
    which cannot be read, GenintError where logits are not finite.
    """
    from ..train.checkpoint import Classifier, Preprocessing
    from .prediction import predict
    from .test_sets import open_test_set

    classifier = Classifier(
        name=type(model).__name__,
        model=model,
        arch=type(model).__name__,
        class_names=tuple(class_names),
        preprocessing=preprocessing or Preprocessing(),
        sha256="",
    )
    modes = [(module, module.training) for module in model.modules()]
    try:
        found = []
        for each in open_test_set(test_set):
            predictions = predict(classifier, each, batch_size, workers, device, precision)
            top1, top5 = accuracy(predictions.hit1), accuracy(predictions.hit5)
            found.append(Evaluation(each.name, each.protocol, each.notes, top1, top5, predictions))
        return found
    finally:
        # One by one: a part that its owner keeps in evaluation mode, such as frozen batch norm, stays there.
        for module, mode in modes:
            module.training = mode
