"""A classifier while it learns: equation 1 on the images of a step, and the optimizer."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..manifests.errors import GenintError
from ..manifests.randomness import random_words
from .checkpoint import Preprocessing
from .configuration import Configuration, Stage
from .distributed import LostRank, Ranks
from .inputs import ValidationImages
from .loader import LeftOut, StepBatch, evaluation_batches
from .objective import NaturalStatistics, as_released, equation_1, loss_weights, mix_images, term_losses
from .plan import StagePlan
from .profile import Profile
from .steps import rank_slice
from .streams import Term

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)

Take = Callable[[Iterator[Any]], Any]


def next_item(items: Iterator[Any]) -> Any:
    """The next item, None after the last."""
    return next(items, None)


class Learner:
    """Model and optimizer of a run on this rank.

    Over ranks and accumulated parts, gradients are those of the losses of the whole batch. Batch norm normalises what
    goes through one forward pass: a rank's images of one part. Rank 0's running statistics are the run's.
    """

    def __init__(
        self, model: nn.Module, configuration: Configuration, num_classes: int, ranks: Ranks, accumulate: int = 1
    ) -> None:
        self.configuration, self.num_classes = configuration, num_classes
        self.ranks, self.accumulate = ranks, accumulate
        self.profile = Profile(0, ranks.device)
        self.preprocessing = preprocessing_of(configuration)
        self._format = _memory_format(configuration)
        self.model = model.to(ranks.device)
        self.model.to(memory_format=self._format)  # type: ignore[call-overload]  # missing in torch's annotations
        self._natural = NaturalStatistics(self.model) if configuration.bn_statistics == "natural" else None
        self._forward: nn.Module = self.model
        if ranks.world_size > 1:
            with warnings.catch_warnings():
                # Newer releases of torch have another name for it, which older ones do not know.
                warnings.filterwarnings("ignore", category=FutureWarning, message=".*broadcast_buffers")
                self._forward = DistributedDataParallel(
                    self.model, broadcast_buffers=False, gradient_as_bucket_view=True
                )
        if configuration.compile:
            self._forward.compile()
        self._loss = as_released if configuration.as_released else equation_1

    def begin(self, plan: StagePlan) -> None:
        """Start a stage with a fresh optimizer."""
        self.plan = plan
        self.weights = loss_weights(plan.stage, plan.term_counts, self.configuration.heads)
        self.optimizer = make_optimizer(plan.stage, self.model)
        self._train_mode()

    def gradients(self, batch: StepBatch) -> Tensor:
        """Backward pass of equation 1. Returns this rank's share of each loss, in the order of `weights`, detached."""
        with self.profile.part("copy"):
            images, labels = prepare_batch(batch, self.plan, self.configuration, self.num_classes, self.ranks.device)
        # Dropout and stochastic depth draw by step and rank, so that no generator has to be saved.
        torch.manual_seed(
            int(random_words(self.configuration.seed, "step", batch.step, self.ranks.rank, count=1)[0] >> 1)
        )
        total = torch.zeros(len(self.weights), device=self.ranks.device)
        for part in range(self.accumulate):
            slices = {term: rank_slice(len(images[term]), part, self.accumulate) for term in images}
            part_labels = {term: labels[term][slices[term]] for term in images}
            inputs = torch.cat([images[term][slices[term]] for term in images])
            last = part == self.accumulate - 1
            leading = len(part_labels["natural"]) if "natural" in part_labels else 0
            with (
                self._natural.of_leading(leading) if self._natural else nullcontext(),
                nullcontext()
                if last or not isinstance(self._forward, DistributedDataParallel)
                else self._forward.no_sync(),
            ):
                with self.profile.part("forward"):
                    with self._autocast():
                        logits = self._forward(inputs)
                    losses = term_losses(
                        logits,
                        part_labels,
                        self.plan.term_counts,
                        self.configuration.heads,
                        self.plan.stage.label_smoothing,
                    )
                with self.profile.part("backward"):
                    # DistributedDataParallel takes the mean of the ranks' gradients; the shares are to be added.
                    (self._loss(losses, self.weights) * self.ranks.world_size).backward()
            total += torch.stack([losses[name].detach() for name in self.weights])
        return total

    def update(self, lr: float) -> None:
        """One step of the optimizer, and fresh gradients."""
        with self.profile.part("update"):
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

    def loss(self, losses: Mapping[str, float]) -> float:
        """The whole batch's loss from its parts."""
        return float(self._loss({name: torch.tensor(loss) for name, loss in losses.items()}, self.weights))

    @torch.no_grad()
    def validate(
        self,
        parts: Sequence[ValidationImages],
        batch_size: int,
        workers: int = 0,
        verify: bool = True,
        take: Take = next_item,
        left_out: LeftOut | None = None,
    ) -> dict[str, Any] | None:
        """Top-1 and top-5 accuracy on all images of the parts together, each rank on its share of them.

        `take` gives the next batch, and may give None before the end, on any rank: then there is no result. Raises on
        all ranks what reading raised on one.
        """
        for buffer in self.model.buffers():
            self.ranks.broadcast(buffer)
        self.model.eval()
        # Hits among 1 and 5, images; ranks that were asked to stop, and that failed.
        counts = torch.zeros(5, dtype=torch.float64, device=self.ranks.device)
        failure: GenintError | OSError | None = None
        try:
            for part in parts:
                positions = range(len(part.images)) if part.positions is None else part.positions
                mine = positions[self.ranks.rank :: self.ranks.world_size]
                batches = evaluation_batches(
                    part.images, self.preprocessing, batch_size, workers, mine, verify, left_out
                )
                with closing(batches):
                    for _ in range(-(-len(mine) // batch_size)):
                        batch = take(batches)
                        if batch is None:
                            counts[3] = 1
                            break
                        counts[:3] += self._count_hits(*batch)
        except (GenintError, OSError) as error:
            failure = error
            counts[4] = 1
        self._train_mode()
        top1, top5, total, stopped, failed = self.ranks.sum(counts).tolist()
        if failed:
            raise failure or LostRank("another process of the run could not read its validation images")
        if stopped:
            return None
        if not total:
            raise GenintError("validation: none of its images can be read")
        return {"validation_top1": top1 / total, "validation_top5": top5 / total, "validation_images": int(total)}

    def _count_hits(self, images: Tensor, labels: Tensor) -> Tensor:
        """Of a batch: images whose class is the likeliest, those where it is among five, all: [3]."""
        if not len(images):
            return torch.zeros(3, dtype=torch.float64, device=self.ranks.device)
        with self._autocast():
            inputs = self.preprocessing.normalize(images.to(self.ranks.device))
            logits = self.model(inputs.contiguous(memory_format=self._format))
        ranked = logits.topk(min(5, self.num_classes), dim=1).indices
        hits = ranked == labels.to(self.ranks.device)[:, None]
        return torch.stack([hits[:, 0].sum(), hits.any(1).sum(), hits.new_tensor(len(hits), dtype=torch.long)]).double()

    def _train_mode(self) -> None:
        self.model.train()
        if self.configuration.freeze_batch_norm:
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def _autocast(self) -> torch.autocast:
        enabled = self.configuration.precision == "bf16"
        return torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=enabled)


def prepare_batch(
    batch: StepBatch, plan: StagePlan, configuration: Configuration, num_classes: int, device: torch.device
) -> tuple[dict[Term, Tensor], dict[Term, Tensor]]:
    """Normalised images and labels by term, on the device; natural ones mixed where the stage says so."""
    stage, preprocessing = plan.stage, preprocessing_of(configuration)
    memory_format = _memory_format(configuration)
    images: dict[Term, Tensor] = {}
    labels: dict[Term, Tensor] = {}
    for term in plan.term_counts:
        names = [stream.name for stream in plan.streams if stream.term == term]
        raw = torch.cat([batch.images[name].to(device, non_blocking=True) for name in names])
        images[term] = preprocessing.normalize(raw).contiguous(memory_format=memory_format)
        labels[term] = torch.cat([batch.labels[name].to(device, non_blocking=True) for name in names])
    if (stage.mixup or stage.cutmix) and len(images["natural"]):
        images["natural"], labels["natural"] = mix_images(
            images["natural"], labels["natural"], num_classes, stage, configuration.seed, batch.step
        )
    return images, labels


def _memory_format(configuration: Configuration) -> torch.memory_format:
    return torch.channels_last if configuration.channels_last else torch.contiguous_format


def preprocessing_of(configuration: Configuration) -> Preprocessing:
    """What the classifier expects of its inputs, outside of training."""
    mean, std = configuration.mean, configuration.std
    side = configuration.evaluation_size or configuration.size
    return Preprocessing(
        configuration.resize or round(side * 8 / 7),
        side,
        (mean[0], mean[1], mean[2]),
        (std[0], std[1], std[2]),
    )


def make_optimizer(stage: Stage, model: nn.Module) -> torch.optim.Optimizer:
    """The stage's optimizer: SGD as the paper's, with weight decay on all parameters, or another."""
    groups: list[dict[str, Any]] = [{"params": list(model.parameters())}]
    if stage.norm_weight_decay is not None:
        of_norms = [own for module in model.modules() if isinstance(module, NORMS) for own in module.parameters()]
        ids = {id(parameter) for parameter in of_norms}
        groups = [
            {"params": [parameter for parameter in model.parameters() if id(parameter) not in ids]},
            {"params": of_norms, "weight_decay": stage.norm_weight_decay},
        ]
    if stage.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=stage.lr, momentum=stage.momentum, weight_decay=stage.weight_decay)
    kind = torch.optim.Adam if stage.optimizer == "adam" else torch.optim.Adadelta
    return kind(groups, lr=stage.lr, weight_decay=stage.weight_decay)
