"""Make shards on a Ray cluster: one actor a device, one shard a call. Only small records come back."""

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace

import ray
from ray.exceptions import RayActorError, RayError

from ...manifests.errors import GenintError
from ...manifests.manifest import Record
from .executor import WorkerHandle
from .worker import Task, Worker, WorkerSettings

# Seconds without an answer from the cluster's head; after 60 Ray itself ends this process without a word.
LOST_AFTER = 35.0
CHECK_EVERY = 5.0
CONNECT_SECONDS = 10.0


class RayPool:
    """Workers on the nodes of a Ray cluster.

    address: None starts Ray on this machine, "auto" joins the running cluster, or a cluster's address.
    num_workers: None takes every device of the kind the settings ask for.
    on_lost: called from a thread, with a message, when the cluster is gone; the driver can only end then.
    """

    def __init__(
        self, settings: WorkerSettings, num_workers: int | None, address: str | None, on_lost: Callable[[str], None]
    ) -> None:
        _check_reachable(address)
        if address is None:
            # Ray would else leave a token in the home, about which later clusters and drivers disagree.
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        try:
            ray.init(
                address=address, num_cpus=num_workers if address is None else None, logging_level="error",
                log_to_driver=False, include_dashboard=False,
            )  # fmt: skip
        except (ConnectionError, RuntimeError, ValueError) as error:
            message = str(error).strip().splitlines()[0]
            raise GenintError(f"--address {address}: no Ray cluster answers: {message}") from error
        if settings.device == "auto":
            # What the cluster has counts, not what the driver's machine has.
            settings = replace(settings, device="cuda" if ray.cluster_resources().get("GPU") else "cpu")
        self._settings = settings
        self._resource = "GPU" if settings.device.startswith("cuda") else "CPU"
        available = int(ray.cluster_resources().get(self._resource, 0))
        if available == 0:
            raise GenintError(
                f"--device {settings.device}: the Ray cluster at {address or 'local'} has no {self._resource}"
            )
        self.num_workers = min(num_workers or available, available)
        self._closed = threading.Event()
        threading.Thread(target=self._watch, args=(on_lost,), daemon=True).start()

    def start_worker(self) -> WorkerHandle:
        options = {"num_gpus": 1} if self._resource == "GPU" else {"num_cpus": 1}
        # max_restarts=0: a fresh actor answers after seconds, a restarting one holds its node's resources for longer.
        actor = ray.remote(Worker).options(max_restarts=0, max_task_retries=0, **options).remote(self._settings)
        return _RayWorker(actor)

    def is_loss(self, error: BaseException) -> bool:
        return isinstance(error, RayActorError) and not error.actor_init_failed

    def kill(self) -> None:
        """The cluster ends a driver's actors with the driver's connection."""
        self.close()

    def close(self) -> None:
        self._closed.set()
        ray.shutdown()

    def _watch(self, on_lost: Callable[[str], None]) -> None:
        """Ask the head for a sign of life; calls to a dead cluster hang, also those that start a worker."""
        heard = time.monotonic()
        while not self._closed.wait(CHECK_EVERY):
            answered = threading.Event()
            threading.Thread(target=_ask_nodes, args=(answered,), daemon=True).start()
            if answered.wait(CHECK_EVERY):
                heard = time.monotonic()
            elif time.monotonic() - heard > LOST_AFTER:
                on_lost(f"the Ray cluster has not answered for {LOST_AFTER:.0f} s; finished shards are kept")
                return


def _ask_nodes(answered: threading.Event) -> None:
    try:
        ray.nodes()
    except (RayError, RuntimeError, ConnectionError):
        return  # no answer
    answered.set()


def _check_reachable(address: str | None) -> None:
    # ray.init waits for minutes where nobody listens.
    host, separator, port = (address or "").rpartition(":")
    if not separator or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise GenintError(f"--address {address}: no Ray cluster answers: {error}") from error


class _RayWorker:
    def __init__(self, actor: "ray.actor.ActorHandle[Worker]") -> None:
        self._actor = actor

    def submit(self, task: Task) -> "Future[Record]":
        future: Future[Record] = self._actor.make_shard.remote(task).future()
        return future

    def close(self) -> None:
        ray.kill(self._actor)
