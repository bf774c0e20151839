#!/usr/bin/env python3
"""Refuse packages whose compiled parts need a library that a bare Debian with Python does not have.

Looks at every ELF file of every distribution that genint requires, directly or not, and at the names that its dynamic
section asks for. Each must be a file of these distributions, or belong to the system as listed below.

    .venv/bin/python .ci/check_wheels.py            # of genint and its development tools
    .venv/bin/python .ci/check_wheels.py FOLDER ... # of whatever lies in folders: unpacked wheels, for example
"""

import re
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = "genint[dev]"

# What every Debian has that runs python3: glibc's own libraries, the compiler's run time (apt needs libstdc++), and
# what Debian's python3 itself is linked to.
SYSTEM = {
    "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1", "libanl.so.1", "libc.so.6", "libdl.so.2", "libm.so.6",
    "libmvec.so.1", "libnsl.so.1", "libpthread.so.0", "libresolv.so.2", "librt.so.1", "libutil.so.1", "libgcc_s.so.1",
    "libstdc++.so.6", "libexpat.so.1", "libz.so.1",
}  # fmt: skip
# What is loaded where there is a GPU alone: its driver, and the parts of a torch for CUDA, which torchvision's wheel
# asks for and goes without beside a torch for the CPU.
WITH_A_GPU = {"libcuda.so.1", "libnvidia-ml.so.1", "libc10_cuda.so", "libtorch_cuda.so"}
# Wheels of CUDA's libraries: what they hold counts as there, what some of them ask for (network cards) does not matter.
CUDA = re.compile(r"(nvidia|cuda|triton)(-.*)?")


class ElfError(ValueError):
    """An ELF file that cannot be read to the end."""


@dataclass(frozen=True)
class Library:
    """A compiled file, the name that it goes by, and the names that it asks for."""

    path: Path
    name: str
    needed: tuple[str, ...]


def read_elf(path: Path) -> Library | None:
    """A file's DT_SONAME and DT_NEEDED; None where it is no ELF file. Raises ElfError where it is a damaged one."""
    with path.open("rb") as file:
        if file.read(4) != b"\x7fELF":
            return None
        file.seek(0)
        content = file.read()
    try:
        return _read_dynamic(path, content)
    except (struct.error, IndexError, ValueError) as error:
        raise ElfError(f"{path}: damaged ELF file: {error}") from error


def _read_dynamic(path: Path, content: bytes) -> Library:
    wide, order = content[4] == 2, "<" if content[5] == 1 else ">"
    word, half = ("Q", 8) if wide else ("I", 4)
    (programs,) = struct.unpack_from(order + word, content, 32 if wide else 28)
    size, count = struct.unpack_from(order + "HH", content, 54 if wide else 42)
    segments, dynamic = [], b""
    for start in range(programs, programs + size * count, size):
        (kind,) = struct.unpack_from(order + "I", content, start)
        fields = struct.unpack_from(order + word * 4, content, start + (8 if wide else 4))
        offset, address, in_file = fields[0], fields[1], fields[3]
        if kind == 1:  # PT_LOAD
            segments.append((address, offset, in_file))
        elif kind == 2:  # PT_DYNAMIC
            dynamic = content[offset : offset + in_file]
    entries = [
        struct.unpack_from(order + word * 2, dynamic, at) for at in range(0, len(dynamic) - 2 * half + 1, 2 * half)
    ]
    tables = [value for tag, value in entries if tag == 5]  # DT_STRTAB, a virtual address
    if not tables:
        return Library(path, path.name, ())
    table = next(tables[0] - address + offset for address, offset, size in segments if 0 <= tables[0] - address < size)

    def text(at: int) -> str:
        return content[table + at : content.index(b"\0", table + at)].decode()

    names = [text(value) for tag, value in entries if tag == 14]  # DT_SONAME
    return Library(path, names[0] if names else path.name, tuple(text(value) for tag, value in entries if tag == 1))


def missing_libraries(groups: dict[str, Iterable[Path]]) -> Iterator[str]:
    """One line for every library that no file of any group is, and that the system need not have; groups are named."""
    found = [(group, library) for group, paths in groups.items() for path in paths if (library := read_elf(path))]
    known = SYSTEM | WITH_A_GPU | {name for _, library in found for name in (library.name, library.path.name)}
    for group, library in found:
        for name in library.needed:
            if name not in known and not CUDA.fullmatch(group):
                yield f"{group}: {library.path} needs {name}, which a bare Debian lacks"


def required_distributions(root: str) -> dict[str, Distribution]:
    """A requirement's distribution and all that it requires here, by name. Raises PackageNotFoundError for the root."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(root)]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        for extra in ("", *wanted.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                found[name] = distribution(name)
            except PackageNotFoundError:
                # Of an optional part of somebody else's package.
                if name == canonicalize_name(Requirement(root).name):
                    raise
                continue
            for text in found[name].requires or ():
                requirement = Requirement(text)
                if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                    waiting.append(requirement)
    return found


def installed_files(package: Distribution) -> Iterator[Path]:
    """A distribution's files, links aside: libraries lie under one name and are linked to by others."""
    for file in package.files or ():
        path = Path(str(package.locate_file(file)))
        if path.suffix not in (".py", ".pyc", ".pyi", ".h", ".hpp", ".txt") and path.is_file():
            yield path


def main(arguments: list[str]) -> int:
    """Exit status: 0 where nothing is missing."""
    if arguments:
        groups = {folder: [path for path in sorted(Path(folder).rglob("*")) if path.is_file()] for folder in arguments}
    else:
        groups = {name: [*installed_files(package)] for name, package in required_distributions(ROOT).items()}
    try:
        lines = [*missing_libraries(groups)]
    except ElfError as error:
        lines = [str(error)]
    print("\n".join(lines) or f"{len(groups)} packages need no library that a bare Debian lacks")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
