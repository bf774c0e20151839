"""In one's own code: generators, their directions, and intervened images as tensors.

The names in `__all__` stay: one that has to change is announced in the CHANGELOG and works for another release. The
first call that needs torch imports it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..manifests.errors import GenintError, UsageError
from .generators.contract import Generator

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from ..manifests.directions import Directions
    from .networks.generator import LoadedGenerator

__all__ = ["Generator", "RenderedImages", "compute_directions", "load_generator", "render_latents", "render_stream"]


@dataclass(frozen=True, eq=False)
class RenderedImages:
    """The first samples of a stream, rendered: what `build-shards` encodes.

    images: uint8 [N, 3, H, W]. class_labels: int64 [N]. parameters: of each sample, its json, such as direction and
    step size.
    """

    images: "Tensor"
    class_labels: "Tensor"
    keys: tuple[str, ...]
    parameters: tuple[Mapping[str, Any], ...]


def load_generator(name_or_folder: str | Path = "mini", *, code: str | None = None) -> "LoadedGenerator":
    """The shipped generator `mini`, a published one (`biggan-deep-128`, `-256`, `-512`; downloaded once), or that of a
    folder with `config.json` and `pytorch_model.bin`.

    code: `module:Class` (or an entry point of the group `genint.generators`) of a class that keeps the contract of
    `Generator`; it is imported and run. None: the folder is a BigGAN-deep's. The `model` is on the CPU, in eval mode.
    Raises UsageError where there is none, FormatError where files are damaged or do not fit.
    """
    from .generators.load import load_generator as load

    if isinstance(name_or_folder, str) and code is None:
        return load(name_or_folder)
    return load(Path(name_or_folder).name, name_or_folder, code)


def compute_directions(
    generator: "LoadedGenerator",
    num_directions: int = 60,
    *,
    layer: str = "generator.gen_z",
    samples: int | None = None,
    class_label: int = 0,
    seed: int = 0,
) -> "Directions":
    """The leading principal directions of a layer (GANSpace, Harkonen et al. 2020; section 4.1 of GenInt).

    Without `samples` exactly, which is possible for a layer that is linear in the latents: of a BigGAN,
    `generator.gen_z` alone. With them by that many latents of one class, drawn by `seed`, for any layer; a million is
    GANSpace's number.

    Raises UsageError where the generator has no such layer, or fewer directions.
    """
    from .generators.directions import exact_directions, sampled_directions

    if samples is not None:
        return sampled_directions(generator.model, layer, num_directions, samples, class_label, seed=seed)
    return exact_directions(generator.model, num_directions, class_label, layer)


def render_latents(
    generator: "LoadedGenerator",
    latents: "NDArray[np.floating]",
    class_labels: "NDArray[np.integer] | Sequence[int]",
    *,
    truncation: float = 1.0,
    batch_size: int = 16,
    precision: Literal["fp32", "bf16"] = "fp32",
    device: str = "cpu",
) -> "Tensor":
    """Images [N, 3, H, W] float32 in [-1, 1] of latents [N, z_dim], already truncated and moved.

    truncation: whose batch-norm statistics a BigGAN uses, in (0, 1]; that of the latents. Raises UsageError where
    shapes or labels do not fit.
    """
    import torch

    from .generators.network import as_network

    network = as_network(generator.model)
    renderer = network.renderer(truncation, batch_size=batch_size, precision=precision, device=device)
    return renderer(torch.as_tensor(latents), torch.as_tensor(class_labels, dtype=torch.int64))


def render_stream(
    recipe: str = "mini",
    stream: str = "interventional",
    count: int = 16,
    *,
    overrides: Sequence[str] = (),
    weights: str | None = None,
    inputs: Mapping[str, str] | None = None,
    allow_code: str | None = None,
    device: str = "cpu",
) -> RenderedImages:
    """Render the first `count` samples of an observational or interventional stream, without a dataset on disk.

    They are those of the stream's first shards, in their order. On one torch thread their pixels are
    those that `build-shards` encodes.

    recipe: a shipped recipe's name or a file. overrides: `KEY=VALUE` as of `--set`. weights, inputs, allow_code: as of
    `--weights`, `--input` and `--allow-code`. Raises RecipeError or UsageError for what does not fit, GenintError where
    pixels are not finite.
    """
    from ..manifests.recipe import load_recipe, suggest
    from ..manifests.sources.generated import GeneratedStream
    from ..manifests.storage import Storage
    from .shards.settle import find_directions, gather
    from .sources import RENDERERS
    from .sources.rendering import RenderContext

    asked = load_recipe(recipe, overrides)
    generated = [each.name for each in asked.streams if isinstance(each, GeneratedStream)]
    if stream not in generated:
        raise UsageError(
            f"recipe {asked.name!r} renders no stream {stream!r} with its generator{suggest(stream, generated)}"
        )
    ingredients = gather(asked, weights, inputs, allowed_code=allow_code)
    facts = ingredients.facts
    if asked.stream(stream).uses_directions:
        assert ingredients.generator is not None
        facts = replace(facts, directions=find_directions(asked, ingredients.generator, facts.directions, device))
    plan = facts.plan(stream)
    if not 1 <= count <= plan.count:
        raise UsageError(f"count = {count}: stream {stream!r} has {plan.count:,} samples; ask for 1 to as many")

    import numpy as np
    import torch

    shards = range(-(-count // plan.stream.samples_per_shard))
    samples = [sample for shard in shards for sample in plan.samples(shard)][:count]
    # It reads no earlier stream, so that no dataset is looked for.
    context = RenderContext(asked, facts, Storage("."), device, ingredients.network)
    rendered = list(RENDERERS[plan.stream.source](context, plan.stream, samples))
    for each in rendered:
        if each.image is None:
            raise GenintError(f"sample {each.sample.key}: {each.failure}")
    pixels = np.stack([each.image for each in rendered if each.image is not None])
    return RenderedImages(
        torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(),
        torch.tensor([sample.class_label for sample in samples]),
        tuple(sample.key for sample in samples),
        tuple(sample.parameters for sample in samples),
    )
