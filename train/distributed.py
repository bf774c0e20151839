"""The processes of one training run: one alone, or those that `torchrun` started."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from ..manifests.errors import UsageError


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


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """`auto`, `cpu`, `cuda` (this rank's GPU) or `cuda:N`. Raises UsageError where there is no such device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name}: expected auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda":
        device = torch.device("cuda", local_rank if device.index is None else device.index)
        if not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
            raise UsageError(f"--device {name}: this process sees {torch.cuda.device_count()} GPUs")
    elif device.type != "cpu":
        raise UsageError(f"--device {name}: expected auto, cpu, cuda or cuda:N")
    return device


@contextmanager
def join(device: str) -> Iterator[Ranks]:
    """Meet the other processes that torchrun started, if it did: nccl between GPUs, gloo between CPUs."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
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
