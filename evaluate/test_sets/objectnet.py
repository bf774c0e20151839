"""ObjectNet (Barbu et al. 2019), read only.

Its licence forbids to tune any model on it, and to post an image of it without the red border that marks it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from PIL import Image
from torch import Tensor

from ...manifests.errors import FormatError, UsageError, shorten
from ...manifests.inputs import imagenet_wnids, list_images
from ...manifests.json_files import parse_json
from ...train.checkpoint import Preprocessing
from .test_set import FileSet, existing_folder

BORDER: Final = 2
RED: Final = (255, 0, 0)
# Images of the 113 classes shared with ImageNet, as usually quoted for release 1.0; counted, never required.
USUAL_IMAGES: Final = 18_574
# Of the mapping as published: folders that have an ImageNet class, and the classes they have together.
SHARED_FOLDERS: Final = 113
SHARED_CLASSES: Final = 125


@dataclass(frozen=True)
class Protocol:
    """How images are shown, shorter side resized to `resize` and `crop` cut out, and whether only shared classes
    may be predicted."""

    resize: int
    crop: int
    restricted: bool = False

    def describe(self, name: str) -> str:
        among = "among the 125 shared classes" if self.restricted else "among all 1,000 classes"
        return (
            f"{name}: {BORDER} px of border cut off, Resize({self.resize}), CenterCrop({self.crop}); predictions "
            f"{among}; any ImageNet class that maps to the object counts"
        )


# The paper's own; that of the ObjectNet challenge; the zoomed one of the paper's later code; the paper's images with
# logits restricted to the shared classes, as its --exclude_nonoverlap and imagenet-testbed do.
PROTOCOLS: Final = {
    "genint": Protocol(256, 256),
    "challenge": Protocol(224, 224),
    "zoom": Protocol(358, 224),
    "restricted": Protocol(256, 256, restricted=True),
}
HEADLINE: Final = "genint"

MAPPINGS: Final = "mappings"
FOLDER_LABELS: Final = "folder_to_objectnet_label.json"
IMAGENET_LABELS: Final = "objectnet_to_imagenet_1k.json"
LABEL_LINES: Final = "imagenet_to_label_2012_v2"
CLASS_LINES: Final = "pytorch_to_imagenet_2012_id.json"


@dataclass(frozen=True)
class ObjectNetSet(FileSet):
    """Images of the classes that ObjectNet shares with ImageNet. `read` gives them with their border."""

    shown: Protocol = PROTOCOLS[HEADLINE]

    def transform(self, preprocessing: Preprocessing) -> Callable[[Image.Image], Tensor]:
        return _WithoutBorder(replace(preprocessing, resize=self.shown.resize, crop=self.shown.crop))

    def frame(self, picture: Image.Image) -> Image.Image:
        """The picture inside a red border, drawn around it."""
        width, height = picture.size
        framed = Image.new("RGB", (width + 2 * BORDER, height + 2 * BORDER), RED)
        framed.paste(picture, (BORDER, BORDER))
        return framed


@dataclass(frozen=True)
class _WithoutBorder:
    preprocessing: Preprocessing

    def __call__(self, image: Image.Image) -> Tensor:
        # Before anything else: resized first, the border would be of another width and mixed into its neighbours.
        inside = image.crop((BORDER, BORDER, image.width - BORDER, image.height - BORDER))
        return self.preprocessing.prepare(inside)


def open_objectnet(location: str, where: str) -> list[FileSet]:
    """The shared classes of ObjectNet 1.0 below a folder, under a protocol (`DIR:PROTOCOL`).

    Raises UsageError where folders or mapping files lack, FormatError where the mapping does not join.
    """
    folder, _, name = location.rpartition(":")
    if name not in PROTOCOLS or not folder:
        if folder and not Path(location).is_dir() and Path(folder).is_dir():
            raise UsageError(f"{where}: no protocol {name!r}; known: {', '.join(PROTOCOLS)}")
        folder, name = location, HEADLINE
    root = existing_folder(folder, where)
    root = root / "objectnet-1.0" if (root / "objectnet-1.0").is_dir() else root
    if not (root / "images").is_dir():
        raise UsageError(f"{where}: no folder images in it; expected ObjectNet as it unpacks (objectnet-1.0)")
    classes = join_mapping(root / MAPPINGS)
    listing = list_images(root / "images", where)
    labelled = _read_texts(root / MAPPINGS / FOLDER_LABELS)
    unlabelled = [name for name in listing.folders if name not in labelled]
    if unlabelled:
        raise FormatError(f"{root / MAPPINGS / FOLDER_LABELS}: no label for the folder images/{unlabelled[0]}")
    missing = sorted(set(classes) - set(listing.folders))
    if missing:
        raise UsageError(
            f"{where}: lacks images/{missing[0]} and {len(missing) - 1} more of {len(classes)} class folders"
        )
    chosen = [
        (path, size, classes[path.partition("/")[0]])
        for path, size in zip(listing.paths, listing.sizes, strict=True)
        if path.partition("/")[0] in classes
    ]
    notes = (
        (f"{len(chosen):,} images of shared classes; release 1.0 is usually quoted with {USUAL_IMAGES:,}",)
        if len(chosen) != USUAL_IMAGES
        else ()
    )
    shown = PROTOCOLS[name]
    known = {label for labels in classes.values() for label in labels}
    whole = (len(classes), len(known)) == (SHARED_FOLDERS, SHARED_CLASSES)
    incomplete = (
        ""
        if whole
        else (
            f"; incomplete: the mapping has {len(classes)} of {SHARED_FOLDERS} shared folders and {len(known)} of "
            f"{SHARED_CLASSES} ImageNet classes"
        )
    )
    return [
        ObjectNetSet(
            name=f"objectnet:{name}",
            protocol=shown.describe(name) + incomplete,
            class_names=imagenet_wnids(),
            root=listing.root,
            paths=tuple(path for path, _, _ in chosen),
            sizes=tuple(size for _, size, _ in chosen),
            path_labels=tuple(labels for _, _, labels in chosen),
            marked="official",
            notes=notes,
            allowed=tuple(sorted(known)) if shown.restricted else None,
            shown=shown,
        )
    ]


def join_mapping(folder: Path) -> dict[str, tuple[int, ...]]:
    """ImageNet classes (0 to 999) of each ObjectNet folder that has any, joined from ObjectNet's own files:
    folder -> ObjectNet label -> ImageNet labels -> line of the label file -> class.

    Raises FormatError that names the entry which does not join.
    """
    labels = _read_texts(folder / FOLDER_LABELS)
    imagenet = _read_texts(folder / IMAGENET_LABELS)
    lines = _read_text(folder / LABEL_LINES).splitlines()
    class_of_line = _read_class_lines(folder / CLASS_LINES, len(lines))
    # "crane" stands for two classes; the first is kept, and none of the mapping's labels is ambiguous.
    line_of_label: dict[str, int] = {}
    ambiguous = set()
    for number, text in enumerate(lines):
        if line_of_label.setdefault(text.strip(), number) != number:
            ambiguous.add(text.strip())
    unused = set(imagenet) - set(labels.values())
    if unused:
        raise FormatError(f"{folder / IMAGENET_LABELS}: {min(unused)!r} is no label of {FOLDER_LABELS}")
    classes = {}
    for name, label in labels.items():
        if label not in imagenet:
            continue
        # "; ", because labels themselves hold ", ".
        names = imagenet[label].split("; ")
        for text in names:
            if text not in line_of_label or text in ambiguous:
                problem = "stands on two lines" if text in ambiguous else "is no line"
                raise FormatError(f"{folder / IMAGENET_LABELS}: {label!r}: {text!r} {problem} of {LABEL_LINES}")
            if line_of_label[text] not in class_of_line:
                raise FormatError(f"{folder / CLASS_LINES}: no class for line {line_of_label[text]} ({text!r})")
        classes[name] = tuple(sorted(class_of_line[line_of_label[text]] for text in names))
    _check_bath_towel(classes, lines, class_of_line, folder)
    return classes


def _check_bath_towel(
    classes: dict[str, tuple[int, ...]], lines: list[str], class_of_line: dict[int, int], folder: Path
) -> None:
    # An early release of the mapping gives ImageNet's bath towel to the folder of bathrobes.
    towels = [class_of_line.get(number) for number, text in enumerate(lines) if text.strip() == "bath towel"]
    if any(towel in classes.get("bathrobe", ()) for towel in towels):
        raise FormatError(
            f"{folder / IMAGENET_LABELS}: maps ImageNet's bath towel to the folder bathrobe; that is the error of an "
            "early release, the class belongs to full_sized_towel"
        )


def is_objectnet(folder: str | Path) -> bool:
    """Whether a folder is ObjectNet's, its folder of images or one with either in it."""
    path = Path(folder).resolve()
    return any(
        (place / MAPPINGS / FOLDER_LABELS).is_file()
        for place in (path, path / "objectnet-1.0", *list(path.parents)[:2])
    )


