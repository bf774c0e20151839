"""Random arguments for all three commands: no traceback, exit codes 0, 1, 2, 130 or 143, bounded time and memory."""

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from common import (
    FAST_RECIPE,
    RENDERED_RECIPE,
    Outcome,
    Tally,
    arguments,
    bound_memory,
    build,
    picture,
    run_cli,
    workplace,
)

LIMIT = 40.0
CODES = (0, 1, 2, 130, 143)

WORDS = [
    "",
    "x",
    "-1",
    "0",
    "1",
    "2",
    "3",
    "1e9",
    "99999999999999999999",
    "nan",
    "inf",
    "-inf",
    "auto",
    "cpu",
    "cuda",
    "cuda:0",
    "cuda:99",
    "cuda:x",
    "tpu",
    "../x",
    "/",
    ".",
    "..",
    "/dev/null",
    "/proc/self/mem",
    "/etc/passwd",
    "pipe:touch touched",
    "s3://key:secret@bucket/x",
    "memory://x",
    "http://127.0.0.1:9/x",
    "file:///tmp",
    "zip://x.zip",
    "simplecache::http://127.0.0.1:9/x",
    "ftp://x",
    "::",
    ":",
    "a:b",
    "=",
    "a=",
    "=b",
    "a=b",
    "ä😀",
    "\udcff",
    "a b",
    "a" * 300,
    "a" * 5000,
    "-",
    "--",
    "-h",
    "--help",
    "--version",
    "fast",
    "fast:natural",
    "fast:held",
    "fast:nothing",
    "fast:",
    ":natural",
    "run",
    "run/last.pt",
    "photos",
    "report",
    "recipe.toml",
    "nothing.toml",
    "mini",
    "mini-erm",
    "natural",
    "natural-00000003",
    "natural-²",
    "natural-99999999",
    "natural-",
    "-00000003",
    "natural-00000003x",
    "interventional",
    "tars",
    "tars/{0..3}.tar",
    "tars/{3..0}.tar",
    "tars/a.tar",
    "tars/{0..99999999}.tar",
    "torchvision:nothing",
    "mini-reader",
    "torchvision:resnet18:x",
    "torchvision:",
    "squeezenet1_1=run/last.pt",
    "resnet18=run",
    "folder=photos",
    "imagenet=photos",
    "shards=fast",
    "shards=fast:shown",
    "corrupted=photos",
    "objectnet=photos:zoom",
    "folder=",
    "photos:genint",
    "gaussian_noise",
    "streams.natural.num_samples=3",
    "lr=0.5",
    "seed=",
    "stages=[]",
    "photos=photos",
    "photos=nothing",
    "directions=directions.npz",
    "x=y",
    "0.5",
    "0,1,2",
    "1,,2",
    "none",
    "natural,held",
    "natural,natural",
]

# What a command takes beside its options; any word stands for what is not named here.
POSITIONAL = {
    "recipes": ["mini"],
    "schema": ["recipe"],
    "directions": ["rendered.toml"],
    "build-shards": ["fast.toml"],
    "status": ["fast"],
    "verify": ["fast"],
    "preview": ["copy"],
    "clean": ["copy"],
    "repair": ["copy"],
    "extend": ["copy"],
    "score": ["rendered"],
    "sign": ["copy"],
    "merge": ["fast", "rendered"],
    "publish": ["fast", "published"],
    "fetch": ["fast", "fetched"],
    "inspect": ["fast", "natural-00000003"],
    "presets": ["mini-erm"],
    "corrupt": ["folder=photos"],
    "saved-difference": ["folder=photos"],
}
# They train for minutes, whatever they are given.
LEFT_OUT = ("fit-cgn", "fit-encoder", "fit-generator", "fit-reader", "fit-saliency")
# It asks a browser, and the network.
LEFT_OUT_OPTIONS = ("--keyless",)


def find_commands() -> dict[str, dict[str, tuple[list[str], list[str]]]]:
    """Of every program, its commands: their arguments and options, `!` behind a flag; read from the programs."""
    import click
    from genint.evaluate import cli as evaluate_cli
    from genint.pipeline import cli as pipeline_cli
    from genint.train import cli as train_cli

    found: dict[str, dict[str, tuple[list[str], list[str]]]] = {}
    programs = {
        "pipeline": {"": pipeline_cli.cli, **pipeline_cli.cli.commands},
        "train": {"": train_cli.train, "presets": train_cli.presets},
        "evaluate": {"": evaluate_cli.cli, **evaluate_cli.cli.commands},
    }
    for program, commands in programs.items():
        found[program] = {}
        for name, command in commands.items():
            if name in LEFT_OUT:
                continue
            options = [
                parameter.opts[-1] + ("!" if parameter.is_flag else "")
                for parameter in command.params
                if isinstance(parameter, click.Option) and parameter.opts[-1] not in LEFT_OUT_OPTIONS
            ]
            takes = any(isinstance(parameter, click.Argument) for parameter in command.params)
            found[program][name] = (POSITIONAL.get(name, ["x"] if takes else []), options)
    return found


