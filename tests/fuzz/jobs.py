"""Commands on tiny inputs that are run, disturbed and run again: a build, a training run, an evaluation, a corrupted copy.

Each is run in a forked process that has everything imported: starting Python anew would take longer than the work.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import FAST_RECIPE, RENDERED_RECIPE, build, picture, run_cli

VOLATILE = ("images_per_second", "data_wait")


def import_all() -> None:
    import torch
    from genint.evaluate import cli as evaluate_cli  # noqa: F401
    from genint.evaluate import corrupt, run  # noqa: F401
    from genint.evaluate.report import report  # noqa: F401
    from genint.pipeline import cli as pipeline_cli  # noqa: F401
    from genint.pipeline.release import close, preview  # noqa: F401
    from genint.pipeline.shards import driver, executor, settle, worker  # noqa: F401
    from genint.train import cli as train_cli  # noqa: F401
    from genint.train import trainer  # noqa: F401
    from torch.utils.tensorboard import SummaryWriter  # noqa: F401

    torch.set_num_threads(1)


@dataclass
class Ended:
    code: int  # negative: the signal that ended it
    text: str
    seconds: float
    hung: bool = False

    @property
    def traceback(self) -> str | None:
        if "Traceback (most recent call last)" not in self.text:
            return None
        lines = [line for line in self.text.strip().splitlines() if line.strip()]
        frames = [line for line in lines if "/genint/" in line and "File" in line]
        place = (
            frames[-1].partition("/genint/")[2].partition('"')[0] + frames[-1].rpartition(" in ")[2] if frames else "?"
        )
        last = [line for line in lines if ": " in line and not line.startswith(" ")] or lines
        return f"{last[-1][:110]} ({place})"


def start(command: list[Any], log: Path, prepare: Callable[[], None] | None = None) -> int:
    """A command in a process and group of its own; its id."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    for number in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = (
        os.fdopen(n, "w", buffering=1, encoding="utf-8", errors="backslashreplace") for n in (1, 2)
    )
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    code = 1
    try:
        if prepare:
            prepare()
        program, *words = command
        from genint.evaluate import cli as evaluate_cli
        from genint.pipeline import cli as pipeline_cli
        from genint.train import cli as train_cli

        run_cli({"pipeline": pipeline_cli, "train": train_cli, "evaluate": evaluate_cli}[program].main, *words)
        code = 0
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else (0 if ending.code is None else 1)
    except BaseException:
        import traceback

        traceback.print_exc()
    os._exit(code & 255)


def wait(child: int, log: Path, limit: float) -> Ended:
    started = time.monotonic()
    while time.monotonic() - started < limit:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return Ended(
                os.waitstatus_to_exitcode(status), log.read_text("utf-8", "replace"), time.monotonic() - started
            )
        time.sleep(0.002)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return Ended(-9, log.read_text("utf-8", "replace"), limit, hung=True)


def run(command: list[Any], log: Path, limit: float = 120, prepare: Callable[[], None] | None = None) -> Ended:
    return wait(start(command, log, prepare), log, limit)


@dataclass
class Job:
    """A command into the folder `out`; `state` is what must be the same however it came about."""

    name: str
    command: Callable[[Path], list[Any]]
    state: Callable[[Path], Any]
    codes: dict[int, tuple[int, ...]] = field(default_factory=dict)
    seconds: float = 0.0
    truth: Any = None


def digest_tree(folder: Path, leave_out: tuple[str, ...] = ()) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not any(part in str(p) for part in leave_out)
    }


def dataset_state(out: Path) -> Any:
    return {
        "sums": (out / "SHA256SUMS").read_text(),
        "bytes": {n: d for n, d in digest_tree(out).items() if n.endswith((".tar", ".idx", ".npz", "recipe.toml"))},
    }


