"""Where a classifier looks: Grad-CAM (Selvaraju et al. 2019), its share on the object, and sheets of it (Figure 7)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from captum.attr import LayerGradCam
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.nn import functional as F

from ...manifests.errors import UsageError
from ...train.checkpoint import Classifier, Preprocessing
from .stream_images import StreamImages

BATCH = 50
# As the released sheets: jet from 0 to 0.5, 40 % opaque, and no scaling of a map to its own range.
COLOURS, ALPHA, LARGEST = "jet", 0.4, 0.5
# A map of fewer cells a side cannot say where.
LEAST_CELLS = 4
GAP, LINE = 6, 12  # pixels of a sheet


# Maps


@dataclass(frozen=True, eq=False)
class Maps:
    """Grad-CAM of images for each one's own top-1 class.

    `maps` are not rectified: where negative, the region speaks against the class. They are resized bilinearly to the
    images' size.
    """

    layer: str
    cells: tuple[int, int]  # height and width before resizing
    maps: NDArray[np.float32]  # [N, crop, crop]
    top1: NDArray[np.int64]  # [N]


def find_layer(classifier: Classifier) -> str:
    """Name of the layer to look at: conv2 of the second block of the deepest stage that has 4 x 4 cells or more.

    At 224 px it is `layer4.1.conv2`, the released code's `list(model.children())[-3][1].conv2`: the last convolution
    of ResNet-18 and, as there, the middle of a bottleneck in deeper ones. Images of 32 px leave layer4 one cell,
    which is the same everywhere; `layer2.1.conv2` has 4 x 4. Raises UsageError for other networks: name a layer.
    """
    modules = dict(classifier.model.named_modules())
    sizes: dict[str, tuple[int, int]] = {}
    names = [f"layer{stage}.1.conv2" for stage in (4, 3, 2, 1)]
    known = [name for name in names if name in modules]
    if not known:
        raise UsageError(f"{classifier.name} ({classifier.arch}): not a ResNet of torchvision; name the layer")
    hooks = [
        modules[name].register_forward_hook(
            lambda _module, _inputs, output, name=name: sizes.update({name: tuple(output.shape[-2:])})
        )
        for name in known
    ]
    side = classifier.preprocessing.crop
    device = next(classifier.model.parameters()).device
    try:
        with torch.inference_mode():
            classifier.model(torch.zeros(1, 3, side, side, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    for name in known:
        if min(sizes[name]) >= LEAST_CELLS:
            return name
    raise UsageError(f"{classifier.name}: no layer has {LEAST_CELLS} x {LEAST_CELLS} cells for images of {side} px")


def make_maps(classifier: Classifier, images: Tensor, layer: str | None = None) -> Maps:
    """Grad-CAM of images uint8 [N, 3, crop, crop], at `find_layer`'s layer by default."""
    name = find_layer(classifier) if layer is None else layer
    modules = dict(classifier.model.named_modules())
    if name not in modules:
        raise UsageError(f"{classifier.name} ({classifier.arch}): no layer {name!r}")
    device = next(classifier.model.parameters()).device
    maps, top1 = [], []
    cells = (0, 0)
    for batch in images.split(BATCH):
        inputs = classifier.preprocessing.normalize(batch.to(device))
        chosen = _top1(classifier, inputs)
        small = grad_cam(classifier.model, modules[name], inputs, chosen)
        cells = (small.shape[-2], small.shape[-1])
        resized = F.interpolate(small, inputs.shape[-2:], mode="bilinear", align_corners=False)
        maps.append(resized[:, 0].cpu().numpy())
        top1.append(chosen.cpu().numpy())
    return Maps(name, cells, np.concatenate(maps), np.concatenate(top1))


