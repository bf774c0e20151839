"""Draw how one mechanism of a CGN changes from one class to another, with everything else held fixed."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ...manifests.errors import UsageError
from ...manifests.randomness import normal, random_rows, truncated_normal
from ...manifests.sources.counterfactual import MECHANISMS, SWAPPED
from ...manifests.sources.generated import PACKAGE_BOUND
from ..cgn.composition import compose
from ..cgn.network_files import cgn_facts, cgn_place, open_cgn
from ..sources.counterfactual import mask_pixels, open_mechanisms, render_mechanism, to_pixels
from ..sources.parts import Tile
from .preview import draw_contact_sheet

BATCH = 16


def draw_interpolation(
    cgn: str, mechanism: str, classes: tuple[int, int], steps: int, latents: int, truncation: float, seed: int
) -> Image.Image:
    """A sheet of two rows a latent: the mechanism's pictures along the line between two class vectors, and the
    compositions in which the other mechanisms stay of the first class.

    cgn: "mini-cgn", a folder of fit-cgn or an official file. Raises UsageError for what does not fit it.
    """
    place = cgn_place(cgn) or Path(cgn)
    facts = cgn_facts(open_cgn(cgn, place))
    for label in classes:
        if not 0 <= label < len(facts.class_names):
            raise UsageError(f"--classes: {label} is not a class label (0 to {len(facts.class_names) - 1})")
    if facts.form == "mnist" and truncation != 1.0:
        raise UsageError(f"--truncation {truncation}: of the BigGAN form, and {cgn} is of the MNIST form")
    network = open_mechanisms(cgn, place, truncation, BATCH, "fp32", None, "cpu")
    words = random_rows(seed, "interpolation", np.arange(latents), count=facts.z_dim)
    drawn = normal(words) if facts.form == "mnist" else truncation * truncated_normal(words, PACKAGE_BOUND)
    u = torch.from_numpy(drawn).repeat_interleave(steps, 0)
    share = torch.linspace(0, 1, steps).repeat(latents)
    fixed = torch.zeros(len(u), len(facts.class_names))
    fixed[:, classes[0]] = 1
    moving = torch.zeros_like(fixed)
    moving[:, classes[0]] += 1 - share
    moving[:, classes[1]] += share
    parts = {name: render_mechanism(network, name, u, moving if name == mechanism else fixed) for name in MECHANISMS}
    changed = mask_pixels(parts["shape"]) if mechanism == "shape" else to_pixels(parts[mechanism])
    composed = to_pixels(compose(parts["shape"], *(parts[name] for name in SWAPPED)))
    rows: dict[str, list[Tile]] = {}
    for row in range(latents):
        members = range(row * steps, (row + 1) * steps)
        rows[f"{mechanism} {row + 1}"] = [(Image.fromarray(changed[i]), f"{share[i]:.2f}") for i in members]
        rows[f"composed {row + 1}"] = [(Image.fromarray(composed[i]), "") for i in members]
    first, last = (facts.class_names[label] for label in classes)
    return draw_contact_sheet(f"{cgn}: {mechanism} from {first} to {last}, t = {truncation}", rows)
