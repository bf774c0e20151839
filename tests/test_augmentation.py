"""Augmentations: torchvision's distributions and pixels, from each sample's own words."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from genint.manifests.errors import FormatError
from genint.manifests.pictures import PictureError, decode_picture, open_picture
from genint.manifests.randomness import random_words
from genint.train.augmentation import AUGMENTATIONS, WORDS, Augmentation, AugmentationName, draw_crop, resized_crop
from genint.train.vision import v2
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageDraw

SCALE = (0.08, 1.0)


def words(sample: int) -> NDArray[np.uint64]:
    return random_words(1, "augmentation", 0, sample, count=WORDS)


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """A smooth picture with edges, as photographs are: JPEG of pure noise would be unlike anything."""
    y, x = np.mgrid[:height, :width]
    waves = [128 + 90 * np.sin(x / (9 + 3 * c)) * np.cos(y / (13 - 2 * c)) for c in range(3)]
    image = Image.fromarray(np.stack(waves, -1).astype(np.uint8))
    ImageDraw.Draw(image).ellipse((width // 4, height // 4, width // 2, height // 2), fill=(250, 30, 60))
    return image.convert(mode)


def encode(image: Image.Image, file_format: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **({"quality": 95} if file_format == "JPEG" else {}))
    return buffer.getvalue()


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("size", [32, 224])
def test_augmented_images_depend_on_their_words_alone(name: AugmentationName, size: int) -> None:
    content = encode(picture(size, size))
    augmentation = Augmentation(name, size)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = augmentation(content, words(3))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(first, augmentation(content, words(3)))
    assert first.shape == (3, size, size)
    assert first.dtype == torch.uint8
    others = [augmentation(content, words(i)) for i in range(4, 12)]
    assert any(not torch.equal(first, other) for other in others) == (name != "none")


def test_erasing_takes_a_rectangle_of_some_images_and_leaves_the_rest_as_it_is() -> None:
    content, fill = encode(picture(64, 64)), (7, 77, 177)
    plain, erasing = Augmentation("standard", 32), Augmentation("standard", 32, erasing=0.25, fill=fill)
    count = 0
    for sample in range(80):
        before, after = plain(content, words(sample)), erasing(content, words(sample))
        differs = (before != after).any(0)
        if differs.any():
            count += 1
            assert {tuple(pixel) for pixel in after[:, differs].T.tolist()} == {fill}
            rows, columns = differs.any(1).nonzero().flatten(), differs.any(0).nonzero().flatten()
            assert (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1) <= 0.4 * 32 * 32
    assert 10 <= count <= 32
    assert erasing == Augmentation("standard", 32, erasing=0.25, fill=fill)


def test_augmix_mixes_none_of_the_operations_that_are_corruptions_of_imagenet_c() -> None:
    policy = Augmentation("augmix", 32)._policy
    assert not {"Brightness", "Color", "Contrast", "Sharpness"} & policy._PARTIAL_AUGMENTATION_SPACE.keys()
    assert policy.all_ops is False


@pytest.mark.parametrize("shape", [(500, 375), (300, 500), (32, 32), (400, 20)])
def test_crops_are_distributed_as_torchvisions(shape: tuple[int, int]) -> None:
    width, height = shape
    count = 2000
    ours = np.array([draw_crop(width, height, SCALE, words(i).tolist()) for i in range(count)])
    transform = v2.RandomResizedCrop(224, SCALE)
    image = torch.empty(3, height, width, dtype=torch.uint8)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        drawn = [transform.make_params([image]) for _ in range(count)]
    theirs = np.array([(d["left"], d["top"], d["left"] + d["width"], d["top"] + d["height"]) for d in drawn])
    assert ours.min() >= 0 and ours[:, 2].max() <= width and ours[:, 3].max() <= height
    for column in range(4):
        both = np.sort(np.concatenate([ours[:, column], theirs[:, column]]))
        cumulated = [np.searchsorted(np.sort(side[:, column]), both, side="right") / count for side in (ours, theirs)]
        # Kolmogorov-Smirnov at 1e-4: 2.23 * sqrt(2 / 2000).
        assert np.abs(cumulated[0] - cumulated[1]).max() < 0.07
    corner = [np.corrcoef(side[:, :2].T)[0, 1] for side in (ours, theirs)] if min(shape) > 20 else [0, 0]
    assert abs(corner[0] - corner[1]) < 0.12


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("shape", [(500, 375), (90, 60)])
def test_a_crop_has_torchvisions_pixels(mode: str, shape: tuple[int, int]) -> None:
    content = encode(picture(*shape, mode))
    for i in range(5):
        box = draw_crop(*shape, SCALE, words(i).tolist())
        ours = resized_crop(open_picture(content), content, box, 64)
        if min(box[2] - box[0], box[3] - box[1]) >= 128:
            continue  # decoded at reduced size: the next test
        image = Image.open(io.BytesIO(content)).convert("RGB")
        theirs = v2.functional.resized_crop(
            image, box[1], box[0], box[3] - box[1], box[2] - box[0], [64, 64], antialias=True
        )
        difference = np.abs(ours.permute(1, 2, 0).numpy().astype(int) - np.asarray(theirs))
        assert difference.max() <= 1


def test_a_large_jpeg_is_decoded_at_reduced_size_to_nearly_the_same_pixels() -> None:
    content = encode(picture(1200, 900))
    box = (37, 51, 1013, 803)
    opened = open_picture(content)
    ours = resized_crop(opened, content, box, 224)
    assert opened.size == (600, 450)  # half: 752 rows hold 224 three times
    theirs = v2.functional.resized_crop(decode_picture(content), 51, 37, 752, 976, [224, 224], antialias=True)
    difference = np.abs(ours.permute(1, 2, 0).numpy().astype(int) - np.asarray(theirs))
    assert difference.mean() < 1.5
    # A shift by a pixel would show at the disc's edge.
    assert np.quantile(difference, 0.999) < 25


def test_photographs_keep_their_pixels(shared_data: Path) -> None:
    for path in sorted((shared_data / "imagenet-sample").rglob("*.*"))[:20]:
        content = path.read_bytes()
        image = open_picture(content)
        if min(image.size) >= 600:
            continue  # decoded at reduced size
        ours = resized_crop(image, content, (0, 0, *image.size), 300)
        theirs = v2.functional.resize(Image.open(path).convert("RGB"), [300, 300])
        assert np.abs(ours.permute(1, 2, 0).numpy().astype(int) - np.asarray(theirs)).max() <= 1


def test_half_of_the_images_are_flipped() -> None:
    half = np.zeros((32, 32, 3), np.uint8)
    half[:, :16] = 255
    content = encode(Image.fromarray(half), "PNG")
    for name in ("standard", "pad-crop"):
        augmentation = Augmentation(name, 32, crop_scale=(0.99, 1.0))  # type: ignore[arg-type]
        flipped = [
            bool(image[0, 16, 26] > image[0, 16, 5]) for image in (augmentation(content, words(i)) for i in range(300))
        ]
        assert 110 < sum(flipped) < 190


def test_pad_crop_shifts_by_at_most_four_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    content = encode(Image.fromarray(pixels), "PNG")
    padded = np.pad(pixels, ((4, 4), (4, 4), (0, 0)), mode="reflect")
    crops = {padded[y : y + 32, x : x + 32].tobytes(): (y, x) for y in range(9) for x in range(9)}
    crops |= {padded[y : y + 32, x : x + 32][:, ::-1].tobytes(): (y, x) for y in range(9) for x in range(9)}
    found = set()
    for i in range(300):
        image = Augmentation("pad-crop", 32)(content, words(i))
        found.add(crops[image.permute(1, 2, 0).numpy().tobytes()])
    assert {y for y, _ in found} == {x for _, x in found} == set(range(9))


def test_pad_crop_wants_pictures_of_its_size() -> None:
    with pytest.raises(FormatError, match=r"40 x 30 pixels; pad-crop takes 32 x 32"):
        Augmentation("pad-crop", 32)(encode(picture(40, 30)), words(0))


def test_none_keeps_a_picture_of_its_size_as_it_is() -> None:
    image = picture(32, 32)
    found = Augmentation("none", 32)(encode(image, "PNG"), words(0))
    assert np.array_equal(found.permute(1, 2, 0).numpy(), np.asarray(image))


def test_additional_turns_by_any_angle_on_black() -> None:
    content = encode(Image.new("RGB", (64, 64), (200, 200, 200)))
    images = [Augmentation("additional", 32)(content, words(i)) for i in range(20)]
    assert sum(bool((image < 20).any()) for image in images) > 5


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF"])
def test_a_damaged_picture_is_refused(file_format: str) -> None:
    content = encode(picture(64, 64), file_format)
    for broken in (content[: len(content) // 2], b"", b"no picture"):
        with pytest.raises(FormatError, match="unreadable image"):
            Augmentation("standard", 32)(broken, words(0))


def test_sixteen_bits_a_channel_keep_their_brightness() -> None:
    content = encode(Image.fromarray(np.full((64, 64), 30_000, np.uint16)), "PNG")
    for name in AUGMENTATIONS:
        size = 64 if name == "pad-crop" else 32
        image = Augmentation(name, size)(content, words(0))
        assert image.shape == (3, size, size)
        if name in ("standard", "pad-crop", "none"):
            assert (image == 117).all()


def test_pictures_are_turned_as_their_orientation_flag_says() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    buffer = io.BytesIO()
    picture(90, 60).save(buffer, "JPEG", quality=95, exif=exif)
    turned = np.rot90(np.asarray(decode_picture(encode(picture(90, 60)))), -1)
    content = buffer.getvalue()
    pixels = resized_crop(open_picture(content), content, (0, 0, 60, 90), 60)
    expected = v2.functional.resize(Image.fromarray(turned), [60, 60])
    assert np.abs(pixels.permute(1, 2, 0).numpy().astype(int) - np.asarray(expected)).max() <= 1
    assert np.array_equal(np.asarray(decode_picture(content)), turned)


@pytest.mark.parametrize("shape", [(1, 9000), (650, 13), (95, 95)])
def test_turning_makes_no_picture_beyond_the_pixel_limit(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    monkeypatch.setattr("genint.train.augmentation.MAX_PIXELS", 10_000)
    turned = []

    def turn(image: Image.Image) -> Image.Image:
        turned.append(image.rotate(45, expand=True).size)
        return image.resize((32, 32))

    augmentation = Augmentation("additional", 32)
    vars(augmentation)["_additional"] = turn
    augmentation(encode(Image.new("RGB", shape), "PNG"), words(0))
    width, height = turned[0]
    assert width * height <= 1.05 * 10_000


@pytest.mark.parametrize("shape", [(1, 9000), (9000, 1)])
def test_a_picture_that_would_grow_beyond_the_limit_is_refused(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    monkeypatch.setattr("genint.manifests.pictures.MAX_PIXELS", 1_000_000)
    with pytest.raises(PictureError, match=r"image too large: \d+ x \d+ pixels, limit 1,000,000 pixels"):
        Augmentation("none", 32)(encode(Image.new("L", shape), "PNG"), words(0))


def test_a_picture_beyond_the_pixel_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genint.manifests.pictures.MAX_PIXELS", 1000)
    with pytest.raises(FormatError, match="64 x 64 pixels, limit 1,000"):
        Augmentation("standard", 32)(encode(picture(64, 64)), words(0))
