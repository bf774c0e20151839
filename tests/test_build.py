"""The promises of design.md, section 4, for a build on this machine."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from genint.manifests.api import open_stream
from genint.manifests.manifest import load_manifest
from genint.manifests.storage import Storage
from genint.train.cli import main as train

DRIVER = [sys.executable, "-c", "from genint.pipeline.cli import main; main()", "build-shards"]


def sums(dataset: Path) -> str:
    return (dataset / "SHA256SUMS").read_text()


def leftovers(dataset: Path) -> list[Path]:
    return [path for path in dataset.rglob("*") if ".tmp" in path.name]


def test_two_workers_make_the_bytes_of_one(tmp_path, tiny_recipe, run_cli, reference):
    assert run_cli("build-shards", tiny_recipe, "--out", tmp_path / "two", "--workers", 2).exit_code == 0
    assert sums(tmp_path / "two") == sums(reference)


def test_the_same_command_again_says_complete_and_changes_nothing(tmp_path, tiny_recipe, run_cli):
    out = tmp_path / "dataset"
    assert run_cli("build-shards", tiny_recipe, "--out", out, "--workers", 1).exit_code == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.tar")}
    manifest = (out / "manifest.json").read_bytes()
    result = run_cli("build-shards", tiny_recipe, "--out", out, "--workers", 1)
    assert result.exit_code == 0
    assert "complete already" in result.out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.tar")} == before
    assert (out / "manifest.json").read_bytes() == manifest


@pytest.mark.parametrize(("workers", "kills"), [(1, 3), (2, 2)])
def test_a_driver_killed_at_random_points_resumes_to_identical_bytes(tmp_path, tiny_recipe, reference, workers, kills):
    out = tmp_path / "dataset"
    moments = random.Random(workers)
    command = [*DRIVER, tiny_recipe, "--out", out, "--workers", str(workers)]
    for committed in sorted(moments.sample(range(1, 6), kills)):
        build = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while len(list(out.glob("records/*/0000/*.json"))) < committed:
            assert build.poll() is None
            time.sleep(0.002)
        time.sleep(moments.random() * 0.1)
        build.send_signal(signal.SIGKILL)
        assert build.wait() == -signal.SIGKILL
        assert not (out / "manifest.json").exists()
    subprocess.run(command, check=True)
    assert sums(out) == sums(reference)
    assert not leftovers(out)


def test_a_killed_worker_is_replaced_and_counted(tmp_path, tiny_recipe, reference, find_children):
    out = tmp_path / "dataset"
    build = subprocess.Popen([*DRIVER, tiny_recipe, "--out", out, "--workers", "2"], stderr=subprocess.PIPE, text=True)
    while not list(out.glob("records/*/0000/*.json")):
        assert build.poll() is None
        time.sleep(0.002)
    os.kill(find_children(build.pid, "spawn_main")[0], signal.SIGKILL)
    _, err = build.communicate()
    assert build.returncode == 0, err
    assert sums(out) == sums(reference)
    # An idle worker may have been hit; one that was at work is named.
    assert json.loads((out / "manifest.json").read_text())["lost_workers"] == err.count("will be tried again")


def test_a_shard_that_cannot_be_made_fails_the_build_by_name_and_spares_the_others(tmp_path, tiny_recipe, run_cli):
    out = tmp_path / "dataset"
    # A folder stands where one shard should go.
    run_cli("build-shards", tiny_recipe, "--out", out, "--stream", "natural", "--workers", 1)
    blocked = out / "observational" / "0000" / "observational-0000001.tar"
    blocked.mkdir(parents=True)
    (blocked / "in-the-way").touch()
    result = run_cli("build-shards", tiny_recipe, "--out", out, "--workers", 1)
    assert result.exit_code == 1
    assert "1 shards failed, first observational shard 1: IsADirectoryError" in result.err
    assert "to try again: genint-pipeline build-shards" in result.err
    assert len([path for path in out.rglob("*.tar") if path.is_file()]) == 9
    # What was whole before stays so for readers.
    assert [stream.name for stream in load_manifest(Storage(out)).streams] == ["natural"]


def test_what_a_killed_driver_left_is_not_taken_for_a_shard(tmp_path, tiny_recipe, run_cli, reference):
    out = tmp_path / "dataset"
    run_cli("build-shards", tiny_recipe, "--out", out, "--workers", 1)
    (out / "manifest.json").unlink()
    shard = next(iter(sorted(out.glob("natural/0000/*.tar"))))
    shard.rename(shard.with_name(f"{shard.name}.tmp.123"))
    assert run_cli("build-shards", tiny_recipe, "--out", out, "--workers", 1).exit_code == 0
    assert sums(out) == sums(reference)


def test_a_shard_deleted_from_a_finished_dataset_is_made_again(tmp_path, tiny_recipe, run_cli, reference):
    out = tmp_path / "dataset"
    run_cli("build-shards", tiny_recipe, "--out", out, "--workers", 1)
    next(iter(out.glob("observational/0000/*.tar"))).unlink()
    result = run_cli("build-shards", tiny_recipe, "--out", out, "--workers", 1)
    assert result.exit_code == 0
    assert sums(out) == sums(reference)
    assert run_cli("verify", out).exit_code == 0


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("streams.observational.truncation=0.5", "streams.observational.truncation: 1.0 -> 0.5"),
        ("seed=8", "seed: 7 -> 8"),
        ("streams.natural.samples_per_shard=30", "streams.natural.samples_per_shard: 20 -> 30"),
    ],
)
def test_a_changed_recipe_is_refused_by_the_name_of_the_change(tiny_recipe, run_cli, reference, override, named):
    before = sums(reference)
    result = run_cli("build-shards", tiny_recipe, "--out", reference, "--set", override)
    assert result.exit_code == 2
    assert named in result.err
    assert sums(reference) == before


def test_other_weights_are_refused(tmp_path, tiny_recipe, run_cli, reference):
    import torch
    from genint.pipeline.biggan.generator import load_generator
    from genint.pipeline.generators.load import weights_location

    source = Path(weights_location("mini"))
    model = load_generator(source).model
    model.generator.gen_z.bias.data += 0.01
    (tmp_path / "weights").mkdir()
    torch.save(model.state_dict(), tmp_path / "weights" / "pytorch_model.bin")
    (tmp_path / "weights" / "config.json").write_bytes((source / "config.json").read_bytes())
    result = run_cli("build-shards", tiny_recipe, "--out", reference, "--weights", tmp_path / "weights")
    assert result.exit_code == 2
    assert "generator weights" in result.err


def test_one_stream_built_alone_is_a_dataset_that_can_be_read_and_completed(
    tmp_path, tiny_recipe, run_cli, run_main, reference, caplog
):
    out = tmp_path / "dataset"
    one = ["build-shards", tiny_recipe, "--out", out, "--stream", "interventional", "--workers", 1]
    result = run_cli(*one)
    assert result.exit_code == 0, result.err
    assert "partial: natural, observational not made yet" in result.out
    assert len(list(out.rglob("*.tar"))) == 4
    assert "complete already" in run_cli(*one).out

    # Readers take it, and say what is missing where that is asked for.
    assert "partial: natural, observational not made yet" in run_cli("status", out).out
    verified = run_cli("verify", out)
    assert verified.exit_code == 0 and "1 streams, 4 shards, 60 samples" in verified.out, verified.err
    assert len(open_stream(str(out), "interventional")) == 60
    described = run_main(train, "--shards", out, "--dry-run", "--set", "batch_sizes.int=10")
    assert described.exit_code == 0 and "interventional                60 images  int" in described.out, described.err
    assert caplog.text.count("streams that are not made yet: natural, observational") == 1
    asked = run_main(train, "--shards", out, "--dry-run", "--streams", "observational")
    assert asked.exit_code == 2 and "stream 'observational' is not made yet" in asked.err
    for words in (["sign", out, "--keyless"], ["merge", out, out, "--out", tmp_path / "merged"]):
        refused = run_cli(*words)
        assert refused.exit_code == 2 and "not made yet: natural, observational" in refused.err
    assert run_cli("repair", out, "--workers", 1).out.count("contact sheet") == 1

    # Another stream joins; at last it is the whole, to the byte.
    kept = (out / "interventional" / "0000" / "interventional-0000000.tar").stat().st_mtime_ns
    assert run_cli(*one[:-3], "natural", "--workers", 1).exit_code == 0
    assert [stream.name for stream in load_manifest(Storage(out)).streams] == ["natural", "interventional"]
    assert run_cli("verify", out).exit_code == 0
    assert run_cli("build-shards", tiny_recipe, "--out", out, "--workers", 1).exit_code == 0
    assert sums(out) == sums(reference)
    assert (out / "interventional" / "0000" / "interventional-0000000.tar").stat().st_mtime_ns == kept


def test_a_second_driver_is_refused_while_the_first_works(tmp_path, tiny_recipe, run_cli):
    out = tmp_path / "dataset"
    first = subprocess.Popen([*DRIVER, tiny_recipe, "--out", out, "--workers", "1"], stderr=subprocess.DEVNULL)
    try:
        while not (out / "records" / "plan.json").exists():
            assert first.poll() is None
            time.sleep(0.001)
        first.send_signal(signal.SIGSTOP)  # or it might be done before the second has started
        second = run_cli("build-shards", tiny_recipe, "--out", out, "--workers", 1)
    finally:
        first.send_signal(signal.SIGCONT)
        assert first.wait() == 0
    assert second.exit_code == 2
    assert f"another build is running here (process {first.pid}" in second.err
    assert run_cli("verify", out).exit_code == 0


def interrupt_at_the_first_record(command: list[object], out: Path) -> subprocess.Popen[str]:
    """A driver that has got its first Ctrl-C with most of its shards still to make."""
    build = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not list(out.glob("records/natural/0000/*.json")):
        assert build.poll() is None
        time.sleep(0.005)
    build.send_signal(signal.SIGINT)
    return build


def test_an_interrupt_finishes_running_shards_and_prints_how_to_resume(tmp_path, tiny_recipe, reference):
    out = tmp_path / "dataset"
    command = [*DRIVER, tiny_recipe, "--out", out, "--workers", "1"]
    build = interrupt_at_the_first_record(command, out)
    _, err = build.communicate()
    assert build.returncode == 130
    assert "to resume:" in err
    assert "Traceback" not in err
    assert not leftovers(out)
    assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0
    assert sums(out) == sums(reference)


def test_a_second_interrupt_stops_at_once_and_loses_nothing_finished(tmp_path, tiny_recipe, reference):
    out = tmp_path / "dataset"
    command = [*DRIVER, tiny_recipe, "--out", out, "--workers", "1"]
    build = interrupt_at_the_first_record(command, out)
    assert any("Ctrl-C again" in line for line in build.stderr)
    build.send_signal(signal.SIGINT)
    _, err = build.communicate()
    assert build.returncode == 130
    assert "Traceback" not in err
    assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0
    assert sums(out) == sums(reference)


def test_a_full_disk_is_one_line_and_resumes_cleanly(tmp_path, tiny_recipe, run_cli, reference):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)]
    able = os.geteuid() == 0 and shutil.which("mount") is not None
    if not able or subprocess.run(mount, stderr=subprocess.DEVNULL).returncode != 0:
        pytest.skip("a small tmpfs needs the right to mount")
    try:
        out = disk / "dataset"
        result = run_cli("build-shards", tiny_recipe, "--out", out, "--workers", 1)
        assert result.exit_code == 1
        errors = [line for line in result.err.splitlines() if line.startswith("error:")]
        assert len(errors) == 1
        assert "No space left on device" in errors[0]
        assert "to resume: genint-pipeline build-shards" in errors[0]
        assert not leftovers(out)
        assert not (out / "manifest.json").exists()
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        assert run_cli("build-shards", tiny_recipe, "--out", out, "--workers", 1).exit_code == 0
        assert sums(out) == sums(reference)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_non_finite_pixels_leave_a_hole_with_its_reason_and_fail_the_build(tmp_path, tiny_recipe, run_cli):
    import torch
    from genint.pipeline.biggan.generator import load_generator
    from genint.pipeline.generators.load import weights_location

    source = Path(weights_location("mini"))
    model = load_generator(source).model
    # One class embedding overflows: samples of class 3 alone are lost.
    model.embeddings.weight.data[:, 3] = 1e38
    weights = tmp_path / "weights"
    weights.mkdir()
    torch.save(model.state_dict(), weights / "pytorch_model.bin")
    (weights / "config.json").write_bytes((source / "config.json").read_bytes())
    out = tmp_path / "dataset"
    result = run_cli("build-shards", tiny_recipe, "--out", out, "--weights", weights, "--workers", 1)
    assert result.exit_code == 1
    assert "stream observational: 3 of 30 samples lost (3 non-finite pixels" in result.err
    manifest = json.loads((out / "manifest.json").read_text())
    entry = next(stream for stream in manifest["streams"] if stream["name"] == "observational")
    assert entry["failures"] == {"non-finite pixels": 3}
    assert entry["samples"] == 27
    assert run_cli("verify", out, "--weights", weights).exit_code == 0


def test_rebuilt_shards_equal_the_recorded_ones(run_cli, reference, tmp_path):
    page = tmp_path / "report.html"
    result = run_cli("verify", reference, "--rebuild", "all", "--report", page)
    assert result.exit_code == 0
    assert result.out.count("parameters equal, bytes equal") == 10
    report = page.read_text()
    assert "All 10 shards that were made again are what the dataset holds." in " ".join(report.split())
    for name in ("manifest.json", "SHA256SUMS"):
        assert hashlib.sha256((reference / name).read_bytes()).hexdigest() in report
    assert report.count("<td>this environment</td>") == 10 and 'class="differs"' not in report


def test_no_thread_or_process_outlives_a_build(tmp_path, tiny_recipe, run_cli):
    import multiprocessing

    run_cli("build-shards", tiny_recipe, "--out", tmp_path / "dataset", "--workers", 2)
    assert not multiprocessing.active_children()
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]
