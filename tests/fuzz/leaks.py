"""What outputs tell about the machine and its user: credentials, home folders, host and user names, file modes.

Prints a line for each place that holds what it should not. `leaks.py files`, `urls` or `modes` does a part.
"""

import ctypes
import gzip
import io
import os
import random
import re
import socket
import stat
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

from common import FAST_RECIPE, attempt_apart, picture, run_cli, workplace

SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIASENTINELKEY00001",
    "AWS_SECRET_ACCESS_KEY": "sentinelsecretvalue0000000000000000000001",
    "AWS_SESSION_TOKEN": "sentineltoken000001",
    "HF_TOKEN": "hf_sentinel000001",
    "USER": "sentineluser",
    "LOGNAME": "sentineluser",
}
HOST = "sentinelhost"
URLS = [
    "s3://AKIAURLKEY0000000001:urlsecret000001@bucket/x",
    "https://urluser1:urlsecret000001@127.0.0.1:9/x",
    "ftp://urluser1:urlsecret000001@127.0.0.1:9/x",
    "s3://bucket/x?X-Amz-Signature=urlsecret000001",
]


def pieces(path: Path):
    """The content of a file, and of what is packed in it."""
    content = path.read_bytes()
    yield path.name, content
    if path.suffix == ".gz":
        yield f"{path.name} (unpacked)", gzip.decompress(content)
    elif path.suffix == ".pt":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for info in archive.infolist():
                yield f"{path.name}/{info.filename}", archive.read(info)


def search(folder: Path, words: dict[str, str]) -> list[str]:
    found = []
    for path in sorted(folder.rglob("*")):
        for kind, word in words.items():
            if word in str(path.relative_to(folder)):
                found.append(f"{kind} in the name {generic(path.relative_to(folder))}")
        if path.is_file():
            for name, content in pieces(path):
                for kind, word in words.items():
                    at = content.find(word.encode())
                    if at >= 0:
                        around = (
                            content[max(0, at - 60) : at + len(word) + 10].decode("utf-8", "replace").replace("\n", " ")
                        )
                        found.append(
                            f"{kind} in {generic(path.relative_to(folder).parent / name)}: …{''.join(c if c.isprintable() else '.' for c in around)}…"
                        )
    return found


def generic(path: Any) -> str:
    return re.sub(r"\d{6,}", "N", str(path))


