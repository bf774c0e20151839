"""Mutated shards: our own through verify, inspect, preview, training and evaluation; other people's as inputs."""

import hashlib
import io
import json
import random
import shutil
import tarfile
from pathlib import Path

from common import (
    FAST_RECIPE,
    Tally,
    arguments,
    attempt,
    attempt_apart,
    bound_memory,
    build,
    mutate_bytes,
    picture,
    run_cli,
    workplace,
)
from tars import restructure, tar_view

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm")


def mutate_tar(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    return (restructure if rng.random() < 0.6 else mutate_bytes)(rng, content)


def mutate_index(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    """An index with a number, name or line changed."""
    if rng.random() < 0.25:
        return mutate_bytes(rng, content)
    lines = content.decode("ascii", "replace").splitlines()
    at = rng.randrange(len(lines))
    fields = lines[at].split(" ")
    kind = rng.choice(
        [
            "number",
            "number",
            "swap offsets",
            "line twice",
            "drop line",
            "header",
            "extension",
            "name",
            "key",
            "other label",
        ]
    )
    place = rng.randrange(len(fields))
    if kind == "number":
        numbers = [i for i, f in enumerate(fields) if f.isdigit()]
        if numbers:
            place = rng.choice(numbers)
            fields[place] = rng.choice(
                [
                    "-1",
                    "-512",
                    "0",
                    "1",
                    str(int(fields[place]) + rng.choice([-512, -1, 1, 512, 1024])),
                    "9" * 12,
                    "9" * 30,
                    "9" * 5000,
                    "1e3",
                    "",
                    "١٢",
                ]
            )
    elif kind == "swap offsets" and len(fields) > 6:
        fields[1], fields[5] = fields[5], fields[1]
    elif kind == "line twice":
        lines.append(lines[at])
        lines[0] = f"v1.2 {len(lines) - 1}"
    elif kind == "drop line":
        del lines[at]
        if rng.random() < 0.7 and lines:
            lines[0] = f"v1.2 {len(lines) - 1}"
    elif kind == "header":
        lines[0] = rng.choice(["v1.2 0", "v1.2", "", "v1.1 3", "v1.2 " + "9" * 5000, "v1.2 -1", "v1.2  2"])
    elif kind == "extension":
        fields[0] = rng.choice(["jpg", "cls", "", "exe", "mask.png"])
    elif kind == "name" and len(fields) > 3:
        fields[3] = rng.choice(["../x.png", "/etc/passwd.png", "", ".", "dir.v2/0001.png"])
    elif kind == "other label" and at and len(lines) > 2:
        other = rng.choice(lines[1:]).split(" ")
        for i, field in enumerate(fields):
            if field == "cls" and "cls" in other:
                j = other.index("cls")
                fields[i + 1 : i + 3] = other[j + 1 : j + 3]
    if kind not in ("line twice", "drop line", "header"):
        lines[at] = " ".join(fields)
    return "".join(f"{line}\n" for line in lines).encode("utf-8"), f"index {kind} in line {at}"


class Own:
    """A dataset of ours, one of whose shards or indexes is altered for each case."""

    def __init__(self, folder: Path) -> None:
        self.url = build(FAST_RECIPE, folder / "fast")
        self.files = sorted(p for p in self.url.rglob("*") if p.suffix in (".tar", ".idx"))
        self.pristine = {p: p.read_bytes() for p in self.files}
        self.truth = {s: self.read(s, True) for s in ("natural", "held", "shown")}
        self.inspected: dict[str, str] = {}
        for stream, count in (("natural", 24), ("held", 12), ("shown", 12)):
            for number in range(count):
                key = f"{stream}-{number:08d}"
                self.inspected[key] = attempt(lambda key=key: self.inspect(key)).value[1]
        attempt(self.preview)
        self.sheets = {p.name: p.read_bytes() for p in (self.url / "preview").glob("*.jpg")}
        import torch
        from genint.train.checkpoint import Classifier, Preprocessing
        from torch import nn

        torch.manual_seed(0)
        names = tuple(json.loads((self.url / "manifest.json").read_text())["streams"][0]["class_names"])
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
        self.classifier = Classifier("linear", model, "linear", names, Preprocessing(None, 32), "0" * 64)
        self.predicted = self.evaluate()

    def verify(self):
        from genint.pipeline.cli import main

        run_cli(main, "verify", self.url)

    def inspect(self, key):
        from genint.pipeline.cli import main

        run_cli(main, "inspect", self.url, key)

    def preview(self):
        from genint.pipeline.cli import main

        run_cli(main, "preview", self.url)

    def read(self, stream, verify):
        """Every image and label of a stream as the trainer's loader gives them."""
        from genint.train.augmentation import Augmentation
        from genint.train.loader import StepLoader
        from genint.train.streams import open_shards

        (opened,) = open_shards(str(self.url), [stream])
        opened.images.check()
        count = len(opened.images)
        loader = StepLoader([opened], {stream: count}, {stream: Augmentation("none", 32)}, seed=0, verify=verify)
        (batch,) = loader.steps(0, 1)
        return hashlib.sha256(batch.images[stream].numpy().tobytes()).hexdigest(), batch.labels[stream].tolist()

    def validate(self):
        """The validation stream as a run reads it while it trains."""
        from genint.train.checkpoint import Preprocessing
        from genint.train.configuration import load_configuration
        from genint.train.inputs import open_inputs
        from genint.train.loader import evaluation_batches

        inputs = open_inputs(load_configuration("mini-erm"), [str(self.url)])
        inputs.check()
        (part,) = inputs.validation
        found = list(evaluation_batches(part.images, Preprocessing(None, 32), 64, 0, part.positions))
        return [(hashlib.sha256(i.numpy().tobytes()).hexdigest(), l.tolist()) for i, l in found]

    def evaluate(self):
        """What genint-evaluate predicts on the test stream, and the digest it reports beside it."""
        from genint.evaluate.prediction import predict
        from genint.evaluate.test_sets import open_test_set

        (test_set,) = open_test_set(f"shards={self.url}")
        found = predict(self.classifier, test_set)
        return found.top5.tolist(), found.labels.tolist(), test_set.digest()


def own_case(rng: random.Random, own: Own, tally: Tally, only: str | None) -> None:
    path = rng.choice(own.files)
    content, note = (mutate_tar if path.suffix == ".tar" else mutate_index)(rng, own.pristine[path])
    altered = content != own.pristine[path]
    stream = path.relative_to(own.url).parts[0]
    case = f"{path.relative_to(own.url)}: {note}"
    path.write_bytes(content)
    try:
        targets = ["verify", "inspect", "train verified", "train unverified", "preview"]
        targets += ["validation"] if stream == "held" else ["evaluate"] * 2 if stream == "shown" else []
        target = only if only in targets else rng.choice(targets)
        if target == "preview" and rng.random() < 0.6:
            target = "verify"
        if target == "verify":
            result = attempt(own.verify)
            tally.add(target, case, result, "altered shard or index verified" if altered else None)
        elif target == "inspect":
            keys = [key for key in own.inspected if key.startswith(f"{stream}-")]
            key = rng.choice(keys)
            result = attempt(lambda: own.inspect(key))
            wrong = None
            if result.kind == "ok" and result.value[1] != own.inspected[key]:
                shown = json.loads(result.value[1])
                wrong = None if shown["differs_from_plan"] else "other members shown, nothing said"
            tally.add(target, f"{case}; inspect {key}", result, wrong)
        elif target == "preview":
            result = attempt(own.preview)
            sheet = own.url / "preview" / f"{stream}.jpg"
            wrong = (
                "sheet of altered pictures drawn"
                if result.kind == "ok" and sheet.read_bytes() != own.sheets[sheet.name]
                else None
            )
            tally.add(target, case, result, wrong)
        elif target.startswith("train"):
            result = attempt(lambda: own.read(stream, target == "train verified"))
            differs = result.kind == "ok" and result.value[0] != own.truth[stream]
            # Without verification a changed pixel is nobody's fault; a changed label is not noticed either, as documented.
            wrong = "other images or labels" if differs and target == "train verified" else None
            tally.add(target, case, result, wrong)
        elif target == "validation":
            truth = own.__dict__.setdefault("validated", None)
            result = attempt(own.validate)
            if truth is None:
                for p, c in own.pristine.items():
                    p.write_bytes(c)
                truth = own.validated = own.validate()
                path.write_bytes(content)
                result = attempt(own.validate)
            wrong = "validated on other images or labels" if result.kind == "ok" and result.value[0] != truth else None
            tally.add(target, case, result, wrong)
        elif target == "evaluate":
            result = attempt(own.evaluate)
            wrong = None
            if result.kind == "ok" and result.value[0] != own.predicted:
                labels = result.value[0][1] != own.predicted[1]
                wrong = f"measured on other {'labels' if labels else 'images'} under the digest of the record"
            tally.add(target, case, result, wrong)
    finally:
        path.write_bytes(own.pristine[path])


def foreign_tar(rng: random.Random) -> bytes:
    """A WebDataset tar as others write it."""
    buffer = io.BytesIO()
    style = rng.choice([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    with tarfile.open(fileobj=buffer, mode="w", format=style) as archive:
        for number in range(rng.randint(2, 4)):
            extension, file_format = rng.choice([("png", "PNG"), ("jpg", "JPEG")])
            label = str(rng.randrange(4)).encode()
            members = {"cls": label, extension: picture(rng, 12, file_format)}
            if rng.random() < 0.3:
                members["json"] = json.dumps({"class_name": f"c{label.decode()}"}).encode()
            for ext, data in members.items():
                info = tarfile.TarInfo(f"{number:04d}.{ext}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def dali_index(content: bytes) -> bytes:
    """What wds2idx writes beside a tar."""
    samples: dict[str, list[str]] = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for info in archive:
            folder, slash, base = info.name.rpartition("/")
            stem, _, ext = base.partition(".")
            samples.setdefault(f"{folder}{slash}{stem}", []).append(f"{ext} {info.offset_data} {info.size} {info.name}")
    return "".join(f"{line}\n" for line in (f"v1.2 {len(samples)}", *(" ".join(s) for s in samples.values()))).encode()


def foreign_case(rng: random.Random, folder: Path, tally: Tally, only: str | None) -> None:
    original = foreign_tar(rng)
    root = folder / "foreign"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    path = root / "a.tar"
    path.write_bytes(original)
    original_samples = numbered(tar_view(path, IMAGES))
    target = only or rng.choice(["natural from tars", "training from tars", "training from tars with index"])
    if target == "training from tars with index":
        path.write_bytes(original)
        index, note = mutate_index(rng, dali_index(original))
        if rng.random() < 0.3:
            changed, more = mutate_tar(rng, original)
            path.write_bytes(changed)
            note += f"; tar: {more}"
        (root / "a.idx").write_bytes(index)
    else:
        content, note = mutate_tar(rng, original)
        path.write_bytes(content)
    # Sizes can send tarfile round in circles, in threads that nobody can end: those cases get a process of their own.
    risky = any(
        word in note for word in ("size", "fields", "sparse", "pax", "global", "flip", "zero", "insert", "index number")
    )
    try_it = attempt_apart if risky else attempt
    seen = try_it(lambda: tar_view(path, IMAGES), 3)
    view = seen.value[0] if seen.kind == "ok" else None

    def listed():
        from genint.manifests.tar_inputs import list_input

        listing = list_input("class folders", str(root), "photos")
        return sorted((int(p.partition("/")[0]), hashlib.sha256(listing.read(p)).hexdigest()) for p in listing.paths)

    def trained():
        from genint.train.streams import open_images

        images = open_images(str(root))
        images.check()
        read = [images.read(i) for i in range(len(images))]
        return sorted((label, hashlib.sha256(image).hexdigest()) for image, label in read)

    result = try_it(listed if target == "natural from tars" else trained, 5)
    tally.add(target, note, result, compare(original_samples, view, result) if result.kind == "ok" else None)


def numbered(view: dict[str, tuple[bytes, bytes]]) -> list[tuple[int, str]]:
    """Label and digest of each image; samples whose label is no number are left out."""
    found = []
    for image, label in view.values():
        try:
            found.append((int(label), hashlib.sha256(image).hexdigest()))
        except ValueError:
            continue
    return sorted(found)


def compare(original: list[tuple[int, str]], view: dict[str, tuple[bytes, bytes]] | None, result) -> str | None:
    """What is wrong with accepted samples, against those that the tar's own headers give."""
    read = result.value[0]
    if view is None:
        unknown = [pair for pair in read if pair not in original]
        return (
            "accepted a tar in which a member stands twice, or that is refused by webdataset"
            if (unknown or len(read) != len(original))
            else None
        )
    reference = numbered(view)
    unknown = [pair for pair in read if pair not in reference and pair not in original]
    if unknown:
        images = {digest for _, digest in reference} | {digest for _, digest in original}
        return (
            "a label that its sample has not"
            if all(d in images for _, d in unknown)
            else "an image that no member holds"
        )
    if len(read) < len(reference):
        return "samples of the tar are left out"
    return None


def main() -> None:
    options = arguments(__doc__)
    rng = random.Random(options.seed)
    tally = Tally("shards")
    foreign = ("natural from tars", "training from tars", "training from tars with index")
    with workplace() as folder:
        own = Own(folder) if options.only not in foreign else None
        bound_memory()
        for _ in range(options.cases):
            if own is None or (options.only is None and rng.random() < 0.5):
                foreign_case(rng, folder, tally, options.only if options.only in foreign else None)
            else:
                own_case(rng, own, tally, options.only)
    tally.report(options.verbose)


if __name__ == "__main__":
    main()
