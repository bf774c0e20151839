"""Checkpoints: one file that holds a classifier and all that its training needs to go on, and how to read others'.

Read are our own, torchvision's weights by name, and the state dicts of others (see `state_dicts`). Nothing in a file is
run.
"""

import difflib
import hashlib
import os
import pickle
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final, Literal

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn
from torch.func import functional_call

from ..manifests.errors import FormatError, UsageError
from ..manifests.inputs import imagenet_wnids
from ..manifests.pictures import resized_size
from ..manifests.shard import sync_folder
from ..manifests.weights import DAMAGE, has_checksums
from .classifiers import OWN_ARCHS
from .heads import add_heads, find_heads, head_logits
from .state_dicts import find_weights, read_file
from .stream_images import Head
from .vision import models, v2

FORMAT: Final = "genint-train"
VERSION: Final = 1
# In a run's folder: the newest checkpoint, and the best by validation top-1.
LAST = "last.pt"
BEST = "best.pt"

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LARGEST_SIDE = 10_000  # px that a checkpoint may ask pictures to be resized to

Interpolation = Literal["bilinear", "bicubic"]

# Archs with heads for training alone, whose published weights were trained on channels scaled in another way than
# ImageNet's usual one; the model itself changes the scale where `transform_input` says so.
AUXILIARY: Final[dict[str, dict[str, bool]]] = {
    name: {"aux_logits": False, "init_weights": True} for name in ("googlenet", "inception_v3")
}
AUXILIARY_WEIGHTS = ("aux1.", "aux2.", "AuxLogits.")


@dataclass(frozen=True)
class Preprocessing:
    """From a picture to the input of a classifier: shorter side to `resize` (None: as it is), centre crop, normalise.

    `mean` and `std` are per channel, for values in [0, 1].
    """

    resize: int | None = 256
    crop: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: Interpolation = "bilinear"

    def prepare(self, image: Image.Image) -> Tensor:
        """An RGB picture to uint8 [3, crop, crop], as torchvision's Resize (antialiased) and CenterCrop.

        Raises PictureError where it would become too large in between.
        """
        if self.resize is not None:
            resized_size(*image.size, self.resize)
            image = v2.functional.resize(image, [self.resize], v2.InterpolationMode(self.interpolation))
        prepared: Tensor = v2.functional.pil_to_tensor(v2.functional.center_crop(image, [self.crop]))
        return prepared

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 [N, 3, H, W] to float32, standardised by channel."""
        mean, std = _channels(self.mean, images.device), _channels(self.std, images.device)
        # In place: at 224 px two more temporaries cost as much as the arithmetic.
        return images.float().sub_(mean).div_(std)


@lru_cache(maxsize=64)
def _channels(values: tuple[float, float, float], device: torch.device) -> Tensor:
    """Values in [0, 1] by channel, [3, 1, 1], in 255ths. Kept on the device: a copy for every batch would wait for all
    that a GPU has been given."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device).mul(255).view(3, 1, 1)


@dataclass(frozen=True)
class Classifier:
    """A trained classifier with what it takes in and gives out.

    `model` is in evaluation mode and maps normalised images [N, 3, crop, crop] to logits [N, len(class_names)]: with
    heads, to the mean of theirs, and `head_logits` says what each of them gives.
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
    notes: tuple[str, ...] = ()  # what was assumed or chosen, for people
    heads: tuple[str, ...] = ()

    def head_logits(self, images: Tensor) -> dict[str, Tensor]:
        """Logits [N, len(class_names)] of each of `heads`, by name, for normalised images; none without heads."""
        return head_logits(self.model, images) if self.heads else {}


class _Preprocessing(BaseModel):
    """The entry of a checkpoint that `Preprocessing` is made of."""

    model_config = ConfigDict(extra="forbid")

    resize: Annotated[int, Field(gt=0, le=LARGEST_SIDE)] | None
    crop: int = Field(gt=0, le=LARGEST_SIDE)
    mean: tuple[float, float, float]
    std: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]
    interpolation: Interpolation = "bilinear"  # checkpoints of before it was kept


class _Described(BaseModel):
    """What a checkpoint of ours says of its classifier."""

    arch: str
    class_names: list[str] = Field(min_length=1)
    preprocessing: _Preprocessing
    transform_input: bool = False
    heads: list[Head] = []
    step: int | None = None
    configuration: dict[str, Any] = {}

    @model_validator(mode="after")
    def _distinct(self) -> "_Described":
        if len(set(self.class_names)) < len(self.class_names):
            raise ValueError("two classes have one name")
        if len(set(self.heads)) < len(self.heads):
            raise ValueError("two heads have one name")
        return self


def known_archs() -> list[str]:
    """torchvision's classification architectures, and our own."""
    return [*models.list_models(module=models), *OWN_ARCHS]


