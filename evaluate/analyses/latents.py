"""The latents behind generated images, computed again from their dataset's recipe: nothing of them is stored."""

import numpy as np
from numpy.typing import NDArray

from ...manifests.dataset import Dataset
from ...manifests.directions import coordinates, first_directions
from ...manifests.errors import UsageError
from ...manifests.sources.generated import GeneratedStream, InterventionalStream


def generated_stream(dataset: Dataset, stream: str) -> GeneratedStream:
    """A stream's recipe entry. Raises UsageError where it was not rendered from latents."""
    entry = dataset.recipe.stream(stream)
    if not isinstance(entry, GeneratedStream):
        raise UsageError(f"stream {stream!r} is of source {entry.source!r}: its images have no latents")
    return entry


def final_latents(dataset: Dataset, stream: str, sample_indices: NDArray[np.int64]) -> NDArray[np.float64]:
    """Latents h0* [N, z_dim] that the generator got for samples, interventions done."""
    return generated_stream(dataset, stream).latents(dataset.facts, sample_indices)


def final_coordinates(
    dataset: Dataset, stream: str, sample_indices: NDArray[np.int64], num_directions: int | None = None
) -> NDArray[np.float64]:
    """Nuisances z [N, k] of samples: c_j = <h0* - mu, r_j> / sigma_j along the leading k directions.

    By default, k is the number of directions that an interventional stream draws from, and all of them for others.
    In units of a step size: an intervened coordinate equals the step that was drawn.
    """
    entry = generated_stream(dataset, stream)
    directions = dataset.facts.directions
    if directions is None:
        raise UsageError(f"dataset {dataset.recipe.name!r} has no directions: no stream of it is interventional")
    if num_directions is None:
        drawn_from = entry if isinstance(entry, InterventionalStream) else directions
        num_directions = drawn_from.num_directions
    return coordinates(final_latents(dataset, stream, sample_indices), first_directions(directions, num_directions))


def latent_groups(dataset: Dataset, stream: str, sample_indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number [N] for each sample's latent before intervention: images of one latent share it."""
    entry = generated_stream(dataset, stream)
    labels, latents, _ = entry.locate(dataset.facts, sample_indices)
    return labels * entry.latents_per_class + latents


def read_intervention(dataset: Dataset, stream: str) -> tuple[float, int, float, str]:
    """t, k, s and step ranges of a generated stream, from its dataset's recipe; k = s = 0 for an observational one."""
    entry = generated_stream(dataset, stream)
    if not isinstance(entry, InterventionalStream):
        return entry.truncation, 0, 0.0, "0"
    ranges = entry.step_ranges
    if isinstance(ranges, list):
        described = f"by direction, {np.abs(entry.ranges).mean() / entry.step_scale:.1f} on average"
    else:
        described = ranges if isinstance(ranges, str) else f"{ranges:g}"
    return entry.truncation, entry.num_directions, entry.step_scale, described
