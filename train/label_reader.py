"""Classifiers as readers of labels, for whoever scores pictures."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..manifests.errors import GenintError
from ..manifests.kernels import hold_kernels
from ..manifests.label_reader import LabelReader
from .checkpoint import Classifier, known_archs, load_classifier


class CheckpointReader:
    """A `LabelReader` of a trained classifier, with its own resize and crop."""

    def __init__(self, name: str, classifier: Classifier, device: str) -> None:
        self.name = name
        self.sha256 = classifier.sha256
        self.class_names = classifier.class_names
        self._preprocessing = classifier.preprocessing
        self._model = classifier.model.to(device)
        self._device = device

    def read(self, pictures: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Probabilities [N, len(class_names)] of RGB pictures."""
        images = torch.stack([self._preprocessing.prepare(picture) for picture in pictures]).to(self._device)
        with torch.inference_mode(), hold_kernels(torch.backends):
            found = self._model(self._preprocessing.normalize(images)).float().softmax(1).cpu().numpy()
        if not np.isfinite(found).all():
            raise GenintError(f"{self.name}: gives logits that are not finite")
        return np.asarray(found, np.float32)


def open_checkpoint(location: str, device: str) -> LabelReader:
    """The classifier of a location of `load_classifier`. Raises UsageError or FormatError."""
    classifier = load_classifier(location)
    for note in classifier.notes:
        print(f"{location}: {note}", file=sys.stderr)
    return CheckpointReader(_shown(location), classifier, device)


def _shown(location: str) -> str:
    """A location without the folders of this machine; of a run's folder its name."""
    if location.startswith("torchvision:"):
        return location
    arch, separator, path = location.partition("=")
    if separator and arch in known_archs():
        return f"{arch}={Path(path).name}"
    return Path(location).name
