"""The mini world's saliency network finds objects, and is made again by one command and seed."""

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from genint.pipeline.cgn.saliency import load_saliency
from genint.pipeline.cli import main
from genint.pipeline.fitting.fit_saliency import SaliencySettings, find_masks, fit_saliency, intersection_over_union
from genint.pipeline.mini.world import compose_pictures

SHIPPED = Path(str(files("genint.pipeline") / "data" / "mini-saliency"))


def test_intersection_over_union_is_by_picture() -> None:
    first = np.zeros((3, 2, 2), bool)
    second = first.copy()
    first[0, 0] = second[0, :, 0] = True  # one pixel of three in both
    first[1] = second[1] = True
    assert intersection_over_union(first, second).tolist() == [1 / 3, 1.0, 1.0]


def test_the_shipped_network_finds_held_out_objects_and_its_report_is_its_own() -> None:
    report = json.loads((SHIPPED / "report.json").read_text())
    saliency, sha256 = load_saliency(SHIPPED / "saliency.pth")
    assert report["weights_sha256"] == sha256
    assert min(report["iou"], report["iou_shifted"]) >= 0.96
    assert (SHIPPED / "saliency.pth").stat().st_size <= 600_000
    pictures = compose_pictures("test", np.arange(200), 0.0, 0.0)
    iou = intersection_over_union(find_masks(saliency, pictures), pictures.masks)
    assert iou.mean() == pytest.approx(report["iou_shifted"], abs=0.02)


def test_settings_alone_decide_the_weights(tmp_path: Path) -> None:
    settings = SaliencySettings(steps=3, batch_size=4, num_objects=10)
    weights = []
    for name in ("a", "b"):
        torch.rand(1)  # the global generator's state is nobody's business
        assert [progress.step for progress in fit_saliency(tmp_path / name, settings)] == [1, 2, 3]
        weights.append(torch.load(tmp_path / name / "saliency.pth", weights_only=True))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert load_saliency(tmp_path / "a" / "saliency.pth")[0].describe()["kind"] == "tiny"


def test_no_steps_is_bad_usage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.argv", ["genint-pipeline", "fit-saliency", "--out", str(tmp_path), "--steps", "0"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