def grad_cam(model: nn.Module, layer: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Sum of a layer's channels, each weighted by the mean gradient of the target's logit: [N, 1, h, w], not rectified.

    inputs: [N, 3, H, W]. targets: class labels [N].
    """
    # A gradient must reach the layer even where the weights are frozen.
    inputs = inputs.detach().requires_grad_(True)
    maps: Tensor = LayerGradCam(model, layer).attribute(inputs, target=targets, relu_attributions=False)
    return maps.detach()


def _top1(classifier: Classifier, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        chosen: Tensor = classifier.model(inputs).argmax(1)
    return chosen


# Share of the mass on the object


def mass_share(maps: NDArray[np.float32], masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Share [N] of each map's positive part that lies on the object; nan where no part of the map is positive.

    maps, masks: [N, H, W].
    """
    positive = np.maximum(maps, 0.0).astype(np.float64)
    total = positive.sum((1, 2))
    on_object = (positive * masks).sum((1, 2))
    shares: NDArray[np.float64] = np.divide(on_object, total, out=np.full(len(maps), np.nan), where=total > 0)
    return shares


@dataclass(frozen=True)
class Attention:
    """Where a classifier looks in one stream. A map that knows nothing has the object's area as its share."""

    classifier: str
    stream: str
    layer: str
    cells: tuple[int, int]
    images: int
    mass_share: float  # mean over the images whose map is positive somewhere
    interval: tuple[float, float]  # 95 %, of that mean
    object_area: float  # mean share of the pixels that are object, over the same images
    nowhere_positive: int  # images left out


def measure_attention(classifier: Classifier, images: StreamImages, layer: str | None = None) -> Attention:
    """Share of Grad-CAM's mass on the object. Raises UsageError where the stream has no masks."""
    if images.masks is None:
        raise UsageError(f"stream {images.stream!r}: no object masks, so no share on the object")
    maps = make_maps(classifier, images.images, layer)
    shares = mass_share(maps.maps, images.masks)
    known = np.isfinite(shares)
    if not known.any():
        raise UsageError(f"{classifier.name}: no map of stream {images.stream!r} is positive anywhere")
    mean = float(shares[known].mean())
    half = 1.96 * float(shares[known].std()) / float(np.sqrt(known.sum()))
    return Attention(
        classifier.name,
        images.stream,
        maps.layer,
        maps.cells,
        len(images),
        mean,
        (mean - half, mean + half),
        float(images.masks[known].mean()),
        int((~known).sum()),
    )


# Sheets


View = tuple[float, float, float]
"""The square of a picture that reaches a classifier: left, top and side in the picture's pixels."""


@dataclass(frozen=True, eq=False)
class Look:
    """What one classifier answers for a picture, and its map [crop, crop] over the view it had."""

    prediction: str
    values: NDArray[np.float32]
    view: View


@dataclass(frozen=True, eq=False)
class SheetRow:
    """One picture of a sheet, whole and with its border, its true class, and a look of each classifier."""

    picture: Image.Image  # RGB
    class_name: str
    looks: tuple[Look, ...]


def view_of(size: tuple[int, int], preprocessing: Preprocessing, border: int = 0) -> View:
    """The view that a classifier has of a picture of `size` (width, height).

    `border` pixels are cut off all around before the preprocessing.
    """
    width, height = (length - 2 * border for length in size)
    scale = 1.0 if preprocessing.resize is None else preprocessing.resize / min(width, height)
    side = preprocessing.crop / scale
    return border + (width - side) / 2, border + (height - side) / 2, side


def overlay(pixels: NDArray[np.uint8], values: NDArray[np.float32], largest: float = LARGEST) -> NDArray[np.uint8]:
    """A map [H, W] over an image [H, W, 3], coloured from 0 to `largest` as in the released sheets."""
    colours = matplotlib.colormaps[COLOURS](np.clip(values / largest, 0.0, 1.0))[..., :3] * 255.0
    mixed: NDArray[np.uint8] = np.rint((1.0 - ALPHA) * pixels + ALPHA * colours).astype(np.uint8)
    return mixed


def draw_tile(
    picture: Image.Image, look: Look | None, side: int, border: int = 0, largest: float = LARGEST
) -> Image.Image:
    """A picture scaled to fit `side` pixels, with a map laid over the part that the classifier saw.

    Its border stays as many pixels wide as it was: scaled along, it would fade away.
    """
    width, height = (length - 2 * border for length in picture.size)
    scale = (side - 2 * border) / max(width, height)
    inner = picture.crop((border, border, border + width, border + height))
    inner = inner.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BILINEAR)
    if look is not None:
        _lay_over(inner, look, scale, border, largest)
    if not border:
        return inner
    # All of it in the colour of the border's corner, and the rest laid over.
    tile = picture.crop((0, 0, 1, 1)).resize((inner.width + 2 * border, inner.height + 2 * border))
    tile.paste(inner, (border, border))
    return tile


def _lay_over(inner: Image.Image, look: Look, scale: float, border: int, largest: float) -> None:
    """Colour the part of a scaled picture without border that was in view."""
    left, top, length = (look.view[0] - border) * scale, (look.view[1] - border) * scale, look.view[2] * scale
    # A view may reach beyond a picture that is smaller than the crop: there is nothing to colour.
    values = Image.fromarray(look.values).resize((max(1, round(length)),) * 2, Image.Resampling.BILINEAR)
    x, y = round(left), round(top)
    box = max(0, x), max(0, y), min(inner.width, x + values.width), min(inner.height, y + values.height)
    seen = np.asarray(values)[box[1] - y : box[3] - y, box[0] - x : box[2] - x]
    inner.paste(Image.fromarray(overlay(np.asarray(inner.crop(box)), seen, largest)), box[:2])


def column_scales(rows: Sequence[SheetRow]) -> list[float]:
    """For each classifier, the value that one in a hundred of its maps' pixels in a sheet exceeds.

    The released 0.5 suits the last layer at full size. Maps of earlier layers are as much smaller as they have more
    cells: at that scale they are all blue.
    """
    columns = zip(*(row.looks for row in rows), strict=True)
    highest = [float(np.quantile(np.stack([look.values for look in looks]), 0.99)) for looks in columns]
    return [value if value > 0 else LARGEST for value in highest]


