"""Contact sheets of a dataset's streams: a few samples of each class, to look at."""

import io
import os
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

from ...manifests.dataset import Dataset
from ...manifests.errors import GenintError
from ...manifests.manifest import shard_name
from ...manifests.pictures import decode_picture
from ...manifests.shard import Index, load_index, read_sample
from ...manifests.sources.stream import Sample
from ...manifests.sources.transfer import TransferredStream
from ..sources.rendering import RenderContext
from ..sources.transfer import read_reference

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
    parts = _Parts(dataset, name)
    wanted: dict[int, list[Sample]] = {}
    for sample in plan.samples(0):
        chosen = wanted.setdefault(sample.class_label, [])
        if len(chosen) < MAX_COLUMNS // (1 + parts.count):
            chosen.append(sample)
    rows: dict[str, list[tuple[Image.Image, str]]] = {}
    with dataset.storage.fetched(shard_name(name, 0)) as path:
        with dataset.storage.fetched(shard_name(name, 0).removesuffix(".tar") + ".idx") as index:
            members: Index = load_index(index)
        file = os.open(path, os.O_RDONLY)
        try:
            for label in sorted(wanted)[:MAX_ROWS]:
                tiles: list[tuple[Image.Image, str]] = []
                for sample in wanted[label]:
                    if sample.key in members:  # a hole otherwise
                        content = read_sample(file, members[sample.key])[plan.stream.extension]
                        tiles += parts.read(sample)
                        tiles.append((decode_picture(content, sample.key), _caption(sample.parameters)))
                rows[class_names[label]] = tiles
        finally:
            os.close(file)
    return f"{dataset.recipe.name} / {name}: {plan.count:,} samples, {plan.stream.source}", rows


class _Parts:
    """Content and style of each sample of a transferred stream; of others, nothing."""

    def __init__(self, dataset: Dataset, name: str) -> None:
        self._stream = dataset.recipe.stream(name)
        self._context = RenderContext(dataset.recipe, dataset.facts, dataset.storage, "cpu", roots=dataset.roots)
        self.count = 2 if isinstance(self._stream, TransferredStream) else 0

    def read(self, sample: Sample) -> list[tuple[Image.Image, str]]:
        """The pictures that a sample was made of; a grey one stands for an input that is not on this machine."""
        if not isinstance(self._stream, TransferredStream):
            return []
        tiles = []
        for part in ("content", "style"):
            try:
                picture = read_reference(self._context, self._stream, sample.parameters[part])
            except GenintError:
                picture = Image.new("RGB", (TILE, TILE), "grey")
            tiles.append((picture, part))
        return tiles


def _caption(parameters: Mapping[str, object]) -> str:
    if "direction" in parameters:
        return f"v{parameters['direction']}  {parameters['step_size']:+.1f}"
    if "content" in parameters:
        return f"result, {parameters['evaluations']} eval." if "evaluations" in parameters else "result"
    return ""
