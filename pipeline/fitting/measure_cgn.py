"""Measure what a mini-world CGN can do: its masks, and the axioms of counterfactuals, by the world's own readers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor

from ...manifests.randomness import integers_below, random_words, truncated_normal
from ...manifests.sources.generated import PACKAGE_BOUND
from ...manifests.world import CLASSES, NUISANCES, SLICES
from ..biggan.fast_generator import fold
from ..biggan.generator import load_generator
from ..cgn.composition import compose
from ..cgn.mechanisms import BigGanCgn, LoadedCgn, fold_cgn, load_cgn
from ..mini.measure_generator import Reader, frechet_distance, read_images, train_reader
from ..mini.world import compose_pictures
from ..networks.generator import LoadedGenerator

# As trained, and as the mini recipe renders.
TRUNCATIONS = (1.0, 0.8)
GENERATED_PER_CLASS = 200
BATCH = 100
_BACKGROUND = np.array([nuisance.group == "background" for nuisance in NUISANCES])


def measure_cgn(
    folder: Path,
    generator: str | Path,
    truncations: Sequence[float] = TRUNCATIONS,
    confounding: float = 0.8,
    device: str = "cpu",
) -> dict[str, Any]:
    """Masks and axioms of a CGN, beside the generator that it was made of and held-out real pictures.

    At each truncation, four sets of the same 2,000 latents, 200 of each shape's class: one label for all mechanisms,
    another for the background alone, for the texture alone, and for both, drawn independently of the shape's.

    - mask_iou: with the saliency of the generator's picture of the same latent and class;
    - recognised: share whose object is read as the shape's class, by a classifier trained without confounding;
    - label_from_background: share of pictures whose class of shape, or of background, is read off their background's
      nuisances alone, by discriminants of real confounded pictures; chance is 0.1;
    - composition: error of three equal labels against the generator's picture, of 2; minimality: change of the pose as
      read where the background alone changes, in standard deviations, and share read as the same class as before;
    - frechet: to held-out real pictures, confounded for one label and unconfounded for counterfactuals.
    """
    reader = train_reader(0.0)
    loaded, original = load_cgn(folder), load_generator(generator)
    natural = compose_pictures("test", np.arange(SLICES["test"]), confounding, confounding)
    shifted = compose_pictures("test", np.arange(SLICES["test"]), 0.0, 0.0)
    real, free = read_images(reader, natural.images), read_images(reader, shifted.images)
    train = compose_pictures("train", np.arange(SLICES["train"] // 3), confounding, confounding)
    discriminants = LinearDiscriminantAnalysis().fit(
        read_images(reader, train.images)[1][:, _BACKGROUND], train.class_labels
    )
    readers = _Readers(reader, discriminants, real, free)
    return {
        "weights_sha256": loaded.facts.digests["cgn"],
        "generator_sha256": original.weights_sha256,
        "images": GENERATED_PER_CLASS * len(CLASSES),
        "real": {
            "recognised": _share(real[0].argmax(1) == natural.class_labels),
            "label_from_background": readers.from_background(real[1], natural.class_labels),
            "frechet, confounded to unconfounded": round(frechet_distance(real[2], free[2]), 3),
        },
        "truncations": {str(t): _measure_at(t, loaded, original, readers, device) for t in truncations},
    }


@dataclass(frozen=True)
class _Readers:
    """The world's readers, and what they read off real pictures: logits, nuisances, features."""

    reader: Reader
    discriminants: LinearDiscriminantAnalysis
    real: tuple[NDArray[np.float64], ...]
    free: tuple[NDArray[np.float64], ...]

    def from_background(self, nuisances: NDArray[np.float64], wanted: NDArray[np.int64]) -> float:
        return _share(self.discriminants.predict(nuisances[:, _BACKGROUND]) == wanted)