def _read_json(path: Path) -> dict[str, Any]:
    content = parse_json(_read_text(path).encode(), path)
    if not isinstance(content, dict):
        raise FormatError(f"{path}: holds a {type(content).__name__}; expected an object")
    return content


def _read_texts(path: Path) -> dict[str, str]:
    content = _read_json(path)
    wrong = next((name for name, text in content.items() if not isinstance(text, str) or not text.strip()), None)
    if wrong is not None:
        raise FormatError(f"{path}: {shorten(repr(wrong))}: {shorten(repr(content[wrong]))}; expected a text")
    return content


def _read_class_lines(path: Path, lines: int) -> dict[int, int]:
    """ImageNet class (0 to 999) by line of the label file, from an object of class to line."""
    content, classes = _read_json(path), len(imagenet_wnids())
    known = {str(label) for label in range(classes)}
    for text, line in content.items():
        if text not in known or type(line) is not int or not 0 <= line < lines:
            raise FormatError(
                f"{path}: {shorten(repr(text))}: {shorten(repr(line))}; expected a class from 0 to {classes - 1} and a "
                f"line of {LABEL_LINES} from 0 to {lines - 1}"
            )
    found = {line: int(text) for text, line in content.items()}
    if len(found) != classes:
        raise FormatError(f"{path}: {len(found)} classes with a line of their own; expected {classes:,}")
    return found


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise UsageError(f"{path}: missing; expected ObjectNet's own mapping files") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from error
