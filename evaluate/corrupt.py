"""Make a corrupted copy of a test set, in ImageNet-C's layout, with the corruptions of ImageNet-C.

They are the official ones to the pixel but for frost, whose photographs the user must bring. Even so such a copy is
marked generated and its errors are no CEs: other pictures, versions of libraries and draws of noise than the official.

What is saved is not what was in memory. ImageNet-C is saved as JPEG of quality 85, and so are copies of JPEG sets;
those of PNG sets lose nothing, as if corrupted in memory. In memory, top-1 is 3.2 points higher for ResNet-50 and 2.5
for AlexNet, on average over 14 corruptions; for ResNet-50 10.4 higher on fog, 10.1 on contrast, 3.9 lower on pixelate
(from the public table of imagenet-testbed, which has both). `genint-evaluate saved-difference` measures it.
"""

import hashlib
import io
import json
import multiprocessing
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..manifests.errors import GenintError, UsageError
from ..manifests.lock import only_process
from ..manifests.pictures import damage_named, decode_picture
from ..manifests.shard import TEMPORARY, sweep
from ..train.checkpoint import Preprocessing
from .corruptions import published
from .corruptions.frost import FrostPhotographs
from .corruptions.pixels import Rng
from .metrics.corruption_error import CORRUPTIONS, SEVERITIES, TEST_CORRUPTIONS
from .test_sets import CorruptionSet, TestSet
from .test_sets.imagenet_c import MARKER, dump_marker, open_corrupted, read_marker
from .test_sets.objectnet import ObjectNetSet, is_objectnet
from .test_sets.test_set import FileSet

LOCK: Final = "lock"
MIN_SIDE: Final = 32
# On a small picture there may be no drop at all, and it would count as corrupted: on 1.5 % of those of 32 px at
# severity 1 (46 of 3,000), of 48 px 1 in 2,000, of 64 px none of 2,000.
MIN_SIDES: Final = {"spatter": 64}
# As the official images are written.
JPEG: Final[dict[str, Any]] = {"format": "JPEG", "quality": 85, "optimize": True}
# Images a task of a worker.
CHUNK: Final = 8
PACKAGES: Final = ("matplotlib", "numpy", "opencv-python-headless", "pillow", "scipy")


