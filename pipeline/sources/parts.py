"""The pictures that a sample was made of, beside its own: for contact sheets and for `inspect`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ...manifests.errors import GenintError
from ...manifests.pictures import decode_picture
from ...manifests.sources.counterfactual import SWAPPED, CounterfactualStream
from ...manifests.sources.recomposed import RecomposedStream
from ...manifests.sources.stream import Sample
from ...manifests.sources.transfer import TransferredStream
from .counterfactual import make_part, to_pixels
from .recomposed import read_cut
from .rendering import RenderContext
from .transfer import read_reference

# A picture and its caption.
Tile = tuple[Image.Image, str]
# Members of finished samples, extension to content.
Members = Mapping[str, bytes]
GREY_SIDE = 96


@dataclass(frozen=True)
class Parts:
    """How many pictures samples of a source are made of, what reads them (a list for each), and words on them."""

    count: int
    read: Callable[[RenderContext, Any, Sequence[Sample], Sequence[Members]], list[list[Tile]]]
    legend: str


def read_content_and_style(
    context: RenderContext, stream: TransferredStream, samples: Sequence[Sample], members: Sequence[Members]
) -> list[list[Tile]]:
    """Content and style of transferred samples; a grey one stands for an input that is not on this machine."""
    return [[(_read_part(context, stream, sample, part), part) for part in ("content", "style")] for sample in samples]


def _read_part(context: RenderContext, stream: TransferredStream, sample: Sample, part: str) -> Image.Image:
    try:
        return read_reference(context, stream, sample.parameters[part])
    except GenintError:
        return _grey()


def read_mechanisms(
    context: RenderContext, stream: CounterfactualStream, samples: Sequence[Sample], members: Sequence[Members]
) -> list[list[Tile]]:
    """Mask, texture and background of counterfactuals; grey ones where the network is not on this machine."""
    names = stream.class_names(context.facts)
    # One by one and without the bank: a few samples do not pay for it.
    alone = stream.model_copy(update={"bank": None, "batch_size": 1})
    try:
        pictures = [
            [Image.fromarray(pixels) for pixels in to_pixels(make_part(context, alone, mechanism, samples))]
            for mechanism in SWAPPED
        ]
    except GenintError:
        pictures = [[_grey()] * len(samples)] * 2
    return [
        [
            (decode_picture(content["mask.png"], sample.key), "mask"),
            (texture, f"texture {names[sample.parameters['labels']['texture']]}"),
            (background, f"background {names[sample.parameters['labels']['background']]}"),
        ]
        for sample, content, texture, background in zip(samples, members, *pictures, strict=True)
    ]


def read_objects_and_backgrounds(
    context: RenderContext, stream: RecomposedStream, samples: Sequence[Sample], members: Sequence[Members]
) -> list[list[Tile]]:
    """Object's picture, mask and background of recomposed samples; grey ones where an input is not on this machine."""
    return [
        [
            (picture, caption)
            for picture, caption in zip(
                _cut_or_grey(context, stream, sample, content), ("object of", "mask", "background"), strict=True
            )
        ]
        for sample, content in zip(samples, members, strict=True)
    ]


def _cut_or_grey(
    context: RenderContext, stream: RecomposedStream, sample: Sample, content: Members
) -> tuple[Image.Image, Image.Image, Image.Image]:
    mask = decode_picture(content["mask.png"], sample.key)
    try:
        cut, background = read_cut(context, stream, sample)
    except GenintError:
        return _grey(), mask, _grey()
    return Image.fromarray(cut.pixels), mask, Image.fromarray(background)


def _grey() -> Image.Image:
    return Image.new("RGB", (GREY_SIDE, GREY_SIDE), "grey")


PARTS: dict[str, Parts] = {
    "transfer": Parts(
        2, read_content_and_style, "Content in the style of the other picture; eval.: evaluations of the optimisation."
    ),
    "stylized": Parts(2, read_content_and_style, "Content in the style of the other picture."),
    "counterfactual": Parts(
        3, read_mechanisms, "The row's class gives the mask; texture and background are of the classes below them."
    ),
    "recomposed": Parts(3, read_objects_and_backgrounds, "An object, cut out by its mask, on another background."),
}