def main() -> None:
    only = sys.argv[1] if len(sys.argv) > 1 else None
    from genint.evaluate.cli import main as evaluate
    from genint.pipeline.cli import main as pipeline
    from genint.train.cli import main as train

    os.environ.update(SECRETS, AWS_ENDPOINT_URL="http://127.0.0.1:9", AWS_MAX_ATTEMPTS="1", AWS_REGION="us-east-1")
    host = HOST
    try:
        assert not ctypes.CDLL(None, use_errno=True).unshare(0x04000000)
        socket.sethostname(HOST)
    except (OSError, AssertionError):
        host = socket.gethostname()
    with workplace() as folder:
        home = folder / "home-sentinel"
        rng = random.Random(1)
        for label in ("t-shirt", "trouser"):
            (home / "photos" / label).mkdir(parents=True)
            for number in range(4):
                (home / "photos" / label / f"{number}.png").write_bytes(picture(rng, 40))
        (home / "photos" / "trouser" / "broken.png").write_bytes(b"x")
        (home / "photos" / "trouser" / "gone.png").symlink_to(home / "nowhere.png")
        recipe = home / "r.toml"
        recipe.write_text(
            FAST_RECIPE
            + '\n[[streams]]\nname = "photos"\nsource = "natural"\nimages = "photos"\nimage_format = "png"\nmax_failures = 0.9\n'
        )
        words = {
            "a secret of the environment": SECRETS["AWS_SECRET_ACCESS_KEY"],
            "a key of the environment": SECRETS["AWS_ACCESS_KEY_ID"],
            "the session token": SECRETS["AWS_SESSION_TOKEN"],
            "the hub's token": SECRETS["HF_TOKEN"],
            "the user's name": "sentineluser",
            "the host's name": host,
            "a home folder": "home-sentinel",
        }

        def do(main: Any, *arguments: Any) -> Any:
            result = attempt_apart(lambda: run_cli(main, *arguments), 90)
            if result.kind != "ok":
                print(
                    f"note: {main.__module__.split('.')[1]} {arguments[0]}: {result.kind} {result.message[-150:].replace(str(folder), '…')}"
                )
            return result

        out = folder / "out"
        do(
            pipeline,
            "build-shards",
            recipe,
            "--out",
            out / "dataset",
            "--workers",
            1,
            "--input",
            f"photos={home / 'photos'}",
        )
        for name in ("broken.png", "gone.png"):
            (home / "photos" / "trouser" / name).unlink()
        base = [
            "--preset",
            "mini-erm",
            "--set",
            "arch=squeezenet1_1",
            "--set",
            "batch_sizes.natural=8",
            "--set",
            "augmentation=none",
            "--steps",
            1,
            "--device",
            "cpu",
        ]
        do(train, *base, "--shards", out / "dataset", "--streams", "natural", "--out", home / "start")
        do(
            train,
            *base,
            "--set",
            "streams=[]",
            "--imagenet",
            f"{home}/../out/dataset:natural",
            "--validation",
            f"{home}/../out/dataset:held",
            "--init",
            home / "start",
            "--out",
            out / "run",
        )
        do(
            evaluate,
            "run",
            "--checkpoint",
            home / "start",
            "--shards",
            f"{home}/../out/dataset:shown",
            "--folder",
            home / "photos",
            "--corruptions",
            0,
            "--out",
            out / "report",
        )
        do(
            evaluate,
            "corrupt",
            f"folder={home / 'photos'}",
            "--out",
            out / "copy",
            "--corruption",
            "fog",
            "--severity",
            1,
        )
        for part in ("dataset", "run", "report", "copy"):
            for line in search(out / part, words):
                print(f"LEAK {part}: {line.replace(str(folder), '…')}")

        # Credentials in a location: none may be printed or written.
        for url in URLS if only in (None, "urls") else ():
            for main_, arguments in (
                (
                    pipeline,
                    ("build-shards", recipe, "--out", url, "--workers", 1, "--input", f"photos={home / 'photos'}"),
                ),
                (pipeline, ("status", url)),
                (pipeline, ("verify", url)),
                (train, (*base, "--shards", url, "--out", folder / "r")),
                (evaluate, ("run", "--checkpoint", home / "start", "--shards", url, "--out", folder / "e")),
            ):
                result = attempt_apart(lambda: run_cli(main_, *arguments), 40)
                text = result.message + (result.value[1] if result.kind == "ok" else "")
                name = f"{main_.__module__.split('.')[1]} {arguments[0] if isinstance(arguments[0], str) and not arguments[0].startswith('-') else ''}".strip()
                if SECRETS["AWS_SECRET_ACCESS_KEY"] in text:
                    print(f"LEAK printed: {name}: a secret of the environment")
                if "urlsecret000001" in text:
                    print(f"LEAK printed: {name} {url.partition(':')[0]}: {text.strip().splitlines()[-1][:170]}")
                if result.kind in ("traceback", "hang"):
                    print(f"FAULT {name} {url[:40]}: {result.kind} {result.signature} {result.message[:120]}")
        # Modes under both extremes of the umask.
        for mask in (0o077, 0o000) if only in (None, "modes") else ():
            before = os.umask(mask)
            target = folder / f"umask-{mask:03o}"
            do(
                pipeline,
                "build-shards",
                recipe,
                "--out",
                target / "dataset",
                "--workers",
                1,
                "--input",
                f"photos={home / 'photos'}",
            )
            do(train, *base, "--shards", target / "dataset", "--streams", "natural", "--out", target / "run")
            do(
                evaluate,
                "run",
                "--checkpoint",
                target / "run",
                "--shards",
                f"{target / 'dataset'}:shown",
                "--corruptions",
                0,
                "--out",
                target / "report",
            )
            os.umask(before)
            modes: dict[str, list[str]] = {}
            for path in target.rglob("*"):
                modes.setdefault(oct(stat.S_IMODE(path.lstat().st_mode)), []).append(str(path.relative_to(target)))
            print(
                f"umask {mask:03o}: "
                + ", ".join(f"{mode}: {len(names)} ({names[0]})" for mode, names in sorted(modes.items()))
            )
        with tarfile.open(next((out / "dataset").glob("natural/*/*.tar"))) as archive:
            info = archive.next()
            print(f"members of shards: mode {info.mode:o}, owner {info.uid}/{info.uname!r}, mtime {info.mtime}")


if __name__ == "__main__":
    main()
