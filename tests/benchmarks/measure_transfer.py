"""What the mini world's transfers keep of their contents and take from their styles, measured on a built dataset.

    python tests/benchmarks/measure_transfer.py datasets/mini

Recognition: by a classifier trained on confounded pictures, which goes by the background, and by one trained without
confounding, to which the background says nothing; both also read the contents themselves, which they were trained on.
Background: least-squares coefficient of (result - content) on (style - content), over mean colours outside the
content's object (of the style: along its border, which objects seldom reach). 0 is the content's, 1 is the style's.
"""

import argparse
import io
import json
import os
from pathlib import Path

import numpy as np
import torch
from genint.manifests.dataset import load_dataset
from genint.manifests.shard import load_index, read_sample
from genint.pipeline.mini.measure_generator import Reader, read_images, train_reader
from numpy.typing import NDArray
from PIL import Image

BORDER = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--stream", default="transfer")
    parser.add_argument("--num-samples", type=int, default=2000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(arguments.dataset)
    stream = load_dataset(arguments.dataset).recipe.stream(arguments.stream)
    sources = {name: read_stream(folder / name) for name in (stream.content, stream.style)}
    samples = list(read_stream(folder / stream.name).values())[: arguments.num_samples]
    described = [json.loads(sample["json"]) for sample in samples]
    contents = [sources[stream.content][d["content"]["key"]] for d in described]
    masks = np.stack([decode(content["mask.png"]) > 0 for content in contents])
    labels = np.array([d["class_label"] for d in described])
    content, style, result = (
        np.stack([decode(sample["png"]) for sample in group])
        for group in (contents, [sources[stream.style][d["style"]["key"]] for d in described], samples)
    )

    print(f"{arguments.dataset}: {len(samples)} results of {stream.name}")
    for name, confounding in (("confounded", 0.8), ("background-free", 0.0)):
        reader = train_reader(confounding)
        shares = ", ".join(
            f"{part} {recognised(reader, images, labels):.3f}"
            for part, images in (("contents", content), ("results", result))
        )
        print(f"recognised as the content's class by the {name} classifier: {shares}")
    least_squares, median = background_shift(content, style, result, masks)
    print(f"background moved towards the style's: {least_squares:.3f} (median of images {median:.3f})")
    for part in ("content_loss", "style_loss"):
        print(f"median {part}: {np.median([d[part] for d in described]):.4g}")


def background_shift(
    content: NDArray[np.uint8], style: NDArray[np.uint8], result: NDArray[np.uint8], masks: NDArray[np.bool_]
) -> tuple[float, float]:
    """Coefficient over all images [N, H, W, 3], and median of the single images' ones."""
    border = np.ones(content.shape[1:3], bool)
    border[BORDER:-BORDER, BORDER:-BORDER] = False
    background = ~masks[..., None]
    before, after = ((images * background).sum((1, 2)) / background.sum((1, 2)) for images in (content, result))
    wanted, found = style[:, border].mean(1) - before, after - before
    products, squares = (wanted * found).sum(1), (wanted**2).sum(1)
    return float(products.sum() / squares.sum()), float(np.median(products / squares))


def recognised(reader: Reader, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> float:
    return float((read_images(reader, images)[0].argmax(1) == labels).mean())


def read_stream(folder: Path) -> dict[str, dict[str, bytes]]:
    """Members of every sample by key."""
    samples = {}
    for path in sorted(folder.rglob("*.tar")):
        file = os.open(path, os.O_RDONLY)
        samples.update({key: read_sample(file, members) for key, members in load_index(path).items()})
        os.close(file)
    return samples


def decode(content: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)


if __name__ == "__main__":
    main()
