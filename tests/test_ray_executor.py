"""The Ray executor makes the bytes of the local one, also when nodes die."""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
import torch
from genint.manifests.errors import GenintError
from genint.pipeline.shards import driver, ray_executor
from genint.pipeline.shards.ray_executor import share_of_gpu
from ray.cluster_utils import Cluster

DRIVER = [sys.executable, "-c", "from genint.pipeline.cli import main; main()", "build-shards"]


@pytest.fixture(scope="module")
def cluster():
    """A head without workers; each test adds its nodes."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_ray_makes_the_bytes_of_the_local_executor(tmp_path, tiny_recipe, cluster, reference):
    node = cluster.add_node(num_cpus=2)
    try:
        out = tmp_path / "dataset"
        ray_options = ["--executor", "ray", "--address", cluster.address, "--workers", "2"]
        subprocess.run([*DRIVER, tiny_recipe, "--out", out, *ray_options], check=True)
    finally:
        cluster.remove_node(node)
    assert (out / "SHA256SUMS").read_text() == (reference / "SHA256SUMS").read_text()


def test_a_generator_of_ones_own_is_rendered_by_workers_of_every_kind(tmp_path, cluster, monkeypatch):
    example = Path(__file__).resolve().parents[1] / "examples" / "tiny_style"
    monkeypatch.setenv("PYTHONPATH", str(example))
    config = {"z_dim": 32, "num_classes": 10, "resolution": 32, "width": 16}
    monkeypatch.syspath_prepend(example)
    generator = importlib.import_module("tiny_style").TinyStyle(**config)
    sys.modules.pop("tiny_style")
    torch.save(generator.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(config))
    options = ["--weights", tmp_path, "--allow-code", "tiny_style:TinyStyle", "--workers", "2"]
    for kind in ("observational", "interventional"):
        options += ["--set", f"streams.{kind}.latents_per_class=2", "--set", f"streams.{kind}.samples_per_shard=10"]
    node = cluster.add_node(num_cpus=2)
    try:
        ray_options = ["--executor", "ray", "--address", cluster.address]
        for out, more in (("by-processes", []), ("by-ray", ray_options)):
            subprocess.run([*DRIVER, example / "recipe.toml", *options, *more, "--out", tmp_path / out], check=True)
    finally:
        cluster.remove_node(node)
    assert (tmp_path / "by-ray/SHA256SUMS").read_text() == (tmp_path / "by-processes/SHA256SUMS").read_text()


def start_and_stop_at_the_first_record(recipe: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    """A driver that is held (SIGSTOP) with most of its shards still to hand out: what dies now, dies under work."""
    build = subprocess.Popen(
        [*DRIVER, recipe, "--out", out, "--executor", "ray", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(out.glob("records/natural/0000/*.json")):
        assert build.poll() is None
        time.sleep(0.002)
    build.send_signal(signal.SIGSTOP)
    return build


def test_a_node_killed_under_work_is_survived(tmp_path, tiny_recipe, cluster, reference):
    doomed, other = cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)
    out = tmp_path / "dataset"
    build = start_and_stop_at_the_first_record(tiny_recipe, out, "--address", cluster.address, "--workers", "2")
    try:
        cluster.remove_node(doomed, allow_graceful=False)
        build.send_signal(signal.SIGCONT)
        _, err = build.communicate(timeout=240)
    finally:
        build.kill()
        cluster.remove_node(other)
    assert build.returncode == 0, err
    assert (out / "SHA256SUMS").read_text() == (reference / "SHA256SUMS").read_text()


HOLD = """
import time, ray
ray.init(address="{address}", namespace="others", logging_level="error", log_to_driver=False)
@ray.remote(num_cpus=1, lifetime="detached", name="holder")
class Holder:
    def here(self): return 1
