"""Shards: reproducible, readable by every tool of the format, whole or not at all, and never short without an error."""

import io
import os
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from genint.manifests.errors import FormatError
from genint.manifests.shard import (
    Index,
    ShardWriter,
    index_path,
    load_index,
    make_index,
    read_index,
    read_sample,
    sha256_of_file,
)
from genint.manifests.tar_members import iterate_members
from PIL import Image


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), (value, 0, 255 - value)).save(buffer, "PNG")
    return buffer.getvalue()


SAMPLES = {
    f"stream-{i:08d}": {"png": png(i), "json": b'{"i":%d}' % i, "cls": b"%d" % (i % 3), "mask.png": png(255)}
    for i in (4, 0, 7)
}


def write_shard(path: Path, samples: dict[str, dict[str, bytes]] = SAMPLES) -> Path:
    with ShardWriter(path) as shard:
        for key, members in samples.items():
            shard.add(key, members)
    return path


def read_all(path: Path, index: Index) -> dict[str, dict[str, bytes]]:
    with open(path, "rb") as file:
        return {key: read_sample(file.fileno(), members) for key, members in index.items()}


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return write_shard(tmp_path / "stream-0000000.tar")


# What is written.


def test_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = write_shard(tmp_path / "a" / "x.tar"), write_shard(tmp_path / "b" / "x.tar")
    assert first.read_bytes() == second.read_bytes()
    assert index_path(first).read_bytes() == index_path(second).read_bytes()


def test_order_of_a_samples_members_does_not_matter(tmp_path: Path) -> None:
    reordered = {key: dict(reversed(members.items())) for key, members in SAMPLES.items()}
    first, second = write_shard(tmp_path / "a.tar"), write_shard(tmp_path / "b.tar", reordered)
    assert first.read_bytes() == second.read_bytes()


def test_summary_is_what_lies_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with ShardWriter(path) as shard:
        for key, members in SAMPLES.items():
            shard.add(key, members)
    summary = shard.summary
    assert summary is not None
    assert (summary.bytes, summary.sha256) == (path.stat().st_size, sha256_of_file(path))
    assert summary.index_bytes == index_path(path).stat().st_size
    assert summary.index_sha256 == sha256_of_file(index_path(path))
    assert (summary.samples, summary.first_key, summary.last_key) == (3, "stream-00000004", "stream-00000007")


def test_headers_are_plain_ustar_without_clock_or_owner(shard: Path) -> None:
    content = shard.read_bytes()
    assert content[257:265] == b"ustar\x0000"
    assert len(content) % tarfile.RECORDSIZE == 0
    with tarfile.open(shard) as archive:
        for member in archive:
            assert member.pax_headers == {}
            assert (member.mtime, member.mode, member.uid, member.gid) == (0, 0o644, 0, 0)
            assert (member.uname, member.gname, member.type) == ("", "", tarfile.REGTYPE)


def test_empty_shard_is_a_valid_tar_with_an_empty_index(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "empty.tar", {})
    assert list(iterate_members(path)) == []
    assert load_index(path) == {}
    assert index_path(path).read_text() == "v1.2 0\n"


# Who reads it.


def test_tarfile_reads_every_member(shard: Path) -> None:
    with tarfile.open(shard) as archive:
        found = {member.name: archive.extractfile(member).read() for member in archive}
    assert found == {f"{key}.{ext}": content for key, members in SAMPLES.items() for ext, content in members.items()}


def test_system_tar_lists_samples_adjacent_and_members_sorted(shard: Path) -> None:
    listed = subprocess.run(["tar", "-tf", shard], capture_output=True, text=True, check=True, timeout=120)
    assert listed.stderr == ""
    assert listed.stdout.split() == [f"{key}.{ext}" for key, members in SAMPLES.items() for ext in sorted(members)]


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves the tar to the collector
def test_webdataset_reads_keys_labels_and_pixels(shard: Path) -> None:
    samples = list(webdataset.WebDataset(str(shard), shardshuffle=False).decode("pil"))
    assert [sample["__key__"] for sample in samples] == list(SAMPLES)
    for sample in samples:
        number = int(sample["__key__"][-8:])
        assert sample["json"] == {"i": number}
        assert sample["cls"] == number % 3
        assert np.asarray(sample["png"])[0, 0].tolist() == [number, 0, 255 - number]
        assert sample["mask.png"].size == (4, 3)


def test_index_file_equals_the_headers(shard: Path) -> None:
    index = load_index(shard)
    assert index == make_index(shard)
    assert list(index) == list(SAMPLES)
    assert read_all(shard, index) == SAMPLES


def test_index_has_dalis_text_format(shard: Path) -> None:
    header, *lines = index_path(shard).read_text("ascii").splitlines()
    assert header == "v1.2 3"
    for line, (key, members) in zip(lines, SAMPLES.items(), strict=True):
        fields = line.split(" ")
        assert fields[0::4] == sorted(members)
        assert fields[3::4] == [f"{key}.{extension}" for extension in sorted(members)]
        content = shard.read_bytes()
        for extension, offset, size in zip(fields[0::4], map(int, fields[1::4]), map(int, fields[2::4]), strict=True):
            assert content[offset : offset + size] == members[extension]


def test_foreign_pax_tar_gets_an_index_too(tmp_path: Path) -> None:
    path = tmp_path / "foreign.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for key, members in SAMPLES.items():
            writer.write({"__key__": key, **members})
    assert read_all(path, make_index(path)) == SAMPLES


# Whole or not at all.


