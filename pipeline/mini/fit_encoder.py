"""Train the mini world's perceptual encoder: a small VGG that reads classes, saved as torchvision names its weights."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ...manifests.shard import sha256_of_file
from ...manifests.world import CLASSES, IMAGE_SIZE, SLICES
from ..networks.weights import load_weights
from ..style.vgg import Vgg, load_vgg, make_vgg, random_state
from .training import EpochProgress, train_epochs
from .world import compose_pictures

CHANNELS = (24, 24, 48, 48, 96)
NUMBERS = (0, 2, 5, 7, 10)  # of the convolutions in torchvision's vgg19
FILE_NAME = "encoder.pth"
MEASURED = 1_000  # pictures whose activations set the scale


@dataclass(frozen=True)
class EncoderSettings:
    """What the weights depend on, recorded beside them.

    confounding: of the training pictures; that of the natural stream, so that the encoder knows no more than it shows.
    activation: root mean square of every convolution's output. Content loss grows with its square and style loss with
    its fourth power, so it decides between them where the losses' weights are fixed.
    """

    seed: int = 0
    epochs: int = 6
    batch_size: int = 100
    learning_rate: float = 3e-3
    confounding: float = 0.8
    num_objects: int = SLICES["train"]
    activation: float = 1.0


def fit_encoder(out: Path, settings: EncoderSettings) -> Iterator[EpochProgress]:
    """Train and write `encoder.pth` and the settings into `out`; the loss is the cross entropy."""
    out.mkdir(parents=True, exist_ok=True)
    encoder, head = _untrained(settings.seed)
    parameters = [*encoder.weights, *encoder.biases, *head]
    for parameter in parameters:
        parameter.requires_grad_()
    pictures = compose_pictures("train", np.arange(settings.num_objects), settings.confounding, settings.confounding)
    images, labels = _to_tensor(pictures.images), torch.from_numpy(pictures.class_labels)

    def loss_of(rows: Tensor) -> Tensor:
        return F.cross_entropy(_classify(encoder, head, images[rows]), labels[rows])

    yield from train_epochs(parameters, len(images), settings, lambda epoch: loss_of)
    with torch.no_grad():
        scale_activations(encoder, head[0], images[:MEASURED], settings.activation)
    torch.save(_state(encoder, head), out / FILE_NAME)
    (out / "settings.json").write_text(json.dumps(asdict(settings), indent=2) + "\n")


def scale_activations(encoder: Vgg, following: Tensor, images: Tensor, activation: float) -> None:
    """Give every convolution's output this root mean square over `images`; what the classifier says stays the same.

    `following`: the weights that read the last convolution. ReLU and pooling pass a positive factor on, so what one
    layer gains the next one gives back.
    """
    readers = [*encoder.weights[1:], following]
    for layer, (weight, bias, reader) in enumerate(zip(encoder.weights, encoder.biases, readers, strict=True)):
        output = next(islice(encoder(images), layer, None))
        factor = activation / output.square().mean().sqrt()
        weight.mul_(factor)
        bias.mul_(factor)
        reader.div_(factor)


def measure_encoder(folder: Path, confounding: float) -> dict[str, Any]:
    """Share of held-out pictures whose class the trained network reads, confounded and not, and its activations."""
    path = folder / FILE_NAME
    state, _ = load_weights(path)
    encoder, head = load_vgg(path), (state["classifier.0.weight"], state["classifier.0.bias"])
    count = SLICES["test"]
    recognised = {}
    for name, strength in (("recognised", confounding), ("recognised_shifted", 0.0)):
        pictures = compose_pictures("test", np.arange(count), strength, strength)
        images = _to_tensor(pictures.images)
        with torch.inference_mode():
            read = torch.cat([_classify(encoder, head, batch).argmax(1) for batch in images.split(MEASURED)])
            outputs = [output.square().mean().sqrt().item() for output in encoder(images[:MEASURED])]
        recognised[name] = round(float((read.numpy() == pictures.class_labels).mean()), 4)
    return {
        "weights_sha256": sha256_of_file(path),
        **recognised,
        "activations": [round(output, 3) for output in outputs],
    }


def _untrained(seed: int) -> tuple[Vgg, tuple[Tensor, Tensor]]:
    state = random_state(CHANNELS, seed)
    inputs = CHANNELS[-1] * (IMAGE_SIZE // 8) ** 2
    return make_vgg(state, "untrained"), (torch.zeros(len(CLASSES), inputs), torch.zeros(len(CLASSES)))


def _classify(encoder: Vgg, head: tuple[Tensor, Tensor], images: Tensor) -> Tensor:
    *_, features = encoder(images)
    return F.linear(F.max_pool2d(F.relu(features), 2).flatten(1), *head)


def _state(encoder: Vgg, head: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    named = {}
    for number, weight, bias in zip(NUMBERS, encoder.weights, encoder.biases, strict=True):
        named[f"features.{number}.weight"], named[f"features.{number}.bias"] = weight, bias
    named["classifier.0.weight"], named["classifier.0.bias"] = head
    return {name: tensor.detach().contiguous() for name, tensor in named.items()}


def _to_tensor(images: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
