import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from genint.manifests.manifest import Manifest
from genint.train.checkpoint import load_classifier
from genint.train.cli import main
from genint.train.configuration import load_configuration
from genint.train.distributed import Ranks
from genint.train.inputs import open_inputs
from genint.train.trainer import train
from PIL import Image

Train = Callable[..., Any]  # a Result of conftest
SMALL = [
    "--arch",
    "shufflenet_v2_x0_5",
    "--set",
    "size=32",
    "--set",
    "batch_sizes.natural=8",
    "--set",
    "batch_sizes.int=4",
]


@pytest.fixture
def genint_train(run_main: Train) -> Train:
    """Run `genint-train` with arguments, in this process."""
    return partial(run_main, main)


def test_a_run_trains_validates_and_is_finished(genint_train: Train, reference: Path, tmp_path: Path):
    out = tmp_path / "run"
    command = [
        "--shards",
        reference,
        "--out",
        out,
        "--preset",
        "mini-genint",
        "--steps",
        2,
        "--validation",
        0.1,
        *SMALL,
    ]
    result = genint_train(*command)
    assert (result.exit_code, result.out) == (0, f"checkpoint: {out / 'last.pt'}\n"), result.err
    assert "validation top-1" in result.err and "loss natural" in result.err
    assert f"writes to {out}; if it is interrupted, the same command goes on" in result.err
    # The tiny dataset has nothing to test on.
    assert (
        f"next: genint-evaluate run --checkpoint {out} --out reports/run with a test set, such as --folder"
        in result.err
    )
    assert load_classifier(str(out)).arch == "shufflenet_v2_x0_5"
    assert genint_train(*command).out == f"{out}: finished already, at step 2\n"


def test_natural_images_may_come_from_elsewhere_than_the_shards(genint_train: Train, reference: Path, tmp_path: Path):
    arguments = ["--imagenet", f"{reference}:natural", "--streams", "imagenet,interventional", "--lambda-int", 0.5]
    result = genint_train("--shards", reference, *arguments, "--dry-run", *SMALL)
    assert result.exit_code == 0, result.err
    assert "a step takes 8 imagenet, 4 interventional" in result.out


def test_a_dry_run_prints_the_configuration_and_the_steps(genint_train: Train, reference: Path, tmp_path: Path):
    result = genint_train(
        "--shards", reference, "--preset", "mini-genint", "--lambda-int", 0.3, "--dry-run",
        "--set", "batch_sizes.natural=8", "--out", tmp_path / "run",
    )  # fmt: skip
    assert result.exit_code == 0, result.err
    for text in (
        'preset = "mini-genint"',
        "lambda_int = 0.3",
        "60 images  natural",
        "a step takes 8 natural, 32 interv",
    ):
        assert text in result.out
    assert "# 64 steps in all" in result.out  # 8 epochs of 60 images in 8 steps
    assert not (tmp_path / "run").exists()


def test_presets_are_listed_with_what_they_are(genint_train: Train):
    listed = genint_train("presets").out.splitlines()
    assert any(line.startswith("resnet18-genint ") and "ResNet18, GenInt" in line for line in listed)
    assert len(listed) > 35
    told = genint_train("presets", "--differences").out
    assert "resnet18-gan-augmentation\n" in told and "mini-erm" not in told
    shown = genint_train("presets", "resnet18-genint").out
    assert shown.startswith("# resnet18-genint\n# Tables 1 and 3") and "\n# resnet18-imagenet-only\n" in shown
    assert "recipe genint-imagenet-256" in shown and "lambda_int = 0.05" in shown
    assert "did you mean 'resnet18-genint'" in genint_train("presets", "resnet18-genit").err


