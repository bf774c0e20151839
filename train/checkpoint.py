"""Checkpoints: one file that holds a classifier and all that its training needs to go on, and how to read others'.

Read are our own, torchvision's weights by name, bare state dicts, and the `checkpoint.pth.tar` of the released
research code. Everything loads with `weights_only=True`.
"""

import difflib
import hashlib
import os
import pickle
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image
from torch import Tensor, nn

from ..manifests.errors import FormatError, UsageError
from ..manifests.inputs import imagenet_wnids
from ..manifests.pictures import resized_size
from ..manifests.shard import sha256_of_file, sync_folder
from .vision import models, v2

FORMAT: Final = "genint-train"
VERSION: Final = 1
# In a run's folder: the newest checkpoint, and the best by validation top-1.
LAST = "last.pt"
BEST = "best.pt"

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """From a picture to the input of a classifier: shorter side to `resize` (None: as it is), centre crop, normalise.

    `mean` and `std` are per channel, for values in [0, 1].
    """

    resize: int | None = 256
    crop: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def prepare(self, image: Image.Image) -> Tensor:
        """An RGB picture to uint8 [3, crop, crop], as torchvision's Resize (bilinear, antialiased) and CenterCrop.

        Raises PictureError where it would become too large in between.
        """
        if self.resize is not None:
            resized_size(*image.size, self.resize)
            image = v2.functional.resize(image, [self.resize])
        prepared: Tensor = v2.functional.pil_to_tensor(v2.functional.center_crop(image, [self.crop]))
        return prepared

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 [N, 3, H, W] to float32, standardised by channel."""
        mean = images.new_tensor(self.mean, dtype=torch.float32).mul(255).view(3, 1, 1)
        std = images.new_tensor(self.std, dtype=torch.float32).mul(255).view(3, 1, 1)
        # In place: at 224 px two more temporaries cost as much as the arithmetic.
        return images.float().sub_(mean).div_(std)


@dataclass(frozen=True)
class Classifier:
    """A trained classifier with what it takes in and gives out.

    `model` is in evaluation mode and maps normalised images [N, 3, crop, crop] to logits [N, len(class_names)].
    """

    name: str
    model: nn.Module
    arch: str
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    sha256: str
    step: int | None = None  # this and what follows: of our own checkpoints alone
    preset: str | None = None
    seed: int | None = None


def known_archs() -> list[str]:
    """torchvision's classification architectures."""
    return list(models.list_models(module=models))


def check_arch(arch: str) -> None:
    """Raise UsageError with near misses where torchvision has no such classifier."""
    known = known_archs()
    if arch not in known:
        close = difflib.get_close_matches(arch, known, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "see torchvision.models.list_models()"
        raise UsageError(f"arch {arch!r}: torchvision has no such classifier; {hint}")


def make_model(arch: str, num_classes: int) -> nn.Module:
    """A randomly initialised classifier. Raises UsageError where there is no such arch."""
    check_arch(arch)
    model: nn.Module = models.get_model(arch, weights=None, num_classes=num_classes)
    return model


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all: beside, synced, renamed."""
    temporary = path.with_name(f"{path.name}.tmp.{uuid.uuid4().hex}")
    try:
        with open(temporary, "wb") as file:
            torch.save({"format": FORMAT, "version": VERSION, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def describe_model(arch: str, class_names: tuple[str, ...], preprocessing: Preprocessing) -> dict[str, Any]:
    """The entries of a checkpoint from which `load_classifier` makes the classifier again, weights aside."""
    return {"arch": arch, "class_names": list(class_names), "preprocessing": asdict(preprocessing)}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file of any kind. Raises UsageError or FormatError that names it."""
    if path.is_dir():
        path = path / LAST
    if not path.is_file():
        raise UsageError(f"{path}: no such checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FormatError(f"{path}: not a checkpoint that loads without running code: {reason}") from error
    if not isinstance(content, dict):
        raise FormatError(f"{path}: holds a {type(content).__name__}; expected a checkpoint or a state dict")
    if content.get("format") == FORMAT and content["version"] != VERSION:
        raise FormatError(f"{path}: checkpoint version {content['version']}; this genint reads {VERSION}")
    return content


def weights_of(content: Mapping[str, Any], origin: str) -> dict[str, Tensor]:
    """The state dict in a checkpoint: ours ("model"), the released code's ("state_dict"), or the whole of it.

    Prefixes `module.` of DataParallel and `_orig_mod.` of torch.compile are dropped.
    """
    weights = content.get("model", content.get("state_dict", content))
    if not isinstance(weights, Mapping) or not weights or not all(isinstance(v, Tensor) for v in weights.values()):
        raise FormatError(f"{origin}: no state dict in it; found keys {sorted(map(str, content))[:8]}")
    return {name.removeprefix("module.").removeprefix("_orig_mod."): value for name, value in weights.items()}


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], arch: str, origin: str) -> None:
    """Fill `model`; raise UsageError that names the first entry which does not fit."""
    own = model.state_dict()
    missing, unknown = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    # Checkpoints of before PyTorch 0.4.1 have no counters of batches, which only momentum=None would use.
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unknown:
        found = f"lacks {missing[0]}" if missing else f"has {unknown[0]}, which {arch} has not"
        raise UsageError(f"{origin}: not a checkpoint of {arch}: it {found}")
    for name, value in weights.items():
        if value.shape != own[name].shape:
            raise UsageError(
                f"{origin}: not a checkpoint of this {arch}: {name} is {list(value.shape)}, expected "
                f"{list(own[name].shape)}"
            )
    model.load_state_dict(dict(weights), strict=False)


