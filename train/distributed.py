"""The processes of one training run: one alone, or those that `torchrun` started."""

import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from ..manifests.device import choose_device
from ..manifests.errors import GenintError, UsageError, shorten

# How gloo and nccl say that another process is gone.
GONE = re.compile(r"Connection (closed|reset)|Broken pipe|Socket Timeout|NCCL|gloo|ProcessGroup", re.IGNORECASE)

T = TypeVar("T")


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

    def share(self, read: Callable[[], T]) -> T:
        """What the first rank reads, for all of them: it alone calls `read`, whose files may be others elsewhere.

        What that raises ends all: LostRank on the others.
        """
        if self.world_size == 1:
            return read()
        told: list[Any] = [None, None]
        if self.is_main:
            try:
                told[0] = read()
            except (GenintError, OSError) as error:
                told[1] = error
        with self.together():
            distributed.broadcast_object_list(told, src=0)
        value, failure = told
        if failure is not None:
            raise failure if self.is_main else LostRank("the first process of the run says why it ends")
        result: T = value
        return result

    def agree(self, facts: Mapping[str, Any]) -> None:
        """Raise UsageError, on every rank, that names the first of these facts in which two ranks differ."""
        if self.world_size == 1:
            return
        found: list[Any] = [None] * self.world_size
        with self.together():
            distributed.all_gather_object(found, dict(facts))
        for rank, theirs in enumerate(found):
            for key in sorted(facts.keys() | theirs.keys() | found[0].keys()):
                ours, other = found[0].get(key, "absent"), theirs.get(key, "absent")
                if ours != other:
                    raise UsageError(
                        f"the processes of the run differ: {key}: {shorten(ours)} on rank 0, {shorten(other)} on rank "
                        f"{rank}; give each the same command and the same data"
                    )

    @contextmanager
    def node_folder(self) -> Iterator[Path | None]:
        """A temporary folder of the run's processes on one machine; None where one process is alone."""
        if self.world_size == 1:
            yield None
            return
        with TemporaryDirectory(prefix="genint-") as own:
            offers: list[Any] = [None] * self.world_size
            with self.together():
                distributed.all_gather_object(offers, (platform.node(), own))
            first = next(folder for node, folder in offers if node == platform.node())
            # Containers of one name do not see each other's.
            yield Path(first if os.path.isdir(first) else own)

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
    count = torch.cuda.device_count()
    chosen = torch.device(choose_device(request, count))
    if chosen.type == "cuda" and chosen.index is None:
        # Some launchers (Slurm's --gpus-per-task) show each process its own GPU alone.
        return torch.device(choose_device(f"cuda:{local_rank if count != 1 else 0}", count))
    return chosen


@contextmanager
def join(device: str) -> Iterator[Ranks]:
    """Meet the other processes that torchrun started, if it did: nccl between GPUs, gloo between CPUs."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = rank_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if chosen.type == "cuda":
        torch.backends.cudnn.benchmark = True  # shapes stay; results on a GPU are not exact to the bit either way
        # Whoever asks for the current device, such as the thread that pins memory, is else on the first GPU.
        torch.cuda.set_device(chosen)
    if world_size == 1:
        yield Ranks(0, 1, chosen)
        return
    if chosen.type == "cuda":
        distributed.init_process_group("nccl", device_id=chosen)
    else:
        distributed.init_process_group("gloo")
    try:
        yield Ranks(distributed.get_rank(), world_size, chosen)
    finally:
        distributed.destroy_process_group()