ray.get(Holder.remote().here.remote())
"""


def start_and_wait_for_the_plan(recipe: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    """A driver that has settled all it needs, on a cluster whose nodes are still to come."""
    build = subprocess.Popen(
        [*DRIVER, recipe, "--out", out, "--executor", "ray", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (out / "records" / "plan.json").exists():
        assert build.poll() is None
        time.sleep(0.01)
    return build


def test_nodes_that_join_late_lack_a_library_or_work_for_others(tmp_path, tiny_recipe, cluster, reference):
    """Of three nodes, one is another job's and one lacks a library: the third makes every shard."""
    (tmp_path / "pytorch_pretrained_biggan.py").write_text("raise ImportError('libcudnn.so.9: cannot open')")
    busy = cluster.add_node(num_cpus=1)
    nodes = [busy]
    subprocess.run([sys.executable, "-c", HOLD.format(address=cluster.address)], check=True)
    out = tmp_path / "dataset"
    build = start_and_wait_for_the_plan(tiny_recipe, out, "--address", cluster.address, "--workers", "3")
    try:
        nodes.append(cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": str(tmp_path)}))
        nodes.append(cluster.add_node(num_cpus=1))
        _, err = build.communicate(timeout=240)
    finally:
        build.kill()
        for node in nodes:
            cluster.remove_node(node)
    assert build.returncode == 0, err
    assert "cannot start: ImportError: libcudnn.so.9: cannot open" in err
    assert " shard " not in err  # none was handed to a worker that could not make it
    assert (out / "SHA256SUMS").read_text() == (reference / "SHA256SUMS").read_text()


def test_a_node_with_other_weights_is_refused_and_named(tmp_path, tiny_recipe, cluster):
    import torch
    from genint.pipeline.biggan.generator import load_generator
    from genint.pipeline.generators.load import weights_location

    shutil.copytree(weights_location("mini"), tmp_path / "weights")
    out = tmp_path / "dataset"
    # Relative: the workers have another working folder than the driver.
    relative = os.path.relpath(tmp_path / "weights")
    options = ["--address", cluster.address, "--workers", "1", "--weights", relative]
    build = start_and_wait_for_the_plan(tiny_recipe, out, *options)
    model = load_generator(tmp_path / "weights").model
    model.generator.gen_z.bias.data += 0.01
    torch.save(model.state_dict(), tmp_path / "weights" / "pytorch_model.bin")
    node = cluster.add_node(num_cpus=1)
    try:
        _, err = build.communicate(timeout=240)
    finally:
        build.kill()
        cluster.remove_node(node)
    assert build.returncode == 1
    assert f"a worker cannot start: {tmp_path / 'weights'}: weights " in err
    assert "the dataset is rendered with" in err
    assert "Traceback" not in err
    assert not list(out.rglob("*.tar"))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--address", "ray://head:10001"], "Ray Client is not supported; run the command on a node of the cluster"),
        (["--address", "head:port"], "expected auto, or HOST:PORT of the cluster's head"),
        (["--device", "cuda:1"], "with --executor ray, expected auto, cpu or cuda"),
        (["--device", "tpu"], "with --executor ray, expected auto, cpu or cuda"),
    ],
)
def test_what_a_cluster_cannot_be_asked_for_is_refused_before_work_starts(
    tmp_path, tiny_recipe, run_cli, options, reason
):
    result = run_cli("build-shards", tiny_recipe, "--out", tmp_path / "dataset", "--executor", "ray", *options)
    assert result.exit_code == 2
    assert reason in result.err
    assert not (tmp_path / "dataset").exists()


def test_a_cluster_without_gpus_says_so_unless_workers_are_asked_for(tmp_path, tiny_recipe, cluster, run_cli):
    options = ["--executor", "ray", "--address", cluster.address, "--device", "cuda"]
    result = run_cli("build-shards", tiny_recipe, "--out", tmp_path / "dataset", *options)
    assert result.exit_code == 1
    assert "has no GPU; where nodes come on demand, say how many with --workers" in result.err


@pytest.mark.parametrize(
    ("nodes", "per_device", "asked", "share", "encoders"),
    [
        ([(8, 64)], 1, None, {"num_gpus": 1, "num_cpus": 8}, 7),
        ([(8, 64), (0, 4), (4, 8)], 1, None, {"num_gpus": 1, "num_cpus": 2}, 2),
        ([(8, 64)], 2, None, {"num_gpus": 0.5, "num_cpus": 4}, 3),
        ([(8, 64)], 1, 2, {"num_gpus": 1, "num_cpus": 3}, 2),
        ([(8, 0)], 1, None, {"num_gpus": 1, "num_cpus": 0}, 2),
        ([], 1, None, {"num_gpus": 1, "num_cpus": 1}, 2),
    ],
)
def test_a_worker_on_a_gpu_asks_for_no_more_cpus_than_its_node_has(nodes, per_device, asked, share, encoders) -> None:
    described = [{"Resources": {"GPU": float(gpus), "CPU": float(cpus)}} for gpus, cpus in nodes]
    assert share_of_gpu(described, per_device, asked) == (share, encoders)


