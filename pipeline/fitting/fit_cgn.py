"""Bring together what a CGN's training needs: settings, networks from files, and a world's pictures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ...manifests.digits import NUM_CLASSES
from ...manifests.errors import UsageError
from ...manifests.randomness import Permutation
from ...manifests.shard import sha256_of_file
from ...manifests.sources.mnist import (
    ColoredMnistStream,
    DoubleColoredMnistStream,
    MnistStream,
    WildlifeMnistStream,
)
from ...manifests.sources.stream import Facts
from ...manifests.tar_inputs import list_input
from ..biggan.generator import load_generator
from ..cgn.fit import Learner, make_features
from ..cgn.fit_biggan import BigGanLearner
from ..cgn.fit_mnist import MnistLearner
from ..cgn.saliency import load_saliency
from ..cgn.settings import BigGanFit, Fit, MnistFit
from ..sources.mnist import check_textures, paint_digits
from ..style.network_files import find_network_file
from ..style.vgg import Vgg, load_vgg, make_vgg

STAND_IN = "stand-in"
# Of the stand-in for VGG-16: its first ten convolutions, an eighth as wide.
_STAND_IN_CHANNELS = (8, 8, 16, 16, 32, 32, 32, 64, 64, 64)
_VGG16_NUMBERS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21)
_STAND_IN_STEPS = 300
_STREAMS: dict[str, type[MnistStream]] = {
    "colored-mnist": ColoredMnistStream,
    "double-colored-mnist": DoubleColoredMnistStream,
    "wildlife-mnist": WildlifeMnistStream,
}


@dataclass(frozen=True)
class Prepared:
    """A learner, and everything that decides its weights: settings and digests, as JSON."""

    learner: Learner
    identity: Mapping[str, Any]


def prepare(
    settings: Fit, generator: Callable[[str], str] | str, inputs: Mapping[str, str], device: str = "cpu"
) -> Prepared:
    """Load and check all that a training reads; nothing is written.

    generator: a folder or published name, or what makes one of the settings' name. inputs: files and folders by name.
    Raises UsageError where one is missing, FormatError where it is something else.
    """
    if isinstance(settings, BigGanFit):
        return _prepare_biggan(settings, generator, inputs, device)
    return _prepare_mnist(settings, inputs, device)


def _prepare_biggan(
    settings: BigGanFit, generator: Callable[[str], str] | str, inputs: Mapping[str, str], device: str
) -> Prepared:
    _check_inputs(inputs, (settings.saliency, settings.encoder))
    saliency_path = _network_file(settings.saliency, inputs)
    saliency, saliency_sha256 = load_saliency(saliency_path, settings.normalise)
    saliency.normalise = settings.normalise
    encoder_path = _network_file(settings.encoder, inputs)
    encoder = load_vgg(encoder_path, settings.layers[-1])
    loaded = load_generator(generator if isinstance(generator, str) else generator(settings.generator))
    features = make_features(encoder.to(device, torch.float32), settings.layers, settings.encoder_normalise)
    digests = {
        "generator": loaded.weights_sha256,
        "saliency": saliency_sha256,
        "encoder": sha256_of_file(encoder_path),
    }
    learner = BigGanLearner(settings, loaded, saliency, features, device)
    return Prepared(learner, {**settings.model_dump(mode="json"), "sha256": digests})


def _prepare_mnist(settings: MnistFit, inputs: Mapping[str, str], device: str) -> Prepared:
    stream = _STREAMS[settings.world].model_validate(
        {
            "source": settings.world,
            "name": settings.world,
            "digits": "train",
            "digits_per_class": settings.digits_per_class,
        }
    )
    networks = () if settings.encoder == STAND_IN else (settings.encoder,)
    _check_inputs(inputs, (*stream.inputs(), *networks))
    path = _network_file(settings.encoder, inputs) if networks else None
    listings = {}
    for name, kind in stream.inputs().items():
        if name not in inputs:
            raise UsageError(f"{settings.world} is drawn from input {name!r}: give it with --input {name}=DIR")
        listings[name] = list_input(kind, inputs[name], name)
    facts = Facts(settings.seed, inputs=listings)
    stream.check(facts)
    if isinstance(stream, WildlifeMnistStream):
        check_textures(stream, facts, {})

    def draw_epoch(epoch: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        # Colored MNIST is published drawn; of the others, the official code draws every picture anew each time.
        drawn = 0 if settings.world == "colored-mnist" else epoch
        samples = stream.samples(
            of_epoch := Facts(settings.seed + drawn, inputs=listings), np.arange(stream.count(facts))
        )
        images, _ = paint_digits(of_epoch, stream, samples)
        return images, np.array([sample.class_label for sample in samples])

    if path:
        encoder, digest = load_vgg(path, settings.layers[-1]), sha256_of_file(path)
    else:
        encoder, digest = train_stand_in(*draw_epoch(0), settings.seed), "trained on the spot"
    features = make_features(encoder.to(device, torch.float32), settings.layers, settings.encoder_normalise)
    learner = MnistLearner(settings, draw_epoch, NUM_CLASSES, features, device)
    digests = {"encoder": digest, **{name: listing.digest for name, listing in listings.items()}}
    return Prepared(learner, {**settings.model_dump(mode="json"), "sha256": digests})


def train_stand_in(
    images: NDArray[np.uint8], class_labels: NDArray[np.int64], seed: int, steps: int = _STAND_IN_STEPS
) -> Vgg:
    """A small VGG-16 that reads a world's classes, for where its weights cannot be had: a style of its own.

    Batch norms make it train in seconds, and are folded into its convolutions then.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        inputs = 3
        for number, outputs in zip(_VGG16_NUMBERS, _STAND_IN_CHANNELS, strict=True):
            if number in (5, 10, 17):
                layers.append(nn.MaxPool2d(2))
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
            inputs = outputs
        model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, NUM_CLASSES))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    order = Permutation(len(class_labels), seed, "stand-in encoder")
    for step in range(steps):
        rows = order((np.arange(64) + 64 * step) % len(class_labels))
        # The official way of giving images to the encoder, [-1, 1] as it is.
        batch = torch.from_numpy(images[rows]).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        loss = F.cross_entropy(model(batch), torch.from_numpy(class_labels[rows]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return make_vgg(_fold_norms(model), "stand-in", len(_VGG16_NUMBERS))


def _fold_norms(model: nn.Sequential) -> dict[str, Tensor]:
    """Convolutions with their batch norms in them, under torchvision's names."""
    convolutions = [module for module in model if isinstance(module, nn.Conv2d)]
    norms = [module for module in model if isinstance(module, nn.BatchNorm2d)]
    state: dict[str, Tensor] = {}
    for number, convolution, norm in zip(_VGG16_NUMBERS, convolutions, norms, strict=True):
        assert convolution.bias is not None and norm.running_mean is not None and norm.running_var is not None
        scale = (norm.weight * torch.rsqrt(norm.running_var + norm.eps)).detach()
        state[f"features.{number}.weight"] = convolution.weight.detach() * scale[:, None, None, None]
        state[f"features.{number}.bias"] = (convolution.bias.detach() - norm.running_mean) * scale + norm.bias.detach()
    return state


def _check_inputs(inputs: Mapping[str, str], known: tuple[str, ...]) -> None:
    for name in inputs:
        if name not in known:
            raise UsageError(f"--input {name}: this training has no such input; known: {', '.join(known)}")


def _network_file(name: str, inputs: Mapping[str, str]) -> Path:
    path = Path(inputs[name]) if name in inputs else find_network_file(name, "fit-cgn")
    if not path.is_file():
        raise UsageError(f"--input {name}={path}: no such file")
    return path
