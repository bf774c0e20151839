"""Corrupted copies: reproducible whatever the order, marked generated, and never mistaken for the official set."""

import io
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from genint.evaluate import corrupt as module
from genint.evaluate.cli import main
from genint.evaluate.corrupt import corrupt, corrupt_picture, picture_seed
from genint.evaluate.corruptions.frost import PHOTOGRAPHS, load_frost
from genint.evaluate.metrics.accuracy import accuracy
from genint.evaluate.metrics.corruption_error import TEST_CORRUPTIONS
from genint.evaluate.prediction import predict
from genint.evaluate.test_sets import TestSet as SomeSet
from genint.evaluate.test_sets import open_test_set
from genint.evaluate.test_sets.imagenet_c import dump_marker
from genint.manifests.errors import FormatError, GenintError, UsageError
from genint.train.checkpoint import Classifier, Preprocessing
from PIL import Image
from torch import Tensor, nn

# Quick ones: two with noise and one without.
QUICK = ("gaussian_noise", "impulse_noise", "contrast")


def picture(size: int = 32, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    ramp = np.linspace(40, 200, size)[:, None, None] * np.ones((1, size, 3))
    return Image.fromarray(np.uint8(np.clip(ramp + rng.normal(0, 12, ramp.shape), 0, 255)))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A set of two classes, one of whose pictures is a JPEG."""
    root = tmp_path / "mine"
    for number, name in enumerate(("ant", "zebra")):
        (root / name / "deep").mkdir(parents=True)
        picture(seed=number).save(root / name / "0.png")
        picture(seed=number + 5).save(root / name / "deep" / "1.png")
    picture(seed=9).save(root / "ant" / "photo.JPEG", quality=95)
    return root


def opened(root: Path) -> SomeSet:
    (one,) = open_test_set(f"folder={root}")
    return one


def content(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_too_small_a_picture_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="picture: 32 x 32 pixels; spatter needs 64 on each side; leave it out"):
        corrupt_picture(picture(32), "spatter", 5, seed=0)
    with pytest.raises(UsageError, match=r"one: 31 x 31 pixels; fog needs 32 on each side$"):
        corrupt_picture(picture(31), "fog", 1, seed=0, name="one")


def test_seeds_differ_by_image_corruption_and_severity() -> None:
    arguments = [(0, "a", "fog", 1), (1, "a", "fog", 1), (0, "b", "fog", 1), (0, "a", "snow", 1), (0, "a", "fog", 2)]
    assert len({picture_seed(*each) for each in arguments}) == 5
    assert all(0 <= picture_seed(*each) < 2**32 for each in arguments)


def test_copy_has_the_official_layout_and_keeps_names(pictures: Path, tmp_path: Path) -> None:
    sets = corrupt(opened(pictures), tmp_path / "copy", QUICK, (1, 5))
    assert [one.name for one in sets][:3] == [
        "mine (generated)/gaussian_noise/1", "mine (generated)/gaussian_noise/5", "mine (generated)/impulse_noise/1",
    ]  # fmt: skip
    names = {"ant/0.png", "ant/deep/1.png", "ant/photo.JPEG", "zebra/0.png", "zebra/deep/1.png"}
    for one in sets:
        assert {one.key(position) for position in range(len(one))} == names
        assert Path(one.root) == tmp_path / "copy" / one.corruption / str(one.severity)
    with Image.open(tmp_path / "copy" / "contrast" / "5" / "ant" / "photo.JPEG") as photo:
        assert photo.format == "JPEG"
    # PNG keeps every value.
    seed = picture_seed(0, "zebra/0.png", "gaussian_noise", 5)
    expected = corrupt_picture(picture(seed=1), "gaussian_noise", 5, seed)
    with Image.open(tmp_path / "copy" / "gaussian_noise" / "5" / "zebra" / "0.png") as made:
        assert made.tobytes() == expected.tobytes()


def test_copy_is_the_same_for_any_order_and_number_of_workers(pictures: Path, tmp_path: Path) -> None:
    corrupt(opened(pictures), tmp_path / "a", QUICK, (1, 3))
    corrupt(opened(pictures), tmp_path / "b", QUICK, (1, 3), workers=2)
    corrupt(opened(pictures), tmp_path / "c", QUICK[::-1], (3, 1))
    corrupt(opened(pictures), tmp_path / "d", QUICK, (1, 3), seed=1)
    a, b, c, d = (
        {k: v for k, v in content(tmp_path / name).items() if k not in ("corrupted.json", "lock")} for name in "abcd"
    )  # fmt: skip
    assert len(a) == 30 and a == b == c
    assert a.keys() == d.keys() and a != d


def test_interrupted_copy_goes_on_to_the_same_bytes(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corrupt(opened(pictures), tmp_path / "whole", QUICK, (1, 3))
    made: list[str] = []
    original = module.corrupt_picture

    def interrupted(*arguments: Any) -> Image.Image:
        if len(made) == 7:
            raise KeyboardInterrupt
        made.append(arguments[1])
        return original(*arguments)

    monkeypatch.setattr(module, "corrupt_picture", interrupted)
    with pytest.raises(KeyboardInterrupt):
        corrupt(opened(pictures), tmp_path / "copy", QUICK, (1, 3))
    # Half a copy is none, and passes for nothing else.
    for kind in ("corrupted", "imagenet-c"):
        with pytest.raises(UsageError, match="not finished"):
            open_test_set(f"{kind}={tmp_path / 'copy'}")
    monkeypatch.setattr(module, "corrupt_picture", lambda *arguments: made.append(arguments[1]) or original(*arguments))
    corrupt(opened(pictures), tmp_path / "copy", QUICK, (1, 3))
    assert len(made) == 30
    assert content(tmp_path / "copy") == content(tmp_path / "whole")
    corrupt(opened(pictures), tmp_path / "copy", QUICK, (1, 3))
    assert len(made) == 30


def test_copy_is_marked_generated_under_every_name(pictures: Path, tmp_path: Path) -> None:
    corrupt(opened(pictures), tmp_path / "copy", TEST_CORRUPTIONS, (2,))
    marker = json.loads((tmp_path / "copy" / "corrupted.json").read_text())
    assert marker["generated"] is True and "opencv-python-headless" in marker["versions"]
    assert marker["implementation"] == {"name": "genint.evaluate.corruptions", "version": 1, "frost": "grown"}
    for kind in ("corrupted", "imagenet-c"):
        sets = open_test_set(f"{kind}={tmp_path / 'copy'}")
        assert len(sets) == 15
        assert all(one.marked == "generated" and "not comparable with CE" in one.protocol for one in sets)
    (tmp_path / "copy" / "corrupted.json").unlink()
    with pytest.raises(UsageError, match="not a corrupted copy"):
        open_test_set(f"corrupted={tmp_path / 'copy'}")
    shutil.rmtree(tmp_path / "copy" / "snow")
    with pytest.raises(UsageError, match="lacks "):
        open_test_set(f"imagenet-c={tmp_path / 'copy'}")


def test_lost_image_of_a_copy_is_found(pictures: Path, tmp_path: Path) -> None:
    (one,) = corrupt(opened(pictures), tmp_path / "copy", ["contrast"], [1])
    (tmp_path / "copy" / "contrast" / "1" / "ant" / "0.png").unlink()
    with pytest.raises(UsageError, match="contrast/1: 4 images; expected 5 images of 2 classes"):
        one.labels(0)


def test_another_request_does_not_mix_into_a_copy(pictures: Path, tmp_path: Path) -> None:
    corrupt(opened(pictures), tmp_path / "copy", QUICK, (1,))
    with pytest.raises(UsageError, match=r"another corrupted copy \(severities: \[1\] -> \[2\], seed: 0 -> 4\)"):
        corrupt(opened(pictures), tmp_path / "copy", QUICK, (2,), seed=4)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty and holds no corrupted copy"):
        corrupt(opened(pictures), tmp_path / "full", QUICK, (1,))
    with pytest.raises(UsageError, match="lies in the set that is copied"):
        corrupt(opened(pictures), pictures / "copy", QUICK, (1,))
    with pytest.raises(UsageError, match="rain"):
        corrupt(opened(pictures), tmp_path / "other", ["rain"], (1,))
    with pytest.raises(UsageError, match="severities"):
        corrupt(opened(pictures), tmp_path / "other", QUICK, (0,))
    with pytest.raises(UsageError, match="corrupted already"):
        corrupt(open_test_set(f"corrupted={tmp_path / 'copy'}")[0], tmp_path / "other", QUICK, (1,))
    (pictures / "ant" / "0.jpg").write_bytes((pictures / "ant" / "photo.JPEG").read_bytes())
    with pytest.raises(UsageError, match=r"ant/0\.jpg and ant/0\.png would have one name"):
        corrupt(opened(pictures), tmp_path / "other", QUICK, (1,))
    assert not (tmp_path / "other").exists()


def test_copy_by_another_implementation_is_not_gone_on_with(pictures: Path, tmp_path: Path) -> None:
    corrupt(opened(pictures), tmp_path / "copy", ["frost"], [1])
    path = tmp_path / "copy" / "corrupted.json"
    marker = json.loads(path.read_text())
    marker["implementation"]["version"] = 0
    path.write_bytes(dump_marker(marker))
    with pytest.raises(
        UsageError, match=r"corrupted copy \(implementation of version: 0 -> 1\); choose another folder"
    ):
        corrupt(opened(pictures), tmp_path / "copy", ["frost"], [1])
    # As genint 0.1.0 wrote them, with the library that it used.
    del marker["implementation"], marker["sha256"]
    path.write_text(json.dumps({**marker, "versions": {"imagecorruptions-imaug": "1.1.5"}}))
    with pytest.raises(UsageError, match="copy: made by an earlier version with other corruptions; delete it"):
        corrupt(opened(pictures), tmp_path / "copy", ["frost"], [1])


def test_copy_with_photographs_of_frost_names_them(
    pictures: Path, tmp_path: Path, run_main: Callable[..., Any]
) -> None:
    for number, name in enumerate(PHOTOGRAPHS):
        picture(60, seed=number).save(tmp_path / name)
    command = ("corrupt", f"folder={pictures}", "--out", tmp_path / "copy", "--corruption", "frost", "--severity", "2")
    missing = run_main(main, *command, "--frost-images", pictures)
    assert missing.exit_code == 2 and "lacks frost1.png" in missing.err and not (tmp_path / "copy").exists()
    assert run_main(main, *command, "--frost-images", tmp_path).exit_code == 0
    marker = json.loads((tmp_path / "copy" / "corrupted.json").read_text())
    assert marker["implementation"]["frost"] == load_frost(tmp_path).digest
    seed = picture_seed(0, "zebra/0.png", "frost", 2)
    with Image.open(tmp_path / "copy" / "frost" / "2" / "zebra" / "0.png") as made:
        assert made.tobytes() == corrupt_picture(picture(seed=1), "frost", 2, seed, load_frost(tmp_path)).tobytes()
    grown = run_main(main, *command)
    assert grown.exit_code == 2 and "implementation of frost: " in grown.err and "-> grown" in grown.err


def test_dead_worker_is_told_and_the_copy_goes_on(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dying(ProcessPoolExecutor):
        def submit(self, *_: Any, **__: Any) -> Any:
            return super().submit(os._exit, 9)

    with monkeypatch.context() as patched:
        patched.setattr(module, "ProcessPoolExecutor", Dying)
        with pytest.raises(GenintError, match=r"copy: a worker ended in its work .* the same command goes on"):
            corrupt(opened(pictures), tmp_path / "copy", ["contrast"], [1], workers=2)
    assert len(corrupt(opened(pictures), tmp_path / "copy", ["contrast"], [1])[0]) == 5


def test_unreadable_image_is_named(pictures: Path, tmp_path: Path) -> None:
    (pictures / "zebra" / "0.png").write_bytes(b"no picture")
    with pytest.raises(FormatError, match=r"^zebra/0\.png: unreadable image"):
        corrupt(opened(pictures), tmp_path / "copy", ["contrast"], [1])


def test_copy_made_as_imagenet_c_is_shown_by_its_centre_crop_alone(tmp_path: Path) -> None:
    (tmp_path / "mine" / "ant").mkdir(parents=True)
    picture(80).resize((100, 80)).save(tmp_path / "mine" / "ant" / "0.png")
    (one,) = corrupt(opened(tmp_path / "mine"), tmp_path / "copy", ["contrast"], [1], resize=48, crop=40)
    with Image.open(io.BytesIO(one.read(0))) as made:
        assert made.size == (40, 40)
        assert one.transform(Preprocessing())(made).shape == (3, 40, 40)
    assert "CenterCrop(40) only" in one.protocol


def test_copy_of_a_stream_keeps_its_classes_in_their_order(reference: Path, tmp_path: Path) -> None:
    (stream,) = open_test_set(f"shards={reference}:natural")
    # In the order of labels the mini world's classes are not sorted, as their folders are.
    assert list(stream.class_names) != sorted(stream.class_names)
    (one,) = corrupt(stream, tmp_path / "copy", ["brightness"], [1])
    assert one.class_names == stream.class_names and len(one) == len(stream) == 60
    of_key = {stream.key(position): stream.labels(position) for position in range(60)}
    assert {Path(one.key(position)).stem: one.labels(position) for position in range(60)} == of_key

    class First(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return nn.functional.one_hot(images.new_zeros(len(images)).long(), 10).float()

    model = Classifier("first", First(), "toy", stream.class_names, Preprocessing(None, 32), "0" * 64)
    assert accuracy(predict(model, one).hit1).hits == accuracy(predict(model, stream).hit1).hits > 0
