"""Train a classifier with equation 1: stage after stage, step after step, to be stopped anywhere and go on exactly."""

import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

import torch

from ..manifests.errors import FormatError, GenintError, UsageError
from ..manifests.randomness import random_words
from .augmentation import Augmentation
from .checkpoint import LAST, check_size, describe_model, initialise, load_weights, make_model
from .configuration import Configuration
from .distributed import LostRank, Ranks
from .inputs import Inputs
from .learner import Learner
from .loader import StepLoader, UnreadableImageError
from .metrics import Interval, Metrics, Written
from .plan import StagePlan, augmentation_name, describe_plan, plan_stages
from .profile import WARM_UP, Profile
from .resume import load_optimizer, read_training
from .run import LeftOutImages, RunFolder, UnreadableImage, without_place
from .state_dicts import find_weights

VALIDATION_BATCH = 256
# Share of a stream's images that may be unreadable; more are no accident.
MOST_LEFT_OUT = 0.1

T = TypeVar("T")


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
    skip_unreadable: bool = False
    profile: int = 0  # steps of which the parts are timed

    def shared(self) -> dict[str, Any]:
        """Those that say when ranks wait for one another, by flag."""
        return {
            "--accumulate": self.accumulate,
            "--save-every": self.save_every,
            "--validate-every": self.validate_every,
            "--skip-unreadable": self.skip_unreadable,
        }


@dataclass(frozen=True)
class Progress:
    """How far a run is. `metrics` are those of the line just written, if one was; `signal` is what stops it here;
    `notes` are for people."""

    step: int
    steps: int
    metrics: Mapping[str, Any] | None = None
    signal: int | None = None
    notes: tuple[str, ...] = ()
    finished: bool = False  # there was nothing to do


class _Asked(BaseException):
    """A signal that ends a wait."""


class StopRequests:
    """SIGTERM and SIGINT ask the run to save and stop, also while it waits for data; a second SIGINT ends the process
    at once."""

    def __init__(self) -> None:
        self.signal = 0
        self._waiting = False

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

    def take(self, items: Iterator[T]) -> T | None:
        """The next item. None after the last, and where a signal asks to stop, which also ends the wait for it."""
        try:
            try:
                self._waiting = True
                return None if self.signal else next(items, None)
            finally:
                self._waiting = False
        except _Asked:
            self._waiting = False
            return None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            os._exit(130)
        first, self.signal = not self.signal, number
        if self._waiting and first:
            raise _Asked


