"""Which shipped preset fits the data, where a run names none."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ..manifests.errors import UsageError
from .plan import image_size
from .streams import Term, TrainStream

# Kinds of streams that presets take: natural, or a source of others. Of presets that take as many kinds the first.
MINI: Final = {
    "mini-erm": {"natural"},
    "mini-genint": {"natural", "interventional"},
    "mini-gan-augmentation": {"natural", "observational"},
    "mini-cgn": {"natural", "counterfactual"},
    "mini-recomposed": {"natural", "recomposed"},
    "mini-genint-transfer": {"natural", "interventional", "transfer"},
    "mini-genint-cgn": {"natural", "interventional", "transfer", "counterfactual"},
    "mini-generated": {"interventional"},
}
MNIST: Final = {
    "mnist-cnn-original": {"natural"},
    "mnist-cnn-cgn": {"natural", "counterfactual"},
}
PHOTOGRAPHS: Final = {
    "resnet18-imagenet-only": {"natural"},
    "resnet18-genint": {"natural", "interventional"},
    "resnet18-gan-augmentation": {"natural", "observational"},
    "resnet18-stylized": {"natural", "stylized"},
    "resnet50-cgn-ensemble": {"natural", "counterfactual"},
    "resnet18-genint-transfer": {"natural", "interventional", "transfer"},
    "resnet50-interventional": {"interventional"},
    "resnet50-observational": {"observational"},
}
MNIST_WORLDS: Final = {"colored-mnist", "double-colored-mnist", "wildlife-mnist"}
# What images of no known source are taken for.
USUAL: Final[dict[Term, str]] = {"int": "interventional", "transfer": "transfer", "counterfactual": "counterfactual"}
# px: up to here images are taken as they are, as those of the mini world.
SMALL: Final = 64
# px of these presets; smaller photographs are not enlarged.
MINI_SIZE, PHOTOGRAPH_SIZE = 32, 224


@dataclass(frozen=True)
class Choice:
    """A preset with KEY=VALUE overrides for the images' size, and a line for people."""

    preset: str
    overrides: tuple[str, ...]
    note: str


def choose_preset(streams: Sequence[TrainStream]) -> Choice:
    """The preset that takes most kinds of these streams. Raises UsageError where none takes any."""
    kinds = {"natural" if stream.term == "natural" else stream.source or USUAL[stream.term] for stream in streams}
    worlds = {stream.source for stream in streams if stream.term == "natural"}
    side = min(image_size(streams[0].images))
    overrides: list[str] = []
    if worlds & MNIST_WORLDS:
        family = MNIST
    elif side <= SMALL:
        family = MINI
        overrides = [f"size={side}", f"resize={side}"] if side != MINI_SIZE else []
    else:
        family = PHOTOGRAPHS
        overrides = [f"size={side // 32 * 32}"] if side < PHOTOGRAPH_SIZE else []
    fitting = [name for name, needed in family.items() if needed <= kinds]
    if not fitting:
        raise UsageError(
            f"no preset is for {' and '.join(sorted(kinds))} images alone; give natural images with --imagenet DIR, or "
            "choose with --preset NAME (genint-train presets lists them)"
        )
    name = max(fitting, key=lambda name: len(family[name]))
    said = f"preset {name}, chosen for {', '.join(sorted(family[name]))} images of {side} px; --preset takes another"
    return Choice(name, tuple(overrides), said)