def test_without_a_preset_a_run_does_what_its_data_says_and_shows_it(
    genint_train: Train, reference: Path, tmp_path: Path
):
    command = ["--shards", reference, "--steps", 1, "--out", tmp_path / "run", *SMALL]
    result = genint_train(*command)
    assert result.exit_code == 0, result.err
    assert (
        "# preset mini-genint, chosen for interventional, natural images of 32 px; --preset takes another" in result.err
    )
    assert "a step takes 8 natural, 4 interventional; weights natural 1, int 0.2" in result.err
    assert "int, not used: its source is observational, the preset takes interventional" in result.err
    assert load_classifier(str(tmp_path / "run")).preset == "mini-genint"
    only = genint_train("--shards", reference, "--streams", "observational,natural", "--dry-run", *SMALL)
    assert 'preset = "mini-gan-augmentation"' in only.out and "8 natural, 4 observational" in only.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to train on: give --shards DIR, --imagenet DIR or both"),
        (["--shards", "missing"], "missing: no such folder"),
        (["--shards", "empty"], "empty: not a genint dataset"),
        (["--shards", "building"], "building: still building"),
        (["--shards", "dataset", "--preset", "mini-genit"], "did you mean 'mini-genint'"),
        (["--shards", "dataset", "--streams", "natura"], "did you mean 'natural'"),
        (
            ["--shards", "dataset", "--lambda-transfer", "1"],
            "lambda_transfer = 1.0, but there is no transfer or stylized",
        ),
        (["--shards", "dataset", "--preset", "mini-genint-transfer"], "there is no transfer or stylized stream"),
        (["--shards", "dataset", "--preset", "mini-stylized"], "no stream 'stylized'"),
        (["--shards", "dataset"], "'natural' has 60 images, and a step takes 128"),
        (["--shards", "dataset", "--heads", "shape=x"], "--heads shape=x: expected NAME or NAME=WEIGHT"),
        (["--shards", "dataset", "--arch", "resnet-18"], "did you mean resnet18"),
        (["--shards", "dataset", *SMALL, "--init", "other.pt"], "no such checkpoint"),
        (["--shards", "dataset", *SMALL, "--init", "run"], "a checkpoint of mobilenet_v3_small, and arch = shufflenet"),
        (
            ["--shards", "dataset", "--preset", "resnet152-genint", *SMALL],
            "give the classifier to start from with --init",
        ),
        (["--shards", "dataset", *SMALL, "--out", "dataset"], "holds something else than a run"),
        (["--shards", "dataset", *SMALL, "--imagenet", "folder"], "stream natural: 10 classes, stream imagenet has 2"),
        (["--shards", "dataset", *SMALL, "--set", "size=40", "--set", "augmentation=pad-crop"], "expected 40 x 40"),
        (["--shards", "dataset", *SMALL, "--device", "tpu"], "--device tpu"),
        (["--shards", "dataset", *SMALL, "--steps", "1", "--epochs", "1"], "give one of them"),
        (["--shards", "dataset", *SMALL, "--validation", "1.5"], "validation_share = 1.5"),
        (["--shards", "dataset", *SMALL, "--validation", "nowhere"], "nowhere: no such folder"),
        (["--shards", "dataset", *SMALL, "--accumulate", "9"], "too few for 9 parts"),
        (["--shards", "dataset", *SMALL, "--out"], "requires an argument"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, genint_train: Train, mistakes: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(mistakes)
    out = [] if "--out" in arguments else ["--out", "new"]
    result = genint_train(*arguments, *out)
    assert result.exit_code == 2, result.err
    assert message in result.err
    assert result.err.count("\n") == 1 or "Usage:" in result.err
    assert not Path("new").exists()


@pytest.fixture(scope="module")
def mistakes(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of what users point at by mistake."""
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "dataset").symlink_to(reference)
    (folder / "empty").mkdir()
    shutil.copytree(reference / "records", folder / "building" / "records")
    for name in ("cats", "dogs"):
        (folder / "folder" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(folder / "folder" / name / "a.png")
    overrides = ["arch=mobilenet_v3_small", "batch_sizes.natural=8", "steps=1"]
    configuration = load_configuration("mini-erm", overrides)
    ranks = Ranks(0, 1, torch.device("cpu"))
    for _ in train(configuration, open_inputs(configuration, [str(reference)]), folder / "run", ranks):
        pass
    return folder


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_same_command_goes_on(
    number: int, code: int, genint_train: Train, reference: Path, tmp_path: Path
):
    out = tmp_path / "run"
    metrics = out / "metrics.jsonl"
    options = [*SMALL, "--preset", "mini-erm", "--steps", "5000", "--log-every", "1", "--save-every", "5000"]

    def interrupt() -> None:
        while not (metrics.exists() and metrics.read_text().count("\n") > 2):
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    result = genint_train("--shards", reference, "--out", out, *options, "--workers", 1)
    thread.join()
    assert result.exit_code == code, result.err
    step = load_classifier(str(out)).step
    assert step is not None and step > 2
    assert (
        f"stopped by {signal.Signals(number).name} at step {step}, saved; to go on: genint-train --shards" in result.err
    )
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == list(range(1, step + 1))


def test_a_stream_name_stands_for_the_streams_of_all_datasets(genint_train: Train, reference: Path, tmp_path: Path):
    other = shutil.copytree(reference, tmp_path / "other-seed")
    tree = json.loads((other / "manifest.json").read_text())
    tree["name"] = "other"
    (other / "manifest.json").write_bytes(Manifest.from_json(json.dumps(tree).encode(), "").to_json())
    both = ["--shards", reference, "--shards", other, "--imagenet", f"{reference}:natural"]
    result = genint_train(*both, "--streams", "interventional", "--preset", "mini-genint", *SMALL, "--dry-run")
    assert result.exit_code == 0, result.err
    assert "interventional               120 images  int" in result.out
    assert "a step takes 8 imagenet, 4 interventional" in result.out
