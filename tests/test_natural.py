"""Natural images: whatever lies in the folder becomes a sample as it should be, or a hole that is counted."""

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import struct
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from genint.manifests.dataset import load_dataset
from genint.manifests.errors import GenintError, RecipeError, UsageError
from genint.manifests.inputs import Listing, imagenet_wnids, list_images
from genint.manifests.manifest import Failure, load_manifest, read_records
from genint.manifests.pictures import PictureError, damage_named
from genint.manifests.recipe import read_recipe
from genint.manifests.shard import load_index, read_sample
from genint.manifests.sources.natural import NaturalStream
from genint.manifests.sources.stream import Facts
from genint.manifests.storage import Storage
from genint.pipeline.sources.natural import repack_image, repack_natural
from genint.pipeline.sources.rendering import RenderContext
from PIL import ExifTags, Image

RunCli = Callable[..., Any]

# Left half red, right half blue, top row brighter: every turn and flip of it looks different.
PICTURE = np.zeros((16, 24, 3), np.uint8)
PICTURE[:, :12], PICTURE[:, 12:] = (200, 0, 0), (0, 0, 200)
PICTURE[:8] += 50

RECIPE = """
name = "photos"
seed = 1
[[streams]]
name = "photos"
source = "natural"
images = "photos"
samples_per_shard = 4
"""


def stream(**keys: Any) -> NaturalStream:
    return NaturalStream(source="natural", name="photos", images="photos", **keys)


def encode(image: Image.Image | np.ndarray, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, format, **options)
    return buffer.getvalue()