# What is given where nothing odd is: so that a case gets past the first check.
GOOD = {
    "--out": ["out", "out", "out", "report", "report", "run", "fast", "photos", "new/deep", "new"],
    "--checkpoint": ["run", "run/last.pt", "a=run"],
    "--shards": ["fast", "fast:shown", "rendered"],
    "--device": ["cpu", "auto"],
    "--steps": ["1", "2"],
    "--set": ["batch_sizes.natural=4", "arch=squeezenet1_1"],
    "--preset": ["mini-erm"],
    "--images": ["4"],
    "--epochs": ["1"],
    "--corruptions": ["0"],
    "--batch-size": ["4"],
    "--folder": ["photos"],
    "--severity": ["1"],
    "--corruption": ["gaussian_noise", "fog"],
    "--crop": ["16", "40"],
    "--resize": ["20", "48"],
    "--imagenet": ["photos", "fast:natural", "tars"],
    "--predictor": ["rendered:interventional"],
    "--distribution": ["rendered:natural", "fast:natural"],
    "--test": ["rendered:shown"],
    "--queries": ["fast:held", "rendered:shown"],
    "--reader": ["fast:natural"],
    "--reference": ["fast:natural"],
    "--held-out": ["fast:held"],
    "--stream": ["natural", "interventional"],
    "--object-reader": ["run"],
    "--group-by": ["class_label", "sample_index", "labels.shape"],
    "--results": ["report"],
    "--clean": ["fast/shown"],
    "--shifted": ["fast/held"],
    "--dictionary-size": ["2"],
    "--show": ["1", "2"],
    "--classes": ["0,1"],
    "--workers": ["1"],
    "--workers-per-device": ["1"],
    "--encoders": ["1", "2"],
    "--executor": ["local"],
    "--key": ["recipe.toml"],
    "--license": ["MIT", "photos=MIT"],
    "--rebuild": ["1"],
    "--validation": ["none", "0.2", "fast:held"],
    "--input": ["photos=photos"],
    "--precision": ["fp32", "bf16"],
    "--score": ["xent", "cosine"],
    "--reduction": ["max"],
    "--init": ["run", "run/last.pt"],
    "--arch": ["squeezenet1_1"],
    "--log-every": ["1"],
    "--streams": ["natural"],
    "--threads": ["1"],
    "--min-fidelity": ["0.01", "0.3"],
    "--profile": ["1"],
}


SHARDS = {
    "train": ["fast", "rendered"],
    "run": ["fast", "fast:shown", "rendered"],
    "causal-bound": ["rendered"],
    "grad-cam": ["fast:shown", "rendered:natural"],
    "failure-points": ["fast:shown", "fast:held"],
}


def arguments_of(rng: random.Random, known: dict[str, dict[str, tuple[list[str], list[str]]]]) -> tuple[str, list[str]]:
    program = rng.choice(["pipeline", "pipeline", "train", "evaluate", "evaluate"])
    command = rng.choice(list(known[program]))
    positional, options = known[program][command]
    odd = rng.choice([0.03, 0.1, 0.2, 0.6])
    words = [command] if command else []
    required = [
        o
        for o in options
        if o.strip("!")
        in (
            "--checkpoint",
            "--shards",
            "--out",
            "--predictor",
            "--distribution",
            "--test",
            "--queries",
            "--reader",
            "--reference",
            "--held-out",
        )
        and rng.random() < 0.93
    ]
    if program == "train" and not command:
        required += ["--preset", "--steps"]
        words += (
            ["--set", "batch_sizes.natural=4", "--set", "arch=squeezenet1_1", "--device", "cpu"]
            if rng.random() < 0.9
            else []
        )
    if command == "run":
        required += ["--corruptions"]
    chosen = required + [rng.choice(options) for _ in range(rng.choice([0, 1, 2, 3]))] if options else []
    for option in chosen:
        if option.endswith("!"):
            words.append(option[:-1])
            continue
        good = SHARDS.get(command or program) if option == "--shards" else GOOD.get(option)
        # One odd thing at a time gets further than many.
        value = (
            rng.choice(WORDS)
            if good is None or rng.random() < odd / (3 if option in required else 1)
            else rng.choice(good)
        )
        words += [option, value]
    for word in positional:
        if rng.random() < 0.95:
            words.append(rng.choice(WORDS) if rng.random() < odd else word)
    if rng.random() < 0.05:
        words.append(rng.choice(WORDS))
    if rng.random() < 0.05 and words:
        words.pop(rng.randrange(len(words)))
    # Bounds: nothing that works for long, and no processes of its own.
    if command == "build-shards" and not any(w.endswith(".toml") for w in words):
        words.append("--dry-run")
    if command == "corrupt":
        words += ["--severity", "1", "--corruption", "fog"] if "--corruption" not in words else []
    return program, words


