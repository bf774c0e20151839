"""What keeps a training run from going on: it is saved, said in one line, and the same command goes on."""

import json
import os
import shutil
import signal
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.process import current_process
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from genint.manifests.errors import FormatError, GenintError, UsageError
from genint.train import cli, trainer
from genint.train.configuration import Configuration, load_configuration
from genint.train.distributed import Ranks
from genint.train.inputs import Inputs, open_inputs
from genint.train.plan import describe_plan, plan_stages
from genint.train.streams import open_images
from genint.train.trainer import Progress, Settings, StopRequests, make_loader, train
from PIL import Image

CPU = Ranks(0, 1, torch.device("cpu"))
SMALL = ["arch=shufflenet_v2_x0_5", "batch_sizes.natural=8", "warmup_steps=0", "lr=0.05", "steps=8"]


def configure(*overrides: str, **values: Any) -> Configuration:
    return load_configuration("mini-erm", [*SMALL, *overrides], values)


def go(configuration: Configuration, inputs: Inputs, out: Path, **settings: Any) -> list[Progress]:
    return list(train(configuration, inputs, out, CPU, Settings(log_every=1, **settings)))


def scores(out: Path) -> list[dict[str, Any]]:
    parsed = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("images_per_second", "data_wait")} for line in parsed]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(out / "last.pt", weights_only=True)["model"])


def assert_same_run(out: Path, other: Path) -> None:
    assert scores(out) == scores(other)
    ours, theirs = weights(out), weights(other)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


class Reading:
    """Images that do something at the first reading of a position."""

    def __init__(self, images: Any, at: int, action: Any) -> None:
        self._images, self._at, self._action = images, at, action

    def __getattr__(self, name: str) -> Any:
        return getattr(self._images, name)

    def __len__(self) -> int:
        return len(self._images)

    def read(self, position: int) -> Any:
        if position == self._at and self._action is not None:
            action, self._action = self._action, None
            action()
        return self._images.read(position)


def test_a_signal_during_a_validation_stops_it_and_the_same_command_does_it_first(reference: Path, tmp_path: Path):
    configuration = configure("validation_share=0.3", "steps=4")
    inputs = open_inputs(configuration, [str(reference)])
    go(configuration, inputs, tmp_path / "whole", validate_every=2)
    (part,) = inputs.validation
    ask = Reading(part.images, part.positions[3], lambda: os.kill(os.getpid(), signal.SIGTERM))  # type: ignore[index]
    asking = replace(inputs, validation=[replace(part, images=ask)])
    reports = go(configuration, asking, tmp_path / "run", validate_every=2)
    assert (reports[-1].step, reports[-1].signal) == (2, signal.SIGTERM)
    assert not any("validation_top1" in line for line in scores(tmp_path / "run"))
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["validation_due"]
    go(configuration, inputs, tmp_path / "run", validate_every=2)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert [path.name for path in (tmp_path / "run").glob("*.tmp*")] == []


def test_a_run_stopped_in_its_last_validation_is_not_finished(reference: Path, tmp_path: Path):
    configuration = configure("validation_share=0.3", "steps=1")
    inputs = open_inputs(configuration, [str(reference)])
    (part,) = inputs.validation
    ask = Reading(part.images, part.positions[3], lambda: os.kill(os.getpid(), signal.SIGTERM))  # type: ignore[index]
    assert go(configuration, replace(inputs, validation=[replace(part, images=ask)]), tmp_path)[-1].signal
    first, second = go(configuration, inputs, tmp_path)
    assert not first.finished and second.metrics and "validation_top1" in second.metrics
    assert [report.finished for report in go(configuration, inputs, tmp_path)] == [True]
    assert (tmp_path / "best.pt").exists()


def test_a_signal_ends_a_wait_for_data():
    def never() -> Iterator[int]:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        yield 1

    requests = StopRequests()
    with requests.listen():
        assert requests.take(never()) is None
        assert requests.signal == signal.SIGTERM
        assert requests.take(iter([1])) is None


