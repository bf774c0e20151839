"""Contact sheets of a dataset's streams: a few samples of each class, to look at."""

import io
import os
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

from ..manifests.dataset import Dataset
from ..manifests.manifest import shard_name
from ..manifests.shard import Index, load_index, read_sample

TILE = 96
CAPTION = 14
LABEL = 110
MAX_ROWS, MAX_COLUMNS = 12, 12


def write_previews(dataset: Dataset, streams: Sequence[str]) -> list[str]:
    """Write `preview/<stream>.jpg` for each stream from its first shard; returns the full locations."""
    written = []
    for name in streams:
        sheet = draw_contact_sheet(*_first_samples(dataset, name))
        buffer = io.BytesIO()
        sheet.save(buffer, "JPEG", quality=92, subsampling="4:4:4")
        dataset.storage.write(f"preview/{name}.jpg", buffer.getvalue())
        written.append(dataset.storage / f"preview/{name}.jpg")
    return written


def draw_contact_sheet(title: str, rows: Mapping[str, Sequence[tuple[Image.Image, str]]]) -> Image.Image:
    """One row a class: its name, then captioned images, enlarged or reduced to the same tile."""
    columns = max((len(tiles) for tiles in rows.values()), default=1)
    height = TILE + CAPTION
    sheet = Image.new("RGB", (LABEL + columns * (TILE + 2), 26 + len(rows) * (height + 2)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((6, 5), title, "black", ImageFont.load_default(14))
    small = ImageFont.load_default(10)
    for row, (label, tiles) in enumerate(rows.items()):
        top = 26 + row * (height + 2)
        draw.text((6, top + TILE // 2 - 6), label, "black", ImageFont.load_default(12))
        for column, (image, caption) in enumerate(tiles):
            left = LABEL + column * (TILE + 2)
            # Small pictures are enlarged without smoothing: one sees the pixels that are there.
            enlarging = max(image.size) <= TILE
            method = Image.Resampling.NEAREST if enlarging else Image.Resampling.LANCZOS
            sheet.paste(ImageOps.contain(image.convert("RGB"), (TILE, TILE), method), (left, top))
            draw.text((left + 1, top + TILE), caption, "black", small)
    return sheet


def _first_samples(dataset: Dataset, name: str) -> tuple[str, dict[str, list[tuple[Image.Image, str]]]]:
    """The leading samples of the first shard, by class in label order, with what was done to them."""
    plan = dataset.plan(name)
    class_names = plan.stream.class_names(dataset.facts)
    wanted: dict[int, list[str]] = {}
    captions: dict[str, str] = {}
    for sample in plan.samples(0):
        keys = wanted.setdefault(sample.class_label, [])
        if len(keys) < MAX_COLUMNS:
            keys.append(sample.key)
            captions[sample.key] = _caption(sample.parameters)
    rows: dict[str, list[tuple[Image.Image, str]]] = {}
    with dataset.storage.fetched(shard_name(name, 0)) as path:
        with dataset.storage.fetched(shard_name(name, 0).removesuffix(".tar") + ".idx") as index:
            members: Index = load_index(index)
        file = os.open(path, os.O_RDONLY)
        try:
            for label in sorted(wanted)[:MAX_ROWS]:
                tiles: list[tuple[Image.Image, str]] = []
                for key in wanted[label]:
                    if key in members:  # a hole otherwise
                        content = read_sample(file, members[key])[plan.stream.extension]
                        tiles.append((Image.open(io.BytesIO(content)), captions[key]))
                rows[class_names[label]] = tiles
        finally:
            os.close(file)
    return f"{dataset.recipe.name} / {name}: {plan.count:,} samples, {plan.stream.source}", rows


def _caption(parameters: Mapping[str, object]) -> str:
    if "direction" in parameters:
        return f"v{parameters['direction']}  {parameters['step_size']:+.1f}"
    return ""