def run_case(program: str, words: list[str], folder: Path) -> Outcome:
    """A command in a forked process, as the shell would run it: its exit code, and what it wrote to stderr."""
    from genint.evaluate import cli as evaluate_cli
    from genint.pipeline import cli as pipeline_cli
    from genint.train import cli as train_cli

    main = {"pipeline": pipeline_cli.main, "train": train_cli.main, "evaluate": evaluate_cli.main}[program]
    out, err = folder / "stdout.txt", folder / "stderr.txt"
    child = os.fork()
    if not child:
        os.setsid()
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = (
            os.fdopen(n, "w", encoding="utf-8", errors=e) for n, e in ((1, "strict"), (2, "backslashreplace"))
        )
        code = 1
        try:
            run_cli(main, *words)
            code = 0
        except SystemExit as ending:
            code = ending.code if isinstance(ending.code, int) else (0 if ending.code is None else 1)
        except BaseException:
            import traceback

            traceback.print_exc()
        try:
            sys.stdout.flush()
        except Exception:
            code = 120
        sys.stderr.flush()
        os._exit(code & 255)
    started = time.monotonic()
    status = None
    while time.monotonic() - started < LIMIT:
        pid, found = os.waitpid(child, os.WNOHANG)
        if pid:
            status = found
            break
        time.sleep(0.01)
    if status is None:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return Outcome("hang", signature="runs longer than the limit")
    text = err.read_text("utf-8", "replace")
    code = os.waitstatus_to_exitcode(status)
    if "Traceback (most recent call last)" in text:
        lines = text.strip().splitlines()
        frames = [line.strip() for line in lines if "/genint/" in line and line.strip().startswith("File")]
        place = frames[-1].partition("/genint/")[2].replace('", line ', ":") if frames else "?"
        name = place.partition(":")[0] + ":" + place.rpartition(" in ")[2]
        return Outcome("traceback", message=lines[-1][:200], signature=f"{lines[-1].partition(':')[0][:60]} in {name}")
    if code not in CODES:
        return Outcome("traceback", message=text[-200:], signature=f"exit code {code}")
    if code in (1, 2) and not text.strip():
        return Outcome("traceback", signature=f"exit code {code} without a word")
    return Outcome("ok" if code == 0 else "refused", None, text.strip(), code=code)


def main() -> None:
    options = arguments(__doc__, 600)
    rng = random.Random(options.seed)
    tally = Tally("cli")
    with workplace() as folder:
        import torch  # noqa: F401
        from genint.evaluate import analyses, run  # noqa: F401
        from genint.pipeline.release import close, preview  # noqa: F401
        from genint.pipeline.shards import driver, estimate, settle, show_directions  # noqa: F401
        from genint.train import trainer  # noqa: F401
        from genint.train.cli import main as train

        base = folder / "base"
        base.mkdir()
        os.chdir(base)
        generator = random.Random(1)
        for label in "ab":
            Path("photos", label).mkdir(parents=True)
            for number in range(3):
                Path("photos", label, f"{number}.png").write_bytes(picture(generator, 40))
        build(FAST_RECIPE, Path("fast").absolute())
        build(RENDERED_RECIPE, Path("rendered").absolute())
        build(FAST_RECIPE, Path("copy").absolute())
        Path("recipe.toml").write_text(FAST_RECIPE)
        from fuzz_shards import foreign_tar

        Path("tars").mkdir()
        for name in ("a", "0", "1"):
            Path("tars", f"{name}.tar").write_bytes(foreign_tar(generator))
        from common import attempt

        made = attempt(
            lambda: run_cli(
                train,
                "--shards",
                "fast",
                "--preset",
                "mini-erm",
                "--set",
                "arch=squeezenet1_1",
                "--set",
                "batch_sizes.natural=8",
                "--steps",
                1,
                "--out",
                "run",
                "--device",
                "cpu",
            ),
            120,
        )
        assert made.kind == "ok", made
        os.chdir(folder)
        work = folder / "work"
        shutil.copytree(base, work)
        os.chdir(work)
        bound_memory(6 << 30)
        known = find_commands()
        for number in range(options.cases):
            program, words = arguments_of(rng, known)
            result = run_case(program, words, folder)
            wrong = "a command URL ran" if Path("touched").exists() else None
            if wrong:
                result.kind = "ok"
                Path("touched").unlink()
            tally.add(
                f"genint-{program} {words[0] if words and words[0] in known[program] else ''}".strip(),
                " ".join(ascii(w)[1:-1][:60] for w in words),
                result,
                wrong,
            )
            if number % 25 == 24:
                os.chdir(folder)
                shutil.rmtree(work, ignore_errors=True)
                shutil.copytree(base, work)
                os.chdir(work)
        os.chdir(folder)
    tally.report(options.verbose)


if __name__ == "__main__":
    main()
