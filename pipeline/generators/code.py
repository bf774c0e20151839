"""Find the code of a generator of one's own, and digest it. Nothing is imported that the user did not name."""

import hashlib
import importlib
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from torch import nn

from ...manifests.errors import UsageError, shorten
from ...manifests.shard import sha256_of_file

ENTRY_POINTS = "genint.generators"
# What decides what a package computes: its sources, and what is compiled of it.
SUFFIXES = frozenset({".py", ".so", ".pyd", ".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp"})


def check_allowed(code: str | None, allowed: str | None, origin: str) -> None:
    """Raise UsageError where a recipe names code that the user has not named too."""
    if allowed is not None and code != allowed:
        found = f"names {shorten(code)!r}" if code else "names no code"
        raise UsageError(f"--allow-code {shorten(allowed)}: {origin} {found}")
    if code is not None and allowed is None:
        raise UsageError(
            f"{origin} is rendered by code of its own, {shorten(code)!r}, which can do whatever you can; where you "
            f"trust it, give --allow-code {shorten(code)}"
        )


def find_class(code: str) -> tuple[type[nn.Module], str]:
    """The class that `module:Class`, or the name of an entry point, means, and the digest of its code.

    The digest is of names and contents of the sources of the packages that define the class, its bases and the name
    that it goes by: of each whole package, or of one file where that is all. Raises UsageError where there is none.
    """
    where = code
    if ":" not in code:
        known = {entry.name: entry.value for entry in entry_points(group=ENTRY_POINTS)}
        if code not in known:
            raise UsageError(
                f"generator.code = {code!r}: no installed package has an entry point of this name in {ENTRY_POINTS}; "
                f"there {'are ' + ', '.join(sorted(known)) if known else 'is none'}; or name module:Class"
            )
        where = known[code]
    module_name, _, attribute = where.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UsageError(
            f"generator.code = {code!r}: {error}; install it here (pip install), or put its folder on PYTHONPATH"
        ) from error
    found = getattr(module, attribute.strip(), None)
    # Anything else that can be called might do anything else with what config.json says.
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise UsageError(f"generator.code = {code!r}: {module_name} has no torch.nn.Module of the name {attribute!r}")
    names = {module_name, *(base.__module__ for base in found.__mro__)}
    foreign = sorted(name for name in names if name.partition(".")[0] not in ("builtins", "torch", "typing"))
    return found, _digest([sys.modules[name] for name in foreign])


def _digest(modules: list[ModuleType]) -> str:
    digests = {
        path.relative_to(root).as_posix(): sha256_of_file(path)
        for root, paths in map(source_files, modules)
        for path in paths
    }
    return hashlib.sha256(
        "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items())).encode()
    ).hexdigest()


def source_files(module: ModuleType) -> tuple[Path, list[Path]]:
    """The folder that a module's outermost package lies in, and the files of that package."""
    if not getattr(module, "__file__", None):
        raise UsageError(f"generator of {module.__name__}: its code lies in no file, so that nobody could compare it")
    file = outermost = Path(str(module.__file__))
    while (outermost.parent / "__init__.py").is_file():
        outermost = outermost.parent
    if outermost == file:
        return file.parent, [file]
    return outermost.parent, [path for path in outermost.rglob("*") if path.suffix in SUFFIXES and path.is_file()]
