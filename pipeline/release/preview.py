"""Contact sheets of a dataset's streams: a few samples of each class, to look at."""

import io
from collections.abc import Iterator, Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

from ...manifests.dataset import Dataset
from ...manifests.manifest import preview_name
from ...manifests.pictures import decode_picture
from ...manifests.sources.stream import Sample, Stream
from ..sources.parts import PARTS, Members, Tile
from ..sources.rendering import RenderContext
from ..sources.stream_reader import StreamReader

TILE = 96
CAPTION = 14
LABEL = 110
MAX_ROWS, MAX_COLUMNS = 12, 12


def draw_previews(dataset: Dataset, streams: Sequence[str]) -> dict[str, bytes]:
    """The contact sheet of each stream, from its first shard, by the name of its file."""
    sheets = {}
    for name in streams:
        sheet = draw_contact_sheet(*_first_samples(dataset, name), legend=_legend(dataset.recipe.stream(name)))
        buffer = io.BytesIO()
        sheet.save(buffer, "JPEG", quality=92, subsampling="4:4:4")
        sheets[preview_name(name)] = buffer.getvalue()
    return sheets


def draw_contact_sheet(title: str, rows: Mapping[str, Sequence[Tile]], legend: str = "") -> Image.Image:
    """One row a class: its name, then captioned images, enlarged or reduced to the same tile.

    legend: what the captions say, under the title.
    """
    columns = max((len(tiles) for tiles in rows.values()), default=1)
    height, head = TILE + CAPTION, 42 if legend else 26
    small = ImageFont.load_default(11)
    width = max(LABEL + columns * (TILE + 2), 12 + int(small.getlength(legend)))
    sheet = Image.new("RGB", (width, head + len(rows) * (height + 2)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((6, 5), title, "black", ImageFont.load_default(14))
    draw.text((6, 24), legend, "dimgray", small)
    for row, (label, tiles) in enumerate(rows.items()):
        top = head + row * (height + 2)
        draw.text((6, top + TILE // 2 - 6), label, "black", ImageFont.load_default(12))
        for column, (image, caption) in enumerate(tiles):
            left = LABEL + column * (TILE + 2)
            # Small pictures are enlarged without smoothing: one sees the pixels that are there.
            enlarging = max(image.size) <= TILE
            method = Image.Resampling.NEAREST if enlarging else Image.Resampling.LANCZOS
            sheet.paste(ImageOps.contain(image.convert("RGB"), (TILE, TILE), method), (left, top))
            draw.text((left + 1, top + TILE), caption, "black", _fitting_font(caption))
    return sheet


def _legend(stream: Stream) -> str:
    """What a stream's contact sheet shows, and how its captions are to be read."""
    if stream.source in PARTS:
        return f"A row per class. {PARTS[stream.source].legend}"
    if stream.uses_directions:
        return "A row per class. v3 +1.5: direction 3 was set to 1.5 standard deviations of the latent."
    return "A row per class."


def _fitting_font(caption: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The largest of the captions' sizes in which one is no wider than its tile."""
    fonts = [ImageFont.load_default(size) for size in (10, 9, 8, 7)]
    return next((font for font in fonts if font.getlength(caption) < TILE), fonts[-1])


def _first_samples(dataset: Dataset, name: str) -> tuple[str, dict[str, list[Tile]]]:
    """The leading samples of the first shard, by class in label order, with what was done to them."""
    plan = dataset.plan(name)
    class_names = plan.stream.class_names(dataset.facts)
    parts = PARTS.get(plan.stream.source)
    wanted: dict[int, list[Sample]] = {}
    for sample in plan.samples(0):
        chosen = wanted.setdefault(sample.class_label, [])
        if len(chosen) < MAX_COLUMNS // (1 + (parts.count if parts else 0)):
            chosen.append(sample)
    reader = StreamReader(dataset.storage, plan)
    # A sample without members is a hole.
    shown = [s for label in sorted(wanted)[:MAX_ROWS] for s in wanted[label] if reader.members(s.index)]
    contents = [reader.read(s.index, reader.members(s.index)) or {} for s in shown]
    rows: dict[str, list[Tile]] = {class_names[label]: [] for label in sorted(wanted)[:MAX_ROWS]}
    for sample, tiles in zip(shown, draw_samples(dataset, name, shown, contents), strict=True):
        rows[class_names[sample.class_label]] += tiles
    return f"{dataset.recipe.name} / {name}: {plan.count:,} samples, {plan.stream.source}", rows


def draw_samples(
    dataset: Dataset, name: str, samples: Sequence[Sample], contents: Sequence[Members]
) -> Iterator[list[Tile]]:
    """Each sample's picture with its caption, after those that it was made of."""
    stream = dataset.recipe.stream(name)
    made_of: Sequence[Sequence[Tile]] = [[]] * len(samples)
    if samples and stream.source in PARTS:
        context = RenderContext(dataset.recipe, dataset.facts, dataset.storage, "cpu", roots=dataset.roots)
        made_of = PARTS[stream.source].read(context, stream, samples, contents)
    for sample, content, parts in zip(samples, contents, made_of, strict=True):
        picture = decode_picture(content[stream.extension], sample.key)
        yield [*parts, (picture, _caption(sample.parameters))]


def _caption(parameters: Mapping[str, object]) -> str:
    if "direction" in parameters:
        return f"v{parameters['direction']}  {parameters['step_size']:+.1f}"
    if "object" in parameters or "labels" in parameters:
        return "result"
    if "content" in parameters:
        return f"result, {parameters['evaluations']} eval." if "evaluations" in parameters else "result"
    return ""
