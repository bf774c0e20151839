"""Shared by the fuzzers: what a case ended as, how faults are told apart, small inputs, and mutations of bytes.

A case may end in success, or be refused as the command line refuses: one line and an exit code (genint's own
`exit_codes` decides). Anything else is a fault: a traceback, a hang, or success with wrong data (silent).
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import argparse
import contextlib
import gc
import io
import pickle
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MEMORY_MARGIN = 4 << 30  # address space a case may take on top of what the process has


class Hang(BaseException):
    """Raised by the alarm, past every `except Exception`."""


@dataclass
class Outcome:
    kind: str  # "ok", "refused", "traceback", "hang"
    value: Any = None
    message: str = ""
    signature: str = ""
    code: int = 0
    seconds: float = 0.0


def attempt(action: Callable[[], Any], limit: float = 10.0) -> Outcome:
    """Run an action as a command would, with a time limit; stdout and stderr are kept from the terminal."""
    from genint.manifests.console import exit_codes

    def on_alarm(number: int, frame: object) -> None:
        raise Hang

    out, err = io.StringIO(), io.StringIO()
    signal.signal(signal.SIGALRM, on_alarm)
    started = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, limit, 0.2)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), exit_codes():
                value = action()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        result = Outcome("ok", value, err.getvalue())
    except Hang:
        result = Outcome("hang", signature=f"hang in {where(sys.exc_info()[2])}")
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else (0 if ending.code is None else 1)
        kind = {0: "ok", 1: "refused", 2: "refused"}.get(code, "traceback")
        result = Outcome(kind, None, err.getvalue().strip(), f"exit code {code}", code)
    except BaseException as error:
        text = traceback.format_exception_only(error)[-1].strip()[:300]
        result = Outcome("traceback", None, text, f"{type(error).__name__} in {where(error.__traceback__)}")
        if isinstance(error, MemoryError):
            gc.collect()
    result.seconds = time.monotonic() - started
    if result.kind == "ok":
        result.value = (result.value, out.getvalue())
    return result


def attempt_apart(action: Callable[[], Any], limit: float = 10.0) -> Outcome:
    """`attempt` in a forked process, which is killed where it hangs in C code or in a thread."""
    readable, writable = os.pipe()
    child = os.fork()
    if not child:
        os.close(readable)
        result = attempt(action, limit)
        try:
            content = pickle.dumps(result)
        except Exception:
            content = pickle.dumps(Outcome("traceback", signature="value that cannot be pickled"))
        with os.fdopen(writable, "wb") as pipe:
            pipe.write(content)
        os._exit(0)
    os.close(writable)
    content, end = b"", time.monotonic() + limit + 3
    while time.monotonic() < end:
        ready, _, _ = select.select([readable], [], [], max(0.0, end - time.monotonic()))
        piece = os.read(readable, 1 << 20) if ready else b""
        if not piece:
            break
        content += piece
    os.close(readable)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if content:
        return pickle.loads(content)  # noqa: S301
    if time.monotonic() >= end:
        return Outcome("hang", signature="hang of the process", seconds=limit)
    return Outcome("traceback", signature=f"process ended by {status}")


def where(trace: Any) -> str:
    """The innermost frame of genint, and the function below it that raised."""
    frames = traceback.extract_tb(trace)
    own = [frame for frame in frames if "/genint/" in frame.filename]
    name = "outside genint"
    if own:
        path = own[-1].filename.rpartition("/genint/")[2]
        name = f"{path}:{own[-1].name}"
    last = frames[-1] if frames else None
    if last and own and last is not own[-1]:
        name += f" (via {Path(last.filename).name}:{last.name})"
    return name


@dataclass
class Fault:
    kind: str
    signature: str
    count: int = 0
    example: str = ""
    message: str = ""


@dataclass
class Tally:
    """Counts of a fuzzer's run, and one example of each distinct fault."""

    name: str
    cases: int = 0
    counts: dict[str, int] = field(default_factory=lambda: {"silent": 0, "traceback": 0, "hang": 0})
    faults: dict[str, Fault] = field(default_factory=dict)
    refused: int = 0
    accepted: int = 0
    by_target: dict[str, dict[str, int]] = field(default_factory=dict)
    odd_messages: dict[str, str] = field(default_factory=dict)

    def add(self, target: str, case: str, outcome: Outcome, wrong: str | None = None) -> None:
        """Count a case. `wrong`: what is wrong with a success (a short class of it)."""
        self.cases += 1
        row = self.by_target.setdefault(target, {"cases": 0, "silent": 0, "traceback": 0, "hang": 0, "refused": 0})
        row["cases"] += 1
        kind, signature = outcome.kind, outcome.signature
        if kind == "ok" and wrong:
            kind, signature = "silent", wrong
        if kind == "ok":
            self.accepted += 1
            return
        if kind == "refused":
            self.refused += 1
            row["refused"] += 1
            self._check_message(target, case, outcome.message)
            return
        self.counts[kind] += 1
        row[kind] += 1
        key = f"{kind}: {target}: {signature}"
        fault = self.faults.setdefault(key, Fault(kind, f"{target}: {signature}"))
        fault.count += 1
        if not fault.example or len(case) < len(fault.example):
            fault.example, fault.message = case, outcome.message

    def _check_message(self, target: str, case: str, message: str) -> None:
        if os.environ.get("FUZZ_REFUSALS"):
            print(
                f"{target}: {case[:150]} -> {message.strip().splitlines()[-1][:150] if message.strip() else ''}",
                file=sys.stderr,
            )
        errors = [line for line in message.splitlines() if line.strip()]
        text = errors[-1] if errors else ""
        odd = None
        if not text:
            odd = "empty message"
        elif "0x7f" in text or " at 0x" in text:
            odd = "memory address in the message"
        elif len(text) > 2000:
            odd = "message of more than 2,000 characters"
        elif "Traceback" in message:
            odd = "traceback printed"
        if odd:
            self.odd_messages.setdefault(f"{target}: {odd}", f"{case} -> {text[:160]}")

    def report(self, verbose: bool) -> None:
        """Print the totals. Exits with 1 where there is a fault."""
        c = self.counts
        if verbose:
            for target, row in sorted(self.by_target.items()):
                print(f"  {target:34} " + " ".join(f"{k} {v}" for k, v in row.items()), file=sys.stderr)
            for fault in sorted(self.faults.values(), key=lambda f: (f.kind, -f.count)):
                print(
                    f"  [{fault.kind} x{fault.count}] {fault.signature}\n      case: {fault.example[:400]}"
                    + (f"\n      {fault.message[:300]}" if fault.message else ""),
                    file=sys.stderr,
                )
            for key, example in self.odd_messages.items():
                print(f"  [odd message] {key}\n      {example}", file=sys.stderr)
            print(f"  accepted {self.accepted}, refused {self.refused}", file=sys.stderr)
        print(f"{self.name}: {self.cases} cases, {c['silent']} silent, {c['traceback']} tracebacks, {c['hang']} hangs")
        if any(c.values()):
            raise SystemExit(1)