def decode(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


def repack(content: bytes, **keys: Any) -> np.ndarray:
    with damage_named():
        return decode(repack_image(content, stream(image_format="png", **keys)))


def png_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


# One image.


@pytest.mark.parametrize(("format", "name"), [("JPEG", "jpeg"), ("PNG", "png"), ("WEBP", "webp")])
def test_bytes_pass_through_where_nothing_has_to_change(format: str, name: str) -> None:
    content = encode(PICTURE, format)
    assert repack_image(content, stream(image_format=name)) == content


def test_progressive_jpeg_with_metadata_passes_through_too() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 1
    exif[ExifTags.Base.Make] = "camera"
    content = encode(PICTURE, "JPEG", progressive=True, exif=exif)
    assert repack_image(content, stream()) == content


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    # Stored so that a viewer who follows the orientation sees PICTURE.
    stored = {
        1: PICTURE,
        2: PICTURE[:, ::-1],
        3: PICTURE[::-1, ::-1],
        4: PICTURE[::-1],
        5: PICTURE.transpose(1, 0, 2),
        6: np.rot90(PICTURE, 1),
        7: PICTURE[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(PICTURE, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    content = encode(np.ascontiguousarray(stored), "PNG", exif=exif)
    np.testing.assert_array_equal(repack(content), PICTURE)


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_orientation_without_meaning_leaves_the_picture_as_it_is(orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    content = encode(PICTURE, "JPEG", exif=exif)
    assert repack_image(content, stream()) == content


def test_greyscale_becomes_rgb_of_equal_channels() -> None:
    grey = PICTURE[..., 0]
    np.testing.assert_array_equal(repack(encode(grey)), np.repeat(grey[..., None], 3, axis=2))


def test_sixteen_bit_grey_keeps_its_whole_range() -> None:
    grey = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    found = repack(encode(grey))[..., 0]
    np.testing.assert_array_equal(found, np.rint(grey / 257).astype(np.uint8))
    assert found.max() == 255
    assert len(np.unique(found)) == 64


def test_floating_point_pixels_are_refused() -> None:
    content = encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")
    with pytest.raises(PictureError, match="floating-point"):
        repack(content)


def test_white_stays_white_and_black_black() -> None:
    for value in (0, 255):
        content = encode(np.full((8, 8, 3), value, np.uint8), "BMP")
        assert np.all(decode(repack_image(content, stream())) == value)


def test_palette_becomes_its_colours() -> None:
    image = Image.fromarray(PICTURE).quantize(4, dither=Image.Dither.NONE)
    np.testing.assert_array_equal(repack(encode(image)), PICTURE)


def test_palette_with_transparency_becomes_its_colours_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    image = Image.fromarray(PICTURE).quantize(4, dither=Image.Dither.NONE)
    np.testing.assert_array_equal(repack(encode(image, transparency=b"\x00\xff\x80\xff")), PICTURE)
    assert not recwarn.list


def test_alpha_is_dropped_and_the_colours_stay() -> None:
    alpha = np.full((16, 24, 1), 128, np.uint8)
    np.testing.assert_array_equal(repack(encode(np.concatenate([PICTURE, alpha], axis=2))), PICTURE)


def test_cmyk_jpeg_becomes_rgb() -> None:
    content = encode(Image.fromarray(PICTURE).convert("CMYK"), "JPEG", quality=100)
    found = decode(repack_image(content, stream()))
    assert np.abs(found.astype(int) - PICTURE).mean() < 12


def test_animation_becomes_its_first_frame() -> None:
    frames = [Image.fromarray(PICTURE), Image.fromarray(255 - PICTURE)]
    content = encode(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    np.testing.assert_array_equal(repack(content), PICTURE)


@pytest.mark.parametrize(("width", "height"), [(24, 16), (16, 24), (7, 7), (1, 1), (1000, 9), (33, 100)])
def test_resize_sets_the_shorter_side_and_crop_both(width: int, height: int) -> None:
    content = encode(np.full((height, width, 3), 90, np.uint8))
    resized = repack(content, resize=12)
    assert min(resized.shape[:2]) == 12
    assert abs(max(resized.shape[:2]) - 12 * max(width, height) / min(width, height)) <= 0.5
    assert repack(content, resize=12, crop=10).shape == (10, 10, 3)
    assert np.all(resized == 90)


def test_crop_is_of_the_centre() -> None:
    np.testing.assert_array_equal(repack(encode(PICTURE), crop=8), PICTURE[4:12, 8:16])
    np.testing.assert_array_equal(repack(encode(PICTURE), crop=15), PICTURE[0:15, 4:19])


def test_resize_does_not_alias() -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    found = repack(encode(stripes), resize=16)
    assert np.abs(found.astype(int) - 128).max() < 8


def test_rotated_picture_is_cropped_as_it_is_seen() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    content = encode(np.ascontiguousarray(np.rot90(PICTURE, 1)), "PNG", exif=exif)
    np.testing.assert_array_equal(repack(content, crop=8), PICTURE[4:12, 8:16])


def test_image_below_the_crop_is_too_small() -> None:
    with pytest.raises(PictureError, match="24 x 16 pixels, crop of 20") as caught:
        repack(encode(PICTURE), crop=20)
    assert caught.value.reason == "image too small"


@pytest.mark.parametrize("size", [(20_000, 20_000), (10_000, 10_000), (2**31 - 1, 2**31 - 1)])
def test_header_that_claims_a_huge_image_is_refused_before_decoding(size: tuple[int, int]) -> None:
    with pytest.raises(PictureError) as caught:
        repack(png_header(*size))
    assert caught.value.reason == "image too large"


def test_resize_that_would_make_a_huge_image_is_refused() -> None:
    with pytest.raises(PictureError) as caught:
        repack(encode(np.zeros((4000, 1, 3), np.uint8)), resize=224, crop=224)
    assert caught.value.reason == "image too large"


def test_large_photograph_is_reduced(recwarn: pytest.WarningsRecorder) -> None:
    content = encode(Image.new("RGB", (5000, 3000), (10, 200, 30)), "JPEG")
    found = repack(content, resize=32)
    assert found.shape == (32, 53, 3)
    assert np.abs(found.astype(int) - (10, 200, 30)).max() <= 3
    assert not recwarn.list


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM"])
def test_damaged_bytes_raise_only_what_is_counted(format: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    content = encode(PICTURE, format, **({} if format in {"BMP", "PPM", "GIF"} else {"exif": exif}))
    rng = np.random.default_rng(0)
    for round in range(150):
        damaged = bytearray(content)
        for position in rng.integers(0, len(content), size=3):
            damaged[position] = rng.integers(256)
        if round % 3 == 0:
            del damaged[rng.integers(len(content)) :]
        with suppress(PictureError):
            assert repack(bytes(damaged), resize=8, crop=8).shape == (8, 8, 3)


# A folder.


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve sound JPEG files in three class folders, each of a colour of its own."""
    root = tmp_path / "photos"
    for number in range(12):
        folder = root / ("ant", "bee", "cat")[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:02d}.jpg").write_bytes(encode(np.full((20, 30, 3), number * 20, np.uint8), "JPEG"))
    return root


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "photos.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def build(run_cli: RunCli, recipe: Path, photos: Path, tmp_path: Path) -> RunCli:
    """Build the photos, with further options; the dataset is tmp_path / "dataset"."""

    def run(*options: object) -> Any:
        return run_cli(
            "build-shards", recipe, "--input", f"photos={photos}", "--out", tmp_path / "dataset",
            "--workers", 1, "--device", "cpu", *options,
        )  # fmt: skip

    return run


def read_samples(dataset: Path) -> dict[str, dict[str, bytes]]:
    """Members of every sample by the path of its source file."""
    samples = {}
    for path in sorted(dataset.glob("photos/*/*.tar")):
        with open(path, "rb") as file:
            for members in load_index(path).values():
                sample = read_sample(file.fileno(), members)
                samples[json.loads(sample["json"])["path"]] = sample
    return samples


def read_failures(dataset: Path) -> list[Failure]:
    storage = Storage(dataset)
    (entry,) = load_manifest(storage).streams
    failures = [failure for record in read_records(storage, entry) for failure in record.failures]
    counts: dict[str, int] = {}
    for failure in failures:
        counts[failure.reason] = counts.get(failure.reason, 0) + 1
    assert entry.failures == counts
    return failures


def test_folder_becomes_samples_with_the_files_own_bytes(build: RunCli, photos: Path, tmp_path: Path) -> None:
    assert build().exit_code == 0
    samples = read_samples(tmp_path / "dataset")
    assert samples.keys() == {path.relative_to(photos).as_posix() for path in photos.rglob("*.jpg")}
    for path, sample in samples.items():
        assert sample["jpg"] == (photos / path).read_bytes()
        folder = path.partition("/")[0]
        parameters = json.loads(sample["json"])
        assert (parameters["class_name"], sample["cls"]) == (folder, b"%d" % ["ant", "bee", "cat"].index(folder))
    assert load_manifest(Storage(tmp_path / "dataset")).streams[0].class_names == ["ant", "bee", "cat"]


def damage(photos: Path) -> dict[str, tuple[str, str]]:
    """One file of each kind of trouble; its path with the reason and a word of the detail to expect."""
    sound = (photos / "ant" / "00.jpg").read_bytes()
    contents = {
        "ant/truncated.jpg": sound[: len(sound) // 2],
        "ant/text.jpg": b"<html>404 not found</html>",
        "bee/empty.jpg": b"",
        "bee/bomb.png": png_header(60_000, 60_000),
        "cat/half.png": encode(PICTURE)[:60],
    }
    for path, content in contents.items():
        (photos / path).write_bytes(content)
    (photos / "cat" / "dangling.jpg").symlink_to("/nowhere/at/all.jpg")
    return {
        "ant/truncated.jpg": ("unreadable image", "truncated"),
        "ant/text.jpg": ("unreadable image", "no image of a known format"),
        "bee/empty.jpg": ("unreadable image", "no image of a known format"),
        "bee/bomb.png": ("image too large", "pixels"),
        "cat/half.png": ("unreadable image", ""),
        "cat/dangling.jpg": ("unreadable file", "No such file"),
    }


def test_every_kind_of_trouble_is_a_hole_with_reason_and_path(
    build: RunCli, run_cli: RunCli, photos: Path, tmp_path: Path
) -> None:
    expected = damage(photos)
    result = build()
    assert result.exit_code == 1
    assert "stream photos: 6 of 18 samples lost" in result.err
    assert "1 image too large, 1 unreadable file, 4 unreadable image; " in result.err
    assert sum(f"{path}: " in result.err for path in expected) == 3 and ", 3 more)" in result.err
    assert "max_failures = 0.001" in result.err

    failures = read_failures(tmp_path / "dataset")
    found = {failure.detail.partition(": ")[0]: failure for failure in failures}
    assert found.keys() == expected.keys()
    for path, (reason, word) in expected.items():
        assert found[path].reason == reason
        assert word in found[path].detail
        assert str(tmp_path) not in found[path].detail
        assert "0x" not in found[path].detail

    samples = read_samples(tmp_path / "dataset")
    assert len(samples) == 12
    assert all(sample["jpg"] == (photos / path).read_bytes() for path, sample in samples.items())
    assert run_cli("verify", tmp_path / "dataset").exit_code == 0
    assert run_cli("inspect", tmp_path / "dataset", failures[0].key).exit_code == 2


def test_losses_within_max_failures_are_no_error(build: RunCli, photos: Path, tmp_path: Path) -> None:
    damage(photos)
    assert build("--max-failures", "0.34").exit_code == 0
    assert len(read_failures(tmp_path / "dataset")) == 6


def test_loss_is_accepted_by_the_flag_that_the_error_names_and_nothing_is_made_again(
    build: RunCli, run_cli: RunCli, photos: Path, tmp_path: Path
) -> None:
    damage(photos)
    dataset = tmp_path / "dataset"
    assert build().exit_code == 1
    times = {path: path.stat().st_mtime_ns for path in dataset.rglob("*.tar")}
    failed = build()
    assert failed.exit_code == 1
    flag = re.search(r"--max-failures (photos=[0-9.]+);", failed.err)
    assert flag, failed.err
    assert "not complete: stream photos: 6 of 18 samples lost" in run_cli("status", dataset).out
    assert f"--max-failures {flag[1]} accepts the loss" in run_cli("verify", dataset).err

    assert build("--max-failures", flag[1]).exit_code == 0
    assert "complete: " in run_cli("status", dataset).out.splitlines()[-1]
    verified = run_cli("verify", dataset)
    assert verified.exit_code == 0 and not verified.err.count("lost")
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*.tar")} == times
    assert load_dataset(str(dataset)).recipe.streams[0].max_failures == float(flag[1].partition("=")[2])
    # It is the command's, and may change again.
    assert build().exit_code == 1


@pytest.mark.parametrize("value", ["2", "-0.1", "photos=all", "phtos=0.1", "nan"])
def test_max_failures_is_a_share_of_a_stream_that_is_there(build: RunCli, tmp_path: Path, value: str) -> None:
    assert build("--max-failures", value).exit_code == 2
    assert not (tmp_path / "dataset").exists()


def test_shard_of_holes_only_is_an_empty_tar(build: RunCli, run_cli: RunCli, photos: Path, tmp_path: Path) -> None:
    for path in photos.rglob("*.jpg"):
        path.write_bytes(b"")
    assert build().exit_code == 1
    assert len(read_failures(tmp_path / "dataset")) == 12
    assert read_samples(tmp_path / "dataset") == {}
    assert run_cli("verify", tmp_path / "dataset").exit_code == 0


def test_file_that_disappears_after_listing_is_a_hole(photos: Path) -> None:
    listing = list_images(photos, "photos")
    (photos / "bee" / "04.jpg").unlink()
    facts = Facts(1, inputs={"photos": listing})
    context = RenderContext(read_recipe(RECIPE, "test"), facts, Storage(photos.parent), "cpu")
    rendered = list(repack_natural(context, stream(), stream().samples(facts, np.arange(12))))
    assert [(r.failure, r.detail) for r in rendered if r.encoded is None] == [
        ("unreadable file", "bee/04.jpg: No such file or directory")
    ]


def test_input_that_disappears_as_a_whole_fails_the_shard_instead_of_emptying_it(photos: Path) -> None:
    facts = Facts(1, inputs={"photos": list_images(photos, "photos")})
    context = RenderContext(read_recipe(RECIPE, "test"), facts, Storage(photos.parent), "cpu")
    shutil.rmtree(photos)
    with pytest.raises(GenintError, match="input photos: no folder"):
        list(repack_natural(context, stream(), stream().samples(facts, np.arange(12))))


def test_extreme_shapes_are_repacked_and_previewed(build: RunCli, photos: Path, tmp_path: Path) -> None:
    shapes = {"dot": (1, 1), "tall": (30_000, 1), "wide": (1, 30_000), "large": (3000, 4000)}
    for name, (height, width) in shapes.items():
        (photos / "ant" / f"{name}.png").write_bytes(encode(np.full((height, width, 3), 7, np.uint8)))
    assert build().exit_code == 0
    samples = read_samples(tmp_path / "dataset")
    for name, shape in shapes.items():
        assert decode(samples[f"ant/{name}.png"]["jpg"]).shape[:2] == shape
    with Image.open(tmp_path / "dataset" / "preview" / "photos.jpg") as sheet:
        assert max(sheet.size) < 2000


@pytest.mark.parametrize("change", ["new file", "lost file", "other size"])
def test_changed_input_is_refused_on_resume(build: RunCli, photos: Path, tmp_path: Path, change: str) -> None:
    assert build().exit_code == 0
    sums = (tmp_path / "dataset" / "SHA256SUMS").read_bytes()
    one = photos / "ant" / "00.jpg"
    if change == "new file":
        shutil.copy(one, photos / "ant" / "new.jpg")
    elif change == "lost file":
        one.unlink()
    else:
        one.write_bytes(one.read_bytes() + b"\0")
    result = build()
    assert result.exit_code == 2
    assert "input photos" in result.err
    assert "choose another --out" in result.err
    assert (tmp_path / "dataset" / "SHA256SUMS").read_bytes() == sums


def test_moved_input_continues(build: RunCli, run_cli: RunCli, photos: Path, recipe: Path, tmp_path: Path) -> None:
    assert build().exit_code == 0
    (tmp_path / "dataset" / "photos" / "0000" / "photos-0000001.tar").unlink()
    moved = photos.rename(tmp_path / "moved")
    out = tmp_path / "dataset"
    sums = (out / "SHA256SUMS").read_bytes()
    result = run_cli("build-shards", recipe, "--input", f"photos={moved}", "--out", out, "--workers", 1)
    assert result.exit_code == 0
    assert (out / "SHA256SUMS").read_bytes() == sums


def test_rebuild_of_natural_shards_gives_equal_bytes(
    build: RunCli, run_cli: RunCli, photos: Path, tmp_path: Path
) -> None:
    assert build("--set", "streams.photos.resize=12", "--set", "streams.photos.crop=12").exit_code == 0
    result = run_cli("verify", tmp_path / "dataset", "--rebuild", 3, "--input", f"photos={photos}", "--device", "cpu")
    assert result.exit_code == 0
    assert result.out.count("parameters equal, bytes equal") == 3


# Labels and names.


def test_imagenet_labels_are_those_of_all_thousand_classes(build: RunCli, photos: Path, tmp_path: Path) -> None:
    wnids = imagenet_wnids()
    assert len(wnids) == 1000
    for folder, label in (("ant", 310), ("bee", 309), ("cat", 281)):
        (photos / folder).rename(photos / wnids[label])
    assert build("--set", "streams.photos.labels=imagenet").exit_code == 0
    labels = {path[:9]: int(sample["cls"]) for path, sample in read_samples(tmp_path / "dataset").items()}
    assert labels == {"n02219486": 310, "n02206856": 309, "n02123045": 281}
    assert len(load_manifest(Storage(tmp_path / "dataset")).streams[0].class_names) == 1000


def test_folder_that_is_no_wnid_is_named_before_anything_is_written(
    build: RunCli, photos: Path, tmp_path: Path
) -> None:
    for folder, label in (("ant", 310), ("bee", 309)):
        (photos / folder).rename(photos / imagenet_wnids()[label])
    result = build("--set", "streams.photos.labels=imagenet")
    assert result.exit_code == 2
    assert "folder 'cat' is not a wnid" in result.err
    assert 'labels = "folders"' in result.err
    assert not (tmp_path / "dataset" / "photos").exists()


def test_folders_of_any_name_are_classes(build: RunCli, run_cli: RunCli, photos: Path, tmp_path: Path) -> None:
    names = ["a b", "süß", "x.y.z", "日本", "tab\there", "line\u2028separator", "UPPER", "quote'\""]
    for name in names:
        (photos / name).mkdir()
        (photos / name / f"{name} photo.tar.JPEG").write_bytes(encode(PICTURE, "JPEG"))
    assert build().exit_code == 0
    entry = load_manifest(Storage(tmp_path / "dataset")).streams[0]
    assert entry.class_names == sorted([*names, "ant", "bee", "cat"])
    samples = read_samples(tmp_path / "dataset")
    for name in names:
        assert entry.class_names[int(samples[f"{name}/{name} photo.tar.JPEG"]["cls"])] == name
    assert run_cli("verify", tmp_path / "dataset").exit_code == 0


def test_list_of_files_survives_its_own_format(photos: Path) -> None:
    for name in ["tab\tand  blanks", "next\x85line", "line\u2028separator", "form\x0cfeed"]:
        (photos / "ant" / f"{name}.png").write_bytes(b"x")
    listing = list_images(photos, "photos")
    assert Listing.from_bytes(listing.to_bytes(), listing.root) == listing
    assert listing.to_bytes() == list_images(photos, "photos").to_bytes()


@pytest.mark.parametrize("name", [b"two\nlines.jpg", b"latin1-\xe9.jpg"])
def test_file_name_that_no_list_can_hold_is_named(photos: Path, name: bytes) -> None:
    with open(os.path.join(os.fsencode(photos), b"ant", name), "wb"):
        pass
    with pytest.raises(UsageError, match="not one line of UTF-8"):
        list_images(photos, "photos")


def test_empty_class_folder_is_refused_because_it_would_shift_the_labels(photos: Path) -> None:
    (photos / "bad").mkdir()
    (photos / "bad" / "notes.txt").write_text("no image")
    with pytest.raises(UsageError, match="class folder 'bad' holds no image"):
        list_images(photos, "photos")


@pytest.mark.parametrize("layout", ["missing", "file", "flat", "empty"])
def test_input_without_class_folders_is_explained(photos: Path, layout: str) -> None:
    root = photos / "ant" if layout == "flat" else photos.parent / "elsewhere"
    if layout == "file":
        root.write_text("x")
    elif layout == "empty":
        root.mkdir()
    expected = "no such folder" if layout in {"missing", "file"} else "expected one folder a class"
    with pytest.raises(UsageError, match=expected):
        list_images(root, "photos")


def test_nested_folders_and_links_belong_to_their_class(photos: Path, tmp_path: Path) -> None:
    (photos / "ant" / "deep" / "er").mkdir(parents=True)
    shutil.copy(photos / "ant" / "00.jpg", photos / "ant" / "deep" / "er" / "x.jpg")
    elsewhere = tmp_path / "elsewhere"
    (photos / "bee").rename(elsewhere)
    (photos / "bee").symlink_to(elsewhere)
    listing = list_images(photos, "photos")
    assert "ant/deep/er/x.jpg" in listing.paths
    assert sum(path.startswith("bee/") for path in listing.paths) == 4


def test_folder_label_error_is_a_recipe_error(photos: Path) -> None:
    facts = Facts(1, inputs={"photos": list_images(photos, "photos")})
    with pytest.raises(RecipeError, match="ant"):
        stream(labels="imagenet").check(facts)


@pytest.mark.parametrize("change", [(b"ant/00.jpg", b"00.jpg"), (b"ant/00.jpg", b"ant/0.jpg"), (b"\n", b"")])
def test_list_of_files_that_is_not_the_plans_is_refused(
    build: RunCli, run_cli: RunCli, tmp_path: Path, change: tuple[bytes, bytes]
) -> None:
    assert build().exit_code == 0
    path = tmp_path / "dataset" / "inputs" / "photos.tsv.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(*change)))
    result = run_cli("verify", tmp_path / "dataset")
    assert result.exit_code == 1
    assert "inputs/photos.tsv.gz: " in result.err


# Real photographs.


def test_hundred_photographs_of_imagenet_are_repacked(
    run_cli: RunCli, shared_data: Path, recipe: Path, tmp_path: Path
) -> None:
    source = shared_data / "imagenet-sample"
    if not source.is_dir():
        pytest.skip("no imagenet-sample in ../shared/data")
    out = tmp_path / "dataset"
    result = run_cli(
        "build-shards", recipe, "--input", f"photos={source}", "--out", out, "--workers", 1, "--device", "cpu",
        "--set", "streams.photos.labels=imagenet", "--set", "streams.photos.samples_per_shard=50",
    )  # fmt: skip
    assert result.exit_code == 0, result.err
    samples = read_samples(out)
    wnids = imagenet_wnids()
    assert len(samples) == 100
    for path, sample in samples.items():
        assert wnids[int(sample["cls"])] == path[:9]
        assert decode(sample["jpg"]).ndim == 3
    unchanged = sum(
        hashlib.sha256(sample["jpg"]).digest() == hashlib.sha256((source / path).read_bytes()).digest()
        for path, sample in samples.items()
    )
    assert unchanged >= 90
    assert run_cli("verify", out).exit_code == 0


def test_reading_in_several_threads_leaves_the_process_its_warnings() -> None:
    before = list(warnings.filters)
    first, second = damage_named(), damage_named()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert warnings.filters == before