def check_arch(arch: str) -> None:
    """Raise UsageError with near misses where there is no such classifier."""
    known = known_archs()
    if arch not in known:
        close = difflib.get_close_matches(arch, known, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "see torchvision.models.list_models()"
        raise UsageError(f"arch {arch!r}: there is no such classifier; {hint}")


def make_model(arch: str, num_classes: int, heads: Sequence[str] = ()) -> nn.Module:
    """A randomly initialised classifier without heads for training alone; `heads` stand in for its last layer (see
    `Heads`). Raises UsageError where there is no such."""
    check_arch(arch)
    model: nn.Module
    if arch in OWN_ARCHS:
        model = OWN_ARCHS[arch](num_classes)
    else:
        model = models.get_model(arch, weights=None, num_classes=num_classes, **AUXILIARY.get(arch, {}))
    if heads:
        add_heads(model, heads, arch)
    return model


def check_size(model: nn.Module, arch: str, size: int) -> None:
    """Raise UsageError where a classifier does not take images of `size` px, by a pass that computes shapes alone."""
    shapes = {name: tensor.detach().to("meta") for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    try:
        functional_call(model.train(), shapes, (torch.empty(2, 3, size, size, device="meta"),))
    except (RuntimeError, ValueError, AssertionError, TypeError, LookupError, ArithmeticError) as error:
        raise UsageError(
            f"arch {arch}: takes no images of {size} x {size} px ({str(error).splitlines()[0][:200]}); choose another "
            "--arch, or another size with --set size=N"
        ) from error


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all: beside, synced, renamed. Raises OSError that names it."""
    temporary = path.with_name(f"{path.name}.tmp.{uuid.uuid4().hex}")
    try:
        with open(temporary, "wb") as file:
            writer = _Writer(file)
            try:
                torch.save({"format": FORMAT, "version": VERSION, **content}, writer)  # type: ignore[arg-type]
            except RuntimeError as error:
                # torch finds its archive incomplete where a write failed, and says that instead.
                raise (writer.error or error) from error
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


class _Writer:
    """A file that remembers why it could not be written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, content: Any) -> int:
        try:
            return self._file.write(content)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def describe_model(
    arch: str, class_names: tuple[str, ...], preprocessing: Preprocessing, heads: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The entries of a checkpoint from which `load_classifier` makes the classifier again, weights aside."""
    described = {"arch": arch, "class_names": list(class_names), "preprocessing": asdict(preprocessing)}
    return described | {"heads": list(heads)}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file of any kind. Raises UsageError or FormatError that names it."""
    return _read(path)[0]


def _read(path: Path) -> tuple[dict[str, Any], str]:
    """A checkpoint's content, and the sha256 of the file."""
    if not path.is_file():
        raise UsageError(f"{path}: no such checkpoint")
    content, sha256 = read_file(path)
    if not isinstance(content, dict):
        raise FormatError(f"{path}: holds a {type(content).__name__}; expected a checkpoint or a state dict")
    if content.get("format") == FORMAT:
        if content.get("version") != VERSION:
            raise FormatError(f"{path}: checkpoint version {content.get('version')!r:.80}; this genint reads {VERSION}")
        if not has_checksums(path):
            raise FormatError(f"{path}: not as genint wrote it: PyTorch's old format, without checksums")
    return content, sha256


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], arch: str, origin: str) -> None:
    """Fill `model`; raise UsageError that names the first entry which does not fit."""
    own = model.state_dict()
    if arch in AUXILIARY:
        weights = {name: value for name, value in weights.items() if not name.startswith(AUXILIARY_WEIGHTS)}
    missing, unknown = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    # Checkpoints of before PyTorch 0.4.1 have no counters of batches, which only momentum=None would use.
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unknown:
        found = f"lacks {missing[0]}" if missing else f"has {unknown[0][:80]}, which {arch} has not"
        raise UsageError(f"{origin}: not a checkpoint of {arch}: it {found}")
    for name, value in weights.items():
        if value.shape != own[name].shape:
            raise UsageError(
                f"{origin}: not a checkpoint of this {arch}: {name} is {list(value.shape)}, expected "
                f"{list(own[name].shape)}"
            )
        if value.is_floating_point() != own[name].is_floating_point():
            raise UsageError(f"{origin}: not a checkpoint of {arch}: {name} is of {value.dtype}")
    model.load_state_dict(dict(weights), strict=False)


