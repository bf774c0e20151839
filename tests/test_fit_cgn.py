"""A CGN is trained by one command and seed, goes on exactly, and each loss moves what it is meant to move."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from genint.manifests.errors import GenintError, UsageError
from genint.pipeline.biggan.generator import LoadedGenerator, make_random_generator
from genint.pipeline.cgn.fit import fit, make_features, rate_factor
from genint.pipeline.cgn.fit_biggan import BigGanLearner
from genint.pipeline.cgn.fit_mnist import MnistLearner
from genint.pipeline.cgn.mechanisms import fold_cgn, load_cgn
from genint.pipeline.cgn.saliency import Saliency, make_saliency
from genint.pipeline.cgn.settings import BigGanFit, MnistFit, load_settings, shipped_presets
from genint.pipeline.fitting.fit_cgn import prepare, train_stand_in
from genint.pipeline.style.vgg import make_random_vgg
from pytorch_pretrained_biggan import BigGANConfig

RunCli = Callable[..., Any]
CONFIG = BigGANConfig(
    output_dim=16,
    z_dim=8,
    class_embed_dim=8,
    channel_width=8,
    num_classes=3,
    layers=[[True, 16, 8], [False, 8, 4], [True, 4, 2], [False, 2, 1]],
    attention_layer_position=2,
    eps=1e-4,
    n_stats=3,
)
FEATURES = make_features(make_random_vgg((4, 4, 8, 8, 8)), [1, 2], normalise=True)
MNIST = ["encoder=stand-in", "layers=[1, 2]", "style=[0.1, 0.1]", "batch_size=4", "epochs=2"]


@pytest.fixture(scope="module")
def generator() -> LoadedGenerator:
    return LoadedGenerator(make_random_generator(CONFIG, seed=1), "config", "weights", ("a", "b", "c"))


@pytest.fixture(scope="module")
def saliency() -> Saliency:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make_saliency({"kind": "tiny", "channels": [4, 8], "normalise": True}, "").eval()


def _settings(*overrides: str) -> BigGanFit:
    small = ["steps=4", "batch_size=3", "layers=[1, 2]", "style=[0.5, 0.5]", "texture=[0.5, 0.5]", "warmup=0"]
    small += ["collage.side=16", "collage.tiles=4", *overrides]
    settings = load_settings("mini", small)
    assert isinstance(settings, BigGanFit)
    return settings


def _pictures(epoch: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(epoch)
    return rng.integers(0, 255, (10, 32, 32, 3), np.uint8), np.arange(10)


def _mnist(*overrides: str) -> MnistLearner:
    settings = load_settings("colored-mnist", [*MNIST, *overrides])
    assert isinstance(settings, MnistFit)
    return MnistLearner(settings, _pictures, 10, FEATURES)


# Gradients.


@pytest.mark.parametrize(
    ("loss", "moved"),
    [
        ("l1", {"shape", "texture", "background"}),
        ("style", {"shape", "texture", "background"}),
        ("binary", {"shape"}),
        ("size", {"shape"}),
        ("texture", {"texture"}),
        ("background", {"background"}),
    ],
)
def test_a_loss_moves_what_it_is_meant_for(
    generator: LoadedGenerator, saliency: Saliency, loss: str, moved: set[str]
) -> None:
    # A range that no mask is in, so that its size costs.
    learner = BigGanLearner(_settings("size_range=[0.98, 0.99]"), generator, saliency, FEATURES)
    with torch.no_grad():  # the mask moves nothing where texture and background are still the same
        learner.networks.f_bg.generator.conv_to_rgb.bias.add_(0.5)
    losses, _ = learner._pass(*learner._draw(0, 0))
    losses[loss].backward()
    gradients = {
        name: sum(float(p.grad.abs().sum()) for p in part.parameters() if p.grad is not None)
        for name, part in learner.mechanisms.items()
    }
    assert {name for name, size in gradients.items() if size > 0} == moved
    assert all(p.grad is None and not p.requires_grad for p in learner.networks.saliency.parameters())


def test_the_copies_compose_their_target_before_the_first_update(
    generator: LoadedGenerator, saliency: Saliency
) -> None:
    learner = BigGanLearner(_settings(), generator, saliency, FEATURES)
    measures = learner.learn(0)
    assert measures["l1"] == pytest.approx(0, abs=0.1)  # of a weight of 100
    assert measures["mask IoU with the target's"] > 0.99


def test_accumulated_gradients_are_summed(generator: LoadedGenerator, saliency: Saliency) -> None:
    gradients = []
    for accumulate in (1, 2):
        learner = BigGanLearner(_settings("clip=1e9", f"accumulate={accumulate}"), generator, saliency, FEATURES)
        fixed = learner._draw(0, 0)
        learner._draw = lambda step, turn, fixed=fixed: fixed  # type: ignore[method-assign]
        # Power iterations would change the second pass.
        learner._train = lambda mode: None  # type: ignore[method-assign]
        learner.learn(0)
        gradients.append(learner.networks.f_bg.embeddings.weight.grad)
    torch.testing.assert_close(gradients[1], 2 * gradients[0])


# Runs.


def test_a_training_goes_on_exactly_where_it_was_stopped(
    generator: LoadedGenerator, saliency: Saliency, tmp_path: Path
) -> None:
    def start(folder: str):
        learner = BigGanLearner(_settings(), generator, saliency, FEATURES)
        return fit(tmp_path / folder, learner, {"steps": 4}, sheet_every=2, save_every=1)

    whole = list(start("whole"))
    stopped = start("stopped")
    early = [next(stopped), next(stopped)]
    stopped.close()
    late = list(start("stopped"))
    assert [p.step for p in early + late] == [1, 2, 3, 4]
    assert [p.measures for p in early + late] == [p.measures for p in whole]
    weights = [torch.load(tmp_path / f / "cgn.pth", weights_only=True) for f in ("whole", "stopped")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert sorted(p.name for p in (tmp_path / "whole" / "sheets").iterdir()) == [
        "step-00000001.png", "step-00000002.png", "step-00000004.png",
    ]  # fmt: skip
    assert list((tmp_path / "whole" / "tensorboard").iterdir())
    # What was trained is what renders, from a small file.
    loaded = load_cgn(tmp_path / "whole")
    assert loaded.facts.class_names == ("a", "b", "c")
    cgn = fold_cgn(loaded, batch_size=2)
    assert cgn.shape(torch.zeros(1, 8), torch.tensor([2])).shape == (1, 1, 16, 16)
    with pytest.raises(UsageError, match=r"another steps; choose another folder"):
        next(fit(tmp_path / "whole", BigGanLearner(_settings(), generator, saliency, FEATURES), {"steps": 5}))


def test_a_loss_that_is_not_finite_ends_the_training(
    generator: LoadedGenerator, saliency: Saliency, tmp_path: Path
) -> None:
    learner = BigGanLearner(_settings(), generator, saliency, FEATURES)
    with torch.no_grad():
        learner.networks.f_text.generator.conv_to_rgb.bias.fill_(float("nan"))
    with pytest.raises(GenintError, match=r"update 1: the loss is not finite \(l1 nan, .*nothing was updated"):
        next(fit(tmp_path, learner, {}))


@pytest.mark.parametrize("discriminator", ["linear", "convolutional"])
def test_an_mnist_training_goes_on_exactly_too(tmp_path: Path, discriminator: str) -> None:
    kind = [f"discriminator={discriminator}", "width=8"]

    def start(folder: str):
        return fit(tmp_path / folder, _mnist(*kind), {}, sheet_every=100, save_every=2)

    whole = list(start("whole"))
    assert len(whole) == 2 * 3  # two epochs of ten pictures in batches of four
    stopped = start("stopped")
    early = [next(stopped) for _ in range(4)]
    stopped.close()
    torch.rand(1)
    late = list(start("stopped"))
    assert [p.measures for p in early + late] == [p.measures for p in whole]
    assert {"adversarial", "binary", "style", "discriminator", "mask mean", "mask spread"} <= whole[0].measures.keys()
    weights = [torch.load(tmp_path / f / "cgn.pth", weights_only=True) for f in ("whole", "stopped")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert load_cgn(tmp_path / "whole").facts.form == "mnist"


def test_one_class_a_batch_is_the_official_way(generator: LoadedGenerator, saliency: Saliency) -> None:
    labels = [
        BigGanLearner(_settings("batch_size=16", f"one_class_a_batch={word}"), generator, saliency, FEATURES)._draw(
            0, 0
        )[1]
        for word in ("true", "false")
    ]
    assert len(labels[0].unique()) == 1 and len(labels[1].unique()) > 1


def test_rates_rise_stay_and_fall() -> None:
    factors = [rate_factor(step, 100, 10, decay=True) for step in (0, 9, 59, 80, 100)]
    assert factors == pytest.approx([0.1, 1.0, 1.0, 0.55, 0.1])
    assert {rate_factor(step, 100, 0, decay=False) for step in (0, 50, 99)} == {1.0}


# What a training reads.


def _refused(arguments: list[str], run: RunCli) -> str:
    result = run("fit-cgn", *arguments)
    assert result.exit_code == 2, result.err
    assert result.err.count("\n") == 1 and len(result.err) < 700
    return result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["wildlife-mnist", "--input", "vgg16=NOWHERE/vgg16.pth"], "--input vgg16=NOWHERE/vgg16.pth: no such file"),
        (["imagenet-256", "--input", "u2net=NOWHERE/u2net.pth"], "--input u2net=NOWHERE/u2net.pth: no such file"),
        (["imagenet-256"], "fit-cgn needs u2net.pth (176 MB, the full U2NET"),
        (["colored-mnist", "--set", "encoder=stand-in"], "give it with --input mnist=DIR"),
        (["colored-mnist", "--set", "encoder=stand-in", "--input", "mnist=NOWHERE"], "--input mnist=NOWHERE"),
        (["mini", "--input", "vgg16=x"], "no such input; known: mini-saliency, mini-encoder"),
        (["mini", "--weights", "NOWHERE"], "generator 'NOWHERE'"),
        (["colored-mnist", "--weights", "mini"], "starts from no generator"),
        (["minni"], "no preset 'minni'"),
    ],
)
def test_what_is_missing_is_refused_before_work_starts(
    arguments: list[str], message: str, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    out = tmp_path / "out"
    assert message in _refused([*arguments, "--out", str(out)], run_cli)
    assert not out.exists()


def test_the_stand_in_reads_classes_and_is_a_vgg16(tmp_path: Path) -> None:
    labels = np.arange(80) % 10
    images = np.zeros((80, 32, 32, 3), np.uint8)
    images[np.arange(80), :, labels * 3] = 255  # a stripe whose place is the class
    encoder = train_stand_in(images, labels, seed=0, steps=2)
    assert [len(weight) for weight in encoder.weights] == [8, 8, 16, 16, 32, 32, 32, 64, 64, 64]
    features = make_features(encoder, [2, 4, 7, 10], normalise=False)(torch.zeros(1, 3, 32, 32))
    assert [tuple(f.shape[1:]) for f in features] == [(8, 32, 32), (16, 16, 16), (32, 8, 8), (64, 4, 4)]
    again = train_stand_in(images, labels, seed=0, steps=2)
    assert all(torch.equal(a, b) for a, b in zip(encoder.weights, again.weights, strict=True))


def test_an_official_training_runs_on_the_official_world(shared_data: Path, tmp_path: Path) -> None:
    vgg16 = tmp_path / "vgg16.pth"
    widths = (4, 4, 4, 4, 4, 4, 4, 4, 4, 4)
    numbers, inputs, state = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21), 3, {}
    for number, width in zip(numbers, widths, strict=True):
        state[f"features.{number}.weight"] = torch.randn(width, inputs, 3, 3)
        state[f"features.{number}.bias"], inputs = torch.zeros(width), width
    torch.save(state, vgg16)
    bound = {"mnist": str(shared_data / "mnist"), "textures": str(shared_data / "cgn" / "textures")}
    settings = load_settings("wildlife-mnist", ["digits_per_class=2", "epochs=1", "width=4"])
    prepared = prepare(settings, "", {**bound, "vgg16": str(vgg16)})
    progress = list(fit(tmp_path / "out", prepared.learner, prepared.identity))
    assert [p.step for p in progress] == [1, 2]
    assert set(prepared.identity["sha256"]) == {"encoder", "mnist", "textures"}
    assert load_cgn(tmp_path / "out").facts.form == "mnist"


# Settings.


def test_every_preset_says_what_it_follows_and_loads() -> None:
    presets = shipped_presets()
    assert set(presets) == {"mini", "imagenet-256", "colored-mnist", "double-colored-mnist", "wildlife-mnist"}
    for name, text in presets.items():
        load_settings(name)
        comment = "".join(line for line in text.splitlines() if line.startswith("#"))
        assert "paper" in comment and "official" in comment, name


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stpes=3"], "unknown key 'stpes'; did you mean 'steps'?"),
        (["collage.pathc=3"], "unknown key 'collage.pathc'; did you mean 'collage.patch'?"),
        (["steps=0"], "steps = 0: Input should be greater than 0"),
        (["steps"], "--set steps: expected KEY=VALUE"),
        (["style=[1]"], "style: 1 weights for 5 layers"),
        (["collage.patch=40"], "patch = 40 is larger than side = 32"),
        (["size_range=[0.9, 0.1]"], "expected [smallest, largest]"),
        (["steps.x=1"], "steps is a value, not a table"),
        (["form=other"], "form = 'other': expected biggan or mnist"),
    ],
)
def test_bad_settings_are_refused_in_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_settings("mini", overrides)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_preset_is_named_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no preset 'minni'; did you mean 'mini'"):
        load_settings("minni")
    own = tmp_path / "own.toml"
    own.write_text(shipped_presets()["mini"])
    assert load_settings(str(own), ["steps=7"]) == load_settings("mini", ["steps=7"])