def train(
    configuration: Configuration,
    inputs: Inputs,
    out: Path,
    ranks: Ranks,
    settings: Settings = Settings(),
) -> Iterator[Progress]:
    """Run, or go on with, the run at `out`; yields after every step, and once at the start.

    Raises UsageError for what does not fit before it writes anything, GenintError where a loss is not finite, and where
    reading fails; the steps made until then are saved.
    """
    # What is to be done, and whether the folder is for it.
    folder = RunFolder(out)
    ranks.share(folder.check)
    plans = plan_stages(configuration, inputs)
    check_parts(configuration, plans, ranks.world_size * settings.accumulate)
    torch.manual_seed(int(random_words(configuration.seed, "initial weights", count=1)[0] >> 1))
    heads = tuple(configuration.heads)
    model = make_model(configuration.arch, len(inputs.class_names), heads)
    for side in (configuration.size, configuration.evaluation_size or configuration.size):
        check_size(model, configuration.arch, side)
    init_sha256, notes = None, tuple(describe_plan(plans, inputs))
    inputs, unused = inputs.only({stream.name for plan in plans for stream in plan.streams})
    if configuration.init == "required":
        raise UsageError(f"preset {configuration.preset} fine-tunes: give the classifier to start from with --init")
    if configuration.init != "random":
        init_sha256, said = initialise(model, configuration.arch, configuration.init)
        notes += tuple(f"--init {configuration.init}: {note}" for note in said)
    identity = identify(configuration, inputs, init_sha256)
    ranks.agree({**identity, **settings.shared(), "genint": version("genint"), "torch": torch.__version__})
    content = ranks.share(folder.load_last)
    sealed = content is None or "metrics" in content
    ranks.share(lambda: folder.check_same(configuration, identity, sealed, unused))
    if not settings.skip_unreadable:
        inputs.check()

    # Where an earlier run stopped.
    saved, interval, best = None, Interval(), -1.0
    if content is not None:
        saved = read_training(content, out / LAST)
        interval, best = saved.interval, saved.best_top1
        load_weights(model, find_weights(content, str(out / LAST)).weights, configuration.arch, str(out / LAST))
    step = saved_step = saved.step if saved else 0
    due = saved is not None and saved.validation_due
    total_steps = plans[-1].stop
    if step > total_steps:
        raise UsageError(f"--out {out}: the run is at step {step:,} already, beyond the {total_steps:,} asked for")
    left = total_steps - step
    if left and settings.profile and left < WARM_UP + settings.profile:
        raise UsageError(
            f"--profile {settings.profile}: the run has {left:,} steps left, of which the first {WARM_UP} are not timed"
        )

    stop_requests = StopRequests()

    def save(best_yet: bool = False) -> None:
        nonlocal saved_step
        if metrics:
            content = {
                **describe_model(configuration.arch, inputs.class_names, learner.preprocessing, heads),
                "transform_input": bool(getattr(model, "transform_input", False)),
                "model": model.state_dict(),
                "optimizer": learner.optimizer.state_dict(),
                "step": step,
                "stage": plan.stage.name,
                "best_top1": best,
                "interval": asdict(interval),
                "metrics": metrics.written.model_dump(),
                "validation_due": due,
                "world_size": ranks.world_size,
                "accumulate": settings.accumulate,
                "configuration": recorded.flatten(),
                "identity": json.dumps(identity, sort_keys=True),
                "genint": version("genint"),
            }
            folder.save(step, content, settings.keep, best_yet)
        saved_step = step
        ranks.wait()

    def note_left_out(images: Sequence[UnreadableImage]) -> None:
        nonlocal notes
        new = left_out.add(images)
        notes += tuple(f"left out: {image.key}: {image.reason}" for image in new)

    def validate() -> dict[str, Any] | None:
        """Scores, written down; None where a signal came first."""
        nonlocal best, due
        scores = learner.validate(
            inputs.validation, VALIDATION_BATCH, settings.workers, settings.verify, stop_requests.take,
            note_left_out if settings.skip_unreadable else None,
        )  # fmt: skip
        if scores is not None:
            best = max(best, scores["validation_top1"])
            due = False
            if metrics:
                metrics.write(step, "validation", scores)
        return scores

    def progress(line: Mapping[str, Any] | None = None, stopped: bool = False) -> Progress:
        nonlocal notes
        said, notes = notes, ()
        return Progress(step, total_steps, line, (stop_requests.signal or signal.SIGTERM) if stopped else None, said)

    # Only the first rank writes.
    with (
        stop_requests.listen(),
        folder.held() if ranks.is_main else nullcontext(),
        ranks.together(),
        ranks.node_folder() as shared,
    ):
        if shared is not None and settings.verify:
            inputs.share_checks(shared)
        recorded = configuration.without_places()
        if ranks.is_main:
            folder.create(recorded, identity)
        out.mkdir(parents=True, exist_ok=True)  # where it is not the first rank's: for what each rank cannot read
        finished = step == total_steps and not due
        yield replace(progress(), finished=finished)
        if finished:
            return
        left_out = LeftOutImages(out)
        learner = Learner(model, configuration, len(inputs.class_names), ranks, settings.accumulate)
        learner.profile = profile = Profile(settings.profile, ranks.device)
        with Metrics(out, step, saved.metrics if saved else Written()) if ranks.is_main else nullcontext() as metrics:
            # A validation that an earlier run was stopped in.
            if due:
                before = best
                scores = validate()
                if scores is None:
                    yield progress(stopped=True)
                    return
                if metrics:
                    content = {**(content or {}), "best_top1": best, "validation_due": False}
                    content["metrics"] = metrics.written.model_dump()
                    folder.save(step, content, settings.keep, best > before)
                yield progress(scores)

            for plan in plans:
                if step >= plan.stop:
                    continue

                # A stage starts with a fresh optimizer; a stage that was under way goes on with its own.
                learner.begin(plan)
                if saved is not None and step > plan.start:
                    load_optimizer(learner.optimizer, saved.optimizer, out / LAST)
                saved = content = None
                step_images = sum(plan.batch_sizes.values())
                loader = make_loader(configuration, plan, ranks, settings, left_out)
                save_every = settings.save_every or plan.steps_per_epoch
                validate_every = settings.validate_every or plan.steps_per_epoch

                with closing(loader.steps(step, plan.stop)) as batches:
                    last = time.perf_counter()
                    while step < plan.stop:
                        # The images of a step, unless a rank was asked to stop or cannot read: one message between all.
                        batch, failure = None, None
                        try:
                            with profile.part("wait"):
                                batch = stop_requests.take(batches)
                            if batch is not None and batch.left_out:
                                note_left_out(batch.left_out)
                                check_left_out(plan, left_out)
                        except (GenintError, OSError) as error:
                            failure = error
                        asked = batch is None and failure is None
                        # Alone, nobody has to be told, and a GPU is not to be waited for.
                        place = ranks.device if ranks.world_size > 1 else "cpu"
                        found = torch.tensor([float(failure is not None), float(asked)], device=place)
                        anywhere_failed, anywhere_asked = ranks.sum(found).tolist()
                        if anywhere_failed or anywhere_asked:
                            if saved_step < step:
                                save()
                            if anywhere_failed:
                                give_up(failure, out, step)
                            yield progress(stopped=True)
                            return
                        assert batch is not None
                        waited = time.perf_counter() - last

                        # Losses of the whole batch, and the update.
                        shares = learner.gradients(batch).double()
                        losses = ranks.sum(shares).tolist()
                        if not all(map(math.isfinite, losses)):
                            named = dict(zip(learner.weights, losses, strict=True))
                            raise not_finite(folder.path, loader, plan, step, named, ranks)
                        learner.update(plan.lr(step))
                        step += 1
                        seconds = time.perf_counter() - last
                        if profile.end_step(seconds, batch.seconds):
                            notes += tuple(profile.describe(settings.workers))
                        interval.add(dict(zip(learner.weights, losses, strict=True)), step_images, seconds, waited)

                        # What is due after this step: a line of metrics, a checkpoint, a validation.
                        ends, done = step == plan.stop, step - plan.start
                        line = None
                        if step % settings.log_every == 0 or ends:
                            line = summarise(plan, step, learner, interval)
                            interval = Interval()
                            if metrics:
                                metrics.write(step, "train", line)
                        due = bool(inputs.validation) and (done % validate_every == 0 or ends)
                        if done % save_every == 0 or ends:
                            save()
                        if due:
                            # After the checkpoint: it may take longer than a scheduler waits.
                            before = best
                            try:
                                scores = validate()
                            except (GenintError, OSError) as error:
                                if saved_step < step:
                                    save()
                                give_up(error, out, step)
                            if scores is None:
                                if saved_step < step:
                                    save()
                                yield progress(line, stopped=True)
                                return
                            line = {**(line or {}), **scores}
                            if best > before or saved_step == step:
                                save(best > before)
                        yield progress(line)
                        last = time.perf_counter()


