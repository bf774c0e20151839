"""Principal directions of a generator's latents, their file, and the interventions along them."""

import math
import os
import re
import uuid
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import FormatError, UsageError, shorten
from .weights import DAMAGE

# Below this margin, another million samples of the same generator may find the opposite sign or a rotated pair. The
# noise falls with the root of the samples: at 20,000, signs with margins of up to 9 % were found to flip, at 100,000 of
# up to 5 %, at 500,000 of up to 1 %.
FRAGILE_MARGIN = 0.02
FRAGILE_MARGIN_SAMPLES = 1_000_000

GANSPACE_KEYS = (
    "act_comp", "act_mean", "act_stdev", "lat_comp", "lat_mean", "lat_stdev", "var_ratio", "random_stdevs",
)  # fmt: skip
GENINT_KEYS = ("layer", "class_label", "source", "sign_margins", "value_margins", "samples")
SOURCES = ("exact", "sampled", "imported")
LENGTH_TOLERANCE = 1e-3
LARGEST_FILE = 2**30  # bytes unpacked; those of the widest layers of BigGAN-deep have half of it
LONGEST_NAME = 200


@dataclass(frozen=True, eq=False)
class Directions:
    """The k leading principal directions of one layer, in the order of falling variance (GANSpace, 2020).

    In brackets, the name of the same array in GANSpace's file.

    - latent: [k, z_dim], rows v_j of length 1 (lat_comp)
    - latent_mean: [z_dim], mu; 0 when exact (lat_mean)
    - latent_stdev: [k], the unit of a step size; 1 for a normal latent (lat_stdev)
    - activation: [k, D], orthonormal components of the layer's activations (act_comp)
    - activation_mean: [D], that of `class_label` (act_mean)
    - activation_stdev: [k], along each component, at truncation 1 unless sampled otherwise (act_stdev)
    - activation_shape: of one sample's activations, D numbers: (D,) or (channels, height, width)
    - variance_ratio: [k], share of the activations' variance (var_ratio)
    - random_stdevs: [k], along random unit vectors, to compare activation_stdev with (random_stdevs)
    - sign_margins, value_margins: [k], how firm the sign and the place of each is
    - layer, class_label: None where the file does not say
    - source: "exact", "sampled" or "imported"
    - samples: how many found them; None when exact, or where the file does not say
    """

    latent: NDArray[np.float64]
    latent_mean: NDArray[np.float64]
    latent_stdev: NDArray[np.float64]
    activation: NDArray[np.float32]
    activation_mean: NDArray[np.float32]
    activation_stdev: NDArray[np.float64]
    activation_shape: tuple[int, ...]
    variance_ratio: NDArray[np.float64]
    random_stdevs: NDArray[np.float64]
    sign_margins: NDArray[np.float64]
    value_margins: NDArray[np.float64]
    layer: str | None
    class_label: int | None
    source: str
    samples: int | None = None

    @property
    def num_directions(self) -> int:
        return len(self.latent)

    @property
    def fragile_margin(self) -> float:
        """The margin below which another sample may find a direction turned; GANSpace's files are of a million."""
        return FRAGILE_MARGIN * math.sqrt(FRAGILE_MARGIN_SAMPLES / (self.samples or FRAGILE_MARGIN_SAMPLES))


def coordinates(latents: NDArray[np.float64], directions: Directions) -> NDArray[np.float64]:
    """Coordinates of latents [N, z_dim] along every direction, [N, k], in the units of a step size."""
    projections: NDArray[np.float64] = (latents - directions.latent_mean) @ directions.latent.T
    return projections / directions.latent_stdev


