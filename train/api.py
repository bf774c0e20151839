"""In one's own training loop: the images, labels and loss of each step of a preset.

The names in `__all__` stay: one that has to change is announced in the CHANGELOG and works for another release. The
first call that needs torch imports it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..manifests.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from .checkpoint import Preprocessing
    from .configuration import Configuration, Stage
    from .inputs import Inputs
    from .plan import StagePlan
    from .streams import Term

__all__ = ["Training", "TrainingLoader", "TrainingStep", "make_model", "open_training"]


@dataclass(frozen=True, eq=False)
class TrainingStep:
    """One step: the images of all terms of the loss, natural ones first.

    images: float32 [N, 3, size, size], augmented and standardised. labels: by term, in the order of the images: classes
    int64 [n], with mixup or CutMix distributions [n, classes], with heads one label each [n, heads]. lr: what the
    preset's schedule gives. stage: of the preset, with its optimizer and its weights of the loss.
    """

    step: int
    lr: float
    images: "Tensor"
    labels: "Mapping[Term, Tensor]"
    configuration: "Configuration"
    stage: "Stage"

    def to(self, device: "str | torch.device") -> "TrainingStep":
        """The same step with its tensors on another device."""
        labels = {term: own.to(device, non_blocking=True) for term, own in self.labels.items()}
        return replace(self, images=self.images.to(device, non_blocking=True), labels=labels)

    def loss(self, logits: "Tensor") -> "Tensor":
        """Equation 1, a scalar, from the logits [N, classes] of `images`; with heads, from those of each
        [N, heads, classes].

        As the preset says: its weights, label smoothing, and `as_released`.
        """
        from .objective import as_released, equation_1, loss_weights, term_losses

        counts = {term: len(labels) for term, labels in self.labels.items()}
        losses = term_losses(logits, self.labels, counts, self.configuration.heads, self.stage.label_smoothing)
        weigh = as_released if self.configuration.as_released else equation_1
        return weigh(losses, loss_weights(self.stage, counts, self.configuration.heads))


@dataclass(frozen=True, eq=False)
class Training:
    """What `genint-train` would train on, opened and checked, step by step."""

    configuration: "Configuration"
    inputs: "Inputs"
    plans: "Sequence[StagePlan]"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels."""
        return self.inputs.class_names

    @property
    def num_steps(self) -> int:
        """Steps of all stages together."""
        return self.plans[-1].stop

    @property
    def preprocessing(self) -> "Preprocessing":
        """What a model that is trained on these steps expects when it is evaluated."""
        from .learner import preprocessing_of

        return preprocessing_of(self.configuration)

    def steps(
        self,
        start: int = 0,
        stop: int | None = None,
        *,
        workers: int = 0,
        device: "str | torch.device" = "cpu",
        verify: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> Iterator[TrainingStep]:
        """The steps start..stop (None: the last): the same images for any start and any number of workers.

        verify: compare each shard with the manifest before its first image is read. rank, world_size: of a process
        among several, which gets its share of each step's images. Raises FormatError that names an image which cannot
        be read, UsageError where a stream has fewer images a step than there are processes.
        """
        import torch

        from .distributed import Ranks
        from .learner import prepare_batch
        from .trainer import Settings, make_loader

        ranks, settings = Ranks(rank, world_size, torch.device(device)), Settings(workers=workers, verify=verify)
        end = self.num_steps if stop is None else min(stop, self.num_steps)
        for plan in self.plans:
            first, last = max(start, plan.start), min(end, plan.stop)
            if first >= last:
                continue
            for batch in make_loader(self.configuration, plan, ranks, settings).steps(first, last):
                images, labels = prepare_batch(batch, plan, self.configuration, len(self.class_names), ranks.device)
                together = torch.cat(list(images.values()))
                yield TrainingStep(batch.step, plan.lr(batch.step), together, labels, self.configuration, plan.stage)

    def loader(
        self,
        *,
        workers: int = 0,
        device: "str | torch.device" = "cpu",
        verify: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> "TrainingLoader":
        """All steps as a loader for a loop of one's own, or of a framework; arguments as of `steps`."""
        return TrainingLoader(self, {
            "workers": workers, "device": device, "verify": verify, "rank": rank, "world_size": world_size,
        })  # fmt: skip


class TrainingLoader:
    """The steps of a training, in order, from the one where its state says that it goes on.

    The state is one integer, the same for any number of workers and processes. It counts the steps that were handed
    out: saved after the optimizer's step, it names the next one. After the last step it begins anew. `len` counts all
    steps. Lightning saves and loads the state with its checkpoints by itself.
    """

    def __init__(self, training: Training, arguments: "Mapping[str, Any]") -> None:
        self.training = training
        self._arguments = dict(arguments)
        self._next = 0

    def __len__(self) -> int:
        return self.training.num_steps

    def __iter__(self) -> Iterator[TrainingStep]:
        if self._next == len(self):
            self._next = 0
        for step in self.training.steps(self._next, **self._arguments):
            self._next = step.step + 1
            yield step

    def state_dict(self) -> dict[str, int]:
        """Where it stands: the number of the next step."""
        return {"step": self._next}

    def load_state_dict(self, state: "Mapping[str, int]") -> None:
        """Go on there with the next iteration. Raises UsageError where there is no such step."""
        step = state.get("step")
        if type(step) is not int or not 0 <= step <= len(self):
            raise UsageError(f"state {dict(state)}: expected a step from 0 to {len(self):,}")
        self._next = step


def open_training(
    shards: str | Sequence[str] = (),
    preset: str = "mini-genint",
    *,
    overrides: Sequence[str] = (),
    imagenet: str | None = None,
) -> Training:
    """Open what a preset trains on, without its validation images.

    shards: dataset or datasets, as of `--shards`. preset: a name or a file. overrides: `KEY=VALUE` as of `--set`.
    imagenet: as of `--imagenet`. Raises UsageError where preset and streams do not fit, FormatError where a dataset is
    damaged.
    """
    from .configuration import load_configuration
    from .inputs import open_inputs
    from .plan import plan_stages

    configuration = load_configuration(preset, overrides, {})
    inputs = open_inputs(configuration, [shards] if isinstance(shards, str) else shards, imagenet, "none")
    plans = plan_stages(configuration, inputs)
    for stream in {stream.name: stream for plan in plans for stream in plan.streams}.values():
        stream.images.check()
    return Training(configuration, inputs, plans)


def make_model(training: Training) -> "nn.Module":
    """The preset's architecture with random weights, drawn from torch's generator: what `steps` can be tried with."""
    from .checkpoint import make_model as make

    return make(training.configuration.arch, len(training.class_names), tuple(training.configuration.heads))