def corrupt(
    source: TestSet,
    out: str | os.PathLike[str],
    corruptions: Sequence[str] = TEST_CORRUPTIONS,
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    workers: int = 1,
    resize: int | None = None,
    crop: int | None = None,
    frost: FrostPhotographs | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[CorruptionSet]:
    """Write `out`/<corruption>/<severity>/<class>/<name> for every image of a set, and return it opened.

    Images are resized and cropped first where `crop` is given (ImageNet-C: 256 and 224), and else taken as they are;
    JPEG stays JPEG, all else becomes PNG. Frost is cut from the photographs, or grown where there are none. Noise
    depends on seed, image key, corruption and severity alone. The same call goes on where an interrupted one was;
    `progress` is called with images done and to do. Raises UsageError where it cannot be done as asked, and FormatError
    or GenintError that names the image which fails.
    """
    folder = Path(out)
    _check_request(source, folder, corruptions, severities, resize, crop)
    job = _Job(source, folder, tuple(corruptions), tuple(severities), seed, resize, crop, frost)
    marker = _describe(job)
    _check_folder(folder)
    with only_process(folder / LOCK, f"{folder}: another command makes this copy"):
        if not _start(folder, marker):
            sweep(folder)
            chunks = [range(start, min(start + CHUNK, len(source))) for start in range(0, len(source), CHUNK)]
            done = 0
            for images in _run(job, chunks, workers):
                done += images
                if progress:
                    progress(done, len(source))
            # Written last: a marker that says finished means that every image is there.
            _write(folder / MARKER, dump_marker({**marker, "finished": True}))
    return open_corrupted(str(folder), str(folder))


def corrupt_picture(
    picture: Image.Image,
    corruption: str,
    severity: int,
    seed: int,
    frost: FrostPhotographs | None = None,
    name: str = "picture",
) -> Image.Image:
    """One RGB picture, corrupted. `seed` (32 bits) decides all noise.

    Raises UsageError where the picture is too small for the corruption.
    """
    check_size(picture, corruption, name)
    return Image.fromarray(published.apply(np.asarray(picture), corruption, severity, Rng(seed), frost))


def check_size(picture: Image.Image, corruption: str, name: str) -> None:
    """Raise UsageError where a picture is too small for a corruption."""
    needed = MIN_SIDES.get(corruption, MIN_SIDE)
    if min(picture.size) < needed:
        raise UsageError(
            f"{name}: {picture.width} x {picture.height} pixels; {corruption} needs {needed} on each side"
            + ("; leave it out" if needed > MIN_SIDE else "")
        )


def picture_seed(seed: int, key: str, corruption: str, severity: int) -> int:
    """32 bits for one image of the copy."""
    text = json.dumps([seed, key, corruption, severity])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")


@dataclass(frozen=True)
class _Job:
    """All that decides a copy's bytes, and where they go."""

    source: TestSet
    folder: Path
    corruptions: tuple[str, ...]
    severities: tuple[int, ...]
    seed: int
    resize: int | None
    crop: int | None
    frost: FrostPhotographs | None

    def make(self, positions: range) -> int:
        """Write what is not there yet of some images; their number."""
        for position in positions:
            self._make_image(position)
        return len(positions)

    def _make_image(self, position: int) -> None:
        key = self.source.key(position)
        content = self.source.read(position)
        name, options = _file_name(self.source, position, content)
        wanted = [
            (corruption, severity, path)
            for corruption in self.corruptions
            for severity in self.severities
            if not (path := self.folder / corruption / str(severity) / name).exists()
        ]
        if not wanted:
            return
        picture = prepare_picture(content, key, self.resize, self.crop)
        for corruption, severity, path in wanted:
            seed = picture_seed(self.seed, key, corruption, severity)
            buffer = io.BytesIO()
            corrupt_picture(picture, corruption, severity, seed, self.frost, key).save(buffer, **options)
            _write(path, buffer.getvalue())


def prepare_picture(content: bytes, key: str, resize: int | None, crop: int | None) -> Image.Image:
    """An image of a set as it is corrupted: resized and cropped where `crop` is given.

    Raises UsageError where it is too small for that, FormatError where it cannot be read.
    """
    picture = decode_picture(content, key)
    if crop is None:
        return picture
    if resize is None and min(picture.size) < crop:
        raise UsageError(f"{key}: {picture.width} x {picture.height} pixels; cannot crop {crop}")
    with damage_named(key):
        prepared: NDArray[np.uint8] = Preprocessing(resize, crop).prepare(picture).permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(prepared))


def _check_request(
    source: TestSet,
    folder: Path,
    corruptions: Sequence[str],
    severities: Sequence[int],
    resize: int | None,
    crop: int | None,
) -> None:
    unknown = [name for name in corruptions if name not in CORRUPTIONS]
    if unknown or not corruptions or len(set(corruptions)) < len(corruptions):
        raise UsageError(f"corruptions {', '.join(corruptions)}: expected some, each once, of {', '.join(CORRUPTIONS)}")
    if not severities or not set(severities) <= set(SEVERITIES) or len(set(severities)) < len(severities):
        raise UsageError(f"severities {severities}: expected some, each once, of {', '.join(map(str, SEVERITIES))}")
    if resize is not None and (crop is None or resize < crop):
        raise UsageError(f"resize {resize}: expected a crop too, no larger than it")
    if isinstance(source, CorruptionSet):
        raise UsageError(f"{source.name}: corrupted already")
    if source.groups is not None:
        raise UsageError(f"{source.name}: its answers are groups of classes; a copy has one folder a class")
    if isinstance(source, FileSet):
        if isinstance(source, ObjectNetSet) or is_objectnet(source.root):
            raise UsageError(f"{source.name}: no image of ObjectNet may be written without its border")
        if folder.resolve().is_relative_to(Path(source.root).resolve()):
            raise UsageError(f"{folder}: lies in the set that is copied; choose a folder outside of {source.root}")
    odd = next((name for name in source.class_names if name in ("", ".", "..") or "/" in name), None)
    if odd is not None:
        raise UsageError(f"{source.name}: class {odd!r} cannot be the name of a folder")
    # Before anything is written; sizes of the others are checked as they come.
    first = prepare_picture(source.read(0), source.key(0), resize, crop)
    for corruption in corruptions:
        check_size(first, corruption, source.key(0))
    names: dict[str, int] = {}
    if isinstance(source, FileSet):
        for position in range(len(source)):
            # By extension alone: to look into every file would take as long as to copy it.
            name = str(PurePosixPath(_placed(source, position)).with_suffix(""))
            if names.setdefault(name, position) != position:
                raise UsageError(
                    f"{source.key(names[name])} and {source.key(position)} would have one name; rename one"
                )


