"""The processes of one training run: one alone, or those that `torchrun` started."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from ..manifests.device import choose_device
from ..manifests.errors import GenintError

# How gloo and nccl say that another process is gone.
GONE = re.compile(r"Connection (closed|reset)|Broken pipe|Socket Timeout|NCCL|gloo|ProcessGroup", re.IGNORECASE)


class LostRank(GenintError):
    """Another process of the run has ended; that one says why."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all ranks, in place; every rank must call it."""
        if self.world_size > 1:
            distributed.all_reduce(values)
        return values

    def broadcast(self, values: Tensor) -> None:
        """Replace everyone's values by those of rank 0, in place."""
        if self.world_size > 1:
            distributed.broadcast(values, src=0)

    def wait(self) -> None:
        """Until all ranks have come here."""
        if self.world_size > 1:
            distributed.barrier()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Work that needs all ranks. Raises LostRank where one of them is gone."""
        try:
            yield
        except RuntimeError as error:
            if self.world_size == 1 or not GONE.search(str(error)):
                raise
            raise LostRank(
                "another process of the run has ended; the same command goes on from the last save"
            ) from error


def rank_device(request: str, local_rank: int = 0) -> torch.device:
    """The device of `--device`; plain `cuda` is this rank's own GPU. Raises UsageError where there is none such."""
    chosen = torch.device(choose_device(request, torch.cuda.device_count()))
    if chosen.type == "cuda" and chosen.index is None:
        return torch.device(choose_device(f"cuda:{local_rank}", torch.cuda.device_count()))
    return chosen


@contextmanager
def join(device: str) -> Iterator[Ranks]:
    """Meet the other processes that torchrun started, if it did: nccl between GPUs, gloo between CPUs."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = rank_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if chosen.type == "cuda":
        torch.backends.cudnn.benchmark = True  # shapes stay; results on a GPU are not exact to the bit either way
    if world_size == 1:
        yield Ranks(0, 1, chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Ranks(distributed.get_rank(), world_size, chosen)
    finally:
        distributed.destroy_process_group()