def test_a_node_with_another_version_refuses_and_the_actor_comes_up_where_genint_is_not() -> None:
    packed = ray.cloudpickle.dumps(ray_executor._make_actor_class())
    # By value: in a process that cannot import genint, the class is there all the same.
    unpack = "import sys; sys.modules['genint'] = None; from ray import cloudpickle; "
    unpack += "print(cloudpickle.loads(sys.stdin.buffer.read())().make_shard.__name__)"
    found = subprocess.run([sys.executable, "-c", unpack], input=packed, capture_output=True, check=True)
    assert found.stdout == b"make_shard\n"
    with pytest.raises(
        GenintError, match=r"^genint \S+ on this node, the driver has 0\.0\.1; install one on every node$"
    ):
        ray_executor._make_actor_class()().start({}, "0.0.1")


def test_an_error_of_ray_is_one_line_with_its_cause() -> None:
    class ActorDiedError(Exception):
        """As Ray words them."""

    ActorDiedError.__module__ = "ray.exceptions"
    error = ActorDiedError("The actor died.\n\x1b[36mray::Worker()\x1b[39m (pid=7)\n\nImportError: libcudnn.so.9\n")
    assert driver.describe_error(error) == "ActorDiedError: The actor died. ImportError: libcudnn.so.9"


def test_a_full_disk_ends_a_local_ray_in_one_line_whatever_cluster_the_environment_names(tmp_path, tiny_recipe):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    able = os.geteuid() == 0 and shutil.which("mount") is not None
    if not able or subprocess.run(mount, stderr=subprocess.DEVNULL).returncode != 0:
        pytest.skip("a small tmpfs needs the right to mount")
    try:
        build = subprocess.run(
            [*DRIVER, tiny_recipe, "--out", disk / "dataset", "--executor", "ray", "--workers", "2"],
            capture_output=True,
            text=True,
            timeout=240,
            env={**os.environ, "RAY_ADDRESS": "127.0.0.1:1"},
        )
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert build.returncode == 1
    errors = [line for line in build.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "No space left on device" in errors[0]
    assert "Traceback" not in build.stderr


def test_no_cluster_at_the_address_is_one_line(tiny_recipe, tmp_path):
    options = ["--executor", "ray", "--address", "127.0.0.1:1"]
    build = subprocess.run(
        [*DRIVER, tiny_recipe, "--out", tmp_path / "dataset", *options], capture_output=True, text=True, timeout=120
    )
    assert build.returncode == 1
    assert "no Ray cluster answers" in build.stderr
    assert "Traceback" not in build.stderr


def test_a_lost_cluster_says_so_within_a_minute_and_how_to_resume(tmp_path, tiny_recipe, find_children):
    lonely = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    out = tmp_path / "dataset"
    build = start_and_stop_at_the_first_record(tiny_recipe, out, "--address", lonely.address)
    try:
        (raylet,) = lonely.head_node.all_processes["raylet"]
        actors = find_children(raylet.process.pid, "ray::GenintWorker")
        assert actors
        lonely.head_node.kill_all_processes(check_alive=False, allow_graceful=False)
        # The actor notices after a moment that its node is gone; until then it would go on working for the driver.
        while any(Path(f"/proc/{actor}").exists() for actor in actors):
            time.sleep(0.2)
        build.send_signal(signal.SIGCONT)
        lost = time.monotonic()
        _, err = build.communicate(timeout=120)
        assert time.monotonic() - lost < 60
    finally:
        build.kill()
        lonely.shutdown()
    assert build.returncode == 1
    assert "the Ray cluster has not answered" in err
    assert "to resume:" in err
    assert "Traceback" not in err