def _placed(source: TestSet, position: int) -> str:
    """Class folder and name of an image in the copy; its extension may yet change."""
    key = source.key(position)
    (label, *others) = source.labels(position)
    if others:
        raise UsageError(f"{source.name}: {key} is of several classes; a copy has one folder a class")
    # The folder that an image is in says its class, if in another word: ImageNet-V2 numbers them.
    within = key.partition("/")[2] if "/" in key else key
    return f"{source.class_names[label]}/{within}"


def _file_name(source: TestSet, position: int, content: bytes) -> tuple[str, dict[str, Any]]:
    """Path of an image below a corruption and severity, and how it is saved."""
    placed = PurePosixPath(_placed(source, position))
    jpeg = content.startswith(b"\xff\xd8\xff")
    known = (".jpg", ".jpeg") if jpeg else (".png",)
    if placed.suffix.lower() in known:
        return str(placed), JPEG if jpeg else {"format": "PNG"}
    extension = ".jpg" if jpeg else ".png"
    named = placed.with_suffix(extension) if isinstance(source, FileSet) else PurePosixPath(f"{placed}{extension}")
    return str(named), JPEG if jpeg else {"format": "PNG"}


def _describe(job: _Job) -> dict[str, Any]:
    """The marker of an unfinished copy."""
    return {
        "generated": True,
        "finished": False,
        "source": {
            "name": job.source.name,
            "digest": job.source.digest(),
            "class_names": list(job.source.class_names),
            "images": len(job.source),
        },
        "corruptions": list(job.corruptions),
        "severities": list(job.severities),
        "seed": job.seed,
        "resize": job.resize,
        "crop": job.crop,
        "implementation": {
            "name": "genint.evaluate.corruptions",
            "version": published.VERSION,
            "frost": job.frost.digest if job.frost else "grown",
        },
        "versions": {package: version(package) for package in PACKAGES},
    }


def _start(folder: Path, marker: dict[str, Any]) -> bool:
    """Mark a new folder, or check that one is this copy; whether it is finished.

    Marked before the first image: without a marker, half a copy could pass for an official set.
    """
    if (folder / MARKER).is_file():
        found = read_marker(folder, str(folder))
        if changes := [*_changes(found, marker)]:
            raise UsageError(
                f"{folder}: holds another corrupted copy ({', '.join(changes)}); choose another folder, or delete it"
            )
        return bool(found["finished"])
    _write(folder / MARKER, dump_marker(marker))
    return False


def _check_folder(folder: Path) -> None:
    """Raise UsageError where a folder for a copy holds something else."""
    if folder.exists() and not (folder / MARKER).is_file() and any(entry.name != LOCK for entry in folder.iterdir()):
        raise UsageError(f"{folder}: is not empty and holds no corrupted copy; choose another folder")


def _changes(found: dict[str, Any], wanted: dict[str, Any], within: str = "") -> Iterator[str]:
    """What differs between two markers, such as "seed: 0 -> 4"; whether they are finished does not count."""
    for key in sorted(wanted.keys() | found.keys()) if within else wanted:
        was, now = found.get(key), wanted.get(key)
        if was == now or key == "finished":
            continue
        if key == "source" and isinstance(was, dict):
            yield f"source: {was['name']} -> {wanted['source']['name']}"
        elif isinstance(was, dict) and isinstance(now, dict):
            yield from _changes(was, now, f"{key} of ")
        else:
            yield f"{within}{key}: {was} -> {now}"


def _run(job: _Job, chunks: Sequence[range], workers: int) -> Iterator[int]:
    """Make every chunk; the number of images of each as it is done."""
    if workers == 1:
        yield from map(job.make, chunks)
        return
    # Spawned, because torch has threads.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        try:
            for future in as_completed([pool.submit(job.make, chunk) for chunk in chunks]):
                yield future.result()
        except BrokenProcessPool as error:
            raise GenintError(
                f"{job.folder}: a worker ended in its work (killed, or out of memory); the same command goes on, with "
                "fewer --workers if memory is short"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _write(path: Path, content: bytes) -> None:
    """Put a file in place, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}{TEMPORARY}{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
