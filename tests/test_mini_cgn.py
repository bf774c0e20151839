"""The shipped mini CGN is what its report says, and breaks the tie of background and class."""

import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from genint.manifests.recipe import load_recipe
from genint.manifests.sources.counterfactual import CounterfactualStream
from genint.pipeline.biggan.fast_generator import fold
from genint.pipeline.biggan.generator import load_generator
from genint.pipeline.cgn.composition import compose
from genint.pipeline.cgn.mechanisms import BigGanCgn, fold_cgn, load_cgn
from genint.pipeline.fitting import measure_cgn
from genint.pipeline.generators.load import weights_location
from genint.pipeline.mini.measure_generator import Reader
from torch import Tensor

SHIPPED = Path(str(files("genint.pipeline") / "data" / "mini-cgn"))


@pytest.fixture(scope="module")
def latents() -> Tensor:
    return torch.randn(40, 64, generator=torch.Generator().manual_seed(0)).clamp(-2, 2)


def test_the_report_belongs_to_the_shipped_weights_and_keeps_its_promises() -> None:
    report = json.loads((SHIPPED / "report.json").read_text())
    settings = json.loads((SHIPPED / "settings.json").read_text())
    generator = load_generator(weights_location("mini")).weights_sha256
    assert report["weights_sha256"] == load_cgn("mini").facts.digests["cgn"]
    assert report["generator_sha256"] == settings["sha256"]["generator"] == generator
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) <= 7_000_000
    for measured in report["truncations"].values():
        assert measured["mask_iou"] >= 0.75
        background = measured["label_from_background"]
        assert background["one label"] >= 0.8
        assert background["counterfactual, shape's label"] <= 0.13  # chance is 0.1
        assert background["counterfactual, background's label"] >= 0.8
    recipe = load_recipe("mini").stream("counterfactual")
    assert isinstance(recipe, CounterfactualStream)
    recognised = report["truncations"][str(recipe.truncation)]["recognised"]
    assert recognised["background"] >= 0.8
    assert recognised["texture and background"] >= 0.65


def test_masks_are_those_of_the_generator_s_objects(latents: Tensor) -> None:
    loaded, labels = load_cgn("mini"), torch.arange(40) % 10
    assert isinstance(loaded.networks, BigGanCgn)
    assert loaded.facts.class_names is not None and loaded.facts.class_names[0] == "t-shirt"
    target = fold(load_generator(weights_location("mini")).model, 1.0, batch_size=40)(latents, labels)
    wanted = loaded.networks.saliency(target) > 0.5
    mask = fold_cgn(loaded, batch_size=40).shape(latents, labels)
    found = mask > 0.5
    iou = (found & wanted).sum((1, 2, 3)) / (found | wanted).sum((1, 2, 3)).clamp(min=1)
    assert iou.mean() > 0.7
    assert 0.1 < mask.mean() < 0.5


def test_another_background_leaves_the_object_s_pixels_alone(latents: Tensor) -> None:
    cgn, labels = fold_cgn(load_cgn("mini"), batch_size=40), torch.arange(40) % 10
    mask, foreground = cgn.shape(latents, labels), cgn.texture(latents, labels)
    before = compose(mask, foreground, cgn.background(latents, labels))
    after = compose(mask, foreground, cgn.background(latents, (labels + 5) % 10))
    change = (after - before).abs().mean(1, keepdim=True)
    assert change[mask > 0.9].mean() < 0.05
    assert change[mask < 0.1].mean() > 0.2


def test_what_the_report_measures_without_readers_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    # A reader that has learned nothing: training one takes minutes, and masks and composition need none.
    torch.manual_seed(0)
    reader = Reader().eval()
    monkeypatch.setattr(measure_cgn, "train_reader", lambda confounding: reader)
    monkeypatch.setattr(measure_cgn, "GENERATED_PER_CLASS", 4)
    monkeypatch.setattr(measure_cgn, "SLICES", {"train": 600, "test": 100})
    measured = measure_cgn.measure_cgn(SHIPPED, weights_location("mini"))
    report = json.loads((SHIPPED / "report.json").read_text())
    assert measured.keys() == report.keys()
    assert measured["weights_sha256"] == report["weights_sha256"]
    assert measured["images"] == 40
    assert measured["truncations"].keys() == report["truncations"].keys()
    for truncation, found in measured["truncations"].items():
        said = report["truncations"][truncation]
        assert found["mask_iou"] == pytest.approx(said["mask_iou"], abs=0.08)
        assert found["composition_error"] == pytest.approx(said["composition_error"], abs=0.03)
        # Whatever it reads, the object of one picture is one class's and chance is a tenth.
        assert set(found["recognised"]) == {"BigGAN", "one label", "background", "texture", "texture and background"}
        assert max(found["recognised"].values()) < 0.5
