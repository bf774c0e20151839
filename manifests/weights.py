"""Files of network weights, which come from others: their checksums compared, their tensors looked at, nothing run.

PyTorch writes a zip archive with a CRC of every tensor, and does not compare it when it reads.
"""

import hashlib
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from .errors import FormatError, shorten

ZIP = b"PK\x03\x04"
# What torch.load and zipfile make of a file that was cut off or altered, found by doing both at random places.
DAMAGE = (
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    OSError,
    AssertionError,
    AttributeError,
    TypeError,
    OverflowError,
    MemoryError,
    ImportError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)
LONGEST = 200  # characters of a reason


def load_weights_file(path: Path, load: Callable[[BinaryIO], Any]) -> tuple[Any, str]:
    """What `load` (torch.load without code) makes of a file, and the sha256 of the bytes that it read.

    Raises FormatError where a checksum of the file does not fit, where loading would run code, or where it fails.
    """
    # One open file for digest and load: the digest is that of the weights in use, whatever happens to the path.
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
        try:
            file.seek(0)
            _check_archive(file, size)
            file.seek(0)
            return load(file), sha256
        except pickle.UnpicklingError as error:
            raise FormatError(f"{path}: refused, it holds more than tensors: {_in_the_way(str(error))}") from error
        except DAMAGE as error:
            raise FormatError(f"{path}: not a whole PyTorch file ({size:,} bytes): {_first_line(error)}") from error


def has_checksums(path: Path) -> bool:
    """Whether a file is of PyTorch's present format; that of before 1.6 has no checksums, and damage goes unseen."""
    with open(path, "rb") as file:
        return file.read(len(ZIP)) == ZIP


def check_tensors(weights: Mapping[Any, Any], origin: str) -> None:
    """Raise FormatError where an entry is not a name with a dense tensor of finite real numbers (of torch, by duck)."""
    for name, value in weights.items():
        if not isinstance(name, str) or not hasattr(value, "untyped_storage"):
            raise FormatError(f"{origin}: {str(name)[:80]!r}: a {type(value).__name__}, expected a name with a tensor")
        if str(value.layout) != "torch.strided" or value.is_quantized or value.is_complex():
            raise FormatError(f"{origin}: {name[:80]}: expected a dense tensor of real numbers")
        # A small file can say that one number fills a tensor of terabytes.
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise FormatError(f"{origin}: {name[:80]}: shape {list(value.shape)} is larger than what is stored of it")
        if not value.isfinite().all():
            raise FormatError(f"{origin}: {name[:80]}: has values that are not finite")


def _check_archive(file: BinaryIO, size: int) -> None:
    """Compare the checksums of a zip archive's members. Raises ValueError or what zipfile raises."""
    if file.read(len(ZIP)) != ZIP:
        return
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        unpacked = sum(member.file_size for member in members)
        if unpacked > size:
            raise ValueError(f"its members unpack to {unpacked:,} bytes; PyTorch packs nothing")
        if len({member.filename for member in members}) < len(members):
            raise ValueError("two members have one name")
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"the checksum of its member {damaged[:80]!r} does not fit: the file is damaged")


def _in_the_way(message: str) -> str:
    """What keeps a file from loading without code, of torch's message of many lines, and what to do."""
    found = re.search(r"GLOBAL (\S+)", message)
    if found is None:
        return "no PyTorch file, or a damaged one"
    return (
        f"{found[1][:80]}, which would run code; where you trust the file, save its weights alone with "
        "torch.save(model.state_dict(), FILE)"
    )


def _first_line(error: BaseException) -> str:
    """The first line of an error, for a one-line message; its kind where that is no sentence."""
    line = (str(error).strip().splitlines() or [""])[0]
    return shorten(line, LONGEST) if " " in line else type(error).__name__
