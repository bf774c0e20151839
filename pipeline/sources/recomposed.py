"""Cut objects out of pictures and set them on the backgrounds of others."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ...manifests.errors import FormatError, GenintError, UsageError
from ...manifests.pictures import PictureError, damage_named, decode_picture
from ...manifests.sources.recomposed import RecomposedStream
from ...manifests.sources.stream import Facts, Sample
from ..cgn.composition import compose
from ..cgn.mnist_form import shuffle
from ..cgn.saliency import Saliency, load_saliency, make_saliency
from ..images.encode import encode_mask
from ..images.pictures import fit_picture
from .counterfactual import find_mechanisms, render_mechanism, to_pixels
from .references import read_referred
from .rendering import RenderContext, Rendered

# Of inpainting: how far from a lost pixel known ones count.
INPAINT_RADIUS = 3
STAND_IN_SIDE = 256
GRABCUT_ROUNDS = 5

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Cut:
    """A picture [H, W, 3] and its object's mask [H, W]; no mask where none is asked for."""

    name: str
    pixels: Pixels
    mask: Mask | None


def recompose(context: RenderContext, stream: RecomposedStream, samples: Sequence[Sample]) -> Iterator[Rendered]:
    """Recompose samples; each brings its object's mask as `mask.png`. What cannot be cut out or read is a failure."""
    for start in range(0, len(samples), stream.batch_size):
        batch = samples[start : start + stream.batch_size]
        objects = _cut(context, stream, [sample.parameters["object"] for sample in batch], with_mask=True)
        backgrounds = _read_backgrounds(context, stream, batch)
        for sample, cut, background in zip(batch, objects, backgrounds, strict=True):
            try:
                yield _finish(stream, sample, _made(cut), _made(background))
            except PictureError as error:
                yield Rendered(sample, failure=error.reason, detail=f"{error.name}: {error.detail}")


def read_cut(context: RenderContext, stream: RecomposedStream, sample: Sample) -> tuple[Cut, Pixels]:
    """The object's picture with its mask, and the background [H, W, 3] at the object's size, of one sample.

    Raises PictureError where one cannot be read, GenintError where an input is not on this machine.
    """
    (cut,) = _cut(context, stream, [sample.parameters["object"]], with_mask=True)
    (background,) = _read_backgrounds(context, stream, [sample])
    found = _made(cut)
    return found, _fit(_made(background), found.pixels.shape)


def check_saliency(stream: RecomposedStream, facts: Facts, roots: Mapping[str, str]) -> None:
    """Raise UsageError where the file is no saliency network."""
    network = stream.saliency_network
    if network is not None and network in roots:
        try:
            load_saliency(roots[network], stream.normalise)
        except FormatError as error:
            raise UsageError(f"input {network}: {error}") from error


def remove_object(pixels: Pixels, mask: Mask, grow: int) -> Pixels:
    """A picture [H, W, 3] without the object of `mask` [H, W] and `grow` pixels around it (Telea 2004)."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * grow + 1, 2 * grow + 1))
    lost = cv2.dilate(mask.astype(np.uint8), kernel)
    if lost.all():
        raise PictureError("object fills the picture", "nothing is left to inpaint from")
    painted: Pixels = cv2.inpaint(np.ascontiguousarray(pixels), lost, INPAINT_RADIUS, cv2.INPAINT_TELEA)
    return painted


def feathered(mask: Mask, deviation: float) -> NDArray[np.float32]:
    """A mask [H, W] with an edge as soft as a blur of that standard deviation in pixels makes it, in [0, 1]."""
    hard = mask.astype(np.float32)
    if deviation == 0:
        return hard
    soft: NDArray[np.float32] = cv2.GaussianBlur(hard, (0, 0), deviation, borderType=cv2.BORDER_REPLICATE)
    return soft


def find_by_grabcut(pixels: Pixels) -> Mask:
    """The object's mask [H, W] in a picture [H, W, 3], by GrabCut (Rother et al. 2004) from the picture alone.

    It starts from a frame that is background, a 32nd of the shorter side wide. Empty where no colours tell object and
    background apart.
    """
    height, width = pixels.shape[:2]
    frame = max(1, round(min(height, width) / 32))
    labels = np.zeros((height, width), np.uint8)
    if min(height, width) <= 2 * frame:
        return labels.astype(bool)
    rectangle = (frame, frame, width - 2 * frame, height - 2 * frame)
    # Its mixtures of colours start from a random clustering, which is to be the picture's own.
    cv2.setRNGSeed(0)
    cv2.grabCut(
        np.ascontiguousarray(pixels), labels, rectangle, np.empty(0), np.empty(0), GRABCUT_ROUNDS, cv2.GC_INIT_WITH_RECT
    )
    found: Mask = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))
    return found


def _finish(stream: RecomposedStream, sample: Sample, cut: Cut, background: Pixels) -> Rendered:
    assert cut.mask is not None
    share = float(cut.mask.mean())
    if not stream.mask_range[0] <= share <= stream.mask_range[1]:
        raise PictureError("object outside mask_range", f"{share:.3f} of the picture", cut.name)
    alpha = torch.from_numpy(feathered(cut.mask, stream.feather))[..., None]
    fitted = torch.from_numpy(_fit(background, cut.pixels.shape).astype(np.float32))
    pixels = compose(alpha, torch.from_numpy(cut.pixels.astype(np.float32)), fitted).round().to(torch.uint8).numpy()
    members = {"mask.png": encode_mask(cut.mask)}
    return Rendered(sample, pixels, members=members, parameters={"mean_mask": round(share, 6)})


def _made(result: Result | PictureError) -> Result:
    if isinstance(result, PictureError):
        raise result
    return result


def _fit(background: Pixels, shape: tuple[int, ...]) -> Pixels:
    """A background that covers a picture of that shape."""
    if background.shape == shape:
        return background
    picture = ImageOps.fit(Image.fromarray(background), (shape[1], shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def _read_backgrounds(
    context: RenderContext, stream: RecomposedStream, samples: Sequence[Sample]
) -> list[Pixels | PictureError]:
    """The background of each sample, or why there is none."""
    references = [sample.parameters["background"] for sample in samples]
    if stream.cgn is not None:
        return list(_render_backgrounds(context, stream, samples, references))
    removing = stream.inpaints(context.facts)
    made: list[Pixels | PictureError] = []
    for cut in _cut(context, stream, references, with_mask=removing):
        try:
            found = _made(cut)
            if found.mask is None:
                made.append(found.pixels)
                continue
            with damage_named(found.name):
                made.append(remove_object(found.pixels, found.mask, stream.grow))
        except PictureError as error:
            made.append(error)
    return made


def _render_backgrounds(
    context: RenderContext, stream: RecomposedStream, samples: Sequence[Sample], references: Sequence[dict[str, Any]]
) -> Pixels:
    """Backgrounds [N, H, W, 3] of the CGN's mechanism."""
    assert stream.cgn is not None
    cgn = find_mechanisms(context, stream.cgn, stream.truncation, stream.batch_size, "fp32", None)
    latents = stream.background_latents(context.facts, np.array([sample.index for sample in samples]))
    labels = torch.tensor([reference["class_label"] for reference in references])
    pictures = render_mechanism(cgn, "background", torch.from_numpy(latents), labels).cpu()
    if cgn.facts.windows:
        pictures = shuffle(pictures, torch.tensor([reference["window"] for reference in references]))
    return to_pixels(pictures)


