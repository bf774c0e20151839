"""The registry of renderers, one for each source of manifests/sources."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ...manifests.sources.stream import Sample
from .generated import render_generated
from .mini_world import compose_mini_world
from .natural import repack_natural
from .rendering import RenderContext, Rendered
from .transfer import optimisation_flop, render_transferred

Renderer = Callable[[RenderContext, Any, Sequence[Sample]], Iterator[Rendered]]

RENDERERS: dict[str, Renderer] = {
    "natural": repack_natural,
    "mini-world": compose_mini_world,
    "observational": render_generated,
    "interventional": render_generated,
    "transfer": render_transferred,
    "stylized": render_transferred,
}

# FLOP a sample, of sources that can take days on the wrong device; by stream and the inputs' places.
WORK: dict[str, Callable[[Any, Mapping[str, str]], float]] = {"transfer": optimisation_flop}