def test_a_signal_ends_a_run_whose_worker_waits_for_a_file_that_never_comes(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)
    configuration = configure()
    inputs = open_inputs(configuration, [str(reference)], validation="none")
    (stream,) = (stream for stream in inputs.streams if stream.term == "natural")

    def wait() -> None:
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(1000)

    (plan,) = plan_stages(configuration, inputs)
    third = make_loader(configuration, plan, CPU, Settings())._steps.parts[stream.name].positions(2)[1][0]
    waiting = replace(inputs, streams=[replace(stream, images=Reading(stream.images, third, wait))])
    last = go(configuration, waiting, tmp_path, workers=1)[-1]
    assert (last.step, last.signal) in [(step, signal.SIGTERM) for step in (0, 1, 2)]
    assert children_of(os.getpid()) == []


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of noise with one damaged picture."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name in "ab":
        (folder / name).mkdir()
        for i in range(24):
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(folder / name / f"{i}.png")
    path = folder / "a" / "7.png"
    path.write_bytes(path.read_bytes()[:300])
    return folder


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_ends_a_run_after_it_is_saved_and_may_be_left_out(
    workers: int, photos: Path, tmp_path: Path
):
    configuration = configure('streams=["imagenet"]')
    inputs = open_inputs(configuration, [], str(photos), validation="none")
    with pytest.raises(FormatError, match=r"a/7.png: .*; the \d steps made are saved; .* --skip-unreadable$") as error:
        go(configuration, inputs, tmp_path / "run", workers=workers)
    made = int(str(error.value).partition(" steps made")[0].rpartition(" ")[2])
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["step"] == made > 0
    reports = go(configuration, inputs, tmp_path / "run", workers=workers, skip_unreadable=True)
    assert reports[-1].step == 8
    assert [note for report in reports for note in report.notes if note.startswith("left out")] == [
        f"left out: {photos / 'a' / '7.png'}: " + str(error.value).partition("7.png: ")[2].partition("; the")[0]
    ]
    (entry,) = map(json.loads, (tmp_path / "run" / "left-out.jsonl").read_text().splitlines())
    assert (entry["stream"], entry["key"]) == ("imagenet", "a/7.png")
    go(configuration, inputs, tmp_path / "whole", skip_unreadable=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_unreadable_validation_images_are_left_out_too(photos: Path, reference: Path, tmp_path: Path):
    configuration = configure('streams=["imagenet"]', "steps=1")
    inputs = open_inputs(configuration, [], str(photos), validation=str(photos))
    with pytest.raises(FormatError, match=r"a/7\.png"):
        go(configuration, inputs, tmp_path)
    last = go(configuration, inputs, tmp_path, skip_unreadable=True)[-1]
    assert last.metrics and last.metrics["validation_images"] == 47


def test_a_killed_loader_worker_is_one_line_and_the_steps_made_are_saved(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)
    configuration = configure()
    inputs = open_inputs(configuration, [str(reference)], validation="none")
    handler = signal.getsignal(signal.SIGCHLD)
    going = train(configuration, inputs, tmp_path, CPU, Settings(workers=1))
    while next(going).step < 1:
        pass
    (child,) = children_of(os.getpid())
    os.kill(child, signal.SIGKILL)
    with pytest.raises(GenintError, match=r"a loader worker was killed \(out of memory\?\).* steps made are saved"):
        list(going)
    assert signal.getsignal(signal.SIGCHLD) == handler
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] > 0


