"""Load the generator that a recipe names: a shipped or published one, a folder of BigGAN's form, or one's own class."""

import inspect
from importlib.resources import files
from pathlib import Path

from pytorch_pretrained_biggan.model import CONFIG_NAME, WEIGHTS_NAME

from ...manifests.errors import FormatError, UsageError
from ...manifests.recipe import MINI_GENERATOR
from ..biggan import generator as biggan
from ..networks.generator import LoadedGenerator
from ..networks.weights import fit_weights, load_weights
from .code import find_class
from .network import check_contract, contract_sizes


def weights_location(name: str) -> str:
    """Where the generator of a recipe's name comes from: the shipped folder, or the published name itself."""
    return str(files("genint.pipeline") / "data" / "mini-generator") if name == MINI_GENERATOR else name


def load_generator(name: str, weights: str | Path | None = None, code: str | None = None) -> LoadedGenerator:
    """Load the generator of a recipe's name, from the folder `weights` where it is given.

    code: `module:Class` or an entry point of a class that keeps the contract; None: it is a BigGAN-deep. Raises
    UsageError where something is missing, FormatError where files are damaged or do not fit.
    """
    if code is None:
        return biggan.load_generator(weights or weights_location(name))
    if weights is None:
        raise UsageError(
            f"generator {name!r}: give the folder of its {CONFIG_NAME} and {WEIGHTS_NAME} with --weights DIR"
        )
    config_path, weights_path = biggan.folder_files(Path(weights))
    generator, code_sha256 = find_class(code)
    values, class_names, config_sha256 = biggan.read_config(config_path)
    what = f"{generator.__qualname__}{inspect.signature(generator)}"
    try:
        inspect.signature(generator).bind(**values)
    except TypeError as error:
        raise FormatError(f"{config_path}: does not fit {what}: {error}") from error
    model = generator(**values)
    state, weights_sha256 = load_weights(weights_path)
    fit_weights(model, state, f"{weights_path}: weights do not fit {generator.__qualname__} as {CONFIG_NAME} says")
    model.eval().requires_grad_(False)
    _, num_classes, _ = contract_sizes(model)
    biggan.check_class_names(class_names, num_classes, config_path)
    check_contract(model)
    return LoadedGenerator(model, config_sha256, weights_sha256, class_names, code_sha256)