def intervene(
    latents: NDArray[np.float64],
    directions: Directions,
    direction: NDArray[np.int64],
    step_size: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Move each latent [N, z_dim] along its own direction [N], by the paper's section 4.2.

    z* = z - <z - mu, v_j> v_j + delta v_j: the coordinate is replaced by the step size delta [N], not shifted by it.
    delta is in units of latent_stdev.
    """
    outside = direction[(direction < 0) | (direction >= directions.num_directions)]
    if outside.size:
        raise UsageError(f"no direction {outside[0]}: there are {directions.num_directions}, counted from 0")
    v = directions.latent[direction]
    # A sum within each row, not a matrix product: a latent's result must not depend on its neighbours.
    coordinate = ((latents - directions.latent_mean) * v).sum(1)
    moved: NDArray[np.float64] = latents + (step_size * directions.latent_stdev[direction] - coordinate)[:, None] * v
    return moved


def first_directions(directions: Directions, num_directions: int) -> Directions:
    """The leading `num_directions`."""
    if not 1 <= num_directions <= directions.num_directions:
        raise UsageError(f"num_directions = {num_directions}: these directions number {directions.num_directions}")
    leading = slice(num_directions)
    return replace(
        directions,
        latent=directions.latent[leading],
        latent_stdev=directions.latent_stdev[leading],
        activation=directions.activation[leading],
        activation_stdev=directions.activation_stdev[leading],
        variance_ratio=directions.variance_ratio[leading],
        random_stdevs=directions.random_stdevs[leading],
        sign_margins=directions.sign_margins[leading],
        value_margins=directions.value_margins[leading],
    )


def axis_directions(z_dim: int) -> Directions:
    """The axes of the latent, which say nothing of any generator: for timings."""
    ones = np.ones(z_dim)
    return Directions(
        latent=np.eye(z_dim),
        latent_mean=np.zeros(z_dim),
        latent_stdev=ones,
        activation=np.eye(z_dim, dtype=np.float32),
        activation_mean=np.zeros(z_dim, np.float32),
        activation_stdev=ones,
        activation_shape=(z_dim,),
        variance_ratio=ones / z_dim,
        random_stdevs=ones,
        sign_margins=ones,
        value_margins=np.zeros(z_dim),
        layer=None,
        class_label=None,
        source="exact",
    )


def component_signs(components: NDArray[np.floating]) -> NDArray[np.floating]:
    """Factors [k] of 1 or -1 that make the entry of largest magnitude in each component [k, D] positive.

    It is scikit-learn's rule for IncrementalPCA, by which the released directions, and so the sign of their step
    ranges, were found.
    """
    largest = np.abs(components).argmax(1)
    signs: NDArray[np.floating] = np.sign(components[np.arange(len(components)), largest])
    return signs


def sign_margins(components: NDArray[np.floating]) -> NDArray[np.float64]:
    """Relative gap [k] between the two largest magnitudes of each component [k, D]: how firm its sign is."""
    second, first = np.partition(np.abs(components), -2, axis=1)[:, -2:].T.astype(np.float64)
    gap: NDArray[np.float64] = (first - second) / np.maximum(first, np.finfo(np.float64).tiny)
    return gap


def value_margins(values: NDArray[np.float64], num_directions: int) -> NDArray[np.float64]:
    """Relative gap [num_directions] of each of the leading, falling `values` to its nearer neighbour.

    A pair of near-equal singular values has no firm directions of its own, only a firm plane. The last of `values` is
    taken to be followed by 0: give one value more where it is known.
    """
    below = -np.diff(values, append=0.0)[:num_directions]
    above = np.concatenate(([np.inf], below[:-1]))
    margins: NDArray[np.float64] = np.minimum(above, below) / values[:num_directions]
    return margins


def fragility_warnings(directions: Directions) -> list[str]:
    """What another sample of the same generator might turn: one line a kind, none when all margins are wide."""
    kinds = [(directions.sign_margins, "two largest activation magnitudes that close: the sign may flip")]
    if directions.source != "exact":  # there, no sampling noise rotates anything
        kinds += [
            (directions.value_margins, "a neighbouring singular value that close: the two may rotate into each other")
        ]
    warnings = []
    for margins, meaning in kinds:
        fragile = np.flatnonzero(margins < directions.fragile_margin)
        if fragile.size:
            names = ", ".join(f"{j} ({margins[j]:.1%})" for j in fragile)
            warnings.append(f"directions below a margin of {directions.fragile_margin:.0%}, {meaning}: {names}")
    return warnings


def save_directions(directions: Directions, path: str | Path) -> None:
    """Write GANSpace's .npz and our keys beside its own; equal directions give equal bytes.

    Uncompressed, so that the bytes do not depend on a version of zlib.
    """
    path = Path(path)
    count, shape = directions.num_directions, directions.activation_shape
    arrays: dict[str, NDArray[Any]] = {
        "act_comp": directions.activation.reshape(count, 1, *shape),
        "act_mean": directions.activation_mean.reshape(1, *shape),
        "act_stdev": directions.activation_stdev,
        "lat_comp": directions.latent[:, None, :],
        "lat_mean": directions.latent_mean[None, :],
        "lat_stdev": directions.latent_stdev,
        "var_ratio": directions.variance_ratio,
        "random_stdevs": directions.random_stdevs,
        "source": np.array(directions.source),
        "sign_margins": directions.sign_margins,
        "value_margins": directions.value_margins,
    }
    if directions.layer is not None:
        arrays["layer"] = np.array(directions.layer)
    if directions.class_label is not None:
        arrays["class_label"] = np.array(directions.class_label, np.int64)
    if directions.samples is not None:
        arrays["samples"] = np.array(directions.samples, np.int64)
    beside = path.with_name(f"{path.name}.tmp.{uuid.uuid4().hex}")
    try:
        with beside.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def load_directions(path: str | Path) -> Directions:
    """Read a file of `save_directions` or of GANSpace itself, checking every array."""
    path = Path(path)
    arrays = _read_arrays(path)
    _check_arrays(path, arrays)
    latent = arrays["lat_comp"][:, 0].astype(np.float64)
    lengths = np.linalg.norm(latent, axis=1, keepdims=True)
    if np.abs(lengths - 1.0).max() > LENGTH_TOLERANCE:
        raise FormatError(f"{path}: rows of lat_comp have lengths {lengths.min():.4g} to {lengths.max():.4g}, not 1")
    if arrays["lat_comp"].dtype != np.float64:
        # GANSpace stores single precision, whose rows miss the length by 1e-7. Ours stay as they were computed.
        latent /= lengths
    activation = arrays["act_comp"].reshape(len(latent), -1).astype(np.float32)
    stdev = arrays["act_stdev"].astype(np.float64)
    return Directions(
        latent=latent,
        latent_mean=arrays["lat_mean"][0].astype(np.float64),
        latent_stdev=arrays["lat_stdev"].astype(np.float64),
        activation=activation,
        activation_mean=arrays["act_mean"].reshape(-1).astype(np.float32),
        activation_stdev=stdev,
        activation_shape=arrays["act_comp"].shape[2:],
        variance_ratio=arrays["var_ratio"].astype(np.float64),
        random_stdevs=arrays["random_stdevs"].astype(np.float64),
        sign_margins=arrays.get("sign_margins", sign_margins(activation)),
        value_margins=arrays.get("value_margins", value_margins(stdev, len(stdev))),
        layer=str(arrays["layer"]) if "layer" in arrays else None,
        class_label=int(arrays["class_label"]) if "class_label" in arrays else None,
        source=str(arrays.get("source", "imported")),
        samples=int(arrays["samples"]) if "samples" in arrays else None,
    )


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise UsageError(f"{path}: no such file of directions")
    try:
        # numpy would leave a file open that it opened itself and found to be damaged.
        with path.open("rb") as stream:
            if zipfile.is_zipfile(stream):
                with zipfile.ZipFile(stream) as archive:
                    unpacked = sum(member.file_size for member in archive.infolist())
                if unpacked > LARGEST_FILE:
                    raise FormatError(f"{path}: unpacks to {unpacked:,} bytes, limit {LARGEST_FILE:,}")
            stream.seek(0)
            file = np.load(stream, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise FormatError(f"{path}: one array where an .npz of directions was expected")
            missing = [key for key in GANSPACE_KEYS if key not in file.files]
            if missing:
                raise FormatError(f"{path}: no {', '.join(missing)}; directions need {', '.join(GANSPACE_KEYS)}")
            arrays = {key: file[key] for key in (*GANSPACE_KEYS, *GENINT_KEYS) if key in file.files}
    except (*DAMAGE, SyntaxError) as error:
        reason = re.sub(r" object at 0x[0-9a-f]+", "", (str(error) or type(error).__name__).splitlines()[0])
        raise FormatError(f"{path}: not a readable .npz of directions: {shorten(reason)}") from error
    for key, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise FormatError(f"{path}: {key} is no array")
    return arrays


def _check_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    for key in ("act_comp", "lat_comp"):
        shape = arrays[key].shape
        if len(shape) < 3 or shape[0] < 1 or shape[1] != 1 or math.prod(shape[2:]) < 2:
            raise FormatError(f"{path}: {key} has shape {shape}, expected [directions, 1, 2 or more numbers]")
    count, _, *activation_shape = arrays["act_comp"].shape
    z_dim = arrays["lat_comp"].shape[2]
    expected: dict[str, tuple[int, ...]] = {
        "lat_comp": (count, 1, z_dim),
        "lat_mean": (1, z_dim),
        "act_mean": (1, *activation_shape),
        **dict.fromkeys(("act_stdev", "lat_stdev", "var_ratio", "random_stdevs"), (count,)),
        **dict.fromkeys(("sign_margins", "value_margins"), (count,)),
        **dict.fromkeys(("layer", "class_label", "source", "samples"), ()),
    }
    for key, array in arrays.items():
        if array.shape != expected.get(key, array.shape):
            raise FormatError(f"{path}: {key} has shape {array.shape}, expected {expected[key]}")
        if key in ("layer", "source"):
            if array.dtype.kind != "U" or len(str(array)) > LONGEST_NAME:
                raise FormatError(f"{path}: {key} ({array.dtype}) is no short text")
            continue
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise FormatError(f"{path}: {key} ({array.dtype}) holds values that are not finite numbers")
    # GANSpace's own files have neither margins nor a source; ours have all three, and say what they are of.
    source = str(arrays.get("source", "imported"))
    if source not in SOURCES:
        raise FormatError(f"{path}: source is {source}, expected {', '.join(SOURCES)}")
    ours = ("source", "sign_margins", "value_margins", *(() if source == "imported" else ("layer", "class_label")))
    lacking = [key for key in ours if key not in arrays]
    if lacking and any(key in arrays for key in ours):
        raise FormatError(f"{path}: no {', '.join(lacking)}; a file that `genint-pipeline directions` wrote has it")
    if "samples" in arrays and arrays["samples"] < 1:
        raise FormatError(f"{path}: samples = {arrays['samples']}, expected 1 or more")
    for key in ("act_stdev", "lat_stdev"):
        if arrays[key].min() <= 0:
            raise FormatError(f"{path}: {key} holds {arrays[key].min()}; standard deviations are positive")
