#!/usr/bin/env python3
"""Draw README's figure and copy the gallery's sheets, from a built dataset of the recipe `mini`.

docs/draw_streams.py datasets/mini
"""

import sys
from pathlib import Path

from genint.manifests.api import DatasetStream, open_stream
from PIL import Image, ImageDraw, ImageFont

PICTURES = Path(__file__).with_name("pictures")
ROWS = {
    "natural": "natural",
    "interventional": "intervened",
    "transfer": "transfer",
    "counterfactual": "counterfactual",
}
SCALE, GAP, LEFT, TOP = 2, 2, 112, 22


def first_of_each_class(stream: DatasetStream) -> list[Image.Image]:
    """The stream's first picture of each class, in the order of the labels."""
    found: dict[int, Image.Image] = {}
    for sample in stream:
        found.setdefault(sample.class_label, sample.image)
        if len(found) == len(stream.class_names):
            break
    return [found[label] for label in sorted(found)]


def draw(dataset: str) -> Image.Image:
    """A row a stream, a column a class."""
    streams = {name: open_stream(dataset, name) for name in ROWS}
    pictures = {name: first_of_each_class(stream) for name, stream in streams.items()}
    tile = SCALE * pictures["natural"][0].width
    names = streams["natural"].class_names
    sheet = Image.new("RGB", (LEFT + len(names) * (tile + GAP), TOP + len(ROWS) * (tile + GAP)), "white")
    pen = ImageDraw.Draw(sheet)
    for column, name in enumerate(names):
        center = LEFT + column * (tile + GAP) + tile // 2
        pen.text((center, TOP // 2), name, "black", ImageFont.load_default(11), anchor="mm")
    for row, (stream, title) in enumerate(ROWS.items()):
        top = TOP + row * (tile + GAP)
        pen.text((LEFT - 8, top + tile // 2), title, "black", ImageFont.load_default(14), anchor="rm")
        for column, picture in enumerate(pictures[stream]):
            enlarged = picture.resize((tile, tile), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (LEFT + column * (tile + GAP), top))
    return sheet


if __name__ == "__main__":
    (dataset,) = sys.argv[1:]
    draw(dataset).save(PICTURES / "streams.png", optimize=True)
    for sheet in sorted(Path(dataset, "preview").glob("*.jpg")):
        # As they are but for their weight: 32 px pictures, enlarged, need no more.
        Image.open(sheet).save(PICTURES / f"sheet-{sheet.stem}.webp", quality=45, method=6)
