"""Processes killed at random moments, then the same command again: in the end all is as if nothing had happened.

Also workers killed under a driver, and two processes on one folder.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from common import Outcome, Tally, arguments, workplace
from jobs import Ended, Job, import_all, leftovers, make_jobs, measure, run, start, wait

LIMIT = 150.0


def judge(tally: Tally, job: Job, case: str, ended: Ended, out: Path) -> None:
    """The last, undisturbed command of a case."""
    if ended.hung:
        tally.add(job.name, case, Outcome("hang", signature="the command that goes on hangs"))
    elif ended.traceback:
        tally.add(
            job.name,
            case,
            Outcome("traceback", message=ended.text[-300:], signature=f"after a kill: {ended.traceback}"),
        )
    elif ended.code:
        tally.add(
            job.name,
            case,
            Outcome("traceback", message=ended.text[-300:], signature=f"cannot go on: exit code {ended.code}"),
        )
    else:
        state = job.state(out)
        wrong = None
        if state != job.truth:
            keys = [k for k in job.truth if state.get(k) != job.truth[k]] if isinstance(state, dict) else []
            wrong = f"other result than undisturbed: {', '.join(map(str, keys[:3]))}"
        tally.add(job.name, case, Outcome("ok"), wrong)
        left = leftovers(out)
        if left:
            tally.odd_messages.setdefault(f"{job.name}: temporary files stay", f"{case}: {left[:3]}")


def kill_case(rng: random.Random, job: Job, folder: Path, tally: Tally) -> int:
    """One to three kills of one folder's command; returns how many took place."""
    out, log = folder / "out", folder / "out.log"
    shutil.rmtree(out, ignore_errors=True)
    notes, kills = [], 0
    for _ in range(rng.choice([1, 1, 2, 3])):
        number = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        # Late moments, where files are closed, are as likely as all the rest.
        moment = job.seconds * (rng.uniform(0.6, 1.1) if rng.random() < 0.5 else rng.uniform(0.0, 0.9))
        child = start(job.command(out), log)
        time.sleep(moment)
        try:
            os.kill(child, number)
            if number == signal.SIGINT and rng.random() < 0.3:
                time.sleep(0.01)
                os.kill(child, number)
        except ProcessLookupError:
            pass
        ended = wait(child, log, LIMIT)
        notes.append(f"{signal.Signals(number).name} after {moment:.2f} s")
        kills += 1
        if ended.hung:
            tally.add(
                job.name, "; ".join(notes), Outcome("hang", signature=f"does not end on {signal.Signals(number).name}")
            )
        elif ended.traceback:
            tally.add(
                job.name,
                "; ".join(notes),
                Outcome(
                    "traceback",
                    message=ended.text[-300:],
                    signature=f"{signal.Signals(number).name}: {ended.traceback}",
                ),
            )
        elif number != signal.SIGKILL and ended.code not in job.codes[number]:
            tally.add(
                job.name,
                "; ".join(notes),
                Outcome(
                    "traceback",
                    message=ended.text[-300:],
                    signature=f"{signal.Signals(number).name}: exit code {ended.code}",
                ),
            )
    judge(tally, job, "; ".join(notes), run(job.command(out), log, LIMIT), out)
    return kills


def children_of(pid: int) -> list[int]:
    """Processes below one, by /proc."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            child = int(entry.parent.name)
            found += [child, *children_of(child)]
    return found


def spawned(driver: int) -> list[int]:
    """Worker processes below a driver; multiprocessing's own helper left out."""
    found = []
    for pid in children_of(driver):
        try:
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except OSError:
            continue
    return found


