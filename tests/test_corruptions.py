"""The corruptions of ImageNet-C: values by hand, peculiarities of the official code, and what holds of all of them."""

import io
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from genint.evaluate.corruptions import blur, digital, noise, weather
from genint.evaluate.corruptions.frost import PALETTE, PHOTOGRAPHS, FrostPhotographs, grow_frost, load_frost
from genint.evaluate.corruptions.pixels import Pixels
from genint.evaluate.corruptions.published import PUBLISHED, apply
from genint.evaluate.metrics.corruption_error import CORRUPTIONS, SEVERITIES
from genint.manifests.errors import FormatError, UsageError
from numpy.random import RandomState
from PIL import Image


class Highest(RandomState):
    """Draws what is easy to reckon with: one standard deviation above the mean, and the end of a range."""

    def normal(self, loc: float = 0.0, scale: float = 1.0, size: Any = None) -> Any:
        return np.full(size, loc + scale)

    def uniform(self, low: float = 0.0, high: float = 1.0, size: Any = None) -> Any:
        return np.full(size, high) if size is not None else high

    def poisson(self, lam: Any = 1.0, size: Any = None) -> Any:
        return np.ceil(lam)


def plain(*rows: list[int]) -> Pixels:
    """A gray picture."""
    return np.repeat(np.array(rows, np.uint8)[..., None], 3, axis=-1)


