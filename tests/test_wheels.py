"""What continuous integration says of packages that need a library of the system (.ci/check_wheels.py)."""

import runpy
import struct
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / ".ci" / "check_wheels.py"


@pytest.fixture(scope="module")
def check() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT), run_name="check_wheels")


def make_elf(*needed: str, name: str = "", bits: int = 64, order: str = "<") -> bytes:
    """A library without code: a header, two segments, and a dynamic section that asks for others."""
    word, header, program = ("Q", 64, 56) if bits == 64 else ("I", 52, 32)
    strings, entries = b"\0", []
    for tag, text in [(1, each) for each in needed] + ([(14, name)] if name else []):
        entries.append((tag, len(strings)))
        strings += text.encode() + b"\0"
    at = header + 2 * program
    base = 0x40000  # segments lie elsewhere in memory than in the file
    dynamic = b"".join(struct.pack(order + word * 2, *entry) for entry in [(5, base), *entries, (0, 0)])

    def segment(kind: int, offset: int, address: int, size: int) -> bytes:
        fields = struct.pack(order + word * 5, offset, address, address, size, size)
        flags = struct.pack(order + "I", 4)
        start = struct.pack(order + "I", kind)
        tail = struct.pack(order + word, 8)
        return start + flags + fields + tail if bits == 64 else start + fields + flags + tail

    ident = b"\x7fELF" + bytes([bits // 32, 1 if order == "<" else 2, 1]).ljust(12, b"\0")
    fields = struct.pack(order + "HHI" + word * 3 + "I6H", 3, 62, 1, 0, header, 0, 0, header, program, 2, 0, 0, 0)
    segments = segment(2, at, 0, len(dynamic)) + segment(1, at + len(dynamic), base, len(strings))
    return ident + fields + segments + dynamic + strings


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("order", ["<", ">"])
def test_names_are_read_from_any_kind_of_elf_file(check: dict[str, Any], tmp_path: Path, bits: int, order: str) -> None:
    (tmp_path / "a.so").write_bytes(make_elf("libm.so.6", "libGL.so.1", name="libme.so.3", bits=bits, order=order))
    library = check["read_elf"](tmp_path / "a.so")
    assert (library.name, library.needed) == ("libme.so.3", ("libm.so.6", "libGL.so.1"))
    (tmp_path / "a.txt").write_text("no ELF")
    assert check["read_elf"](tmp_path / "a.txt") is None


def test_a_wheel_that_needs_a_library_of_the_system_is_named(
    check: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wheel" / "wheel.libs").mkdir(parents=True)
    inside = tmp_path / "wheel" / "cv2.abi3.so"
    inside.write_bytes(make_elf("libc.so.6", "libstdc++.so.6", "libpng16-529.so.16", "libtorch_cuda.so"))
    (tmp_path / "wheel" / "wheel.libs" / "libpng16-529.so.16").write_bytes(make_elf("libz.so.1"))
    # By the name that it goes by, whatever its file is called.
    (tmp_path / "wheel" / "wheel.libs" / "x.so").write_bytes(make_elf(name="libx.so.1"))
    assert check["main"]([str(tmp_path / "wheel")]) == 0
    inside.write_bytes(make_elf("libc.so.6", "libx.so.1", "libxcb.so.1", "libGL.so.1"))
    capsys.readouterr()
    assert check["main"]([str(tmp_path / "wheel")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" needs ")[1] for line in lines] == [
        "libxcb.so.1, which a bare Debian lacks",
        "libGL.so.1, which a bare Debian lacks",
    ]
    assert all(str(inside) in line for line in lines)


def test_a_damaged_elf_file_is_named(check: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cut.so").write_bytes(make_elf("libm.so.6")[:100])
    assert check["main"]([str(tmp_path)]) == 1
    assert "cut.so: damaged ELF file" in capsys.readouterr().out


def test_what_genint_requires_is_found_through_others(check: dict[str, Any]) -> None:
    found = check["required_distributions"]("genint[test]")
    # Its own, what those require, and what an extra does.
    assert {"genint", "torch", "numpy", "scipy", "sympy", "pytest", "iniconfig", "moto"} <= set(found)
    files = {file.name for file in check["installed_files"](found["numpy"])}
    assert any(name.startswith("_multiarray_umath") for name in files)
