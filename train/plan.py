"""What a run does with its streams, stage by stage: which take part, how many images a step, how many steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..manifests.errors import UsageError
from ..manifests.pictures import damage_named, open_picture
from ..manifests.recipe import suggest
from .configuration import TERMS, AugmentationName, Configuration, Stage
from .inputs import Inputs
from .joined_images import count_left_out
from .stream_images import UNKNOWN
from .streams import Images, Term, TrainStream

_FLAG: dict[Term, str] = {
    "natural": "natural",
    "int": "lambda_int",
    "transfer": "lambda_transfer",
    "counterfactual": "lambda_counterfactual",
}
_KIND: dict[Term, str] = {
    "natural": "natural",
    "int": "generated (observational or interventional)",
    "transfer": "transfer or stylized",
    "counterfactual": "counterfactual or recomposed",
}


@dataclass(frozen=True)
class StagePlan:
    """A stage on the run's streams. Its steps are `start` to `start + steps` of the run."""

    index: int
    stage: Stage
    streams: list[TrainStream]  # in the order of their images in the batch, which is that of the terms
    batch_sizes: dict[str, int]  # images of each stream in a step, over all ranks
    steps_per_epoch: int
    start: int
    steps: int

    @property
    def stop(self) -> int:
        return self.start + self.steps

    @property
    def term_counts(self) -> dict[Term, int]:
        """Images of each term in a step, over all ranks."""
        counts: dict[Term, int] = {}
        for stream in self.streams:
            counts[stream.term] = counts.get(stream.term, 0) + self.batch_sizes[stream.name]
        return counts

    def lr(self, step: int) -> float:
        """Learning rate of a step of the run: a linear rise, then down at decay epochs or along a cosine."""
        stage, done = self.stage, step - self.start
        rise = min(1.0, (done + 1) / stage.warmup_steps) if stage.warmup_steps else 1.0
        if stage.schedule == "cosine":
            way = max(0, done - stage.warmup_steps) / max(1, self.steps - stage.warmup_steps)
            return stage.lr * rise * 0.5 * (1 + math.cos(math.pi * way))
        decays = sum(done >= epoch * self.steps_per_epoch for epoch in stage.decay_epochs)
        return float(stage.lr * rise * stage.decay_factor**decays)

    def epoch(self, step: int) -> float:
        """Epochs of the stage that are done after so many steps of the run."""
        return (step - self.start) / self.steps_per_epoch


