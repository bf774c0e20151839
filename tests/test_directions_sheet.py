"""The sheet shows, for each direction, class and step, the image of just that intervention."""

import numpy as np
import pytest
from genint.manifests.directions import Directions
from genint.manifests.errors import UsageError
from genint.pipeline.generators.directions_sheet import draw_directions_sheet
from PIL import Image

RANGES = np.array([[-2.0, 2.0], [0.0, 4.0], [-4.0, 0.0]])
LABELS, NAMES = [3, 5], ["sandal", "sneaker"]
LATENTS = np.array([[0.5, -1.0, 1.5], [-0.5, 1.0, 2.0]])


@pytest.fixture
def directions() -> Directions:
    """The three axes of a latent of three numbers."""
    return Directions(
        latent=np.eye(3),
        latent_mean=np.zeros(3),
        latent_stdev=np.ones(3),
        activation=np.eye(3, dtype=np.float32),
        activation_mean=np.zeros(3, np.float32),
        activation_stdev=np.ones(3),
        activation_shape=(3,),
        variance_ratio=np.array([0.6, 0.3, 0.1]),
        random_stdevs=np.ones(3),
        sign_margins=np.ones(3),
        value_margins=np.ones(3),
        layer="generator.gen_z",
        class_label=0,
        source="exact",
    )


def colour(latent: np.ndarray, class_label: int) -> list[int]:
    """Red and green tell the first two numbers of the latent, blue the class and the third number."""
    return [int(120 + 20 * latent[0]), int(120 + 20 * latent[1]), int(80 + 10 * class_label + 8 * latent[2])]


def render_side(side: int):
    def render(latents: np.ndarray, class_labels: np.ndarray) -> np.ndarray:
        assert latents.dtype == np.float32
        assert class_labels.dtype == np.int64
        colours = [colour(z, label) for z, label in zip(latents, class_labels, strict=True)]
        return np.array(colours, np.uint8)[:, None, None, :].repeat(side, 1).repeat(side, 2)

    return render


def tiles(sheet: Image.Image) -> dict[tuple[int, int, int], tuple[int, int, int, int]]:
    """Bounding box (left, top, right, bottom) of every colour that is not grey, as text and background are."""
    pixels = np.asarray(sheet).astype(int)
    coloured = np.ptp(pixels, axis=2) > 0
    boxes = {}
    for value in np.unique(pixels[coloured], axis=0):
        y, x = np.nonzero((pixels == value).all(2))
        boxes[tuple(value.tolist())] = (int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1)
    return boxes


def moved(latent: np.ndarray, direction: int, step: float) -> np.ndarray:
    return np.where(np.arange(3) == direction, step, latent)


@pytest.mark.parametrize(("side", "shown"), [(8, 64), (24, 72), (100, 100), (256, 128)])
def test_every_cell_shows_its_intervention_at_a_size_one_can_see(directions, side, shown):
    sheet = draw_directions_sheet(render_side(side), directions, RANGES, LABELS, NAMES, LATENTS, columns=4)
    boxes = tiles(sheet)
    rows, columns = [], []
    for j, (low, high) in enumerate(RANGES):
        row = []
        for label, latent in zip(LABELS, LATENTS, strict=True):
            for step in np.linspace(low, high, 4):
                left, top, right, bottom = boxes.pop(tuple(colour(moved(latent, j, step), label)))
                assert (right - left, bottom - top) == (shown, shown)
                row.append((left, top))
        rows.append({top for _, top in row})
        columns.append([left for left, _ in row])
    assert not boxes
    assert all(len(row) == 1 for row in rows)
    assert [min(row) for row in rows] == sorted(min(row) for row in rows)
    assert columns[0] == columns[1] == columns[2] == sorted(columns[0])
    # Classes stand further apart than steps.
    gaps = np.diff(columns[0]) - shown
    assert gaps[3] > gaps[:3].max() >= 0


def test_class_names_stand_above_their_blocks_and_labels_beside_their_rows(directions):
    sheet = draw_directions_sheet(render_side(32), directions, RANGES, LABELS, NAMES, LATENTS, columns=3)
    boxes = tiles(sheet).values()
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    ink = np.asarray(sheet.convert("L")) < 128
    second_block = sorted({box[0] for box in boxes})[3]
    assert ink[:top, left:second_block].any()
    assert ink[:top, second_block:].any()
    assert not ink[:top, :left].any()
    for row_top in sorted({box[1] for box in boxes}):
        assert ink[row_top : row_top + 64, :left].any()
    # A name too long for its block is cut, not written over its neighbour's.
    one_long = draw_directions_sheet(
        render_side(32), directions, RANGES, LABELS, ["sandal " * 30, ""], LATENTS, columns=3
    )
    assert one_long.size == sheet.size
    assert not (np.asarray(one_long.convert("L")) < 128)[:top, second_block:].any()


def test_renderer_is_asked_for_one_row_at_a_time(directions):
    sizes = []

    def render(latents: np.ndarray, class_labels: np.ndarray) -> np.ndarray:
        sizes.append(len(latents))
        return render_side(16)(latents, class_labels)

    draw_directions_sheet(render, directions, RANGES, LABELS, NAMES, LATENTS, columns=5)
    assert sizes == [10, 10, 10]


def test_more_ranges_than_directions_are_refused(directions):
    ranges = np.concatenate((RANGES, [[-1.0, 1.0]]))
    with pytest.raises(UsageError, match="no direction 3: there are 3"):
        draw_directions_sheet(render_side(16), directions, ranges, LABELS, NAMES, LATENTS)
