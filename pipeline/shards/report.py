"""The page that a reviewer is sent: which shards were made again, where, and how they compare."""

import hashlib
from collections.abc import Sequence
from importlib.resources import files

from jinja2 import Environment as Templates
from jinja2 import StrictUndefined

from ...manifests.dataset import Dataset
from ...manifests.manifest import MANIFEST, Environment, Manifest
from ...manifests.page_style import page_style
from .rebuild import Rebuilt

# Measured by tests/benchmarks/measure_reproduction.py on the mini world: threads and bf16 on a Xeon with AVX-512 and on
# an EPYC with AVX2, alike; the others on the latter. torch 2.13 unless another is named.
EXPECTED = [
    ("nothing", "every byte equal"),
    ("two threads instead of one (workers take one)", "every byte equal, though sums can differ in their last bits"),
    (
        'precision = "bf16" instead of "fp32" (another recipe)',
        "no picture equal; generated ones by 0.5 of 255 on average and 29 at most, transfers, whose optimisation "
        "enlarges what differs, by 4 on average and 206 at most",
    ),
    (
        "torch 2.9.1 instead of 2.13.0, on one CPU",
        "every byte equal; a version that changes a kernel need not be so kind",
    ),
    (
        "kernels for another kind of CPU (SSE4.1 instead of AVX2)",
        "nine in ten generated pictures equal, the others by 1 of 255 at most; two in five transfers equal, all by 0.9 "
        "on average and 90 at most",
    ),
]


def make_report(dataset: Dataset, manifest: Manifest, results: Sequence[Rebuilt], here: Environment) -> str:
    """One page of HTML without anything outside of it."""
    templates = Templates(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = (files("genint.pipeline") / "data" / "reproduction.html").read_text("utf-8")
    used = sorted({result.record.environment for result in results} & manifest.environments.keys())
    environments = {"here": here.model_dump(), **{key: manifest.environments[key].model_dump() for key in used}}
    return templates.from_string(text).render(
        style=page_style(),
        manifest=manifest,
        manifest_sha256=hashlib.sha256(dataset.storage.read(MANIFEST)).hexdigest(),
        total=sum(stream.shards for stream in manifest.streams),
        results=results,
        failed=[result for result in results if not result.is_reproduced],
        samples=sum(result.record.samples for result in results),
        equal=sum(result.same_bytes for result in results),
        largest=max((result.largest_difference or 0 for result in results), default=0),
        environments=environments,
        here=here,
        fields=list(Environment.model_fields),
        expected=EXPECTED,
    )