def initialise(model: nn.Module, arch: str, location: str) -> tuple[str, tuple[str, ...]]:
    """Fill a model with the weights of a checkpoint of the same arch; returns their sha256, and notes for people.

    `location`: a run's folder, a checkpoint file of any kind that is read here (with `:ema` for the average in it), or
    `torchvision:ARCH[:WEIGHTS]`. Heads stay fresh where the weights are of a classifier without. Raises UsageError
    where the weights are another arch's or for another number of classes.
    """
    if location.startswith("torchvision:"):
        classifier = _load_torchvision(location)
        found, weights, sha256 = classifier.arch, classifier.model.state_dict(), classifier.sha256
        notes, transform_input = classifier.notes, getattr(classifier.model, "transform_input", False)
    else:
        path, averaged = _locate(location)
        content, sha256 = _read(path)
        found = content.get("arch", arch)
        state = find_weights(content, str(path), averaged)
        weights, notes = state.weights, (state.note,) if state.note else ()
        ours = content.get("format") == FORMAT
        transform_input = _describe(content, path).transform_input if ours else arch in AUXILIARY
    if found != arch:
        raise UsageError(f"{location}: a checkpoint of {str(found)[:80]}, and arch = {arch}")
    heads = find_heads(model)
    if heads is not None and f"{heads[0]}.weight" in weights:
        own, last = model.state_dict(), f"{heads[0]}."
        weights = {name: value for name, value in weights.items() if not name.startswith(last)}
        weights |= {name: own[name] for name in own if name.startswith(last)}
    load_weights(model, weights, arch, location)
    if arch in AUXILIARY:
        model.transform_input = transform_input  # type: ignore[assignment]  # a plain attribute
    return sha256, notes


def guess_arch(content: Mapping[str, Any], origin: str) -> str:
    """The arch a checkpoint says it is of. Raises UsageError where it says none."""
    arch = content.get("arch")
    if not isinstance(arch, str):
        raise UsageError(f"{origin}: names no arch; give it as ARCH={origin}")
    check_arch(arch)
    return arch


