"""Load a BigGAN-deep generator: the published weights, a folder of the same two files, or a random stand-in."""

import difflib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from pytorch_pretrained_biggan import PYTORCH_PRETRAINED_BIGGAN_CACHE, BigGAN, BigGANConfig, cached_path
from pytorch_pretrained_biggan.model import (
    CONFIG_NAME,
    PRETRAINED_CONFIG_ARCHIVE_MAP,
    PRETRAINED_MODEL_ARCHIVE_MAP,
    WEIGHTS_NAME,
    BigGANBatchNorm,
    SelfAttn,
)
from torch import Tensor, nn
from torch.nn.functional import normalize

from ...manifests.errors import FormatError, GenintError, UsageError
from ...manifests.lock import one_after_another
from ..networks.generator import LoadedGenerator
from ..networks.weights import check_fit, fit_weights, load_weights

# A layer is (upsample, input channels, output channels), channels in units of channel_width.
_FIRST_LAYERS = [(False, 16, 16), (True, 16, 16), (False, 16, 16), (True, 16, 8), (False, 8, 8)]
_LAST_LAYERS = [(True, 8, 4), (False, 4, 4), (True, 4, 2), (False, 2, 2), (True, 2, 1)]
_PUBLISHED_LAYERS = {
    128: [*_FIRST_LAYERS, *_LAST_LAYERS],
    256: [*_FIRST_LAYERS, (True, 8, 8), (False, 8, 8), *_LAST_LAYERS],
    512: [*_FIRST_LAYERS, (True, 8, 8), (False, 8, 8), *_LAST_LAYERS, (False, 1, 1), (True, 1, 1)],
}

# What the hosted config.json files say, usable without downloading anything. The attention layer stands before
# block 8 in all three, which is at 64 x 64 pixels: block 8 of the 128 px generator has 256 channels, of the others 512.
PUBLISHED_CONFIGS: Mapping[str, BigGANConfig] = MappingProxyType(
    {
        f"biggan-deep-{resolution}": BigGANConfig(
            output_dim=resolution,
            z_dim=128,
            class_embed_dim=128,
            channel_width=128,
            num_classes=1000,
            layers=layers,
            attention_layer_position=8,
            eps=1e-4,
            n_stats=51,
        )
        for resolution, layers in _PUBLISHED_LAYERS.items()
    }
)

_LARGEST = 100_000  # of the integers in a configuration; published ones stay below 1,100


def load_generator(name_or_folder: str | Path, cache_dir: Path | None = None) -> LoadedGenerator:
    """Load a published generator by name, or one from a folder with `config.json` and `pytorch_model.bin`.

    A published name is downloaded once to `cache_dir` (None = the package's own cache) and found there ever after
    without network. A Path is always a folder, and so is a string that is not a published name.
    """
    config_path, weights_path = _generator_files(name_or_folder, cache_dir)
    config, class_names, config_sha256 = load_config(config_path)
    weights, weights_sha256 = load_weights(weights_path)
    complaint = f"{weights_path}: weights do not fit the configuration beside them"
    with torch.device("meta"):
        check_fit(BigGAN(config), weights, complaint)  # before memory is taken: a configuration can ask for terabytes
    model = BigGAN(config)
    fit_weights(model, weights, complaint)
    return LoadedGenerator(model.eval().requires_grad_(False), config_sha256, weights_sha256, class_names)


