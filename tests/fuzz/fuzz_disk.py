"""Full, read-only, forbidden and failing disks midway: one line and exit code 1, and the same command goes on when the disk is
well again. Needs the right to mount (root); without it only failing calls are tried."""

import ctypes
import errno
import os
import random
import shutil
import subprocess
import time
from pathlib import Path

from common import Outcome, Tally, arguments, workplace
from fuzz_kills import judge
from jobs import Ended, Job, import_all, make_jobs, measure, run, start, wait

LIMIT = 120.0


def mount(folder: Path, size: int) -> bool:
    folder.mkdir(exist_ok=True)
    return not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True
    ).returncode


def remount(folder: Path, *options: str) -> None:
    subprocess.run(["mount", "-o", ",".join(("remount", *options)), folder], capture_output=True, check=False)


def drop_rights() -> None:
    """Root without its privileges: modes of files count for it again."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)())


def failing_call(name: str, number: int, code: int):
    """Make the number-th call of an os function fail, from then on or once."""

    def prepare() -> None:
        real = getattr(os, name)
        count = 0

        def call(*values, **named):
            nonlocal count
            count += 1
            if count == number:
                raise OSError(
                    code, os.strerror(code), str(values[0]) if isinstance(values[0], (str, os.PathLike)) else None
                )
            return real(*values, **named)

        setattr(os, name, call)

    return prepare


def check_refusal(tally: Tally, job: Job, case: str, ended: Ended) -> None:
    """How the disturbed command ended: done, or refused in words."""
    lines = [line for line in ended.text.splitlines() if line.strip()]
    if ended.hung:
        tally.add(job.name, case, Outcome("hang", signature="hangs on a bad disk"))
    elif ended.traceback:
        tally.add(
            job.name, case, Outcome("traceback", message=" | ".join(lines[-2:])[-300:], signature=ended.traceback)
        )
    elif ended.code not in (0, 1):
        tally.add(
            job.name,
            case,
            Outcome("traceback", message=" | ".join(lines[-1:])[-300:], signature=f"exit code {ended.code}"),
        )
    else:
        tally.add(job.name, case, Outcome("ok" if ended.code == 0 else "refused", None, lines[-1] if lines else ""))


def case(rng: random.Random, job: Job, folder: Path, tally: Tally, mounts: bool, only: str | None) -> None:
    disk, log = folder / "disk", folder / "out.log"
    out = disk / "out"
    kind = only or rng.choice(
        ["full", "full", "full", "read-only", "forbidden", "failing call", "failing call"]
        if mounts
        else ["failing call"]
    )
    if mounts:
        need = sum(p.stat().st_size for p in (folder / f"size of {job.name}").rglob("*") if p.is_file())
        size = max(4096, int(need * rng.uniform(0.0, 1.3))) // 4096 * 4096 if kind == "full" else 64 << 20
        if not mount(disk, size):
            raise SystemExit("cannot mount a tmpfs")
    else:
        disk.mkdir(exist_ok=True)
        size = 0
    try:
        moment = rng.uniform(0.05, 1.0) * job.seconds
        if kind == "full":
            note = f"disk of {size:,} bytes (needs {need:,})"
            ended = run(job.command(out), log, LIMIT)
            remount(disk, "size=64m")
        elif kind == "read-only":
            note = f"read-only after {moment:.2f} s"
            child = start(job.command(out), log)
            time.sleep(moment)
            remount(disk, "ro")
            ended = wait(child, log, LIMIT)
            # A file that is open for writing keeps the disk writable: nothing happened then.
            remount(disk, "rw")
        elif kind == "forbidden":
            note = f"folders without the right to write after {moment:.2f} s"
            child = start(job.command(out), log, drop_rights)
            time.sleep(moment)
            folders = [p for p in (disk, *disk.rglob("*")) if p.is_dir()]
            for path in folders:
                path.chmod(0o555)
            ended = wait(child, log, LIMIT)
            for path in folders:
                if path.exists():
                    path.chmod(0o755)
        else:
            name, code = (
                rng.choice(["fsync", "replace", "fsync", "replace", "mkdir", "scandir", "link", "unlink"]),
                rng.choice([errno.EIO, errno.ENOSPC, errno.EACCES, errno.EDQUOT, errno.ESTALE]),
            )
            number = rng.choice([1, 2, 3, rng.randint(1, 40)])
            note = f"call {number} of os.{name} fails with {errno.errorcode[code]}"
            ended = run(job.command(out), log, LIMIT, failing_call(name, number, code))
        check_refusal(tally, job, note, ended)
        judge(tally, job, f"{note}; again on a good disk", run(job.command(out), log, LIMIT), out)
    finally:
        if mounts:
            subprocess.run(["umount", "-l", disk], capture_output=True, check=False)
        else:
            shutil.rmtree(disk, ignore_errors=True)


def main() -> None:
    options = arguments(__doc__, 60)
    rng = random.Random(options.seed)
    tally = Tally("disk")
    with workplace() as folder:
        import_all()
        jobs = [job for job in make_jobs(folder) if job.name != "train, 1 worker"]
        for job in jobs:
            out = folder / f"size of {job.name}"
            measure(job, out, folder / "truth.log")
            run(job.command(out), folder / "truth.log")
        mounts = (
            os.geteuid() == 0
            and mount(folder / "disk", 4096)
            and not subprocess.run(["umount", folder / "disk"]).returncode
        )
        for _ in range(options.cases):
            case(rng, rng.choice([jobs[0], jobs[1], *jobs]), folder, tally, mounts, options.only)
    tally.report(options.verbose)


if __name__ == "__main__":
    main()