def children_of(process: int) -> list[int]:
    """Loader workers: processes whose parent this is, less those that keep track of resources."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
            command = (status.parent / "cmdline").read_text()
        except OSError:
            continue
        if int(fields[1]) == process and "resource_tracker" not in command:
            found.append(int(status.parent.name))
    return found


def test_workers_that_cannot_hand_over_a_batch_say_why(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    configuration = configure()
    inputs = open_inputs(configuration, [str(reference)], validation="none")
    with monkeypatch.context() as patch:
        patch.setitem(current_process()._config, "tempdir", f"/tmp/{'x' * 120}")  # type: ignore[attr-defined]
        with pytest.raises(GenintError, match="set TMPDIR to a shorter path, or use --workers 0"):
            go(configuration, inputs, tmp_path / "a", workers=1)

    def full(tensor: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)  # in the workers, which are forked
    with pytest.raises(GenintError, match=r"no shared memory for a batch of .*/dev/shm: .* or use --workers 0"):
        go(configuration, inputs, tmp_path / "b", workers=1)


@pytest.fixture(scope="module")
def two_steps(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Configuration, Inputs, Path]:
    configuration = configure("steps=2")
    inputs = open_inputs(configuration, [str(reference)], validation="none")
    out = tmp_path_factory.mktemp("runs") / "two"
    go(configuration, inputs, out)
    return configure("steps=3"), inputs, out


def test_damage_in_a_runs_folder_is_refused_with_its_place(
    two_steps: tuple[Configuration, Inputs, Path], tmp_path: Path
):
    configuration, inputs, run = two_steps
    for name, content, message in (
        ("run.json", b"[]", r"run\.json: a list, expected an object"),
        ("run.json", b'{"stages.train.steps": 2}', r"run\.json: altered since the run wrote it"),
        ("metrics.jsonl", b'[1]\n{"step": 2}\n', r"metrics\.jsonl: altered: its first \d+ bytes are not"),
        *((key, b"", r"last\.pt: no training can go on from it") for key in ("step", "interval", "optimizer")),
    ):
        out = shutil.copytree(run, tmp_path / "copy")
        if content:
            (out / name).write_bytes(content)
        else:
            saved = torch.load(out / "last.pt", weights_only=True)
            saved[name] = {"param_groups": [], "state": {}} if name == "optimizer" else None
            (out / "last.pt").unlink()
            torch.save(saved, out / "last.pt")
        with pytest.raises(FormatError, match=message):
            go(configuration, inputs, out)
        shutil.rmtree(out)


def test_a_folder_that_holds_only_what_a_failed_start_left_is_a_new_run(
    two_steps: tuple[Configuration, Inputs, Path], tmp_path: Path
):
    configuration, inputs, _ = two_steps
    out = tmp_path / "run"
    out.mkdir()
    (out / f"run.json.tmp.{uuid.uuid4().hex}").write_text("{")
    (out / "lock").touch()
    go(configuration, inputs, out)
    assert [line["step"] for line in scores(out)] == [1, 2, 3]
    assert not list(out.glob("*.tmp.*"))


def test_a_run_without_its_metrics_goes_on_with_new_ones(two_steps: tuple[Configuration, Inputs, Path], tmp_path: Path):
    configuration, inputs, run = two_steps
    out = shutil.copytree(run, tmp_path / "copy")
    (out / "metrics.jsonl").unlink()
    go(configuration, inputs, out)
    assert [line["step"] for line in scores(out)] == [3]
    go(configure("steps=4"), inputs, out)
    assert [line["step"] for line in scores(out)] == [3, 4]


def test_a_run_of_an_earlier_version_goes_on_with_its_metrics_as_they_are(
    two_steps: tuple[Configuration, Inputs, Path], tmp_path: Path
):
    configuration, inputs, run = two_steps
    out = shutil.copytree(run, tmp_path / "copy")
    saved = torch.load(out / "last.pt", weights_only=True)
    del saved["metrics"]
    (out / "last.pt").unlink()
    torch.save(saved, out / "last.pt")
    identity = json.loads((out / "run.json").read_text())
    del identity["sha256"]
    (out / "run.json").write_text(json.dumps(identity))
    go(configuration, inputs, out)
    assert [line["step"] for line in scores(out)] == [1, 2, 3]


def test_a_line_of_metrics_that_was_cut_short_is_dropped_and_nothing_else_is_written_through_links(
    two_steps: tuple[Configuration, Inputs, Path], tmp_path: Path
):
    configuration, inputs, run = two_steps
    out = shutil.copytree(run, tmp_path / "copy")
    with open(out / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "lo')
    (tmp_path / "precious").write_text("kept")
    (out / "metrics.jsonl.tmp").symlink_to(tmp_path / "precious")
    leftover = out / f"last.pt.tmp.{uuid.uuid4().hex}"
    leftover.write_text("of a process that was killed")
    go(configuration, inputs, out)
    assert [line["step"] for line in scores(out)] == [1, 2, 3]
    assert (tmp_path / "precious").read_text() == "kept" and not leftover.exists()


def test_a_run_holds_no_path_and_no_host_and_goes_on_when_its_inputs_move(
    reference: Path, two_steps: tuple[Configuration, Inputs, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("socket.gethostname", lambda: "sentinelhost")
    start = shutil.copytree(two_steps[2], tmp_path / "secret-😀" / "start")
    (tmp_path / "secret").symlink_to(reference)
    configuration = configure("steps=1", init=str(start))

    def inputs(place: Path) -> Inputs:
        return open_inputs(configuration, [str(reference)], validation=f"{place}:natural")

    go(configuration, inputs(tmp_path / "secret"), tmp_path / "run")
    for path in (tmp_path / "run").rglob("*"):
        assert "sentinelhost" not in path.name
        assert path.is_dir() or not any(word in path.read_bytes() for word in (b"secret", b"sentinelhost")), path
    assert go(configuration, inputs(reference), tmp_path / "run")[-1].finished
    again = load_configuration(str(tmp_path / "run" / "configuration.toml"))
    with pytest.raises(UsageError, match="give the classifier to start from with --init"):
        go(again, inputs(reference), tmp_path / "new")


def test_a_preset_takes_streams_of_its_own_source_alone(reference: Path):
    small = ["size=32", "batch_sizes.natural=8", "batch_sizes.int=4", "arch=shufflenet_v2_x0_5"]
    configuration = load_configuration("resnet18-genint", small)
    inputs = open_inputs(configuration, [str(reference)])
    (plan,) = plan_stages(configuration, inputs)
    assert plan.batch_sizes == {"natural": 8, "interventional": 4}
    (line,) = (line for line in describe_plan([plan], inputs) if line.startswith("# observational "))
    assert line.endswith("int, not used: its source is observational, the preset takes interventional")
    wrong = load_configuration("resnet18-genint", [*small, 'sources.int=["stylized"]'])
    with pytest.raises(UsageError, match=r"of source stylized alone, and there is .*interventional \(interventional\)"):
        plan_stages(wrong, inputs)


def test_validation_images_are_compared_with_their_records(reference: Path, tmp_path: Path):
    copy = shutil.copytree(reference, tmp_path / "copy")
    shard = min(copy.glob("natural/*/*.tar"))
    content = bytearray(shard.read_bytes())
    content[600] ^= 1
    shard.write_bytes(content)
    configuration = configure("steps=1")
    inputs = open_inputs(configuration, [str(reference)], validation=f"{copy}:natural")
    with pytest.raises(FormatError, match="sha256 differs from its record's; the 1 steps made are saved"):
        go(configuration, inputs, tmp_path / "run")
    assert open_images(f"{copy}:natural").shard_sizes


def test_the_command_to_go_on_starts_as_many_processes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.argv", ["x", "--out", "a b"])
    assert cli._command() == "genint-train --out 'a b'"
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert cli._command() == "torchrun --nproc-per-node 8 --no-python genint-train --out 'a b'"


def test_a_run_whose_neighbour_is_gone_says_so(monkeypatch: pytest.MonkeyPatch):
    with (
        pytest.raises(trainer.LostRank, match="another process of the run has ended"),
        Ranks(0, 2, torch.device("cpu")).together(),
    ):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:2117")