def arguments(description: str, cases: int = 2000) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--cases", type=int, default=cases)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="Run this target alone.")
    parser.add_argument("-v", "--verbose", action="store_true", help="Each distinct fault with an example.")
    return parser.parse_args()


def bound_memory(margin: int = MEMORY_MARGIN) -> None:
    """Limit the address space, so that a bomb is a MemoryError here and not the end of the machine."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + margin
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A folder that goes at the end, and is the current one meanwhile."""
    warnings.simplefilter("ignore")
    before = os.getcwd()
    folder = Path(tempfile.mkdtemp(prefix="genint-fuzz-"))
    os.chdir(folder)
    try:
        yield folder
    finally:
        os.chdir(before)
        shutil.rmtree(folder, ignore_errors=True)


def run_cli(main: Callable[[], None], *words: object) -> None:
    """A command in this process. Raises SystemExit as it would end."""
    before = sys.argv
    sys.argv = [f"genint-{main.__module__.split('.')[1]}", *map(str, words)]
    try:
        main()
    finally:
        sys.argv = before


# ---- small inputs ------------------------------------------------------------------------------------------------

FAST_RECIPE = """
name = "fast"
seed = 7

[[streams]]
name = "natural"
source = "mini-world"
objects = "train"
num_samples = 24
samples_per_shard = 8
image_format = "png"

[[streams]]
name = "held"
source = "mini-world"
objects = "validation"
split = "validation"
num_samples = 12
samples_per_shard = 6
image_format = "png"

[[streams]]
name = "shown"
source = "mini-world"
objects = "test"
split = "test"
num_samples = 12
samples_per_shard = 6
image_format = "jpeg"
"""