def _cut(
    context: RenderContext, stream: RecomposedStream, references: Sequence[dict[str, Any]], with_mask: bool
) -> list[Cut | PictureError]:
    """Pictures of references in the stream's geometry, with their masks if they are asked for."""
    made: list[Cut | PictureError] = []
    for reference in references:
        try:
            made.append(_read(context, stream, reference, with_mask and stream.saliency is None))
        except PictureError as error:
            made.append(error)
    if with_mask and stream.saliency is not None:
        places = [place for place, cut in enumerate(made) if isinstance(cut, Cut)]
        masks = _find_objects(context, stream, [_made(made[place]).pixels for place in places])
        for place, mask in zip(places, masks, strict=True):
            cut = _made(made[place])
            made[place] = Cut(cut.name, cut.pixels, mask)
    return made


def _read(context: RenderContext, stream: RecomposedStream, reference: dict[str, Any], with_mask: bool) -> Cut:
    if context.stand_ins and "stream" in reference:
        return _stand_in(stream.crop or STAND_IN_SIDE, with_mask)
    found = read_referred(context, reference, with_mask)
    with damage_named(found.name):
        pixels = np.asarray(fit_picture(decode_picture(found.image), stream.resize, stream.crop))
        if not with_mask:
            return Cut(found.name, pixels, None)
        if found.mask is None:
            raise PictureError("no mask", "its stream has none for it")
        mask = np.asarray(fit_picture(decode_picture(found.mask), stream.resize, stream.crop))[..., 0] >= 128
    if mask.shape != pixels.shape[:2]:
        raise PictureError("no mask", f"its mask is {mask.shape[1]} x {mask.shape[0]} pixels", found.name)
    return Cut(found.name, pixels, mask)


def _stand_in(side: int, with_mask: bool) -> Cut:
    """Noise with a square object, in the place of an earlier stream's picture."""
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    mask = np.zeros((side, side), bool)
    mask[side // 4 : side // 2, side // 4 : side // 2] = True
    return Cut("stand-in", noise, mask if with_mask else None)


def _find_objects(context: RenderContext, stream: RecomposedStream, pictures: Sequence[Pixels]) -> list[Mask]:
    """Masks of the objects of pictures; a network's are of one size, computed in batches of one size."""
    if not pictures:
        return []
    if stream.saliency_network is None:
        return [find_by_grabcut(picture) for picture in pictures]
    place, sha256 = context.roots.get(stream.saliency_network), context.digests.get(stream.saliency_network)
    network = _open_saliency(place, sha256, stream.normalise, context.device, context.stand_ins)
    batch = np.zeros((stream.batch_size, *pictures[0].shape), np.float32)
    batch[: len(pictures)] = np.stack(pictures)
    images = torch.from_numpy(batch).permute(0, 3, 1, 2).to(context.device) / 127.5 - 1
    with torch.inference_mode():
        found = network(images)[: len(pictures), 0].cpu().numpy()
    return list(found > stream.threshold)


@lru_cache(maxsize=1)
def _open_saliency(place: str | None, sha256: str | None, normalise: bool, device: str, stand_in: bool) -> Saliency:
    if place is not None:
        network, _ = load_saliency(Path(place), normalise, sha256)
    elif stand_in:
        network = make_saliency({"kind": "u2net", "normalise": normalise}, "stand-in").eval().requires_grad_(False)
    else:
        raise GenintError("a saliency network is not on this machine; give it with --input NAME=FILE")
    return network.to(device)
