"""Sheets of pictures with maps of where classifiers look over them (Figure 7)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ...manifests.errors import UsageError
from ...train.checkpoint import Preprocessing

# As the released sheets: jet from 0 to 0.5, 40 % opaque, and no scaling of a map to its own range.
COLOURS, ALPHA, LARGEST = "jet", 0.4, 0.5
GAP, LINE = 6, 12  # pixels of a sheet


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


def save_sheet(sheet: Image.Image, path: Path) -> None:
    """Write a sheet as PNG, pixel for pixel."""
    sheet.save(path, format="PNG")
