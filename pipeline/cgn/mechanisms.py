"""A counterfactual generative network of either form: loaded, and folded into three mechanisms that render."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_pretrained_biggan import BigGAN, BigGANConfig
from torch import Tensor, nn

from ...manifests.errors import FormatError, UsageError
from ..biggan.fast_generator import FastGenerator, fold
from ..biggan.generator import PUBLISHED_CONFIGS, load_config, make_random_generator
from ..networks.generator import Precision, check_classes, pad_rows
from ..networks.kernels import repeatable_kernels
from ..networks.weights import fit_weights, load_weights
from .mnist_form import MASK_RANGE, RESOLUTION, MnistCgn, one_hot
from .saliency import Saliency, fold_saliency, make_saliency

Form = Literal["biggan", "mnist"]
MECHANISMS = ("shape", "texture", "background")
MINI_CGN = "mini"
WEIGHTS_NAME, CONFIG_NAME = "cgn.pth", "config.json"
# Of the official file of the ImageNet form, whose saliency network is in it; its frozen generator is not needed.
_OFFICIAL_GENERATOR, _OFFICIAL_SALIENCY = "biggan_GT.", "u2net."
_STATISTICS = ("running_means", "running_vars")


class BigGanCgn(nn.Module):
    """The ImageNet form: three generators of the package's class, and a frozen saliency network that makes masks."""

    def __init__(self, config: BigGANConfig, saliency: Saliency) -> None:
        super().__init__()
        self.config = config
        self.f_shape, self.f_text, self.f_bg = BigGAN(config), BigGAN(config), BigGAN(config)
        self.saliency = saliency.eval().requires_grad_(False)

    def shape(self, latents: Tensor, class_vectors: Tensor, truncation: float) -> Tensor:
        """Masks [N, 1, H, W] of latents [N, z_dim] and class vectors [N, num_classes]."""
        masks: Tensor = self.saliency(self.f_shape(latents, class_vectors, truncation))
        return masks.clamp(*MASK_RANGE)

    def texture(self, latents: Tensor, class_vectors: Tensor, truncation: float) -> Tensor:
        """Textures of the object [N, 3, H, W] in [-1, 1]."""
        images: Tensor = self.f_text(latents, class_vectors, truncation)
        return images

    def background(self, latents: Tensor, class_vectors: Tensor, truncation: float) -> Tensor:
        """Backgrounds, likewise."""
        images: Tensor = self.f_bg(latents, class_vectors, truncation)
        return images


@dataclass(frozen=True)
class CgnFacts:
    """What planning needs to know of a network.

    latent: distribution of the latents' entries; windows: corners of the shuffler's window are drawn from 0 to
    windows - 1 in rows and columns, for texture and background each; 0 where there is no shuffler.
    digests: sha256 of each file that decides pixels, by name.
    """

    form: Form
    z_dim: int
    num_classes: int
    resolution: int
    latent: Literal["truncated normal", "normal"]
    windows: int
    class_names: tuple[str, ...] | None = None
    digests: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadedCgn:
    """Networks on the CPU, in eval mode, without gradients, and what is known of them."""

    facts: CgnFacts
    networks: BigGanCgn | MnistCgn