def load_classifier(location: str) -> Classifier:
    """A classifier from a run's folder (its last checkpoint), a checkpoint file, or `torchvision:ARCH[:WEIGHTS]`.

    A file that does not name its arch, such as a bare state dict, is given as `ARCH=FILE`; `FILE:ema` takes the average
    of the weights that a file may hold too. Classifiers of others are taken for ImageNet's 1,000 classes, with the
    preprocessing of the first weights that torchvision published of the arch. Raises UsageError or FormatError.
    """
    if location.startswith("torchvision:"):
        return _load_torchvision(location)
    arch, separator, rest = location.partition("=")
    named = bool(separator) and arch in known_archs()
    path, averaged = _locate(rest if named else location)
    content, sha256 = _read(path)
    arch = arch if named else guess_arch(content, str(path))
    state = find_weights(content, str(path), averaged)
    notes = [state.note] if state.note else []
    # A run's folder says more than the name that all its checkpoints share.
    name = path.parent.name if path.name in (LAST, BEST) and path.parent.name else path.name.partition(".")[0]
    name += "-ema" if averaged else ""

    if content.get("format") == FORMAT:
        described = _describe(content, path)
        model = make_model(arch, len(described.class_names), described.heads)
        load_weights(model, state.weights, arch, str(path))
        if arch in AUXILIARY:
            model.transform_input = described.transform_input  # type: ignore[assignment]
        entry = described.configuration
        return Classifier(
            name, model.eval(), arch, tuple(described.class_names),
            Preprocessing(**described.preprocessing.model_dump()), sha256,
            described.step, entry.get("preset"), entry.get("seed"), tuple(notes), tuple(described.heads),
        )  # fmt: skip

    class_names = imagenet_wnids()
    model = make_model(arch, len(class_names))
    try:
        load_weights(model, state.weights, arch, str(path))
    except UsageError as error:
        raise UsageError(f"{error} (a file of others is taken for a classifier of ImageNet's 1,000 classes)") from error
    preprocessing = _published_preprocessing(arch, model)
    if preprocessing != Preprocessing() or arch in AUXILIARY:
        rescaled = ", transform_input" if arch in AUXILIARY else ""
        notes.append(
            f"preprocessing is taken to be that of torchvision's {arch}: {preprocessing.interpolation} to "
            f"{preprocessing.resize} px, crop of {preprocessing.crop}{rescaled}"
        )
    if arch in AUXILIARY:
        model.transform_input = True  # type: ignore[assignment]
    if not has_checksums(path) and path.suffix != ".safetensors":
        notes.append("PyTorch's old format, without checksums: damage would go unseen")
    return Classifier(name, model.eval(), arch, class_names, preprocessing, sha256, notes=tuple(notes))


def _locate(location: str) -> tuple[Path, bool]:
    """The file of a run's folder or of a location, and whether the average of its weights is asked for."""
    path = Path(location)
    averaged = location.endswith(":ema") and not path.exists()
    path = Path(location.removesuffix(":ema")) if averaged else path
    return (path / LAST if path.is_dir() else path), averaged


def _describe(content: Mapping[str, Any], path: Path) -> _Described:
    """What a checkpoint of ours says of itself. Raises FormatError."""
    try:
        return _Described.model_validate(content)
    except ValidationError as error:
        raise FormatError(f"{path}: not a whole checkpoint of genint: {explain(error)}") from error


def explain(error: ValidationError) -> str:
    """The first problem of a validation: where, and what was expected."""
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'][:5]))[:80]}: {first['msg'].removeprefix('Value error, ')[:200]}"


def _published_preprocessing(arch: str, model: nn.Module) -> Preprocessing:
    """That of the first weights which torchvision published of an arch, for the size that the model takes."""
    if arch in OWN_ARCHS:
        return Preprocessing()
    side = getattr(model, "image_size", None)
    known = [_preprocessing_of(weights) for weights in models.get_model_weights(arch)]
    return next((found for found in known if side in (None, found.crop)), Preprocessing())


def _preprocessing_of(weights: Any) -> Preprocessing:
    transform = weights.transforms()
    return Preprocessing(
        transform.resize_size[0], transform.crop_size[0], tuple(transform.mean), tuple(transform.std),
        transform.interpolation.value,
    )  # fmt: skip


def _load_torchvision(location: str) -> Classifier:
    """Weights that torchvision downloads, or finds in its cache."""
    _, arch, *rest = location.split(":")
    check_arch(arch)
    if arch in OWN_ARCHS:
        raise UsageError(f"{location}: torchvision has no {arch}; give a checkpoint of genint-train")
    known = models.get_model_weights(arch)
    try:
        weights = known[rest[0]] if rest else known.DEFAULT
    except KeyError as error:
        raise UsageError(f"{location}: known weights of {arch}: {', '.join(w.name for w in known)}") from error
    cache = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    try:
        if cache.is_file():
            read_file(cache)  # which compares its checksums
        model = models.get_model(arch, weights=weights)
    except OSError as error:
        raise UsageError(f"{location}: cannot be downloaded ({error}); put {weights.url} at {cache}") from error
    except (*DAMAGE, pickle.UnpicklingError) as error:
        raise FormatError(
            f"{cache}: not torchvision's weights ({str(error)[:200]}); remove it, and it is downloaded anew"
        ) from error
    digest = hashlib.sha256(weights.url.encode()).hexdigest()
    return Classifier(
        f"{arch}-{weights.name}", model.eval(), arch, imagenet_wnids(), _preprocessing_of(weights), digest
    )