def worker_case(rng: random.Random, job: Job, folder: Path, tally: Tally, whole_group: bool) -> int:
    """A build with two worker processes, one of which is killed (or all, with the driver)."""
    out, log = folder / "out", folder / "out.log"
    shutil.rmtree(out, ignore_errors=True)
    words = [str(w) for w in job.command(out)[1:]]
    words[words.index("--workers") + 1] = "2"
    moment = rng.uniform(0.0, 6.0)
    with open(log, "w") as text:
        driver = subprocess.Popen(
            [Path(sys.executable).parent / "genint-pipeline", *words], stdout=text, stderr=text, start_new_session=True
        )
    end = time.monotonic() + LIMIT
    while not spawned(driver.pid) and driver.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(moment)
    workers = spawned(driver.pid)
    if whole_group:
        os.kill(driver.pid, signal.SIGKILL)
        note, kills = f"driver of {len(workers)} workers killed {moment:.1f} s after their start", 1
        driver.wait()
        # A worker that is still importing notices a little later.
        end = time.monotonic() + 20
        while time.monotonic() < end and any(Path(f"/proc/{w}").exists() for w in workers):
            time.sleep(0.2)
        alive = [
            w
            for w in workers
            if Path(f"/proc/{w}").exists() and "Z" not in Path(f"/proc/{w}/stat").read_text().rpartition(")")[2][:3]
        ]
        if alive:
            tally.add(job.name, note, Outcome("hang", signature=f"{len(alive)} workers outlive their driver"))
            for pid in alive:
                os.kill(pid, signal.SIGKILL)
    else:
        chosen = rng.choice(workers) if workers else None
        if chosen:
            os.kill(chosen, signal.SIGKILL)
        note, kills = (
            f"worker killed {moment:.1f} s after its start" if chosen else "no worker any more",
            int(bool(chosen)),
        )
        try:
            driver.wait(LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(driver.pid, signal.SIGKILL)
            tally.add(job.name, note, Outcome("hang", signature="the driver hangs after a worker's death"))
            return kills
    found = Ended(driver.returncode, log.read_text(), 0)
    if found.traceback and not whole_group:
        tally.add(job.name, note, Outcome("traceback", message=found.text[-300:], signature=found.traceback))
    judge(tally, job, note, run(job.command(out), log, LIMIT), out)
    return kills


def loader_case(rng: random.Random, job: Job, folder: Path, tally: Tally) -> int:
    """A training run whose loader's process is killed."""
    out, log = folder / "out", folder / "out.log"
    shutil.rmtree(out, ignore_errors=True)
    child = start(job.command(out), log)
    end = time.monotonic() + job.seconds
    workers: list[int] = []
    while not workers and time.monotonic() < end:
        workers = list(children_of(child))
        time.sleep(0.02)
    time.sleep(rng.uniform(0, 0.3))
    killed = 0
    for pid in workers[:1]:
        try:
            os.kill(pid, signal.SIGKILL)
            killed = 1
        except ProcessLookupError:
            pass
    ended = wait(child, log, LIMIT)
    note = "loader's process killed"
    if ended.hung:
        tally.add(job.name, note, Outcome("hang", signature="hangs after its loader's death"))
    elif ended.traceback or ended.code not in (0, 1):
        tally.add(
            job.name,
            note,
            Outcome("traceback", message=ended.text[-400:], signature=ended.traceback or f"exit code {ended.code}"),
        )
    judge(tally, job, note, run(job.command(out), log, LIMIT), out)
    return killed


def two_at_once(job: Job, folder: Path, tally: Tally) -> None:
    """The same command twice on one folder: one is refused or waits, and the result is right."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    logs = [folder / "one.log", folder / "two.log"]
    children = [start(job.command(out), log) for log in logs]
    ended = [wait(child, log, LIMIT) for child, log in zip(children, logs, strict=True)]
    note = f"two at once: exit codes {[e.code for e in ended]}"
    for e in ended:
        if e.traceback:
            tally.add(f"{job.name} twice", note, Outcome("traceback", message=e.text[-300:], signature=e.traceback))
    judge(tally, job, note, run(job.command(out), logs[0], LIMIT), out)


def two_evaluations(jobs: dict[str, Job], folder: Path, tally: Tally) -> None:
    """Two evaluations of different checkpoints into one report: both must be in it, or one must be refused."""
    import json

    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    words = [str(w) for w in jobs["evaluate"].command(out)]
    at = words.index("--checkpoint")
    first, second = words[: at + 2] + words[at + 4 :], words[:at] + words[at + 2 :]
    logs = [folder / "one.log", folder / "two.log"]
    children = [start(command, log) for command, log in zip((first, second), logs, strict=True)]
    ended = [wait(child, log, LIMIT) for child, log in zip(children, logs, strict=True)]
    names = {entry["name"] for entry in json.loads((out / "results.json").read_text())["checkpoints"]}
    wrong = "both succeed, one's results are lost" if [e.code for e in ended] == [0, 0] and len(names) < 2 else None
    tally.add(
        "two evaluations into one report",
        f"exit codes {[e.code for e in ended]}, checkpoints {sorted(names)}",
        Outcome("ok"),
        wrong,
    )


def main() -> None:
    options = arguments(__doc__, 40)
    rng = random.Random(options.seed)
    tally = Tally("kills")
    kills = 0
    with workplace() as folder:
        import_all()
        jobs = {job.name: job for job in make_jobs(folder)}
        for job in jobs.values():
            measure(job, folder / "truth", folder / "truth.log")
        # The same command twice gives the same state: otherwise nothing could be told from a kill.
        weights = {"build": 10, "train": 10, "train, 1 worker": 3, "evaluate": 6, "corrupt": 5}
        if options.only in (None, "kills"):
            for _ in range(options.cases):
                job = jobs[rng.choices(list(weights), list(weights.values()))[0]]
                kills += kill_case(rng, job, folder, tally)
        if options.only in (None, "loader"):
            for _ in range(max(1, options.cases // 10)):
                kills += loader_case(rng, jobs["train, 1 worker"], folder, tally)
        if options.only in (None, "workers"):
            for number in range(max(2, options.cases // 10)):
                kills += worker_case(rng, jobs["build"], folder, tally, whole_group=bool(number % 2))
        if options.only in (None, "two"):
            for job in jobs.values():
                two_at_once(job, folder, tally)
            two_evaluations(jobs, folder, tally)
    print(f"{kills} kills", file=sys.stderr)
    tally.report(options.verbose)


if __name__ == "__main__":
    main()
