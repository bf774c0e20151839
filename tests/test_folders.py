"""Folders of others: what is listed, what is left out and said, and what is refused by name; the same for all rooms."""

import gzip
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from genint.evaluate.test_sets import open_test_set
from genint.manifests.errors import FormatError, UsageError
from genint.manifests.folders import read_file
from genint.manifests.inputs import Listing, list_images
from genint.manifests.tar_inputs import list_input
from genint.train.streams import open_images
from PIL import Image


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Classes a and b of two pictures each."""
    root = tmp_path / "photos"
    for number, name in enumerate("ab"):
        (root / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (8, 8), (100 * number, 50 * i, 0)).save(root / name / f"{i}.png")
    return root


# Each way in which a folder of classes is opened.
READERS: dict[str, Callable[[Path], object]] = {
    "build": lambda root: list_input("class folders", str(root), "photos"),
    "train": lambda root: open_images(str(root)),
    "evaluate": lambda root: open_test_set(f"folder={root}"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("place", "target", "message"),
    [
        ("a/up", "..", "folder 'a/up' is the same as the folder itself, by a link"),
        ("a/one", ".", "folder 'a/one' is the same as 'a', by a link"),
        ("b/sibling", "../a", "folder 'b/sibling' is the same as 'a', by a link"),
        ("c", "a", "folder 'c' is the same as 'a', by a link"),
        ("a/x.jpg", "/dev/zero", "'a/x.jpg' is a device; expected files alone"),
    ],
)
def test_links_that_lead_back_or_to_no_file_are_refused_by_name(
    photos: Path, reader: str, place: str, target: str, message: str
) -> None:
    (photos / place).symlink_to(target)
    with pytest.raises(UsageError, match=message):
        READERS[reader](photos)


@pytest.mark.parametrize("reader", READERS)
def test_a_pipe_or_socket_among_the_pictures_is_refused(
    photos: Path, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(photos / "a" / "x.jpg")
    with pytest.raises(UsageError, match=r"'a/x\.jpg' is a named pipe; expected files alone"):
        READERS[reader](photos)
    (photos / "a" / "x.jpg").unlink()
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(photos / "b")  # the path of a socket is short
        server.bind("y.png")
        with pytest.raises(UsageError, match=r"'b/y\.png' is a socket"):
            READERS[reader](photos)


def test_a_pipe_that_comes_after_listing_is_not_waited_for(photos: Path) -> None:
    listing = list_images(photos, "photos")
    (photos / "a" / "0.png").unlink()
    os.mkfifo(photos / "a" / "0.png")
    with pytest.raises(OSError, match="not a file"):
        listing.read("a/0.png")
    with pytest.raises(OSError, match="not a file"):
        read_file("/dev/zero")


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_picture_is_left_out_and_counted_in_one_line(
    photos: Path, reader: str, caplog: pytest.LogCaptureFixture
) -> None:
    for folder in (".ipynb_checkpoints", "__MACOSX", "a/.thumbnails"):
        (photos / folder).mkdir()
        (photos / folder / "0.png").write_bytes(b"x")
    for name in ("a/._0.png", "b/notes.txt", "b/x.avif", "b/y.avif", "a/LICENSE", "overview.png"):
        (photos / name).write_bytes(b"x")
    READERS[reader](photos)
    (line,) = [record.message for record in caplog.records]
    assert line.endswith(
        "1 outside of class folders, 3 hidden folders, 1 file whose name begins with a dot, 2 .avif files, "
        "1 .txt file, 1 file without extension"
    )
    assert set(list_images(photos, "photos").paths) == {"a/0.png", "a/1.png", "b/0.png", "b/1.png"}


@pytest.mark.parametrize("reader", READERS)
def test_splits_are_not_taken_for_classes(photos: Path, tmp_path: Path, reader: str) -> None:
    (tmp_path / "all").mkdir()
    for split in ("train", "val"):
        os.symlink(photos, tmp_path / "all" / split) if split == "train" else os.mkdir(tmp_path / "all" / split)
    (tmp_path / "all" / "val" / "a").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "all" / "val" / "a" / "0.png")
    with pytest.raises(UsageError, match=r"train, val: splits, not classes; did you mean .*/all/train\?"):
        READERS[reader](tmp_path / "all")
    (photos / "a").rename(photos / "test")
    (photos / "b").rename(photos / "train")
    READERS[reader](photos)  # classes may have such names


def test_a_link_to_itself_is_listed_as_a_file_that_is_lost(photos: Path) -> None:
    (photos / "a" / "x.jpg").symlink_to("x.jpg")
    listing = list_images(photos, "photos")
    assert listing.sizes[listing.paths.index("a/x.jpg")] == 0


@pytest.mark.parametrize(
    "text",
    [
        "a/1.png\t5\na/1.png\t5\n",  # twice
        "b/1.png\t5\na/1.png\t5\n",  # out of order
        "a/1.png\t-5\n",
        "a/1.png\t" + "9" * 5000 + "\n",
        "a/1.png\n",
        "\n" * 100_000,
        "\0" * 100_000,
        "/tars\t1\t99999999\n",
        "/tars\t1\n",
        "/tars\t0\t1\nname\n0/x.tar/a.jpg\t1\n",
    ],
)
def test_text_that_is_no_list_of_inputs_is_refused_before_it_is_unpacked(text: str) -> None:
    with pytest.raises(FormatError, match="not a list of input files"):
        Listing.from_bytes(gzip.compress(text.encode()), "")
