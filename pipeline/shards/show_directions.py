"""Compute a recipe's directions and draw what each one does."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ...manifests.directions import fragility_warnings, save_directions
from ...manifests.errors import UsageError
from ...manifests.recipe import Recipe
from ...manifests.sources.generated import InterventionalStream
from ..generators.directions_sheet import draw_directions_sheet
from .settle import find_directions, gather


def write_directions(
    recipe: Recipe,
    weights: str | None,
    inputs: dict[str, str],
    device: str,
    folder: Path,
    show: int,
    labels: Sequence[int],
    allowed_code: str | None = None,
) -> Iterator[str]:
    """Write `directions.npz` and `directions.png` into `folder`; yields a line for each thing worth saying."""
    streams = [stream for stream in recipe.streams if isinstance(stream, InterventionalStream)]
    if not streams:
        raise UsageError(f"recipe {recipe.name!r} has no interventional stream, so no directions")
    stream = streams[0]
    ingredients = gather(recipe, weights, inputs, allowed_code=allowed_code)
    generator, facts = ingredients.generator, ingredients.facts.generator
    network = ingredients.network
    assert generator is not None and network is not None and facts is not None and recipe.generator is not None
    for label in labels:
        if not 0 <= label < len(facts.class_names):
            raise UsageError(f"--classes: {label} is not a class label (0 to {len(facts.class_names) - 1})")
    found = find_directions(recipe, generator, ingredients.facts.directions, device)
    yield from fragility_warnings(found)
    folder.mkdir(parents=True, exist_ok=True)
    save_directions(found, folder / "directions.npz")
    yield f"directions: {folder / 'directions.npz'}"

    renderer = network.renderer(
        stream.batch_norm_truncation,
        batch_size=recipe.generator.batch_size,
        precision=recipe.generator.precision,
        device=device,
    )

    def render(latents: NDArray[np.float32], class_labels: NDArray[np.int64]) -> NDArray[np.uint8]:
        return renderer.render(torch.from_numpy(latents), torch.from_numpy(class_labels))[0]

    # The first latent of each class in the stream: the picture shows the dataset's own samples move.
    per_class = stream.latents_per_class * stream.per_latent()
    positions = [stream.class_labels(ingredients.facts).index(label) for label in labels]
    latents = stream.draw_latents(ingredients.facts, np.array(positions) * per_class)
    sheet = draw_directions_sheet(
        render, found, stream.ranges[:show], labels, [facts.class_names[label] for label in labels], latents
    )
    sheet.save(folder / "directions.png")
    yield f"picture: {folder / 'directions.png'}"