@pytest.mark.parametrize("finished", [0, 1, 2])
def test_exception_at_any_sample_leaves_no_file(tmp_path: Path, finished: int) -> None:
    def add_some(shard: ShardWriter) -> None:
        for key in list(SAMPLES)[:finished]:
            shard.add(key, SAMPLES[key])
        raise RuntimeError("renderer died")

    with pytest.raises(RuntimeError, match="renderer died"), ShardWriter(tmp_path / "x.tar") as shard:
        add_some(shard)
    assert list(tmp_path.iterdir()) == []
    assert shard.summary is None


def test_exception_leaves_a_former_shard_as_it_was(shard: Path) -> None:
    before = {path.name: path.read_bytes() for path in shard.parent.iterdir()}

    def interrupt(writer: ShardWriter) -> None:
        writer.add("other", {"cls": b"1"})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), ShardWriter(shard) as writer:
        interrupt(writer)
    assert {path.name: path.read_bytes() for path in shard.parent.iterdir()} == before


def test_nothing_is_visible_under_the_final_name_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with ShardWriter(path) as shard:
        shard.add("a", {"cls": b"1"})
        assert not path.exists()
        assert not index_path(path).exists()
    assert {entry.name for entry in tmp_path.iterdir()} == {"x.tar", "x.idx"}


# What is refused.


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "käse", "a b", "a\nb", "a\0b", "a\tb"])
def test_keys_that_a_reader_would_split_are_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="must be printable ASCII"), ShardWriter(tmp_path / "x.tar") as shard:
        shard.add(key, {"cls": b"1"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("extension", ["", "JPG", "a b", "../x", ".jpg", "jpg."])
def test_extensions_that_a_reader_would_change_are_refused(tmp_path: Path, extension: str) -> None:
    with pytest.raises(ValueError, match="extension"), ShardWriter(tmp_path / "x.tar") as shard:
        shard.add("a", {extension: b"1"})


def test_second_sample_of_the_same_key_is_refused(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "x.tar") as shard:
        shard.add("a", {"cls": b"1"})
        with pytest.raises(ValueError, match=r"stands in x\.tar already"):
            shard.add("a", {"cls": b"2"})
    assert list(load_index(tmp_path / "x.tar")) == ["a"]


def test_sample_without_members_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no members"), ShardWriter(tmp_path / "x.tar") as shard:
        shard.add("a", {})


def test_names_up_to_ustars_hundred_bytes_are_kept_and_longer_ones_refused(tmp_path: Path) -> None:
    longest = "k" * 96
    path = write_shard(tmp_path / "x.tar", {longest: {"cls": b"1"}})
    assert list(make_index(path)) == [longest]
    with tarfile.open(path) as archive:
        assert archive.getnames() == [f"{longest}.cls"]
    with pytest.raises(ValueError, match="name is too long"), ShardWriter(tmp_path / "y.tar") as shard:
        shard.add(longest + "k", {"cls": b"1"})
    assert not (tmp_path / "y.tar").exists()


# Damage.


def test_tar_cut_at_any_block_is_noticed_up_to_its_end_mark(shard: Path, tmp_path: Path) -> None:
    content = shard.read_bytes()
    last = max(member.offset + member.size for members in load_index(shard).values() for member in members.values())
    end_of_mark = -(-last // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE
    assert end_of_mark < len(content)
    cut = tmp_path / "cut.tar"
    for size in range(0, end_of_mark, tarfile.BLOCKSIZE):
        cut.write_bytes(content[:size])
        with pytest.raises(FormatError, match=r"cut\.tar"):
            list(iterate_members(cut))
    cut.write_bytes(content[:end_of_mark])
    assert len(list(iterate_members(cut))) == 12


@pytest.mark.parametrize("size", [1, 511, 513, 1000, 2047])
def test_tar_cut_inside_a_block_is_noticed(shard: Path, size: int) -> None:
    os.truncate(shard, size)
    with pytest.raises(FormatError):
        make_index(shard)


def test_damaged_header_is_noticed(shard: Path) -> None:
    content = bytearray(shard.read_bytes())
    for header in range(0, 12 * 2 * tarfile.BLOCKSIZE, 2 * tarfile.BLOCKSIZE):
        damaged = bytearray(content)
        damaged[header + 150] ^= 1
        shard.write_bytes(damaged)
        with pytest.raises(FormatError):
            make_index(shard)


def test_member_that_is_no_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "link.tar"
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("a.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(FormatError, match=r"member 'a\.jpg' is a link; expected plain files"):
        make_index(path)


def test_reading_past_the_end_of_a_short_file_is_an_error(shard: Path) -> None:
    index = load_index(shard)
    os.truncate(shard, index["stream-00000007"]["png"].offset + 3)
    with open(shard, "rb") as file:
        assert read_sample(file.fileno(), index["stream-00000004"]) == SAMPLES["stream-00000004"]
        with pytest.raises(FormatError, match=r"member \.png: 3 of \d+ bytes"):
            read_sample(file.fileno(), index["stream-00000007"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v1.1 0\n",
        "v1.2\n",
        "v1.2 2\ncls 512 1 a.cls\n",
        "v1.2 1\ncls 512 1\n",
        "v1.2 1\ncls x 1 a.cls\n",
        "\x1f\x8b",
    ],
)
def test_text_that_is_no_index_is_refused(shard: Path, text: str) -> None:
    with pytest.raises((ValueError, IndexError)):
        read_index(text)
    index_path(shard).write_text(text)
    with pytest.raises(FormatError, match=r"not a v1\.2 index"):
        load_index(shard)


@pytest.mark.parametrize(("name", "size"), [("k.cls", 1), ("key-0001.mask.png", 7_000_000_000), ("n" * 96 + ".jpg", 0)])
def test_headers_are_the_ones_tarfile_writes(name, size):
    from genint.manifests.shard import _header

    info = tarfile.TarInfo(name)
    info.size = size
    assert _header(name, size) == info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
