"""The Ray executor makes the bytes of the local one, also when nodes die."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
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
        actors = find_children(raylet.process.pid, "ray::Worker")
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
