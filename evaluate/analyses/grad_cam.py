"""Where a classifier looks: Grad-CAM (Selvaraju et al. 2019), and its share on the object (Figure 7)."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum.attr import LayerGradCam
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from ...manifests.errors import UsageError, shorten
from ...train.checkpoint import Classifier
from ..metrics.mass_share import mass_share
from ..report.results import Analysis
from .attention_sheet import Look, SheetRow, column_scales, draw_sheet, save_sheet, view_of
from .distributions import load_images, shown_stream
from .features import choose_top1, predict_top1
from .stream_images import StreamImages

BATCH = 50
# A map of fewer cells a side cannot say where.
LEAST_CELLS = 4


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
    """Name of the layer to look at.

    In ResNets conv2 of the second block of the deepest stage that has 4 x 4 cells or more. At 224 px it is
    `layer4.1.conv2`, the released code's `list(model.children())[-3][1].conv2`: the last convolution of ResNet-18 and,
    as there, the middle of a bottleneck in deeper ones. Images of 32 px leave layer4 one cell, which is the same
    everywhere; `layer2.1.conv2` has 4 x 4. In other networks the last module that gives a map of 4 x 4 cells or more,
    before they are pooled.

    Raises UsageError where there is none, as in transformers whose tokens form no map.
    """
    outputs = _layer_outputs(classifier)
    maps = [name for name, shape in outputs.items() if _is_map(shape)]
    for name in (f"layer{stage}.1.conv2" for stage in (4, 3, 2, 1)):
        if name in maps:
            return name
    after = list(outputs)[list(outputs).index(maps[-1]) + 1 :] if maps else []
    if any(len(outputs[name]) == 3 or _is_tokens(outputs[name]) for name in after):
        raise UsageError(
            f"{classifier.name} ({classifier.arch}): a transformer, whose tokens form no map; leave it out, or name a "
            f"layer with --layer, such as {maps[-1]}"
        )
    if not maps:
        side = classifier.preprocessing.crop
        raise UsageError(
            f"{classifier.name}: no layer has {LEAST_CELLS} x {LEAST_CELLS} cells for images of {side} px; leave it out"
        )
    return maps[-1]


def check_layer(classifier: Classifier, layer: str) -> None:
    """Raise UsageError where a classifier has no such layer, or it gives no map of channels."""
    outputs = _layer_outputs(classifier)
    where = f"--layer {shorten(layer)}: {classifier.name} ({classifier.arch})"
    if layer not in outputs:
        near = difflib.get_close_matches(layer, outputs, 3) or [name for name in outputs if _is_map(outputs[name])][-3:]
        raise UsageError(f"{where} has no layer of that name that gives one tensor; there are {', '.join(near)}")
    if len(outputs[layer]) != 4 or _is_tokens(outputs[layer]):
        shape = " x ".join(map(str, outputs[layer][1:]))
        raise UsageError(f"{where} gives {shape} numbers there; expected channels x height x width of a map")


def _layer_outputs(classifier: Classifier) -> dict[str, tuple[int, ...]]:
    """Shape of what each module gives for one image, by name, in the order in which they end; pooling left out."""
    shapes: dict[str, tuple[int, ...]] = {}

    def keep(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor):
                shapes[name] = tuple(output.shape)

        return hook

    hooks = [
        module.register_forward_hook(keep(name))
        for name, module in classifier.model.named_modules()
        # An adaptive one may have more cells than what it pools.
        if name and not isinstance(module, nn.AdaptiveAvgPool2d)
    ]
    side = classifier.preprocessing.crop
    device = next(classifier.model.parameters()).device
    try:
        with torch.inference_mode():
            classifier.model(torch.zeros(1, 3, side, side, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    return shapes


def _is_map(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and shape[2] == shape[3] >= LEAST_CELLS


def _is_tokens(shape: tuple[int, ...]) -> bool:
    """Whether channels stand last, as between the layers of a Swin transformer. Images are square."""
    return len(shape) == 4 and shape[1] == shape[2] != shape[3]


def make_maps(classifier: Classifier, images: Tensor, layer: str | None = None) -> Maps:
    """Grad-CAM of images uint8 [N, 3, crop, crop], at `find_layer`'s layer by default."""
    if layer is not None:
        check_layer(classifier, layer)
    name = layer or find_layer(classifier)
    modules = dict(classifier.model.named_modules())
    device = next(classifier.model.parameters()).device
    maps, top1 = [], []
    cells = (0, 0)
    for batch in images.split(BATCH):
        inputs = classifier.preprocessing.normalize(batch.to(device))
        chosen = choose_top1(classifier, inputs)
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


# The section of the report


def analyse_attention(
    classifiers: Sequence[tuple[str, Classifier]],
    streams: Sequence[str],
    limit: int,
    count: int,
    folder: Path,
    layer: str | None = None,
) -> Analysis:
    """Figure 7: where the first classifier and each other one look, on images that only the other gets right; and the
    share of the maps on the object."""
    if len(classifiers) < 2:
        raise UsageError("grad-cam compares classifiers: give --checkpoint twice or more")
    # Before anything is read: a network without such a layer is refused at once.
    layers = {name: layer or find_layer(classifier) for name, classifier in classifiers}
    for name, classifier in classifiers:
        check_layer(classifier, layers[name])
    rows: list[list[str]] = []
    found: list[dict[str, Any]] = []
    figures: dict[str, str] = {}
    for text in streams:
        for name, classifier in classifiers:
            images = load_images(text, classifier.preprocessing, limit)
            if images.masks is not None:
                attention = measure_attention(classifier, images, layers[name])
                found.append({"checkpoint": name, **asdict(attention)})
                rows.append(_attention_row(name, attention))
        (base_name, base), *others = classifiers
        for name, classifier in others:
            sheet_rows = compare_attention(
                base, classifier, load_images(text, base.preprocessing, limit), count, layer=layer
            )
            if sheet_rows:
                file = f"grad-cam-{len(figures)}.png"
                scales = column_scales(sheet_rows)
                save_sheet(draw_sheet(sheet_rows, [base_name, name], scales=scales), folder / file)
                figures[file] = f"{shown_stream(text)}: images that {name} classifies rightly and {base_name} does not."
    texts = [
        "Grad-CAM for each classifier's own top-1 class. A classifier's maps are coloured on one scale, up to what one "
        "in a hundred of their pixels exceeds (the paper's sheets: 0.5, for the last layer at full size). Where object "
        "masks are known: share of the map's positive mass that lies on the object, beside the object's share of the "
        "area."
    ]
    columns = ["checkpoint", "stream", "layer", "images", "mass on the object, %", "area of the object, %"]
    return Analysis("Where classifiers look", texts, columns, rows, found, figures)


def _attention_row(name: str, attention: Attention) -> list[str]:
    low, high = attention.interval
    return [
        name,
        attention.stream,
        attention.layer,
        f"{attention.images:,}",
        f"{100 * attention.mass_share:.1f} ({100 * low:.1f} to {100 * high:.1f})",
        f"{100 * attention.object_area:.1f}",
    ]
