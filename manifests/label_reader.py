"""What a classifier is to those who ask how surely pictures are read as their labels.

The room of classifiers and the one that makes pictures do not know each other: both know this, and a location is opened
by whom the table names, as fsspec opens a URL.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Module and function that open a checkpoint or torchvision's weights.
CHECKPOINTS: Final = ("..train.label_reader", "open_checkpoint")


class LabelReader(Protocol):
    """A classifier with what it takes in and gives out."""

    @property
    def name(self) -> str:
        """As a dataset names it: without the folders of one machine."""
        ...

    @property
    def sha256(self) -> str:
        """Digest of its weights."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    def read(self, pictures: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Probabilities [N, len(class_names)] of RGB pictures of any size.

        Raises GenintError where one is no number.
        """
        ...


def open_checkpoint(location: str, device: str) -> LabelReader:
    """The classifier of a run's folder, a checkpoint file, ARCH=FILE, or `torchvision:ARCH[:WEIGHTS]`.

    Raises UsageError or FormatError.
    """
    module, function = CHECKPOINTS
    reader: LabelReader = getattr(import_module(module, __package__), function)(location, device)
    return reader
