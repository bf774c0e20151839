"""How far genint's corruptions are from the official ones, picture by picture, and how far their frost is.

Needs what the official code needs, and this project does not: its author's package (`pip install --no-deps --target DIR
imagenet-c wand`, DIR on PYTHONPATH), scikit-image, ImageMagick (Debian: libmagickwand-6.q16-6), and the six frost
photographs of hendrycks/robustness. Calls that libraries have renamed since 2018 are renamed when it is read.

    python tests/benchmarks/measure_corruptions.py --pictures DIR --frost-images DIR
"""

import argparse
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from genint.evaluate.corruptions.frost import load_frost
from genint.evaluate.corruptions.published import PUBLISHED, apply
from genint.evaluate.metrics.corruption_error import SEVERITIES
from numpy.random import RandomState
from numpy.typing import NDArray
from PIL import Image

RENAMED = {
    "np.float_": "np.float64",
    "multichannel=True": "channel_axis=-1",
    "np.fromstring(": "np.frombuffer(",
    "from scipy.ndimage.interpolation import": "from scipy.ndimage import",
    "from pkg_resources import resource_filename": "",
    "resource_filename(__name__, 'frost/": "(FROST + '/",
    # As scikit-image's of 2018: from numpy's global generator.
    "sk.util.random_noise(np.array(x) / 255., mode='s&p', amount=c)": "salt_and_pepper(np.array(x) / 255., c)",
}


def salt_and_pepper(x: NDArray[Any], amount: float) -> NDArray[Any]:
    out = x.copy()
    flipped = np.random.choice([True, False], size=x.shape, p=[amount, 1 - amount])  # noqa: NPY002
    salted = np.random.choice([True, False], size=x.shape, p=[0.5, 0.5])  # noqa: NPY002
    out[flipped & salted] = 1
    out[flipped & ~salted] = 0
    return out


def load_official(frost: Path) -> ModuleType:
    """The official corruptions, with the names that libraries have today."""
    spec = importlib.util.find_spec("imagenet_c")
    if spec is None or spec.origin is None:
        sys.exit("imagenet-c is not installed; see this script's first lines")
    source = Path(spec.origin).with_name("corruptions.py").read_text()
    for old, new in RENAMED.items():
        source = source.replace(old, new)
    module = ModuleType("official")
    vars(module).update(FROST=str(frost), salt_and_pepper=salt_and_pepper)
    exec(compile(source, "imagenet_c/corruptions.py", "exec"), vars(module))  # noqa: S102
    return module


def official_picture(function: Callable[..., Any], picture: Image.Image, severity: int, seed: int) -> NDArray[np.uint8]:
    np.random.seed(seed)  # noqa: NPY002
    return np.uint8(function(picture, severity))


def load_pictures(folder: Path, count: int) -> Iterator[Image.Image]:
    """As ImageNet-C is made: the shorter side 256, and the middle 224."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    for path in paths[:: max(1, len(paths) // count)][:count]:
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
        scale = 256 / min(picture.size)
        picture = picture.resize(
            (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BILINEAR
        )
        left, top = (picture.width - 224) // 2, (picture.height - 224) // 2
        yield picture.crop((left, top, left + 224, top + 224))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="Folder of photographs.")
    parser.add_argument("--frost-images", type=Path, required=True, help="Folder of the official frost photographs.")
    parser.add_argument("--count", type=int, default=10)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    official = load_official(arguments.frost_images)
    photographs = load_frost(arguments.frost_images)
    pictures = list(load_pictures(arguments.pictures, arguments.count))

    print(f"{len(pictures)} pictures. By severity: mean (largest) difference of 255 from the official picture.")
    print("Over all severities: how far two seeds of the official code are apart, the mean distance to the clean")
    print("picture (ours, official), and how much brighter ours is.")
    head = "".join(f"{severity:>14}" for severity in SEVERITIES)
    print(f"{'corruption':18}{head} seeds  ours official brighter")
    kinds = [(name, name, photographs) for name in PUBLISHED] + [("frost, grown", "frost", None)]
    for title, name, bound in kinds:
        function = getattr(official, name)
        cells, rest = [], []
        for severity in SEVERITIES:
            differences = []
            for seed, picture in enumerate(pictures):
                clean = np.asarray(picture)
                theirs = official_picture(function, picture, severity, seed).astype(int)
                other = official_picture(function, picture, severity, seed + 1000).astype(int)
                ours = apply(clean, name, severity, RandomState(seed), bound).astype(int)
                differences.append(np.abs(ours - theirs))
                distances = (np.abs(each).mean() for each in (other - theirs, ours - clean, theirs - clean))
                rest.append([*distances, ours.mean() - theirs.mean()])
            cells.append(f"{np.mean(differences):.3f} ({np.max(differences)})")
        apart, own, their, brighter = np.mean(rest, axis=0)
        table = "".join(f"{cell:>14}" for cell in cells)
        print(f"{title:18}{table}{apart:6.1f}{own:6.1f}{their:9.1f}{brighter:+9.2f}", flush=True)


if __name__ == "__main__":
    main()
