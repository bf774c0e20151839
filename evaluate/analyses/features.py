"""What a classifier makes of the images of a stream: features, probabilities of the labels, predictions."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...manifests.errors import UsageError
from ...train.checkpoint import Classifier
from .stream_images import StreamImages

BATCH = 100


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


def predict_top1(classifier: Classifier, images: Tensor) -> NDArray[np.int64]:
    """Top-1 class [N] of images uint8 [N, 3, crop, crop]."""
    device = next(classifier.model.parameters()).device
    batches = (classifier.preprocessing.normalize(batch.to(device)) for batch in images.split(BATCH))
    return np.asarray(torch.cat([choose_top1(classifier, batch).cpu() for batch in batches]).numpy(), np.int64)


def choose_top1(classifier: Classifier, inputs: Tensor) -> Tensor:
    """Top-1 class [N] of normalised images [N, 3, crop, crop]."""
    with torch.no_grad():
        chosen: Tensor = classifier.model(inputs).argmax(1)
    return chosen