def draw_sheet(
    rows: Sequence[SheetRow],
    classifiers: Sequence[str],
    side: int = 160,
    border: int = 0,
    scales: Sequence[float] | None = None,
) -> Image.Image:
    """One line a picture: as it is, then each classifier's map over it with what it answers.

    `border`: pixels around each picture that belong to it and that no classifier sees. ObjectNet's (2) must be on
    every copy of its images, by its licence. `scales`: the value drawn red, for each classifier; by default the
    released sheets' for all.
    """
    if not rows:
        raise UsageError("no picture to draw: the classifiers agree on all of them")
    largests = [LARGEST] * len(classifiers) if scales is None else scales
    font = ImageFont.load_default()
    headings = ("image", *classifiers)
    line = side + LINE + GAP
    sheet = Image.new("RGB", (len(headings) * (side + GAP) + GAP, len(rows) * line + LINE + 2 * GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for column, heading in enumerate(headings):
        draw.text((GAP + column * (side + GAP), GAP), heading, "black", font)
    for number, row in enumerate(rows):
        top = LINE + 2 * GAP + number * line
        looks = (None, *row.looks)
        for column, (look, largest) in enumerate(zip(looks, (LARGEST, *largests), strict=True)):
            left = GAP + column * (side + GAP)
            caption = row.class_name if look is None else look.prediction
            right = "darkgreen" if caption == row.class_name else "firebrick"
            draw.text((left, top), caption, "black" if look is None else right, font)
            sheet.paste(draw_tile(row.picture, look, side, border, largest), (left, top + LINE))
    return sheet


def choose_disagreements(
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    class_labels: NDArray[np.int64],
    count: int,
    only_correct: bool = True,
) -> NDArray[np.int64]:
    """The first `count` images on which two classifiers' top-1 differ; by default, those that the second gets right."""
    differ = first != second
    if only_correct:
        differ &= second == class_labels
    return np.flatnonzero(differ)[:count]


def make_rows(
    classifiers: Sequence[Classifier],
    pictures: Sequence[Image.Image],
    class_names: Sequence[str],
    border: int = 0,
    layer: str | None = None,
) -> list[SheetRow]:
    """Rows of a sheet for RGB pictures of any size with their true classes; `border` pixels are hidden from all."""
    looks: list[list[Look]] = [[] for _ in pictures]
    for classifier in classifiers:
        inner = [p.crop((border, border, p.width - border, p.height - border)) for p in pictures]
        found = make_maps(classifier, torch.stack([classifier.preprocessing.prepare(p) for p in inner]), layer)
        for own, picture, values, top1 in zip(looks, pictures, found.maps, found.top1, strict=True):
            view = view_of(picture.size, classifier.preprocessing, border)
            own.append(Look(classifier.class_names[top1], values, view))
    return [SheetRow(*row) for row in zip(pictures, class_names, map(tuple, looks), strict=True)]


def compare_attention(
    baseline: Classifier,
    ours: Classifier,
    images: StreamImages,
    count: int = 8,
    only_correct: bool = True,
    layer: str | None = None,
) -> list[SheetRow]:
    """Rows of Figure 7: images of a stream, as prepared, on which two classifiers disagree. None where they agree."""
    check_classes(baseline, ours, images)
    first, second = (predict_top1(classifier, images.images) for classifier in (baseline, ours))
    shown = images.take(choose_disagreements(first, second, images.class_labels, count, only_correct))
    if not len(shown):
        return []
    side = float(images.images.shape[-1])
    maps = [make_maps(classifier, shown.images, layer) for classifier in (baseline, ours)]
    return [
        SheetRow(
            Image.fromarray(shown.images[i].permute(1, 2, 0).numpy()),
            images.class_names[label],
            tuple(Look(images.class_names[m.top1[i]], m.maps[i], (0.0, 0.0, side)) for m in maps),
        )
        for i, label in enumerate(shown.class_labels)
    ]


def check_classes(*parts: Classifier | StreamImages) -> None:
    """Raise UsageError where classifiers and streams are not of the same classes."""
    first, *others = parts
    for other in others:
        if other.class_names != first.class_names:
            raise UsageError("classifiers and images are not of the same classes")


def predict_top1(classifier: Classifier, images: Tensor) -> NDArray[np.int64]:
    """Top-1 class [N] of images uint8 [N, 3, crop, crop]."""
    device = next(classifier.model.parameters()).device
    parts = [
        _top1(classifier, classifier.preprocessing.normalize(batch.to(device))).cpu() for batch in images.split(BATCH)
    ]
    return np.asarray(torch.cat(parts).numpy(), np.int64)


def save_sheet(sheet: Image.Image, path: Path) -> None:
    """Write a sheet as PNG, pixel for pixel."""
    sheet.save(path, format="PNG")
