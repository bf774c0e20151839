"""What passes between a worker and the code that renders one kind of stream."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...manifests.recipe import Recipe
from ...manifests.sources.stream import Facts, Sample
from ...manifests.storage import Storage
from ..generators.network import Network
from ..networks.generator import Renderer
from .stream_reader import StreamReader


@dataclass(frozen=True)
class Rendered:
    """A finished sample, or the reason why there is none.

    image: [H, W, 3] uint8, to be encoded; or `encoded`, bytes that are kept as they are. `members` join the sample in
    the tar (extension to content), `parameters` its json. `remark`: what is counted of samples that were made all the
    same.
    """

    sample: Sample
    image: NDArray[np.uint8] | None = None
    encoded: bytes | None = None
    members: Mapping[str, bytes] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    remark: str = ""
    failure: str = ""
    detail: str = ""


@dataclass
class RenderContext:
    """What renderers work with: recipe, facts, where earlier streams are, and the models, loaded once a worker.

    roots: place of each input on this machine. digests: sha256 of the networks among them that the build settled on,
    compared when one is loaded. stand_ins: only time is of interest, so noise stands for earlier streams, which are not
    there, and random weights for networks that are not at hand. kept: what renderers keep between shards.
    """

    recipe: Recipe
    facts: Facts
    storage: Storage
    device: str
    network: Network | None = None
    roots: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    stand_ins: bool = False
    kept: dict[str, Any] = field(default_factory=dict)
    _readers: dict[str, StreamReader] = field(default_factory=dict)
    _renderers: dict[float, Renderer] = field(default_factory=dict)

    @property
    def batch_size(self) -> int:
        """Fixed members of a render batch."""
        assert self.recipe.generator is not None
        return self.recipe.generator.batch_size

    def reader(self, stream: str) -> StreamReader:
        """Reads the samples of an earlier stream; one for all threads."""
        if stream not in self._readers:
            self._readers.setdefault(stream, StreamReader(self.storage, self.facts.plan(stream)))
        return self._readers[stream]

    def generator(self, truncation: float) -> Renderer:
        """The generator, of a BigGAN with the batch-norm statistics of a truncation."""
        assert self.recipe.generator is not None and self.network is not None
        if truncation not in self._renderers:
            # One at a time: a device has room for one large generator, and streams follow one another.
            self._renderers = {
                truncation: self.network.renderer(
                    truncation,
                    batch_size=self.batch_size,
                    precision=self.recipe.generator.precision,
                    device=self.device,
                )
            }
        return self._renderers[truncation]
