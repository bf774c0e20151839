"""The registry of renderers, one for each source of manifests/sources."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ...manifests.sources.stream import Facts, Sample
from .counterfactual import render_counterfactuals
from .generated import render_generated
from .mini_world import compose_mini_world
from .mnist import check_textures, draw_mnist
from .natural import import_images, repack_natural
from .recomposed import check_saliency, recompose
from .rendering import RenderContext, Rendered
from .transfer import optimisation_flop, render_transferred

Renderer = Callable[[RenderContext, Any, Sequence[Sample]], Iterator[Rendered]]

RENDERERS: dict[str, Renderer] = {
    "natural": repack_natural,
    "imported": import_images,
    "mini-world": compose_mini_world,
    "colored-mnist": draw_mnist,
    "double-colored-mnist": draw_mnist,
    "wildlife-mnist": draw_mnist,
    "observational": render_generated,
    "interventional": render_generated,
    "transfer": render_transferred,
    "stylized": render_transferred,
    "counterfactual": render_counterfactuals,
    "recomposed": recompose,
}

# Of sources whose inputs can be looked into before work starts; by stream, facts and the inputs' places. Each raises
# UsageError for what would fail every shard; inputs that are not at hand (--dry-run) have no place.
CHECKS: dict[str, Callable[[Any, Facts, Mapping[str, str]], None]] = {
    "wildlife-mnist": check_textures,
    "recomposed": check_saliency,
}

# FLOP a sample, of sources that can take days on the wrong device; by stream and the inputs' places.
WORK: dict[str, Callable[[Any, Mapping[str, str]], float]] = {"transfer": optimisation_flop}
