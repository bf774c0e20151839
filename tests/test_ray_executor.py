"""The Ray executor makes the bytes of the local one, also when nodes die."""

import subprocess
import sys
import threading
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


@pytest.fixture(scope="module")
def reference(tmp_path_factory, tiny_recipe) -> Path:
    out = tmp_path_factory.mktemp("local") / "dataset"
    subprocess.run([*DRIVER, tiny_recipe, "--out", out, "--workers", "1"], check=True)
    return out


def test_ray_makes_the_bytes_of_the_local_executor(tmp_path, tiny_recipe, cluster, reference):
    node = cluster.add_node(num_cpus=2)
    try:
        out = tmp_path / "dataset"
        ray_options = ["--executor", "ray", "--address", cluster.address, "--workers", "2"]
        subprocess.run([*DRIVER, tiny_recipe, "--out", out, *ray_options], check=True)
    finally:
        cluster.remove_node(node)
    assert (out / "SHA256SUMS").read_text() == (reference / "SHA256SUMS").read_text()


def test_a_node_killed_under_work_is_survived(tmp_path, tiny_recipe, cluster, reference):
    doomed, other = cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)
    out = tmp_path / "dataset"

    def kill_once_it_works() -> None:
        while not list(out.glob("records/*/0000/*.json")):
            time.sleep(0.01)
        cluster.remove_node(doomed, allow_graceful=False)

    killer = threading.Thread(target=kill_once_it_works)
    killer.start()
    try:
        ray_options = ["--executor", "ray", "--address", cluster.address, "--workers", "2"]
        build = subprocess.run(
            [*DRIVER, tiny_recipe, "--out", out, *ray_options], stderr=subprocess.PIPE, text=True, timeout=240
        )
    finally:
        killer.join()
        cluster.remove_node(other)
    assert build.returncode == 0, build.stderr
    assert (out / "SHA256SUMS").read_text() == (reference / "SHA256SUMS").read_text()


def test_no_cluster_at_the_address_is_one_line(tiny_recipe, tmp_path):
    options = ["--executor", "ray", "--address", "127.0.0.1:1"]
    build = subprocess.run(
        [*DRIVER, tiny_recipe, "--out", tmp_path / "dataset", *options], capture_output=True, text=True, timeout=120
    )
    assert build.returncode == 1
    assert "no Ray cluster answers" in build.stderr
    assert "Traceback" not in build.stderr


def test_a_lost_cluster_says_so_within_a_minute_and_how_to_resume(tmp_path, tiny_recipe):
    lonely = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    out = tmp_path / "dataset"
    options = ["--executor", "ray", "--address", lonely.address]
    build = subprocess.Popen(
        [*DRIVER, tiny_recipe, "--out", out, *options], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    try:
        while not list(out.glob("records/*/0000/*.json")):
            time.sleep(0.01)
        lonely.head_node.kill_all_processes(check_alive=False, allow_graceful=False)
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