def photograph(height: int = 64, width: int = 64) -> Pixels:
    """Objects with edges, colours and a texture, enough that every corruption changes something."""
    rows, columns = np.mgrid[:height, :width]
    rng = RandomState(5)
    picture = np.stack([rows * 150 / height, 60 + columns * 120 / width, 90 + 40 * np.sin(rows / 3)], axis=-1)
    picture[height // 4 : height // 2, width // 3 : 3 * width // 4] = 210, 120, 60
    picture[(rows - height * 0.7) ** 2 + (columns - width * 0.3) ** 2 < (height / 6) ** 2] = 40, 60, 150
    return np.clip(picture + rng.normal(0, 6, picture.shape), 0, 255).astype(np.uint8)


def test_noise_of_one_standard_deviation() -> None:
    gray = plain([100])
    assert noise.gaussian_noise(gray, Highest(), 0.1).tolist() == plain([125]).tolist()  # 100 + 25.5, truncated
    assert noise.speckle_noise(gray, Highest(), 0.255).tolist() == plain([125]).tolist()  # 100 + 0.255 * 100
    assert noise.gaussian_noise(plain([250]), Highest(), 0.1).tolist() == plain([255]).tolist()
    # 100 / 255 of 4 photons are 1.57, hence 2 of 4 at most.
    assert noise.shot_noise(gray, Highest(), 4).tolist() == plain([127]).tolist()


def test_salt_and_pepper_take_their_share() -> None:
    gray = np.full((100, 100, 3), 90, np.uint8)
    made = noise.impulse_noise(gray, RandomState(0), 0.2)
    share = {value: (made == value).mean() for value in (0, 255)}
    assert set(np.unique(made)) == {0, 90, 255}
    # Four standard deviations of a share of 0.1 of 30,000 values.
    assert all(abs(each - 0.1) < 4 * math.sqrt(0.1 * 0.9 / 30_000) for each in share.values())


def test_contrast_brightness_and_saturation_by_hand() -> None:
    rng = RandomState(0)
    assert digital.contrast(plain([0, 201]), rng, 0.5).tolist() == plain([50, 150]).tolist()
    assert weather.brightness(plain([100, 250]), rng, 0.1).tolist() == plain([125, 255]).tolist()
    red = np.array([[[200, 100, 100]]], np.uint8)
    # Saturation is 1/2: twice it leaves no green or blue, and none of it leaves white of the same value.
    assert digital.saturate(red, rng, 2, 0)[0, 0] == pytest.approx([200, 0, 0], abs=1)
    assert digital.saturate(red, rng, 0, 0)[0, 0] == pytest.approx([200, 200, 200], abs=1)


def test_pixelate_gives_the_means_of_blocks() -> None:
    quadrants = plain([10, 20, 90, 90], [30, 40, 90, 90], [0, 0, 4, 4], [0, 0, 8, 8])
    expected = plain([25, 25, 90, 90], [25, 25, 90, 90], [0, 0, 6, 6], [0, 0, 6, 6])
    assert digital.pixelate(quadrants, RandomState(0), 0.5).tolist() == expected.tolist()


def test_jpeg_is_pillows() -> None:
    buffer = io.BytesIO()
    Image.fromarray(photograph()).save(buffer, "JPEG", quality=15)
    with Image.open(buffer) as expected:
        assert digital.jpeg_compression(photograph(), RandomState(0), 15).tolist() == np.asarray(expected).tolist()


def test_motion_spreads_a_point_along_half_a_gaussian() -> None:
    # 255 times (1, exp(-1/2), exp(-2)), each divided by their sum of 1.742.
    point = plain([0, 0, 255, 0, 0])
    assert blur.smear(point, 1, 1.0, angle=0).tolist() == plain([19, 88, 146, 0, 0]).tolist()
    assert blur.smear(point.transpose(1, 0, 2), 1, 1.0, angle=90)[:, 0, 0].tolist() == [19, 88, 146, 0, 0]
    # Beyond the border is the border, however far the motion goes: nothing gets darker.
    white = np.full((3, 4, 3), 255, np.uint8)
    assert blur.smear(white, 20, 15.0, angle=33).tolist() == white.tolist()
    assert blur.motion_blur(point, Highest(), 1, 1.0).tolist() == blur.smear(point, 1, 1.0, angle=45).tolist()


def test_disk_is_a_mean_over_a_circle() -> None:
    kernel = blur.disk(3, 0.1)
    rows, columns = np.mgrid[-8:9, -8:9]
    inside = rows**2 + columns**2 <= 9
    assert kernel == pytest.approx(inside / inside.sum(), abs=1e-6)
    # As the official one's, whose smoothed edge is reflected at the kernel's border.
    assert [blur.disk(radius, 0.5).sum() for radius in (6, 10)] == pytest.approx([1, 1.0108], abs=1e-4)
    gray = np.full((40, 40, 3), 77, np.uint8)
    assert np.abs(blur.defocus_blur(gray, RandomState(0), 10, 0.5).astype(int) - 77).max() <= 1


@pytest.mark.parametrize(("reach", "height", "width"), [(1, 9, 13), (2, 32, 32), (4, 21, 17)])
def test_glass_moves_pixels_as_the_official_loops_do(reach: int, height: int, width: int) -> None:
    places = np.arange(height * width).reshape(height, width)
    rng = RandomState(3)
    for row in range(height - reach, reach, -1):
        for column in range(width - reach, reach, -1):
            right, down = rng.randint(-reach, reach, size=(2,))
            places[row, column] = places[row + down, column + right]
    assert blur._shuffle(RandomState(3), height, width, reach).tolist() == places.tolist()


def test_zoom_magnifies_the_middle() -> None:
    x = np.arange(16.0).reshape(4, 4)
    large = blur.clipped_zoom(x, 2)
    assert large.shape == (4, 4)
    assert large[[0, 0, -1, -1], [0, -1, 0, -1]].tolist() == [5, 6, 9, 10]
    assert blur.clipped_zoom(np.ones((33, 50, 3)), 4.5).shape == (33, 50, 3)
    assert blur.zoom_blur(photograph(), RandomState(0), [1.0]).tolist() == photograph().tolist()


def test_plasma_of_one_step_by_hand() -> None:
    # The corner is 0; the centre 0 / 4 + n, edges (2 n + 2 * 0) / 4 + n, with n = 100 * 100; then to [0, 1].
    assert weather.plasma(Highest(), 2, 2.0) == pytest.approx(np.array([[0, 1], [1, 2 / 3]]))
    fractal = weather.plasma(RandomState(0), 64, 2.0)
    assert (fractal.min(), fractal.max()) == (0, 1)
    # On a torus: opposite borders are neighbours.
    step = np.abs(np.diff(fractal, axis=0)).mean()
    assert np.abs(fractal[0] - fractal[-1]).mean() < 2 * step


def test_fog_lifts_black_and_keeps_the_brightest_value() -> None:
    made = weather.fog(plain([0, 200], [0, 200]), Highest(), 1.0, 2.0)
    # (x + fog) * 200 / (200 + 255) with fog of 0, 1; 1, 2/3
    expected = [
        [int((x + 255 * fog) * 200 / 455) for x, fog in row] for row in [[(0, 0), (200, 1)], [(0, 1), (200, 2 / 3)]]
    ]
    assert np.abs(made[..., 0].astype(int) - expected).max() <= 1


def test_spatter_covers_what_it_hits_and_nothing_else() -> None:
    picture = photograph(20, 20)
    # Every place lies at 0.9, above or below the threshold.
    mud = weather.spatter(picture, Highest(), 0.6, 0.3, 1, 0.65, 1.5, True)
    assert np.abs(mud.astype(int) - [63, 42, 20]).max() <= 1
    for is_mud in (False, True):
        missed = weather.spatter(picture, Highest(), 0.6, 0.3, 1, 0.95, 1.5, is_mud)
        assert np.abs(missed.astype(int) - picture).max() <= 1


def test_elastic_transform_without_force_is_none() -> None:
    still = digital.elastic_transform(photograph(30, 46), RandomState(0), 0.0, 0.01, 0.0)
    assert np.abs(still.astype(int) - photograph(30, 46)).max() <= 1
    # All three points moved right and down by 244 / 224 of the picture's side, times the shift: here 4 pixels.
    moved = digital.elastic_transform(photograph(56, 56), Highest(), 0.0, 0.01, 4 / 61)
    assert np.abs(moved[6:-6, 6:-6].astype(int) - photograph(56, 56)[2:-10, 2:-10]).max() <= 1


def test_frost_is_cut_from_the_photographs_that_are_given(tmp_path: Path) -> None:
    for number, name in enumerate(PHOTOGRAPHS):
        Image.new("RGBA" if number == 0 else "RGB", (70, 50), (40 * number, 100, 200)).save(
            tmp_path / name, quality=100
        )
    photographs = load_frost(tmp_path)
    rng = RandomState(0)
    reds = {int(np.median(photographs.cut(rng, 32, 32)[..., 0])) for _ in range(60)}
    assert len(reds) == 5 and all(abs(red - 40 * round(red / 40)) <= 2 for red in reds)
    # 0.5 * 100 + 0.5 * ice, the first of the photographs.
    one = FrostPhotographs(photographs.pictures[:1], photographs.digest)
    assert weather.frost(np.full((40, 40, 3), 100, np.uint8), rng, 0.5, 0.5, one)[0, 0].tolist() == [50, 100, 150]
    assert one.cut(rng, 300, 90).shape == (300, 90, 3)
    (tmp_path / "frost5.jpg").write_bytes(b"no picture")
    with pytest.raises(FormatError, match=r"frost5\.jpg: unreadable image"):
        load_frost(tmp_path)
    (tmp_path / "frost2.png").unlink()
    with pytest.raises(UsageError, match=r"lacks frost2\.png; expected frost1\.png, .*hendrycks/robustness"):
        load_frost(tmp_path)


def test_grown_frost_has_the_mean_and_spread_of_a_photograph() -> None:
    for seed in range(4):
        ice = grow_frost(RandomState(seed), 96, 128)
        mean, spread = ice.mean(axis=(0, 1)), ice.std(axis=(0, 1))
        assert ice.shape == (96, 128, 3) and ice.min() >= 0 and ice.max() <= 255
        # What is clipped moves both a little.
        assert any(mean == pytest.approx(m, abs=6) and spread == pytest.approx(s, rel=0.3) for m, s in PALETTE)


def test_every_corruption_of_imagenet_c_is_there() -> None:
    assert set(PUBLISHED) == set(CORRUPTIONS)
    assert all(len(strengths) == len(SEVERITIES) for _, strengths in PUBLISHED.values())


@pytest.mark.parametrize("corruption", CORRUPTIONS)
@pytest.mark.parametrize(("height", "width"), [(32, 32), (70, 65)])
def test_pictures_follow_their_generator_alone(corruption: str, height: int, width: int) -> None:
    clean = photograph(height, width)
    before = clean.copy()
    state = np.random.get_state()[1].tolist()  # noqa: NPY002
    for severity in SEVERITIES:
        made = apply(clean, corruption, severity, RandomState(7))
        assert made.dtype == np.uint8 and made.shape == clean.shape
        assert made.tobytes() == apply(clean, corruption, severity, RandomState(7)).tobytes()
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002
    assert clean.tobytes() == before.tobytes()


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_pictures_of_one_value_stay_pictures(corruption: str, value: int) -> None:
    # Warnings are errors here: nothing is divided by zero.
    for severity in SEVERITIES:
        made = apply(np.full((32, 32, 3), value, np.uint8), corruption, severity, RandomState(severity))
        assert made.dtype == np.uint8 and made.shape == (32, 32, 3)


# As published, not all are of one kind that grows: less saturation and then more, a warp that is smooth and one that is
# not, more frost and then a darker picture, water and then mud; fewer flakes that are larger; pixels moved less often.
KINDS = {
    "saturate": [(1, 2), (3, 4, 5)],
    "elastic_transform": [(1, 2), (3, 4, 5)],
    "frost": [(1, 2, 3), (4, 5)],
    "spatter": [(1, 2, 3), (4, 5)],
    "snow": [(1, 2), (3, 4, 5)],
    "glass_blur": [(1, 3, 5)],
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_strength_grows_with_severity(corruption: str) -> None:
    clean = photograph(96, 96)

    def distance(severity: int) -> float:
        made = [apply(clean, corruption, severity, RandomState(seed)).astype(int) for seed in range(4)]
        return float(np.mean([np.abs(each - clean).mean() for each in made]))

    for severities in KINDS.get(corruption, [SEVERITIES]):
        distances = [distance(severity) for severity in severities]
        assert all(weaker < stronger for weaker, stronger in pairwise(distances)), distances