def give_up(failure: GenintError | OSError | None, out: Path, step: int) -> NoReturn:
    """Raise why reading failed, with what is saved and how to go on."""
    saved = f"the {step:,} steps made are saved" if step else "no step was made"
    if failure is None:
        raise LostRank(f"another process of the run could not read its images, and says why; {saved}")
    if isinstance(failure, OSError):
        reason = f"{failure.filename}: {failure.strerror}" if failure.filename else str(failure)
    else:
        reason = str(failure)
    remedy = "the same command goes on"
    if isinstance(failure, UnreadableImageError):
        remedy = "to go on without such images, the same command with --skip-unreadable"
    kind = FormatError if isinstance(failure, FormatError) else GenintError
    raise kind(f"{reason}; {saved}; {remedy}") from failure


def check_left_out(plan: StagePlan, left_out: LeftOutImages) -> None:
    """Raise GenintError where so much of a stream cannot be read that something else must be wrong."""
    for stream in plan.streams:
        count, total = len(left_out.positions(stream.name)), len(stream.images)
        if count > max(1, MOST_LEFT_OUT * total):
            raise GenintError(
                f"stream {stream.name}: {count:,} of its {total:,} images cannot be read, more than "
                f"{MOST_LEFT_OUT:.0%}; look at {left_out.path}"
            )


def identify(configuration: Configuration, inputs: Inputs, init_sha256: str | None) -> dict[str, Any]:
    """What decides a run, key by key: every key of its configuration, its data, and the weights it starts from."""
    identity = {**configuration.flatten(), **inputs.fingerprints(), "classes": len(inputs.class_names)}
    # The file may move; its content may not change. Data is named by content too (see `Inputs.fingerprints`).
    if init_sha256 is not None:
        identity["init"] = init_sha256
    return dict(json.loads(json.dumps(identity)))


def make_loader(
    configuration: Configuration,
    plan: StagePlan,
    ranks: Ranks,
    settings: Settings,
    left_out: LeftOutImages | None = None,
) -> StepLoader:
    """The stage's batches. Its steps are those of the run: each stage goes on where the last one left the streams."""
    scale = (configuration.crop_scale[0], configuration.crop_scale[1])
    red, green, blue = (round(255 * mean) for mean in configuration.mean)
    augmentations = {
        stream.name: Augmentation(
            augmentation_name(configuration, stream.term),
            configuration.size,
            scale,
            configuration.random_erasing,
            (red, green, blue),
        )
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
        skip=settings.skip_unreadable,
        left_out={stream.name: left_out.positions(stream.name) for stream in plan.streams} if left_out else {},
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
    losses = {name: mean for name, mean in means.items() if name in learner.weights}
    return {
        "stage": plan.stage.name,
        "epoch": round(plan.epoch(step), 4),
        "loss": learner.loss(losses),
        **{f"loss_{name}": loss for name, loss in losses.items()},
        "lr": plan.lr(step - 1),
        **{name: value for name, value in means.items() if name not in losses},
    }


def not_finite(
    folder: Path, loader: StepLoader, plan: StagePlan, step: int, losses: Mapping[str, float], ranks: Ranks
) -> GenintError:
    """The error of a step whose loss is not a number. Each rank writes the keys of its images beside the metrics."""
    keys = {stream.name: loader.step_keys(step, stream.name) for stream in plan.streams}
    of_rank = f"-rank-{ranks.rank}" if ranks.world_size > 1 else ""
    path = folder / f"not-finite-step-{step:08d}{of_rank}.json"
    named = {name: [without_place(key) for key in of] for name, of in keys.items()}
    path.write_text(
        json.dumps({"step": step, "losses": {k: str(v) for k, v in losses.items()}, "keys": named}, indent=1)
    )
    found = ", ".join(f"{name} {loss:.4g}" for name, loss in losses.items())
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
