"""A worker: loads its models once and makes one shard a call."""

import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath

import torch

from ...manifests.dataset import load_dataset
from ...manifests.manifest import (
    Failure,
    Record,
    digest_parameters,
    dump_json,
    environment_name,
    record_name,
    shard_name,
)
from ...manifests.shard import ShardWriter, index_path
from ...manifests.sources.stream import Stream
from ...manifests.storage import Storage
from ..generators.network import as_network
from ..images.encode import encode_image, make_mark
from ..sources import RENDERERS
from ..sources.ahead import map_ahead, run_ahead
from ..sources.rendering import RenderContext, Rendered
from .environment import describe_environment
from .settle import check_plan, find_roots, open_generator

# Rendered images waiting for an encoder: enough to overlap, little enough to hold in memory.
ENCODE_AHEAD = 256


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker needs to start, anywhere: a few strings.

    plan: digest of the plan, by which a worker knows that it has the driver's dataset before it. weights, roots: the
    folder of the generator and the place of each input, as the user gave them; what is not given, each machine finds by
    itself. code: the code of the recipe's generator, where the user lets it run. earlier: where streams that others
    read are; None: at `url`. encoders: threads that encode images.
    """

    url: str
    plan: str
    device: str
    weights: str | None = None
    code: str | None = None
    roots: dict[str, str] = field(default_factory=dict)
    earlier: str | None = None
    encoders: int = 2


@dataclass(frozen=True)
class Task:
    """One shard to make."""

    stream: str
    shard_index: int
    attempt: int = 1


class Worker:
    """Makes shards of one dataset on one device.

    Raises GenintError where anything that decides pixels is not what the build settled on.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        # Parallelism comes from workers: one thread each, so that sums are formed in one order (1 and 2 threads
        # differ in the last bits).
        torch.set_num_threads(1)
        torch.backends.cudnn.benchmark = False
        self._encoders = settings.encoders
        self._dataset = load_dataset(settings.url, settings.roots)
        check_plan(self._dataset, settings.plan)
        generator = open_generator(self._dataset, settings.weights, settings.code)
        self._context = RenderContext(
            self._dataset.recipe,
            self._dataset.facts,
            Storage(settings.earlier) if settings.earlier else self._dataset.storage,
            settings.device,
            as_network(generator.model) if generator else None,
            find_roots(self._dataset),
            {name: entry.sha256 for name, entry in self._dataset.entry.fingerprint.inputs.items()},
        )
        environment = describe_environment(settings.device)
        self._environment = environment.id
        self._dataset.storage.write(environment_name(environment.id), environment.to_json())

    def make_shard(self, task: Task) -> Record:
        """Render, encode, write and commit one shard. Its record is the commit mark, written last."""
        started = time.monotonic()
        storage = self._dataset.storage
        plan = self._dataset.plan(task.stream)
        name = shard_name(task.stream, task.shard_index)
        failures: list[Failure] = []
        remarks: Counter[str] = Counter()
        parameters: list[bytes] = []
        with tempfile.TemporaryDirectory() as scratch:
            path = storage.local_path(name) if storage.local else Path(scratch) / Path(name).name
            with ShardWriter(path) as shard:
                rendered = RENDERERS[plan.stream.source](self._context, plan.stream, plan.samples(task.shard_index))
                mark = make_mark(self._dataset.recipe, plan.stream)
                ahead = run_ahead(rendered, partial(ready_thread, self._context.device))
                for result, image in encode_ahead(ahead, plan.stream, self._encoders, mark):
                    sample = result.sample
                    if image is None:
                        failures.append(Failure(key=sample.key, reason=result.failure, detail=result.detail))
                        continue
                    if result.remark:
                        remarks[result.remark] += 1
                    parameters.append(dump_json({**sample.parameters, **result.parameters}))
                    members = {
                        "cls": str(sample.class_label).encode(),
                        "json": parameters[-1],
                        plan.stream.extension: image,
                        **result.members,
                    }
                    shard.add(sample.key, members)
            assert shard.summary is not None
            if not storage.local:
                storage.put(index_path(path), str(index_path(PurePosixPath(name))))
                storage.put(path, name)
        record = Record(
            stream=task.stream,
            shard_index=task.shard_index,
            path=name,
            **vars(shard.summary),
            parameters_sha256=digest_parameters(parameters),
            environment=self._environment,
            attempt=task.attempt,
            seconds=round(time.monotonic() - started, 3),
            failures=failures,
            remarks=dict(remarks),
        )
        storage.write(record_name(task.stream, task.shard_index), record.model_dump_json().encode())
        return record


def ready_thread(device: str) -> None:
    """Ready a thread to render: it sums in one order, and makes nothing on another device."""
    torch.set_num_threads(1)
    if device != "cpu":
        torch.cuda.set_device(device)


def encode_ahead(
    rendered: Iterator[Rendered], stream: Stream, threads: int, mark: str
) -> Iterator[tuple[Rendered, bytes | None]]:
    """Encode images in threads while the next ones render (Pillow releases the GIL); order is kept.

    Yields each result with its image's bytes, None where it has failed.
    """

    def encode(result: Rendered) -> tuple[Rendered, bytes | None]:
        if result.image is None:
            return result, result.encoded
        # Its pixels are let go: many results wait for their turn.
        return replace(result, image=None), encode_image(result.image, stream, mark)

    with ThreadPoolExecutor(threads) as encoders:
        yield from map_ahead(encoders, encode, rendered, ENCODE_AHEAD)