def plan_stages(configuration: Configuration, inputs: Inputs) -> list[StagePlan]:
    """The stages with their streams. Raises UsageError where a stage and the streams do not fit."""
    plans: list[StagePlan] = []
    for index, stage in enumerate(configuration.stages):
        streams = [stream for term in TERMS for stream in _streams_of(term, stage, inputs.streams)]
        batch_sizes = divide_batches(stage, streams)
        for stream in streams:
            if batch_sizes[stream.name] > len(stream.images):
                raise UsageError(
                    f"stream {stream.name!r} has {len(stream.images):,} images, and a step takes "
                    f"{batch_sizes[stream.name]} of it; give it a smaller batch with --set batch_sizes.{stream.term}=N"
                )
        leading = [stream for stream in streams if stream.term == streams[0].term]
        images = min(sum(len(stream.images) for stream in leading), configuration.images_per_epoch or 2**63)
        steps_per_epoch = -(-images // sum(batch_sizes[stream.name] for stream in leading))
        steps = stage.steps or (stage.epochs or 0) * steps_per_epoch
        start = plans[-1].stop if plans else 0
        plans.append(StagePlan(index, stage, streams, batch_sizes, steps_per_epoch, start, steps))
    _check_image_sizes(configuration, plans)
    if configuration.heads:
        _check_heads(configuration, plans)
    return plans


def _streams_of(term: Term, stage: Stage, streams: Sequence[TrainStream]) -> list[TrainStream]:
    if stage.weight(term) is None:
        return []
    of_term = [stream for stream in streams if stream.term == term]
    chosen = [stream for stream in of_term if stage.takes(term, stream.source)]
    if not chosen and of_term:
        found = ", ".join(f"{stream.name} ({stream.source})" for stream in of_term)
        raise UsageError(
            f"stage {stage.name!r} takes {_KIND[term]} streams of source {' or '.join(stage.sources[term])} alone, and "
            f"there is {found}; to take it all the same: --set 'sources.{term}=[\"{of_term[0].source}\"]'"
        )
    if not chosen:
        found = ", ".join(f"{stream.name} ({stream.term})" for stream in streams) or "none"
        wish = "natural = true" if term == "natural" else f"{_FLAG[term]} = {stage.weight(term)}"
        where = "; give --imagenet DIR" if term == "natural" else ""
        raise UsageError(
            f"stage {stage.name!r} has {wish}, but there is no {_KIND[term]} stream; streams: {found}{where}"
        )
    return chosen


def divide_batches(stage: Stage, streams: Sequence[TrainStream]) -> dict[str, int]:
    """Images of each stream in a step: a term's batch size less what is given by stream, shared equally by the rest.

    Where it does not divide, the first streams take one more. Raises UsageError where nothing is left for one.
    """
    names = [stream.name for stream in streams]
    for name in stage.stream_batch_sizes:
        if name not in names:
            raise UsageError(f"stage {stage.name!r}: stream_batch_sizes has {name!r}{suggest(name, names)}")
    sizes = dict(stage.stream_batch_sizes)
    for term in TERMS:
        of_term = [stream.name for stream in streams if stream.term == term]
        free = [name for name in of_term if name not in stage.stream_batch_sizes]
        left = stage.batch_sizes[term] - sum(sizes.get(name, 0) for name in of_term)
        if free and left < len(free):
            raise UsageError(
                f"stage {stage.name!r}: batch_sizes.{term} = {stage.batch_sizes[term]} leaves {left} images a step for "
                f"{', '.join(free)}"
            )
        for place, name in enumerate(free):
            sizes[name] = left // len(free) + (place < left % len(free))
    return {name: sizes[name] for name in names}


def augmentation_name(configuration: Configuration, term: Term) -> AugmentationName:
    """The augmentation of a term's images."""
    return configuration.term_augmentations.get(term, configuration.augmentation)


def _check_image_sizes(configuration: Configuration, plans: Sequence[StagePlan]) -> None:
    """Look at the first image of every stream that is not resized; later ones are looked at when they are read."""
    size = configuration.size
    for stream in {stream.name: stream for plan in plans for stream in plan.streams}.values():
        name = augmentation_name(configuration, stream.term)
        found = image_size(stream.images)
        if name == "pad-crop" and found != (size, size):
            raise UsageError(
                f"stream {stream.name!r} has images of {found[0]} x {found[1]} px, and augmentation {name!r} resizes "
                f"nothing: expected {size} x {size}; choose another with --set augmentation=standard, or --set size=N"
            )


def _check_heads(configuration: Configuration, plans: Sequence[StagePlan]) -> None:
    """Look at the first image of every stream of counterfactuals for a label of each head."""
    streams = {stream.name: stream for plan in plans for stream in plan.streams if stream.term == "counterfactual"}
    labels = [stream.images.read(0)[1] for stream in streams.values()]
    for place, head in enumerate(configuration.heads):
        if all(isinstance(own, int) or own[place] == UNKNOWN for own in labels):
            raise UsageError(
                f"heads: no image has a label of {head!r}; streams of counterfactuals: {', '.join(streams)}; name the "
                "keys of `labels` in their json, such as shape, texture and background (recomposed images have no "
                "label of their background)"
            )


def image_size(images: Images) -> tuple[int, int]:
    """Width and height of the first image. Raises PictureError where it cannot be told."""
    content, _ = images.read(0)
    with damage_named(images.key(0)):
        return open_picture(content).size


def describe_plan(plans: Sequence[StagePlan], inputs: Inputs) -> list[str]:
    """Streams, and what each stage takes of them with which weights, as lines for people."""
    used = {stream.name for plan in plans for stream in plan.streams}
    lines = ["# Streams"]
    for stream in inputs.streams:
        role = stream.term if stream.name in used else f"{stream.term}, not used: {_reason(plans, stream)}"
        for reason, count in count_left_out(stream.images).items():
            role += f" ({count:,} others are {reason})"
        lines.append(f"# {stream.name:20} {len(stream.images):>11,} images  {role}")
    lines += [f"# {part.name:20} {len(part):>11,} images  validation" for part in inputs.validation]
    lines.append(f"# {len(inputs.class_names):,} classes")
    for plan in plans:
        batches = ", ".join(f"{count} {name}" for name, count in plan.batch_sizes.items())
        length = f"{plan.steps:,} steps, {plan.steps_per_epoch:,} an epoch"
        weights = ", ".join(f"{term} {plan.stage.weight(term):g}" for term in plan.term_counts)
        lines.append(f"# Stage {plan.stage.name}: {length}; a step takes {batches}; weights {weights}")
    lines.append(f"# {plans[-1].stop:,} steps in all")
    return lines


def tabulate_plan(plans: Sequence[StagePlan], inputs: Inputs) -> dict[str, Any]:
    """The same for programs: plain values under names."""
    used = {stream.name for plan in plans for stream in plan.streams}
    return {
        "streams": [
            {"name": s.name, "images": len(s.images), "term": s.term, "used": s.name in used} for s in inputs.streams
        ],
        "validation": [{"name": part.name, "images": len(part)} for part in inputs.validation],
        "classes": len(inputs.class_names),
        "stages": [
            {
                "name": plan.stage.name,
                "steps": plan.steps,
                "steps_per_epoch": plan.steps_per_epoch,
                "batch_sizes": plan.batch_sizes,
                "weights": {term: plan.stage.weight(term) for term in plan.term_counts},
            }
            for plan in plans
        ],
    }


def _reason(plans: Sequence[StagePlan], stream: TrainStream) -> str:
    """Why no stage takes a stream."""
    stage = next((plan.stage for plan in plans if plan.stage.weight(stream.term) is not None), None)
    if stage is None:
        return f"{_FLAG[stream.term]} is not given"
    return f"its source is {stream.source}, the preset takes {' and '.join(stage.sources[stream.term])}"