def make_random_generator(config: BigGANConfig, seed: int, calibration_samples: int = 8) -> BigGAN:
    """A generator of any configuration with random weights: same cost and code paths as a trained one, noise as images.

    Stands in for weights that are not there, in timings and tests. Everything a trained generator uses has an effect:
    class, latent, truncation, attention, spectral norm; activations have the scale the batch norms expect, measured on
    `calibration_samples` images (one is enough for a timing).
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = BigGAN(config)
        nn.init.normal_(model.embeddings.weight, std=0.5)
        nn.init.normal_(model.generator.bn.weight, mean=1.0, std=0.1)
        nn.init.normal_(model.generator.bn.bias, std=0.1)
        for module in model.modules():
            if isinstance(module, SelfAttn):
                nn.init.constant_(module.gamma, 0.5)
            if hasattr(module, "weight_u"):
                _iterate_spectral_norm(module)
        model.eval().requires_grad_(False)
        _calibrate_statistics(model, calibration_samples)
    return model


def _generator_files(name_or_folder: str | Path, cache_dir: Path | None) -> tuple[Path, Path]:
    """Paths of the configuration and the weights."""
    if isinstance(name_or_folder, str) and name_or_folder in PUBLISHED_CONFIGS:
        urls = PRETRAINED_CONFIG_ARCHIVE_MAP[name_or_folder], PRETRAINED_MODEL_ARCHIVE_MAP[name_or_folder]
        cache_dir = Path(PYTORCH_PRETRAINED_BIGGAN_CACHE if cache_dir is None else cache_dir)
        try:
            return _download(urls[0], cache_dir), _download(urls[1], cache_dir)
        except OSError as error:  # requests' errors are OSErrors too
            reason = " ".join(str(error).split())
            raise GenintError(
                f"generator {name_or_folder!r}: cannot download it ({reason}); put {CONFIG_NAME} (from {urls[0]}) and "
                f"{WEIGHTS_NAME} (from {urls[1]}) in a folder and give that with --weights DIR"
            ) from error
    folder = Path(name_or_folder)
    if not folder.is_dir():
        near = difflib.get_close_matches(str(name_or_folder), PUBLISHED_CONFIGS, n=1)
        suggestion = f"; did you mean {near[0]!r}?" if near else ""
        raise UsageError(
            f"generator {str(name_or_folder)!r}: neither a published name ({', '.join(PUBLISHED_CONFIGS)}) "
            f"nor a folder with {CONFIG_NAME} and {WEIGHTS_NAME}{suggestion}; --weights DIR says where its folder is"
        )
    return folder_files(folder)


def folder_files(folder: Path) -> tuple[Path, Path]:
    """Paths of the configuration and the weights in a generator's folder. Raises UsageError where one is missing."""
    missing = [name for name in (CONFIG_NAME, WEIGHTS_NAME) if not (folder / name).is_file()]
    if missing:
        raise UsageError(f"generator folder {folder}: no {' and no '.join(missing)}")
    return folder / CONFIG_NAME, folder / WEIGHTS_NAME


def _download(url: str, cache_dir: Path) -> Path:
    """The cached file of `url`, fetched if need be, by one process of this machine while the others wait for it."""
    cached = _find_cached(url, cache_dir)
    if cached is not None:
        return cached
    cache_dir.mkdir(parents=True, exist_ok=True)
    with one_after_another(cache_dir / "download.lock"), tempfile.TemporaryDirectory(dir=cache_dir) as scratch:
        cached = _find_cached(url, cache_dir)
        if cached is None:
            # The package writes under the final name, where others would take half a file for a whole one. The file
            # that it finds the other by comes last.
            fetched = Path(cached_path(url, cache_dir=scratch))
            cached = cache_dir / fetched.name
            for path in (fetched, Path(f"{fetched}.json")):
                os.replace(path, cache_dir / path.name)
    return cached


def _find_cached(url: str, cache_dir: Path) -> Path | None:
    # The package's own look-up asks the server first, so that a filled cache is no use on a node without network.
    for metadata_path in sorted(cache_dir.glob("*.json")):
        if json.loads(metadata_path.read_text("utf-8"))["url"] == url:
            return metadata_path.with_suffix("")
    return None


def load_config(path: Path) -> tuple[BigGANConfig, tuple[str, ...] | None, str]:
    """A checked configuration, the class names beside it, and the sha256 of the file."""
    values, class_names, sha256 = read_config(path)
    known = vars(BigGANConfig())
    if not values.keys() >= known.keys():
        raise FormatError(f"{path}: not a BigGAN configuration: no {', '.join(sorted(known.keys() - values.keys()))}")
    config = BigGANConfig(**{key: values[key] for key in known})
    problem = _config_problem(config)
    if problem:
        raise FormatError(f"{path}: not a BigGAN-deep configuration: {problem}")
    check_class_names(class_names, config.num_classes, path)
    return config, class_names, sha256


def read_config(path: Path) -> tuple[dict[str, Any], tuple[str, ...] | None, str]:
    """What a config.json holds, the class names among it apart, and the sha256 of the file."""
    content = path.read_bytes()
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:  # undecodable bytes, text that is not JSON, or nested without end
        raise FormatError(f"{path}: not a JSON file: {error}") from error
    if not isinstance(values, dict):
        raise FormatError(f"{path}: holds no settings of a generator but a {type(values).__name__}")
    names = values.pop("class_names", None)
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise FormatError(f"{path}: class_names is not a list of names")
    return values, tuple(names) if names is not None else None, hashlib.sha256(content).hexdigest()


