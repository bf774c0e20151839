"""Train the mini world's reader of objects: what tells whether a generated picture still shows its class."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ...manifests.world import CLASSES, SLICES, draw_nuisances
from .reader import FILE_NAME, MiniReader, ObjectCnn, load_reader
from .training import EpochProgress, to_tensor, train_epochs
from .world import BATCH, compose, compose_pictures, load_objects

CONFOUNDING = 0.8  # of the mini dataset's natural pictures


@dataclass(frozen=True)
class ReaderSettings:
    """What the weights depend on, recorded beside them.

    confounding: of the training pictures; without it the background says nothing, and only the object is read. An
    object is seen under other nuisances in every epoch.
    """

    seed: int = 0
    epochs: int = 10
    batch_size: int = 100
    learning_rate: float = 4e-3
    confounding: float = 0.0
    num_objects: int = SLICES["train"]


def fit_reader(out: Path, settings: ReaderSettings) -> Iterator[EpochProgress]:
    """Train and write `reader.pth` and the settings into `out`; the loss is the cross entropy."""
    out.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)  # the layers' own initialisation offers no generator argument
        network = ObjectCnn(len(CLASSES))
    labels = torch.from_numpy(load_objects("train").class_labels[: settings.num_objects])

    def begin(epoch: int) -> Callable[[Tensor], Tensor]:
        images = to_tensor(_compose_anew(labels.numpy(), epoch, settings.confounding))
        return lambda rows: F.cross_entropy(network(images[rows]), labels[rows])

    yield from train_epochs(network.parameters(), len(labels), settings, begin)
    torch.save(network.state_dict(), out / FILE_NAME)
    (out / "settings.json").write_text(json.dumps(asdict(settings), indent=2) + "\n")


def _compose_anew(labels: NDArray[np.int64], epoch: int, confounding: float) -> NDArray[np.uint8]:
    """The leading training objects [N, 32, 32, 3] under an epoch's own nuisances."""
    objects, identity = load_objects("train").images[: len(labels)], np.arange(len(labels))
    nuisances = draw_nuisances(labels, identity, f"fit-reader epoch {epoch}", confounding, confounding)
    starts = range(0, len(labels), BATCH)
    return np.concatenate([compose(objects[i : i + BATCH], nuisances[i : i + BATCH])[0] for i in starts])


def measure_reader(folder: Path) -> dict[str, Any]:
    """Share of held-out pictures whose object is read as its class, with the world's confounding and without, and the
    mean probability of that class."""
    reader = load_reader(folder / FILE_NAME)
    natural, natural_score = _recognised(reader, CONFOUNDING)
    shifted, shifted_score = _recognised(reader, 0.0)
    labels = load_objects("test").class_labels
    return {
        "weights_sha256": reader.sha256,
        "recognised": round(float(natural.mean()), 4),
        "recognised_shifted": round(float(shifted.mean()), 4),
        "mean_score": round(natural_score, 4),
        "mean_score_shifted": round(shifted_score, 4),
        "recognised_shifted_by_class": {
            name: round(float(shifted[labels == c].mean()), 3) for c, name in enumerate(CLASSES)
        },
    }


def _recognised(reader: MiniReader, confounding: float) -> tuple[NDArray[np.bool_], float]:
    """Which held-out pictures are read as their class [N], and the mean probability of that class."""
    pictures = compose_pictures("test", np.arange(SLICES["test"]), confounding, confounding)
    found = reader.read_pixels(pictures.images)
    own = found[np.arange(len(found)), pictures.class_labels]
    return found.argmax(1) == pictures.class_labels, float(own.mean())
