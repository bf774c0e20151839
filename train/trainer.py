"""Train a classifier with equation 1: stage after stage, step after step, to be stopped anywhere and go on exactly."""

import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from ..manifests.errors import GenintError, UsageError
from ..manifests.randomness import random_words
from .augmentation import Augmentation
from .checkpoint import describe_model, initialise, make_model, weights_of
from .configuration import Configuration
from .distributed import Ranks
from .inputs import Inputs
from .learner import Learner
from .loader import StepLoader
from .metrics import Interval, Metrics
from .plan import StagePlan, augmentation_name, plan_stages
from .run import RunFolder

VALIDATION_BATCH = 256


@dataclass(frozen=True)
class Settings:
    """What changes only speed, place or what is kept.

    `save_every` and `validate_every` are in steps, None: once an epoch. Both happen at the end of every stage too.
    """

    workers: int = 0
    accumulate: int = 1
    keep: int = 3
    log_every: int = 20
    save_every: int | None = None
    validate_every: int | None = None
    verify: bool = True


@dataclass(frozen=True)
class Progress:
    """How far a run is. `metrics` are those of the line just written, if one was; `signal` is what stops it here."""

    step: int
    steps: int
    metrics: Mapping[str, Any] | None = None
    signal: int | None = None


class StopRequests:
    """SIGTERM and SIGINT ask the run to save and stop; a second SIGINT ends the process at once."""

    def __init__(self) -> None:
        self.signal = 0

    @contextmanager
    def listen(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            os._exit(130)
        self.signal = number


def train(
    configuration: Configuration,
    inputs: Inputs,
    out: Path,
    ranks: Ranks,
    settings: Settings = Settings(),
) -> Iterator[Progress]:
    """Run, or go on with, the run at `out`; yields after every step, and once at the start.

    Raises UsageError for what does not fit before it writes anything, and GenintError where a loss is not finite.
    """
    # What is to be done, and whether the folder is for it.
    folder = RunFolder(out)
    folder.check()
    plans = plan_stages(configuration, inputs)
    check_parts(configuration, plans, ranks.world_size * settings.accumulate)
    torch.manual_seed(int(random_words(configuration.seed, "initial weights", count=1)[0] >> 1))
    model = make_model(configuration.arch, len(inputs.class_names))
    init_sha256 = None
    if configuration.init == "required":
        raise UsageError(f"preset {configuration.preset} fine-tunes: give the classifier to start from with --init")
    if configuration.init != "random":
        init_sha256 = initialise(model, configuration.arch, configuration.init)
    identity = identify(configuration, inputs, init_sha256)
    folder.check_same(configuration, identity)
    inputs.check()

    # Where an earlier run stopped.
    checkpoint = folder.load_last()
    step, best, interval = 0, -1.0, Interval()
    if checkpoint is not None:
        step, best, interval = checkpoint["step"], checkpoint["best_top1"], Interval(**checkpoint["interval"])
        model.load_state_dict(weights_of(checkpoint, str(folder.path)))
    total_steps = plans[-1].stop
    if step > total_steps:
        raise UsageError(f"--out {out}: the run is at step {step:,} already, beyond the {total_steps:,} asked for")
    ranks.wait()  # until all have looked at the folder
    if ranks.is_main:
        folder.create(configuration, identity)
    yield Progress(step, total_steps)
    if step == total_steps:
        return

    stop_requests = StopRequests()
    learner = Learner(model, configuration, len(inputs.class_names), ranks, settings.accumulate)

    def save(best_yet: bool) -> None:
        if ranks.is_main:
            content = {
                **describe_model(configuration.arch, inputs.class_names, learner.preprocessing),
                "model": model.state_dict(),
                "optimizer": learner.optimizer.state_dict(),
                "step": step,
                "stage": plan.stage.name,
                "best_top1": best,
                "interval": asdict(interval),
                "world_size": ranks.world_size,
                "accumulate": settings.accumulate,
                "configuration": configuration.flatten(),
                "identity": json.dumps(identity, sort_keys=True),
                "genint": version("genint"),
            }
            folder.save(step, content, settings.keep, best_yet)
        ranks.wait()

    # Only the first rank writes.
    with (
        stop_requests.listen(),
        folder.held() if ranks.is_main else nullcontext(),
        Metrics(folder.path, step) if ranks.is_main else nullcontext() as metrics,
    ):
        for plan in plans:
            if step >= plan.stop:
                continue

            # A stage starts with a fresh optimizer; a stage that was under way goes on with its own.
            learner.begin(plan)
            if checkpoint is not None and step > plan.start:
                learner.optimizer.load_state_dict(checkpoint["optimizer"])
            checkpoint = None
            terms = list(plan.term_counts)
            step_images = sum(plan.batch_sizes.values())
            loader = make_loader(configuration, plan, ranks, settings)
            save_every = settings.save_every or plan.steps_per_epoch
            validate_every = settings.validate_every or plan.steps_per_epoch

            with closing(loader.steps(step, plan.stop)) as batches:
                last = time.perf_counter()
                for batch in batches:
                    waited = time.perf_counter() - last

                    # Losses of the whole batch, and whether any rank was asked to stop: one message between ranks.
                    shares = learner.gradients(batch).double()
                    asked = shares.new_tensor([float(stop_requests.signal)])
                    *losses, summed = ranks.sum(torch.cat([shares, asked])).tolist()
                    if not all(map(math.isfinite, losses)):
                        found = dict(zip(terms, losses, strict=True))
                        raise not_finite(folder.path, loader, plan, step, found, ranks)
                    learner.update(plan.lr(step))
                    step += 1
                    seconds = time.perf_counter() - last
                    interval.add(dict(zip(terms, losses, strict=True)), step_images, seconds, waited)

                    # What is due after this step: a line of metrics, a validation, a checkpoint, the end.
                    ends, stops = step == plan.stop, summed > 0
                    done = step - plan.start
                    line = None
                    if step % settings.log_every == 0 or ends:
                        line = summarise(plan, step, learner, interval)
                        interval = Interval()
                        if metrics:
                            metrics.write(step, "train", line)
                    best_yet = False
                    if inputs.validation and (done % validate_every == 0 or ends):
                        scores = learner.validate(inputs.validation, VALIDATION_BATCH, settings.workers)
                        best_yet = scores["validation_top1"] > best
                        best = max(best, scores["validation_top1"])
                        if metrics:
                            metrics.write(step, "validation", scores)
                        line = {**(line or {}), **scores}
                    if done % save_every == 0 or best_yet or ends or stops:
                        save(best_yet)
                    number = stop_requests.signal or signal.SIGTERM if stops else None
                    yield Progress(step, total_steps, line, number if not (ends and step == total_steps) else None)
                    if stops:
                        return
                    last = time.perf_counter()


def identify(configuration: Configuration, inputs: Inputs, init_sha256: str | None) -> dict[str, Any]:
    """What decides a run, key by key: every key of its configuration, its data, and the weights it starts from."""
    identity = {**configuration.flatten(), **inputs.fingerprints(), "classes": len(inputs.class_names)}
    # The file may move; its content may not change.
    if init_sha256 is not None:
        identity["init"] = init_sha256
    return dict(json.loads(json.dumps(identity)))


def make_loader(configuration: Configuration, plan: StagePlan, ranks: Ranks, settings: Settings) -> StepLoader:
    """The stage's batches. Its steps are those of the run: each stage goes on where the last one left the streams."""
    scale = (configuration.crop_scale[0], configuration.crop_scale[1])
    augmentations = {
        stream.name: Augmentation(augmentation_name(configuration, stream.term), configuration.size, scale)
        for stream in plan.streams
    }
    return StepLoader(
        plan.streams,
        plan.batch_sizes,
        augmentations,
        configuration.seed,
        configuration.shuffle_window,
        ranks.rank,
        ranks.world_size,
        settings.workers,
        settings.verify,
        pin_memory=ranks.device.type == "cuda",
    )


def check_parts(configuration: Configuration, plans: list[StagePlan], parts: int) -> None:
    """Raise UsageError where a step cannot be cut into so many parts, ranks times accumulation."""
    for plan in plans:
        name, total = plan.stage.name, sum(plan.batch_sizes.values())
        if sum(count // parts for count in plan.term_counts.values()) < 2:
            raise UsageError(
                f"stage {name!r}: {total} images a step are too few for {parts} parts (ranks x --accumulate)"
            )
        natural = plan.term_counts.get("natural", 0)
        if configuration.bn_statistics == "natural" and natural // parts < 2:
            raise UsageError(
                f'bn_statistics = "natural": {natural} natural images a step are too few for {parts} parts '
                "(ranks x --accumulate)"
            )


def summarise(plan: StagePlan, step: int, learner: Learner, interval: Interval) -> dict[str, Any]:
    """A line of metrics: means since the last one."""
    means = interval.means()
    terms = {name: mean for name, mean in means.items() if name in plan.term_counts}
    return {
        "stage": plan.stage.name,
        "epoch": round(plan.epoch(step), 4),
        "loss": learner.loss(terms),  # type: ignore[arg-type]
        **{f"loss_{term}": loss for term, loss in terms.items()},
        "lr": plan.lr(step - 1),
        **{name: value for name, value in means.items() if name not in terms},
    }


def not_finite(
    folder: Path, loader: StepLoader, plan: StagePlan, step: int, losses: Mapping[str, float], ranks: Ranks
) -> GenintError:
    """The error of a step whose loss is not a number. Each rank writes the keys of its images beside the metrics."""
    keys = {stream.name: loader.step_keys(step, stream.name) for stream in plan.streams}
    of_rank = f"-rank-{ranks.rank}" if ranks.world_size > 1 else ""
    path = folder / f"not-finite-step-{step:08d}{of_rank}.json"
    path.write_text(
        json.dumps({"step": step, "losses": {k: str(v) for k, v in losses.items()}, "keys": keys}, indent=1)
    )
    found = ", ".join(f"{term} {loss:.4g}" for term, loss in losses.items())
    first = "; ".join(f"{name}: {', '.join(of[:2])}, ... ({len(of)})" for name, of in keys.items() if of)
    return GenintError(
        f"step {step:,}: the loss is not finite ({found}); nothing was updated; images: {first}; all of them: {path}"
    )


def describe_line(line: Mapping[str, Any]) -> str:
    """A line of metrics for people."""
    parts = [f"{name.removeprefix('loss_')} {line[name]:.3f}" for name in line if name.startswith("loss_")]
    if parts:
        parts = [f"loss {' + '.join(parts)}"]
        parts += [f"lr {line['lr']:.3g}", f"{line['images_per_second']:,.0f} images/s"]
        parts += [f"{line['data_wait']:.0%} waiting for data"]
    if "validation_top1" in line:
        parts += [f"validation top-1 {line['validation_top1']:.2%}, top-5 {line['validation_top5']:.2%}"]
    return ", ".join(parts)
