"""Make shards on a Ray cluster: one actor a worker, one shard a call. Only small records come back."""

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

import ray
from ray.exceptions import RayActorError, RayError
from ray.util.scheduling_strategies import NodeLabelSchedulingStrategy, NotIn

from ...manifests.device import count_cores
from ...manifests.errors import GenintError, UsageError
from ...manifests.manifest import Record
from .executor import LEAST_ENCODERS, Place, WorkerHandle, choose_encoders
from .worker import Task, WorkerSettings

# Seconds without an answer from the cluster's head; after 60 Ray itself ends this process without a word.
LOST_AFTER = 35.0
CHECK_EVERY = 5.0
CONNECT_SECONDS = 10.0
# By which `--address auto` finds a cluster, ahead of one on this machine; set inside `ray job submit`.
ADDRESS = "RAY_ADDRESS"
KINDS = {"cpu": "CPU", "cuda": "GPU"}
# By which Ray tells nodes apart.
NODE_LABEL = "ray.io/node-id"

Node = dict[str, Any]  # as ray.nodes() describes it


class RayPool:
    """Workers on the nodes of a Ray cluster.

    address: None starts Ray on this machine, "auto" joins the running cluster, or a cluster's address.
    num_workers: None takes every device of the kind the settings ask for, also of nodes that join later; of more than
    there are, the rest waits. per_device: workers that share a GPU. encoders: threads that encode, of each worker.
    on_lost: called from a thread, with a message, when the cluster is gone; the driver can only end then.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        num_workers: int | None,
        address: str | None,
        on_lost: Callable[[str], None],
        per_device: int = 1,
        encoders: int | None = None,
    ) -> None:
        _connect(address, num_workers)
        self._nodes = _read_nodes()
        if settings.device == "auto":
            # What the cluster has counts, not what the driver's machine has.
            settings = replace(settings, device="cuda" if _count(self._nodes, "GPU") else "cpu")
        self.what = KINDS[settings.device]
        self._settings, self._encoders = settings, encoders
        self._per_device = per_device if self.what == "GPU" else 1
        self._requested, self._avoided = num_workers, set[str]()
        if num_workers is None and not _count(self._nodes, self.what):
            ray.shutdown()
            raise GenintError(
                f"--device {settings.device}: the Ray cluster at {address or 'local'} has no {self.what}; where nodes "
                "come on demand, say how many with --workers"
            )
        self._closed = threading.Event()
        threading.Thread(target=self._watch, args=(on_lost,), daemon=True).start()

    @property
    def num_workers(self) -> int:
        return self._requested or _count(self._usable(), self.what) * self._per_device

    def start_worker(self) -> WorkerHandle:
        options: dict[str, Any]
        options, encoders = {"num_cpus": 1}, self._encoders or LEAST_ENCODERS
        if self.what == "GPU":
            options, encoders = share_of_gpu(self._usable(), self._per_device, self._encoders)
        if self._avoided:
            options["scheduling_strategy"] = NodeLabelSchedulingStrategy({NODE_LABEL: NotIn(*self._avoided)})
        # max_restarts=0: a fresh actor answers after seconds, a restarting one holds its node's resources for longer.
        actor = ray.remote(_make_actor_class()).options(max_restarts=0, max_task_retries=0, **options).remote()
        return _RayWorker(actor, replace(self._settings, encoders=encoders))

    @property
    def has_place(self) -> bool:
        return _count(self._usable(), self.what) > 0

    def avoid(self, place: Place | None) -> None:
        self._nodes = _read_nodes()  # those that came a moment ago are places too
        self._avoided |= {place.node} if place else {node["NodeID"] for node in self._nodes}

    def is_avoided(self, place: Place | None) -> bool:
        return place is not None and place.node in self._avoided

    def is_loss(self, error: BaseException) -> bool:
        return isinstance(error, RayActorError)

    def kill(self) -> None:
        """The cluster ends a driver's actors with the driver's connection."""
        self.close()

    def close(self) -> None:
        self._closed.set()
        ray.shutdown()

    def _usable(self) -> list[Node]:
        return [node for node in self._nodes if node["NodeID"] not in self._avoided]

    def _watch(self, on_lost: Callable[[str], None]) -> None:
        """Ask the head for its nodes; calls to a dead cluster hang, also those that start a worker."""
        heard = time.monotonic()
        while not self._closed.wait(CHECK_EVERY):
            answered = threading.Event()
            threading.Thread(target=self._ask, args=(answered,), daemon=True).start()
            if answered.wait(CHECK_EVERY):
                heard = time.monotonic()
            elif time.monotonic() - heard > LOST_AFTER:
                on_lost(f"the Ray cluster has not answered for {LOST_AFTER:.0f} s; finished shards are kept")
                return

    def _ask(self, answered: threading.Event) -> None:
        try:
            self._nodes = _read_nodes()
        except (RayError, RuntimeError, ConnectionError):
            return  # no answer
        answered.set()


def share_of_gpu(nodes: list[Node], per_device: int, encoders: int | None) -> tuple[dict[str, float], int]:
    """What a worker on a GPU asks Ray for, and how many encoders it runs; None: as many as it gets CPUs for.

    It asks for as many CPUs as it uses, but for no more than the poorest node has for each of its workers: an actor
    that asks for more than a node has is never placed there.
    """
    shares = [_resource(node, "CPU") / _resource(node, "GPU") for node in nodes if _resource(node, "GPU")]
    cpus = int(min(shares, default=1) / per_device)
    encoders = encoders or choose_encoders(cpus)
    return {"num_gpus": 1 / per_device, "num_cpus": min(encoders + 1, cpus)}, encoders


def check_options(device: str, address: str | None) -> None:
    """Raise UsageError for what a Ray cluster cannot be asked for."""
    if device not in ("auto", *KINDS):
        raise UsageError(
            f"--device {device}: with --executor ray, expected auto, cpu or cuda; each worker sees its own GPU"
        )
    _split(address)


def _connect(address: str | None, num_workers: int | None) -> None:
    host, port = _split(os.environ.get(ADDRESS) if address == "auto" else address)
    if host and port:
        # ray.init waits for minutes where nobody listens.
        try:
            socket.create_connection((host, port), CONNECT_SECONDS).close()
        except OSError as error:
            raise GenintError(f"--address {address}: no Ray cluster answers: {error}") from error
    here = address is None
    if here:
        # Ray would else leave a token in the home, about which later clusters and drivers disagree.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # Nothing but "local" keeps Ray from what RAY_ADDRESS names, or from a cluster that runs on this machine.
    cpus = max(num_workers or 0, count_cores()) if here else None
    try:
        ray.init(
            address=address or "local", num_cpus=cpus, logging_level="error", log_to_driver=False,
            include_dashboard=False,
        )  # fmt: skip
    except (ConnectionError, RuntimeError, ValueError) as error:
        message = str(error).strip().splitlines()[0]
        where = "Ray does not start on this machine" if here else f"--address {address}: no Ray cluster answers"
        raise GenintError(f"{where}: {message}") from error


def _split(address: str | None) -> tuple[str, int]:
    """Host and port of an address, if it has them. Raises UsageError for one that is none, or of Ray Client."""
    text = address or ""
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        host, port = parts.hostname or "", parts.port or 0
    except ValueError as error:
        raise UsageError(f"--address {text}: expected auto, or HOST:PORT of the cluster's head") from error
    if parts.scheme:
        raise UsageError(
            f"--address {text}: Ray Client is not supported; run the command on a node of the cluster with --address "
            "auto, for example by `ray job submit --address http://HOST:8265 -- genint-pipeline build-shards ...`"
        )
    return host, port


def _read_nodes() -> list[Node]:
    return [node for node in ray.nodes() if node["Alive"]]


def _resource(node: Node, what: str) -> float:
    return float(node["Resources"].get(what, 0))


def _count(nodes: list[Node], what: str) -> int:
    return sum(int(_resource(node, what)) for node in nodes)


def _make_actor_class() -> type:
    """The actor's class. Made in a function, it travels by value: it comes up on any node, and what a node lacks
    (a library, genint itself) is then an error with a name and a place."""

    class GenintWorker:
        def locate(self) -> tuple[str, list[str], str]:
            import socket

            import ray

            context = ray.get_runtime_context()
            return socket.gethostname(), context.get_accelerator_ids()["GPU"], context.get_node_id()

        def start(self, settings: dict[str, Any], expected: str) -> None:
            from importlib.metadata import version

            from genint.manifests.errors import GenintError

            found = version("genint")
            if found != expected:
                raise GenintError(f"genint {found} on this node, the driver has {expected}; install one on every node")
            from genint.pipeline.shards.worker import Worker, WorkerSettings

            self.worker = Worker(WorkerSettings(**settings))

        def make_shard(self, stream: str, shard_index: int, attempt: int) -> Any:  # a Record, a name of genint's
            from genint.pipeline.shards.worker import Task

            return self.worker.make_shard(Task(stream, shard_index, attempt))

    return GenintWorker


class _RayWorker:
    def __init__(self, actor: Any, settings: WorkerSettings) -> None:
        self._actor = actor
        self._located: Future[tuple[str, list[str], str]] = actor.locate.remote().future()
        self.ready: Future[None] = actor.start.remote(asdict(settings), version("genint")).future()

    @property
    def place(self) -> Place | None:
        if not self._located.done() or self._located.exception():
            return None
        host, gpus, node = self._located.result()
        return Place(host, f"GPU {gpus[0]}" if gpus else "CPU", node)

    def submit(self, task: Task) -> Future[Record]:
        future: Future[Record] = self._actor.make_shard.remote(task.stream, task.shard_index, task.attempt).future()
        return future

    def close(self) -> None:
        # After the connection has ended, ray.kill would begin another one.
        if ray.is_initialized():
            ray.kill(self._actor)

    def kill(self) -> None:
        self.close()
