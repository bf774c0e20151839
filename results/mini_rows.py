"""Rows of the paper in miniature: what each is trained on, how, and what it has to know of its pictures."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# What a method needs to know of its training pictures beside their labels.
Needs = Literal["nothing", "masks", "saliency learned of masks", "GrabCut", "pictures free of confounding"]

INTERVENTIONS = Path(__file__).with_name("mini") / "interventions" / "interventions.json"


def _chosen_ranges() -> list[str]:
    """Step ranges by direction that keep 90 % of the classes: what the sweep over interventions chose."""
    ranges = json.loads(INTERVENTIONS.read_text())["step_ranges"]["0.9"]
    return ["--set", f"streams.interventional.step_ranges={json.dumps(ranges)}"]


# Datasets by name: arguments of `genint-pipeline build-shards`.
DATASETS: Mapping[str, Callable[[], list[str]]] = {
    "mini": lambda: ["mini"],
    "mini-stylized": lambda: ["mini-stylized"],
    "mini-unconfounded": lambda: ["mini-unconfounded"],
    "mini-variants": lambda: ["mini-variants"],
    "mini-chosen": lambda: ["mini-sweep", *_chosen_ranges()],
}


@dataclass(frozen=True)
class Row:
    """One way of training on the mini world: `streams` beside the natural one, all as DATASET:STREAM."""

    name: str
    title: str
    preset: str
    streams: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    needs: Needs = "nothing"
    natural: str | None = "mini:natural"

    @property
    def all_streams(self) -> tuple[str, ...]:
        return (self.natural, *self.streams) if self.natural else self.streams

    @property
    def datasets(self) -> list[str]:
        """Datasets that it is trained on."""
        return list(dict.fromkeys(name.partition(":")[0] for name in self.all_streams))

    def arguments(self, data: Path, seed: int) -> list[str]:
        """Arguments of `genint-train` but for --out; datasets lie in the folder `data`.

        All rows name their natural images in the same way, for their order is drawn by that name.
        """
        words = ["--preset", self.preset, "--seed", str(seed), "--validation", f"{data / 'mini'}:validation"]
        for override in self.overrides:
            words += ["--set", override]
        if self.natural:
            words += ["--imagenet", f"{data}/{self.natural}"]
        for folder in self.shards(data):
            words += ["--shards", folder]
        if self.streams:
            words += ["--streams", ",".join(self.names)]
        return words

    def shards(self, data: Path) -> list[str]:
        """Datasets of `streams`."""
        return [str(data / name) for name in dict.fromkeys(stream.partition(":")[0] for stream in self.streams)]

    @property
    def names(self) -> list[str]:
        """Names of `streams` in their datasets."""
        return [stream.partition(":")[2] for stream in self.streams]


def natural_images(a_step: int) -> tuple[str, ...]:
    """Overrides for as many natural images a step, in as many steps."""
    return (f"batch_sizes.natural={a_step}", f"images_per_epoch={6_000 * a_step // 128}")


OBSERVATIONAL, INTERVENTIONAL, TRANSFER = "mini:observational", "mini:interventional", "mini:transfer"
COUNTERFACTUAL = "mini:counterfactual"
BY_SALIENCY: Needs = "saliency learned of masks"
# 47 steps of 128 an epoch, as the rows with natural images.
ONLY = ("images_per_epoch=6016",)

ROWS: Sequence[Row] = (
    Row("erm", "natural only", "mini-erm"),
    Row("erm-256", "natural only, 256 images per step", "mini-erm", overrides=natural_images(256)),
    Row("erm-352", "natural only, 352 images per step", "mini-erm", overrides=natural_images(352)),
    Row("mixup", "Mixup", "mini-mixup"),
    Row("cutmix", "CutMix", "mini-cutmix"),
    Row("autoaugment", "AutoAugment", "mini-autoaugment"),
    Row("trivialaugment", "TrivialAugment", "mini-trivialaugment"),
    Row("augmix", "AugMix", "mini-augmix"),
    Row("stylized", "Stylized", "mini-stylized", ("mini-stylized:stylized",)),
    Row("gan-augmentation", "GAN augmentation", "mini-gan-augmentation", (OBSERVATIONAL,)),
    Row("genint", "GenInt", "mini-genint", (INTERVENTIONAL,)),
    Row("genint-chosen", "GenInt, interventions chosen", "mini-genint", ("mini-chosen:interventional",),
        ("lambda_int=0.05",)),
    Row("genint-transfer", "GenInt with Transfer", "mini-genint-transfer", (INTERVENTIONAL, TRANSFER)),
    Row("cgn", "CGN", "mini-cgn", (COUNTERFACTUAL,), needs=BY_SALIENCY),
    Row("cgn-background", "CGN, background alone swapped", "mini-cgn", ("mini-variants:counterfactual-background",),
        needs=BY_SALIENCY),
    Row("cgn-ensemble", "CGN ensemble", "mini-cgn-ensemble", (COUNTERFACTUAL,), needs=BY_SALIENCY),
    Row("recomposed", "recomposed", "mini-recomposed", ("mini:recomposed",), needs="masks"),
    Row("recomposed-grabcut", "recomposed, cut by GrabCut", "mini-recomposed", ("mini-variants:recomposed-grabcut",),
        needs="GrabCut"),
    Row("genint-cgn", "GenInt with CGN", "mini-cgn", (INTERVENTIONAL, COUNTERFACTUAL),
        ("lambda_int=0.2", 'sources={int=["interventional"],counterfactual=["counterfactual"]}'), BY_SALIENCY),
    Row("genint-transfer-cgn", "GenInt with Transfer and CGN", "mini-genint-cgn",
        (INTERVENTIONAL, TRANSFER, COUNTERFACTUAL), needs=BY_SALIENCY),
    Row("generated-observational", "generated only, observational", "mini-generated", (OBSERVATIONAL,), ONLY,
        natural=None),
    Row("generated-interventional", "generated only, interventional", "mini-generated", (INTERVENTIONAL,), ONLY,
        natural=None),
    Row("unconfounded", "upper bound: natural images free of confounding", "mini-erm",
        needs="pictures free of confounding", natural="mini-unconfounded:unconfounded"),
)  # fmt: skip

# What rows are compared with: natural images alone, and the generator's own images.
BASELINES = ("erm", "gan-augmentation")
# The same with as many natural images a step as the rows with counterfactuals see in all.
BUDGETS: Mapping[str, int] = {"erm": 128, "erm-256": 256, "erm-352": 352}
# Streams of `mini` that rows are measured on. The first alone may choose.
TEST_SETS = ("validation", "test", "test-background", "test-shifted")