def check_class_names(names: tuple[str, ...] | None, num_classes: int, path: Path) -> None:
    """Raise FormatError where there are names, but not a different one for each class."""
    if names is not None and not len(set(names)) == len(names) == num_classes:
        raise FormatError(f"{path}: class_names is not a list of {num_classes} different names")


def _config_problem(config: BigGANConfig) -> str | None:
    """What keeps `config` from being a generator that the package can build, or None."""
    integers = ("output_dim", "z_dim", "class_embed_dim", "channel_width", "num_classes", "n_stats")
    for key in integers:
        if type(getattr(config, key)) is not int or not 1 <= getattr(config, key) <= _LARGEST:
            return f"{key} is {getattr(config, key)!r:.80}, not an integer from 1 to {_LARGEST:,}"
    if not isinstance(config.eps, float) or not 0 < config.eps < 1:
        return f"eps is {config.eps!r:.80}, not a number between 0 and 1"
    if config.n_stats < 2:
        return f"n_stats is {config.n_stats}, but batch-norm statistics are needed for 2 truncations or more"
    if config.class_embed_dim != config.z_dim:
        return f"class_embed_dim is {config.class_embed_dim}, z_dim {config.z_dim}; they must be equal"

    if not isinstance(config.layers, list) or not config.layers:
        return f"layers is {config.layers!r:.80}, not a list of [upsample, input, output]"
    channels = 16
    for index, layer in enumerate(config.layers):
        if not isinstance(layer, list | tuple) or [type(value) for value in layer] != [bool, int, int]:
            return f"layer {index} is {layer!r:.80}, not [upsample, input, output]"
        _, layer_input, layer_output = layer
        if layer_input != channels:
            return f"layer {index} takes {layer_input} x channel_width channels, but is given {channels}"
        if layer_output not in (layer_input, layer_input / 2):
            return (
                f"layer {index} turns {layer_input} x channel_width channels into {layer_output}; it can keep or halve"
            )
        channels = layer_output
    if channels != 1:
        return f"the last layer gives {channels} x channel_width channels, not 1"
    resolution = 4 * 2 ** sum(upsample for upsample, _, _ in config.layers)
    if config.output_dim != resolution:
        return f"output_dim is {config.output_dim}, but the layers give {resolution}"
    position = config.attention_layer_position
    if type(position) is not int or not 0 <= position < len(config.layers):
        return f"attention_layer_position is {position!r:.80}, not one of the {len(config.layers)} layers"
    if config.channel_width < 8:
        return f"channel_width is {config.channel_width}; 8 is the least"  # attention has an eighth of the channels
    return None


def _iterate_spectral_norm(module: Any, iterations: int = 5) -> None:
    """Power iterations, as train-mode forward passes do them; without any, sigma is near 0 and images are NaN."""
    matrix = module.weight_orig.flatten(1)
    for _ in range(iterations):
        module.weight_v.copy_(normalize(matrix.T @ module.weight_u, dim=0))
        module.weight_u.copy_(normalize(matrix @ module.weight_v, dim=0))


def _calibrate_statistics(model: BigGAN, batch_size: int) -> None:
    """Give each batch norm the statistics of what reaches it at truncations 0 and 1, linear in between."""
    config = model.config
    latents = torch.randn(batch_size, config.z_dim).clamp(-2, 2)
    class_vectors = torch.eye(config.num_classes)[torch.randint(config.num_classes, (batch_size,))]
    norms = [module for module in model.modules() if isinstance(module, BigGANBatchNorm)]
    truncations = torch.linspace(0, 1, config.n_stats)[:, None]
    means: list[dict[BigGANBatchNorm, Tensor]] = [{}, {}]
    variances: list[dict[BigGANBatchNorm, Tensor]] = [{}, {}]
    for truncation in (0, 1):

        def observe(norm: BigGANBatchNorm, arguments: tuple[Tensor, ...], truncation: int = truncation) -> None:
            # Sets every row, so that this very forward pass goes on with normalised activations.
            variance, mean = torch.var_mean(arguments[0], dim=(0, 2, 3))
            norm.running_means.copy_(mean.expand_as(norm.running_means))
            norm.running_vars.copy_(variance.expand_as(norm.running_vars))
            means[truncation][norm], variances[truncation][norm] = mean, variance

        hooks = [norm.register_forward_pre_hook(observe) for norm in norms]
        model(latents * truncation, class_vectors, 1.0)
        for hook in hooks:
            hook.remove()
    for norm in norms:
        norm.running_means.copy_(torch.lerp(means[0][norm], means[1][norm], truncations))
        norm.running_vars.copy_(torch.lerp(variances[0][norm], variances[1][norm], truncations))