def _measure_at(
    truncation: float, loaded: LoadedCgn, original: LoadedGenerator, readers: _Readers, device: str
) -> dict[str, Any]:
    networks = loaded.networks
    assert isinstance(networks, BigGanCgn)
    num_classes, z_dim = len(CLASSES), loaded.facts.z_dim
    labels = np.repeat(np.arange(num_classes), GENERATED_PER_CLASS)
    count = len(labels)
    words = random_words(0, "measure CGN", count=count * z_dim).reshape(count, z_dim)
    latents = truncation * truncated_normal(words, PACKAGE_BOUND)
    others = integers_below(num_classes, random_words(0, "measure CGN: labels", count=2 * count)).reshape(2, count)

    # Each mechanism once for the shape's labels and once for the others.
    cgn = fold_cgn(loaded, truncation, batch_size=BATCH, device=device)
    z = torch.from_numpy(latents)
    own, of_texture, of_background = (torch.from_numpy(rows) for rows in (labels, *others))
    mask = cgn.shape(z, own)
    foreground, background = cgn.texture(z, own), cgn.background(z, own)
    other_foreground, other_background = cgn.texture(z, of_texture), cgn.background(z, of_background)
    sets = {
        "one label": compose(mask, foreground, background),
        "background": compose(mask, foreground, other_background),
        "texture": compose(mask, other_foreground, background),
        "texture and background": compose(mask, other_foreground, other_background),
    }
    target = fold(original.model, truncation, batch_size=BATCH, device=device)(z, own)
    with torch.inference_mode():
        wanted = torch.cat([networks.saliency.to(device)(part) for part in target.split(BATCH)]) > 0.5
    found = mask > 0.5
    either = (found | wanted).sum((1, 2, 3)).clamp(min=1)
    iou = ((found & wanted).sum((1, 2, 3)) / either).cpu().numpy()

    # What the readers see.
    read = {name: _read(readers.reader, pictures) for name, pictures in {"BigGAN": target, **sets}.items()}
    from_background = readers.from_background
    swapped = read["texture and background"]
    correct = {name: logits.argmax(1) == labels for name, (logits, _, _) in read.items()}
    pose = np.abs(read["background"][1] - read["one label"][1])[:, ~_BACKGROUND]
    means = mask.mean((1, 2, 3)).cpu().numpy()
    return {
        "mask_iou": _share(iou),
        "mask_iou_by_class": _by_class(iou, labels),
        "mask_mean": _share(means),
        "mask_spread": round(float(means.std()), 4),
        "recognised": {name: _share(values) for name, values in correct.items()},
        "recognised_by_class": {name: _by_class(correct[name], labels) for name in sets},
        "label_from_background": {
            "BigGAN": from_background(read["BigGAN"][1], labels),
            "one label": from_background(read["one label"][1], labels),
            "counterfactual, shape's label": from_background(swapped[1], labels),
            "counterfactual, background's label": from_background(swapped[1], others[1]),
        },
        "composition_error": round(float((sets["one label"] - target).abs().mean()), 4),
        "minimality": {
            "pose_change": _by_nuisance(pose),
            "same_class": _share(read["background"][0].argmax(1) == read["one label"][0].argmax(1)),
        },
        "frechet": {
            "BigGAN": round(frechet_distance(read["BigGAN"][2], readers.real[2]), 3),
            "one label": round(frechet_distance(read["one label"][2], readers.real[2]), 3),
            "counterfactual": round(frechet_distance(swapped[2], readers.free[2]), 3),
        },
    }


def _read(reader: Reader, pictures: Tensor) -> tuple[NDArray[np.float64], ...]:
    """What a reader reads off pictures in [-1, 1], as they would be saved."""
    pixels = pictures.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return read_images(reader, pixels.cpu().numpy())


def _share(values: NDArray[Any]) -> float:
    return round(float(np.mean(values)), 4)


def _by_class(values: NDArray[Any], labels: NDArray[np.int64]) -> dict[str, float]:
    return {name: round(float(values[labels == c].mean()), 3) for c, name in enumerate(CLASSES)}


def _by_nuisance(changes: NDArray[np.float64]) -> Mapping[str, float]:
    names = [nuisance.name for nuisance in NUISANCES if nuisance.group != "background"]
    return {name: round(float(change), 3) for name, change in zip(names, changes.mean(0), strict=True)}