def initialise(model: nn.Module, arch: str, location: str) -> str:
    """Fill a model with the weights of a checkpoint of the same arch; returns their sha256.

    `location`: a run's folder, a checkpoint file of any kind that is read here, or `torchvision:ARCH[:WEIGHTS]`.
    Raises UsageError where the weights are another arch's or for another number of classes.
    """
    if location.startswith("torchvision:"):
        classifier = _load_torchvision(location)
        found, weights, sha256 = classifier.arch, classifier.model.state_dict(), classifier.sha256
    else:
        path = Path(location) / LAST if Path(location).is_dir() else Path(location)
        content = read_checkpoint(path)
        found, weights, sha256 = content.get("arch", arch), weights_of(content, str(path)), sha256_of_file(path)
    if found != arch:
        raise UsageError(f"{location}: a checkpoint of {found}, and arch = {arch}")
    load_weights(model, weights, arch, location)
    return sha256


def guess_arch(content: Mapping[str, Any], origin: str) -> str:
    """The arch a checkpoint says it is of. Raises UsageError where it says none."""
    arch = content.get("arch")
    if not isinstance(arch, str):
        raise UsageError(f"{origin}: names no arch; give it as ARCH={origin}")
    check_arch(arch)
    return arch


def load_classifier(location: str) -> Classifier:
    """A classifier from a run's folder (its last checkpoint), a checkpoint file, or `torchvision:ARCH[:WEIGHTS]`.

    A file that does not name its arch, such as a bare state dict, is given as `ARCH=FILE`. Classifiers that name no
    classes and have 1,000 of them are taken for ImageNet's. Raises UsageError or FormatError.
    """
    if location.startswith("torchvision:"):
        return _load_torchvision(location)
    arch, separator, rest = location.partition("=")
    named = bool(separator) and arch in known_archs()
    path = Path(rest if named else location)
    path = path / LAST if path.is_dir() else path
    content = read_checkpoint(path)
    arch = arch if named else guess_arch(content, str(path))
    weights = weights_of(content, str(path))
    class_names = tuple(content.get("class_names", ())) or _class_names(weights, str(path))
    model = make_model(arch, len(class_names))
    load_weights(model, weights, arch, str(path))
    entry = content.get("preprocessing")
    preprocessing = (
        Preprocessing(entry["resize"], entry["crop"], tuple(entry["mean"]), tuple(entry["std"]))
        if entry
        else Preprocessing()
    )
    # A run's folder says more than the name that all its checkpoints share.
    name = path.parent.name if path.name in (LAST, BEST) and path.parent.name else path.name.partition(".")[0]
    training: dict[str, Any] = content if content.get("format") == FORMAT else {}
    configuration = training.get("configuration", {})
    return Classifier(
        name, model.eval(), arch, class_names, preprocessing, sha256_of_file(path),
        training.get("step"), configuration.get("preset"), configuration.get("seed"),
    )  # fmt: skip


def _class_names(weights: Mapping[str, Tensor], origin: str) -> tuple[str, ...]:
    outputs = next((len(value) for name, value in reversed(list(weights.items())) if name.endswith("bias")), 0)
    if outputs != 1000:
        raise UsageError(f"{origin}: names no classes and has {outputs} outputs; only ImageNet's 1,000 are understood")
    return imagenet_wnids()


def _load_torchvision(location: str) -> Classifier:
    """Weights that torchvision downloads, or finds in its cache."""
    _, arch, *rest = location.split(":")
    check_arch(arch)
    known = models.get_model_weights(arch)
    try:
        weights = known[rest[0]] if rest else known.DEFAULT
    except KeyError as error:
        raise UsageError(f"{location}: known weights of {arch}: {', '.join(w.name for w in known)}") from error
    try:
        model = models.get_model(arch, weights=weights)
    except OSError as error:
        cache = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
        raise UsageError(f"{location}: cannot be downloaded ({error}); put {weights.url} at {cache}") from error
    transform = weights.transforms()
    preprocessing = Preprocessing(
        transform.resize_size[0], transform.crop_size[0], tuple(transform.mean), tuple(transform.std)
    )
    digest = hashlib.sha256(weights.url.encode()).hexdigest()
    return Classifier(f"{arch}-{weights.name}", model.eval(), arch, imagenet_wnids(), preprocessing, digest)
