"""Where the time of a training step goes, measured over a few steps."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import torch

# Of the run's first steps in this process, which open files, choose kernels and compile.
WARM_UP: Final = 2
# What the loop does in turn; the rest of a step is between them.
PARTS: Final = ("wait", "copy", "forward", "backward", "update")
# What loader workers do meanwhile, or the loop itself where there are none: then it is in `wait`.
LOADING: Final = ("check", "read", "decode")


@dataclass
class Profile:
    """Seconds of each part of `wanted` steps after the warm-up; `parts` and `loading` are sums.

    On a GPU the device is waited for at both ends of a part, so that the part has its own time: profiled steps take
    longer than others.
    """

    wanted: int
    device: torch.device
    seen: int = 0
    seconds: float = 0.0
    parts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    loading: dict[str, float] = field(default_factory=lambda: dict.fromkeys(LOADING, 0.0))

    @property
    def is_running(self) -> bool:
        """Whether the step that is under way is measured."""
        return WARM_UP <= self.seen < WARM_UP + self.wanted

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What is done in here is this part of the step."""
        if not self.is_running:
            yield
            return
        self._settle()
        start = time.perf_counter()
        yield
        self._settle()
        self.parts[name] += time.perf_counter() - start

    def end_step(self, seconds: float, loading: Mapping[str, float]) -> bool:
        """A step took so long, and its images so long to be made. Returns whether it was the last that is measured."""
        if self.is_running:
            self.seconds += seconds
            for name in LOADING:
                self.loading[name] += loading.get(name, 0.0)
        self.seen += 1
        return self.wanted > 0 and self.seen == WARM_UP + self.wanted

    def describe(self, workers: int) -> list[str]:
        """Milliseconds of each part of a step, as lines for people."""
        whole = 1e3 * self.seconds / self.wanted
        shares = {name: 1e3 * seconds / self.wanted for name, seconds in self.parts.items()}
        shares["other"] = max(0.0, whole - sum(shares.values()))
        made = {name: 1e3 * seconds / self.wanted for name, seconds in self.loading.items()}
        by = f"{workers} workers together" if workers else "in the loop, as part of wait"
        return [
            f"profile of {self.wanted} steps: {whole:.1f} ms a step: "
            + ", ".join(f"{name} {share:.1f} ms ({share / max(whole, 1e-9):.0%})" for name, share in shares.items()),
            f"profile of their images: {', '.join(f'{name} {share:.1f} ms' for name, share in made.items())} ({by})",
        ]

    def _settle(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