class Cgn:
    """Three mechanisms ready to render, one call each; made by `fold_cgn`.

    Samples are computed in batches of exactly `batch_size`, the last one padded: a sample's floating point depends
    neither on how many were asked for nor on what the others are.

    classes: labels [N] int64, or class vectors [N, num_classes] float. latents: [N, z_dim], final, that is, already
    truncated. windows: [N, 2] int64, a texture's or background's own where `facts.windows` is not 0, else None.
    Raises UsageError for a label out of range or a shape that does not fit.
    """

    def __init__(
        self,
        facts: CgnFacts,
        networks: MnistCgn | tuple[FastGenerator, FastGenerator, FastGenerator],
        saliency: Saliency | None,
        batch_size: int,
        device: torch.device,
    ) -> None:
        self.facts = facts
        self.batch_size = batch_size
        self.device = device
        self._networks = networks
        self._saliency = saliency

    def shape(self, latents: Tensor, classes: Tensor) -> Tensor:
        """Masks [N, 1, H, W] float32 in (0, 1)."""
        if isinstance(self._networks, MnistCgn):
            return self._run_mnist(self._networks.shape, latents, classes)
        assert self._saliency is not None
        images = self._networks[0](latents, classes)
        return _in_batches(self._saliency, self.batch_size, images).clamp(*MASK_RANGE)

    def texture(self, latents: Tensor, classes: Tensor, windows: Tensor | None = None) -> Tensor:
        """Textures of the object [N, 3, H, W] float32 in [-1, 1]."""
        if isinstance(self._networks, MnistCgn):
            return self._run_mnist(self._networks.texture, latents, classes, self._check_windows(windows, latents))
        return self._networks[1](latents, classes)

    def background(self, latents: Tensor, classes: Tensor, windows: Tensor | None = None) -> Tensor:
        """Backgrounds [N, 3, H, W] float32 in [-1, 1]."""
        if isinstance(self._networks, MnistCgn):
            return self._run_mnist(self._networks.background, latents, classes, self._check_windows(windows, latents))
        return self._networks[2](latents, classes)

    def premask(self, latents: Tensor, classes: Tensor) -> Tensor:
        """The picture [N, 3, H, W] that the saliency network makes the mask of; of the BigGAN form alone."""
        assert not isinstance(self._networks, MnistCgn)
        return self._networks[0](latents, classes)

    def _run_mnist(self, mechanism: Any, latents: Tensor, classes: Tensor, *windows: Tensor) -> Tensor:
        classes = check_classes(latents, classes, self.facts.z_dim, self.facts.num_classes)
        vectors = one_hot(classes, self.facts.num_classes) if classes.dim() == 1 else classes
        rows = (rows.to(self.device) for rows in (latents.float(), vectors, *windows))
        return _in_batches(mechanism, self.batch_size, *rows)

    def _check_windows(self, windows: Tensor | None, latents: Tensor) -> Tensor:
        expected = (len(latents), 2)
        if windows is None or windows.shape != expected:
            found = "none" if windows is None else f"shape {list(windows.shape)}"
            raise UsageError(f"windows of the shuffler: found {found}, expected [N, 2], one for each of N latents")
        if len(windows) and not 0 <= int(windows.min()) <= int(windows.max()) < self.facts.windows:
            raise UsageError(
                f"windows of the shuffler: corners from {int(windows.min())} to {int(windows.max())}, "
                f"expected 0 to {self.facts.windows - 1}"
            )
        return windows


def load_cgn(name_or_path: str | Path, normalise: bool | None = None) -> LoadedCgn:
    """Load a network of either form.

    name_or_path: "mini", the shipped one; a folder that `fit-cgn` wrote; or a file: an official one of the MNIST form,
    or the official `cgn.pth` of the ImageNet form. normalise: of the saliency network's input, None = as the network
    was trained, which the official ones were without.
    Raises UsageError where nothing is there, FormatError where it is something else.
    """
    path = Path(str(files("genint.pipeline") / "data" / "mini-cgn")) if name_or_path == MINI_CGN else Path(name_or_path)
    if path.is_dir():
        weights_path, config_path = path / WEIGHTS_NAME, path / CONFIG_NAME
    else:
        weights_path, config_path = path, None
    if not weights_path.is_file():
        raise UsageError(
            f"CGN {str(name_or_path)!r}: no file {weights_path}; expected {MINI_CGN!r}, a folder of fit-cgn with "
            f"{WEIGHTS_NAME}, or an official file such as cgn_colored_MNIST.pth or cgn.pth"
        )
    weights, sha256 = load_weights(weights_path)
    # The prefix of networks that were trained on several devices.
    weights = {str(key).removeprefix("module."): value for key, value in weights.items()}
    digests = {"cgn": sha256}
    if "label_emb.weight" in weights:
        return _frozen(_fit_mnist(weights, weights_path), digests)
    if config_path and config_path.is_file():
        config, class_names, digests["config"] = load_config(config_path)
        description = json.loads(config_path.read_text("utf-8")).get("saliency")
        if not isinstance(description, dict):
            raise FormatError(f"{config_path}: no table 'saliency', which says what network makes the masks")
        saliency = make_saliency(description, str(config_path))
    elif any(name.startswith(_OFFICIAL_SALIENCY) for name in weights):
        config, class_names = PUBLISHED_CONFIGS["biggan-deep-256"], None
        saliency = make_saliency({"kind": "u2net", "normalise": False}, str(weights_path))
        weights = _from_official(weights)
    else:
        raise FormatError(
            f"{weights_path}: no CGN; expected an official file of the MNIST form (label_emb.weight, f_shape.0.weight, "
            "...), the official file of the ImageNet form (f_shape.generator..., u2net...), or a folder of fit-cgn"
        )
    networks = BigGanCgn(config, saliency)
    fit_weights(networks, expand_statistics(weights, config.n_stats), f"{weights_path}: not this CGN")
    if normalise is not None:
        saliency.normalise = normalise
    return _frozen(networks, digests, class_names)


