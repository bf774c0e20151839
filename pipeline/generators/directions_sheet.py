"""Draw what each direction does: one row a direction, its step size rising from left to right, in several classes."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ...manifests.directions import Directions, intervene

Render = Callable[[NDArray[np.float32], NDArray[np.int64]], NDArray[np.uint8]]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Sides of a tile in pixels: small images are enlarged to the first, so that they can be looked at, and large ones
# reduced to the second, so that 60 directions still make one picture.
SMALLEST_TILE, LARGEST_TILE = 64, 128
TILE_GAP, CLASS_GAP, MARGIN = 2, 16, 8
FONT_SIZE = 14
BACKGROUND, INK = "white", "black"


def draw_directions_sheet(
    render: Render,
    directions: Directions,
    ranges: NDArray[np.float64],
    class_labels: Sequence[int],
    class_names: Sequence[str],
    latents: NDArray[np.float64],
    columns: int = 7,
) -> Image.Image:
    """Draw every direction of `ranges` [k, 2] (lowest and highest step size), in one block of columns a class.

    Each class has its name and its own latent ([C, z_dim]), which the block moves along the direction in `columns`
    steps. render: latents [N, z_dim] and class labels [N] -> images [N, H, W, 3]; it gets one row of the sheet at a
    time.
    """
    font = ImageFont.load_default(FONT_SIZE)
    rows = [
        _render_row(render, directions, j, np.linspace(low, high, columns), class_labels, latents)
        for j, (low, high) in enumerate(ranges)
    ]
    labels = [
        f"direction {j}\nstep {low:g} to {high:g}\n{directions.variance_ratio[j]:.1%} of variance"
        for j, (low, high) in enumerate(ranges)
    ]

    # Layout: a column of labels, then the classes' blocks; a line of class names, then the rows.
    tile = rows[0].shape[2]
    pitch = tile + TILE_GAP
    block = columns * pitch - TILE_GAP + CLASS_GAP
    left = 2 * MARGIN + int(max(font.getlength(line) for label in labels for line in label.split("\n")))
    top = 2 * MARGIN + FONT_SIZE
    size = (left + len(class_labels) * block - CLASS_GAP + MARGIN, top + len(rows) * pitch - TILE_GAP + MARGIN)
    sheet = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)

    for c, name in enumerate(class_names):
        draw.text((left + c * block, MARGIN), _shorten(name, font, block - CLASS_GAP), INK, font)
    for j, (row, label) in enumerate(zip(rows, labels, strict=True)):
        draw.multiline_text((MARGIN, top + j * pitch), label, INK, font)
        for i, image in enumerate(row):
            c, column = divmod(i, columns)
            sheet.paste(Image.fromarray(image), (left + c * block + column * pitch, top + j * pitch))
    return sheet


def _render_row(
    render: Render,
    directions: Directions,
    direction: int,
    steps: NDArray[np.float64],
    class_labels: Sequence[int],
    latents: NDArray[np.float64],
) -> NDArray[np.uint8]:
    """Tiles [classes * steps, side, side, 3] of one direction."""
    count = len(class_labels) * len(steps)
    moved = intervene(
        np.repeat(latents, len(steps), axis=0),
        directions,
        np.full(count, direction),
        np.tile(steps, len(class_labels)),
    )
    images = render(moved.astype(np.float32), np.repeat(np.asarray(class_labels, np.int64), len(steps)))
    return _fit_tiles(images)


def _fit_tiles(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Enlarge small images by whole pixels and reduce large ones by whole factors, [N, H, W, 3]."""
    side = images.shape[2]
    if side < SMALLEST_TILE:
        factor = -(-SMALLEST_TILE // side)
        return images.repeat(factor, axis=1).repeat(factor, axis=2)
    if side > LARGEST_TILE:
        factor = side // LARGEST_TILE
        return np.stack([np.asarray(Image.fromarray(image).reduce(factor)) for image in images])
    return images


def _shorten(text: str, font: Font, width: float) -> str:
    """The text, cut with an ellipsis where it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