RENDERED_RECIPE = """
name = "rendered"
seed = 7

[generator]
name = "mini"
batch_size = 8

[[streams]]
name = "natural"
source = "mini-world"
objects = "train"
num_samples = 24
samples_per_shard = 8
image_format = "png"

[[streams]]
name = "shown"
source = "mini-world"
objects = "test"
split = "test"
num_samples = 12
samples_per_shard = 6

[[streams]]
name = "observational"
source = "observational"
latents_per_class = 1
samples_per_shard = 5

[[streams]]
name = "interventional"
source = "interventional"
latents_per_class = 1
interventions_per_latent = 2
num_directions = 6
step_ranges = 4.0
samples_per_shard = 8
"""


def build(recipe: str, out: Path, *more: object) -> Path:
    """A dataset of a recipe's text."""
    from genint.pipeline.cli import main

    path = out.with_name(f"{out.name}.toml")
    path.write_text(recipe)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        run_cli(main, "build-shards", path, "--out", out, "--workers", 1, *more)
    return out


def picture(rng: random.Random, side: int = 24, file_format: str = "PNG", mode: str = "RGB") -> bytes:
    """A small picture with structure: two colours and a gradient."""
    import numpy as np
    from PIL import Image

    grid = np.add.outer(np.arange(side), np.arange(side)) * rng.randint(1, 5) % 256
    array = np.stack([grid, (grid + rng.randint(0, 255)) % 256, np.full_like(grid, rng.randint(0, 255))], 2)
    buffer = io.BytesIO()
    Image.fromarray(array.astype("uint8")).convert(mode).save(buffer, file_format)
    return buffer.getvalue()


# ---- mutations of bytes ------------------------------------------------------------------------------------------


def flip_bits(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    data = bytearray(content)
    places = [rng.randrange(len(data)) for _ in range(rng.choice([1, 1, 1, 2, 8]))] if data else []
    for place in places:
        data[place] ^= 1 << rng.randrange(8)
    return bytes(data), f"flip bits at {places[:3]}"


def truncate(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    end = rng.choice(
        [
            0,
            1,
            len(content) // 2,
            max(0, len(content) - 1),
            rng.randrange(len(content) + 1),
            rng.randrange(len(content) // 512 + 1) * 512,
        ]
    )
    return content[:end], f"cut at {end} of {len(content)}"


def splice(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    """Delete, repeat, zero or insert a range."""
    a, b = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    b = min(b, a + rng.choice([1, 16, 512, 4096]))
    kind = rng.choice(["delete", "repeat", "zero", "insert", "append"])
    if kind == "delete":
        return content[:a] + content[b:], f"delete {a}:{b}"
    if kind == "repeat":
        return content[:b] + content[a:b] + content[b:], f"repeat {a}:{b}"
    if kind == "zero":
        return content[:a] + bytes(b - a) + content[b:], f"zero {a}:{b}"
    noise = rng.randbytes(rng.choice([1, 16, 512]))
    if kind == "insert":
        return content[:a] + noise + content[a:], f"insert {len(noise)} at {a}"
    return content + noise, f"append {len(noise)}"


def swap_blocks(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    count = len(content) // 512
    if count < 2:
        return flip_bits(rng, content)
    i, j = rng.randrange(count), rng.randrange(count)
    data = bytearray(content)
    first, second = data[i * 512 : i * 512 + 512], data[j * 512 : j * 512 + 512]
    data[i * 512 : i * 512 + 512], data[j * 512 : j * 512 + 512] = second, first
    return bytes(data), f"swap blocks {i} and {j}"


def mutate_bytes(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    return rng.choice([flip_bits, flip_bits, truncate, splice, swap_blocks])(rng, content)