def make_random_cgn(
    form: Form = "biggan", config: BigGANConfig | None = None, seed: int = 0, saliency: Saliency | None = None
) -> LoadedCgn:
    """A network of random weights: same cost and code paths as a trained one, noise as pictures.

    config: of the BigGAN form, None = BigGAN-deep-128. saliency: None = a tiny one.
    """
    digests = {"cgn": f"random weights, seed {seed}"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if form == "mnist":
            return _frozen(MnistCgn(), digests)
        config = config or PUBLISHED_CONFIGS["biggan-deep-128"]
        networks = BigGanCgn(
            config, saliency or make_saliency({"kind": "tiny", "channels": [8, 16], "normalise": True}, "")
        )
    for offset, mechanism in enumerate((networks.f_shape, networks.f_text, networks.f_bg)):
        mechanism.load_state_dict(make_random_generator(config, 3 * seed + offset, calibration_samples=1).state_dict())
    return _frozen(networks, digests)


def fold_cgn(
    loaded: LoadedCgn,
    truncation: float = 1.0,
    *,
    batch_size: int,
    precision: Precision = "fp32",
    device: str | torch.device = "cpu",
) -> Cgn:
    """The mechanisms ready to render; of the BigGAN form with the batch-norm statistics of one truncation.

    precision: of generators and saliency network; the MNIST form computes in fp32. batch_size: as in `fold`.
    """
    device = torch.device(device)
    networks = loaded.networks
    if isinstance(networks, MnistCgn):
        return Cgn(loaded.facts, copy.deepcopy(networks).to(device), None, batch_size, device)
    shape, texture, background = (
        fold(mechanism, truncation, batch_size=batch_size, precision=precision, device=device)
        for mechanism in (networks.f_shape, networks.f_text, networks.f_bg)
    )
    saliency = fold_saliency(networks.saliency, device, shape.dtype)
    return Cgn(loaded.facts, (shape, texture, background), saliency, shape.batch_size, device)


def expand_statistics(weights: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """Weights whose batch-norm statistics, where a file keeps those of one truncation, stand in every row."""
    return {name: value.expand(rows, -1) if _is_single_row(name, value) else value for name, value in weights.items()}


def _is_single_row(name: str, value: Any) -> bool:
    return str(name).endswith(_STATISTICS) and isinstance(value, Tensor) and value.dim() == 2 and len(value) == 1


def _fit_mnist(weights: Mapping[str, Any], path: Path) -> MnistCgn:
    """A network with the sizes of its file."""
    shapes = {name: list(v.shape) for name, v in weights.items() if isinstance(v, Tensor)}
    match shapes.get("label_emb.weight"), shapes.get("f_shape.0.weight"), shapes.get("f_shape.4.weight"):
        case [int(classes), int()], [int(), int(inputs)], [int(width), int(), 3, 3] if 0 < classes < inputs:
            networks = MnistCgn(classes, inputs - classes, width)
        case found:
            raise FormatError(
                f"{path}: not a CGN of the MNIST form: label_emb.weight, f_shape.0.weight and f_shape.4.weight of "
                f"shapes {found}, expected [classes, classes], [n, latent + classes] and [n, m, 3, 3]"
            )
    fit_weights(networks, weights, f"{path}: not a CGN of the MNIST form")
    return networks


def _from_official(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The official names as ours, without the frozen generator."""
    return {
        f"saliency.network.{name.removeprefix(_OFFICIAL_SALIENCY)}" if name.startswith(_OFFICIAL_SALIENCY) else name: v
        for name, v in weights.items()
        if not name.startswith(_OFFICIAL_GENERATOR)
    }


def _frozen(
    networks: BigGanCgn | MnistCgn, digests: Mapping[str, str], class_names: tuple[str, ...] | None = None
) -> LoadedCgn:
    networks.eval().requires_grad_(False)
    if isinstance(networks, MnistCgn):
        # A window at the picture's side shows the same as one at 0, and is drawn as the official code draws it.
        facts = CgnFacts("mnist", networks.z_dim, networks.num_classes, RESOLUTION, "normal", RESOLUTION + 1)
    else:
        config = networks.config
        facts = CgnFacts("biggan", config.z_dim, config.num_classes, config.output_dim, "truncated normal", 0)
    return LoadedCgn(replace(facts, class_names=class_names, digests=dict(digests)), networks)


def _in_batches(run: Any, size: int, *inputs: Tensor) -> Tensor:
    """Rows of the inputs through `run` in batches of exactly `size`."""
    parts = []
    with torch.inference_mode(), repeatable_kernels():
        for start in range(0, len(inputs[0]), size):
            members = [rows[start : start + size] for rows in inputs]
            parts.append(run(*(pad_rows(rows, size) for rows in members))[: len(members[0])])
        return torch.cat(parts) if parts else run(*(pad_rows(rows, 1) for rows in inputs))[:0]