def run_state(out: Path) -> Any:
    import torch

    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    content = torch.load(out / "last.pt", weights_only=True)
    weights = hashlib.sha256(b"".join(t.numpy().tobytes() for t in content["model"].values())).hexdigest()
    momentum = hashlib.sha256(
        b"".join(s["momentum_buffer"].numpy().tobytes() for s in content["optimizer"]["state"].values())
    ).hexdigest()
    best = torch.load(out / "best.pt", weights_only=True)["step"] if (out / "best.pt").exists() else None
    return {
        "metrics": [{k: v for k, v in line.items() if k not in VOLATILE} for line in lines],
        "weights": weights,
        "momentum": momentum,
        "step": content["step"],
        "best": best,
    }


def results_state(out: Path) -> Any:
    content = json.loads((out / "results.json").read_text())
    content.pop("finished")
    return content


def copy_state(out: Path) -> Any:
    return digest_tree(out)


def make_jobs(folder: Path) -> list[Job]:
    """The inputs below `folder`, and the jobs on them."""
    rng = random.Random(1)
    for label in ("t-shirt", "trouser"):
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(4):
            (folder / "photos" / label / f"{number}.png").write_bytes(picture(rng, 40))
    fast = build(FAST_RECIPE, folder / "fast")
    recipe = folder / "rendered.toml"
    recipe.write_text(RENDERED_RECIPE)
    training = [
        "--preset",
        "mini-erm",
        "--set",
        "arch=squeezenet1_1",
        "--set",
        "batch_sizes.natural=8",
        "--device",
        "cpu",
        "--log-every",
        1,
        "--save-every",
        1,
        "--validate-every",
        2,
        "--shards",
        fast,
    ]
    for seed in (0, 1):
        ended = run(
            ["train", *training, "--steps", 1, "--seed", seed, "--out", folder / f"run-{seed}"], folder / "log.txt"
        )
        assert ended.code == 0, ended
    return [
        Job(
            "build",
            lambda out: ["pipeline", "build-shards", recipe, "--out", out, "--workers", 1],
            dataset_state,
            {signal.SIGTERM: (130, -15, 0), signal.SIGINT: (130, 0)},
        ),
        Job(
            "train",
            lambda out: ["train", *training, "--steps", 6, "--out", out],
            run_state,
            {signal.SIGTERM: (143, -15, 0), signal.SIGINT: (130, 0)},
        ),
        Job(
            "train, 1 worker",
            lambda out: ["train", *training, "--steps", 5, "--workers", 1, "--out", out],
            run_state,
            {signal.SIGTERM: (143, -15, 0), signal.SIGINT: (130, 0)},
        ),
        Job(
            "evaluate",
            lambda out: [
                "evaluate",
                "run",
                "--checkpoint",
                folder / "run-0",
                "--checkpoint",
                folder / "run-1",
                "--shards",
                f"{fast}:shown",
                "--folder",
                folder / "photos",
                "--corruptions",
                0,
                "--batch-size",
                3,
                "--out",
                out,
            ],
            results_state,
            {signal.SIGTERM: (-15, 143, 130, 0), signal.SIGINT: (130, 0)},
        ),
        Job(
            "corrupt",
            lambda out: [
                "evaluate",
                "corrupt",
                f"folder={folder / 'photos'}",
                "--out",
                out,
                "--corruption",
                "gaussian_noise",
                "--corruption",
                "fog",
                "--severity",
                1,
                "--severity",
                5,
            ],
            copy_state,
            {signal.SIGTERM: (-15, 143, 130, 0), signal.SIGINT: (130, 0)},
        ),
    ]


def measure(job: Job, out: Path, log: Path) -> None:
    """The undisturbed run: its length, and what it leaves. Run twice, to know that equal commands give equal states."""
    ended = run(job.command(out), log)
    assert ended.code == 0, ended
    job.seconds, job.truth = ended.seconds, job.state(out)
    shutil.rmtree(out)


def leftovers(out: Path) -> list[str]:
    return [str(p.relative_to(out)) for p in out.rglob("*") if ".tmp" in p.name]
