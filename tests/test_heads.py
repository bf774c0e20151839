"""Heads on one trunk: what each learns, what the checkpoint says of them, and counterfactuals without them."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from genint.manifests.errors import FormatError, UsageError
from genint.train.checkpoint import initialise, load_classifier, make_model
from genint.train.configuration import Configuration, Stage, load_configuration
from genint.train.distributed import Ranks
from genint.train.heads import find_heads, head_logits
from genint.train.inputs import open_inputs
from genint.train.learner import Learner
from genint.train.loader import StepBatch
from genint.train.objective import equation_1, loss_weights, term_losses
from genint.train.plan import StagePlan, describe_plan, plan_stages
from genint.train.stream_images import UNKNOWN, StreamImages
from genint.train.trainer import Settings, make_loader, train
from torch import nn

CPU = Ranks(0, 1, torch.device("cpu"))
HEADS = ("shape", "texture", "background")
RECIPE = """
name = "three-labels"
seed = 3
[generator]
name = "mini"
batch_size = 10
[[streams]]
name = "natural"
source = "mini-world"
objects = "train"
num_samples = 40
samples_per_shard = 20
image_format = "png"
[[streams]]
name = "observational"
source = "observational"
latents_per_class = 1
image_format = "png"
[[streams]]
name = "counterfactual"
source = "counterfactual"
cgn = "mini-cgn"
samples_per_class = 2
image_format = "png"
[[streams]]
name = "recomposed"
source = "recomposed"
objects = "natural"
background = "natural"
num_samples = 12
image_format = "png"
"""
SMALL = [
    "arch=shufflenet_v2_x0_5", "steps=4", "warmup_steps=0", "lr=0.05", "decay_epochs=[]", "lambda_counterfactual=0.5",
    "batch_sizes.natural=8", "batch_sizes.int=4", "batch_sizes.counterfactual=6",
]  # fmt: skip
THREE = [*SMALL, "heads={shape=1.0, texture=1.0, background=1.0}", 'streams=["natural", "counterfactual"]']


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Natural, observational, counterfactual and recomposed images of the mini world."""
    folder = tmp_path_factory.mktemp("heads")
    (folder / "recipe.toml").write_text(RECIPE)
    command = [sys.executable, "-c", "from genint.pipeline.cli import main; main()", "build-shards"]
    subprocess.run([*command, folder / "recipe.toml", "--out", folder / "dataset", "--workers", "1"], check=True)
    return folder / "dataset"


def configure(*overrides: str) -> Configuration:
    return load_configuration("mini-erm", overrides)


def plan_of(configuration: Configuration, dataset: Path) -> StagePlan:
    (stage,) = plan_stages(configuration, open_inputs(configuration, [str(dataset)]))
    return stage


def run(configuration: Configuration, dataset: Path, out: Path, stop: int | None = None) -> None:
    progress = train(configuration, open_inputs(configuration, [str(dataset)]), out, CPU, Settings(save_every=1))
    for report in progress:
        if report.step == stop:
            break
    progress.close()  # type: ignore[attr-defined]  # a generator


def test_a_head_learns_from_its_own_label_alone_and_from_the_mean_of_logits():
    torch.manual_seed(0)
    model = make_model("mnist-cnn", 10, HEADS).train()
    logits = model(torch.randn(5, 3, 32, 32))
    assert logits.shape == (5, 3, 10)
    labels = {"natural": torch.tensor([1, 2]), "counterfactual": torch.tensor([[3, 4, 5], [0, UNKNOWN, 7], [3, 4, 5]])}
    losses = term_losses(logits, labels, {"natural": 2, "counterfactual": 3}, HEADS)
    assert list(losses) == ["natural", *(f"counterfactual_{head}" for head in HEADS)]
    for part in HEADS:
        model.zero_grad()
        losses[f"counterfactual_{part}"].backward(retain_graph=True)
        for head in HEADS:
            gradient = model.get_submodule(f"fc.head_{head}").weight.grad
            # A texture label leaves the shape head's gradient zero, and so on.
            assert bool((gradient != 0).any()) == (head == part), (part, head)
    model.zero_grad()
    losses["natural"].backward()
    gradients = [model.get_submodule(f"fc.head_{head}").weight.grad for head in HEADS]
    assert all(torch.equal(gradient, gradients[0]) and gradient.any() for gradient in gradients)


def test_losses_of_heads_by_hand_and_their_weights():
    # Class 1 is three times as likely as class 0 for the first head, a third as likely for the second.
    each = torch.tensor([[0.0, math.log(3.0)], [math.log(3.0), 0.0]])
    labels = {"natural": torch.tensor([0]), "counterfactual": torch.tensor([[1, 1], [0, UNKNOWN]])}
    losses = term_losses(each.expand(3, 2, 2), labels, {"natural": 1, "counterfactual": 2}, ["shape", "texture"])
    assert {name: float(loss) for name, loss in losses.items()} == pytest.approx(
        {
            "natural": math.log(2),  # the mean of both makes the classes equally likely
            "counterfactual_shape": (math.log(4 / 3) + math.log(4)) / 2,
            "counterfactual_texture": math.log(4) / 2,  # of two images, one without a label
        }
    )
    stage = Stage(steps=1, lambda_counterfactual=0.5)
    weights = loss_weights(stage, labels, {"shape": 1.0, "texture": 0.2})
    assert weights == pytest.approx({"natural": 1.0, "counterfactual_shape": 0.5, "counterfactual_texture": 0.1})
    total = math.log(2) + 0.25 * (math.log(4 / 3) + math.log(4)) + 0.05 * math.log(4)
    assert float(equation_1(losses, weights)) == pytest.approx(total)
    assert loss_weights(stage, labels, {}) == {"natural": 1.0, "counterfactual": 0.5}


def test_streams_give_each_head_its_label(dataset: Path):
    configuration = configure(*THREE, 'streams=["counterfactual", "recomposed", "natural"]')
    streams = {stream.name: stream.images for stream in open_inputs(configuration, [str(dataset)]).streams}
    images = streams["counterfactual"]
    assert isinstance(images, StreamImages)
    for position in range(len(images)):
        parameters = json.loads(images.samples.read(position, ["json"])["json"])
        assert images.read(position)[1] == tuple(parameters["labels"][head] for head in HEADS)
    # Its object is cut out whole; of which class its background is, it does not say.
    _, label = streams["recomposed"].read(0)
    assert isinstance(label, tuple) and label == (label[0], label[0], UNKNOWN) and label[0] != UNKNOWN
    assert isinstance(streams["natural"].read(0)[1], int)


def test_a_run_with_heads_goes_on_exactly_and_its_checkpoint_names_them(dataset: Path, tmp_path: Path):
    configuration = configure(*THREE, "heads.texture=0.2")
    run(configuration, dataset, tmp_path / "whole")
    run(configuration, dataset, tmp_path / "parts", stop=2)
    run(configuration, dataset, tmp_path / "parts")
    whole, parts = (load_classifier(str(tmp_path / name)) for name in ("whole", "parts"))
    assert whole.heads == parts.heads == HEADS
    ours, theirs = whole.model.state_dict(), parts.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    line = json.loads((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()[-1])
    parts_of_loss = [line[f"loss_counterfactual_{head}"] for head in HEADS]
    assert line["loss"] == pytest.approx(
        line["loss_natural"] + 0.5 * (parts_of_loss[0] + 0.2 * parts_of_loss[1] + parts_of_loss[2]), rel=1e-5
    )
    # What it predicts is the mean of what its heads say.
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        each = whole.head_logits(images)
        torch.testing.assert_close(whole.model(images), torch.stack([each[head] for head in HEADS]).mean(0))
    assert not whole.model.training and not any(module.training for module in whole.model.modules())
    # The same trunk with other heads is another classifier; without heads, it is a start for some.
    with pytest.raises(UsageError, match=r"not a checkpoint of shufflenet_v2_x0_5: it lacks fc\.head_form"):
        initialise(make_model("shufflenet_v2_x0_5", 10, ["form"]), "shufflenet_v2_x0_5", str(tmp_path / "whole"))


def test_heads_start_fresh_on_the_trunk_of_a_classifier_without(tmp_path: Path):
    trained = make_model("shufflenet_v2_x0_5", 1000)
    torch.save(trained.state_dict(), tmp_path / "trained.pth")
    torch.manual_seed(1)
    model = make_model("shufflenet_v2_x0_5", 10, HEADS)
    fresh = model.state_dict()["fc.head_shape.weight"].clone()
    initialise(model, "shufflenet_v2_x0_5", str(tmp_path / "trained.pth"))
    state = model.state_dict()
    assert torch.equal(state["fc.head_shape.weight"], fresh)
    assert torch.equal(state["conv1.0.weight"], trained.state_dict()["conv1.0.weight"])
    assert not torch.equal(state["fc.head_shape.weight"], state["fc.head_texture.weight"])


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v3_small", "densenet121", "vit_b_32", "swin_t", "googlenet"])
def test_heads_take_the_place_of_the_last_layer(arch: str):
    with torch.device("meta"):
        found = find_heads(make_model(arch, 7, HEADS))
    assert found is not None and found[1].get_submodule("head_texture").out_features == 7
    with pytest.raises(UsageError, match="squeezenet1_1: does not end with a linear layer"):
        make_model("squeezenet1_1", 7, HEADS)


def test_without_heads_counterfactual_and_recomposed_images_train_the_classifier_with_the_shapes_label(dataset: Path):
    names = '["natural", "observational", "counterfactual", "recomposed"]'
    configuration = configure(*SMALL, "lambda_int=0.1", f"streams={names}")
    inputs = open_inputs(configuration, [str(dataset)])
    (plan,) = plan_stages(configuration, inputs)
    assert plan.batch_sizes == {"natural": 8, "observational": 4, "counterfactual": 3, "recomposed": 3}
    assert any("counterfactual" in line and "20 images" in line for line in describe_plan([plan], inputs))
    learner = Learner(make_model("shufflenet_v2_x0_5", 10), configuration, 10, CPU)
    learner.begin(plan)
    batch = next(make_loader(configuration, plan, CPU, Settings()).steps(0, 1))
    assert batch.labels["counterfactual"].shape == (3,)
    losses = dict(zip(learner.weights, learner.gradients(batch).tolist(), strict=True))
    assert list(losses) == ["natural", "int", "counterfactual"] and all(loss > 0 for loss in losses.values())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["heads.shape=1.0"], "heads learn apart from counterfactual images alone: give lambda_counterfactual"),
        (["freeze_batch_norm=true"], "give them with --init"),
        ([*THREE, "heads.Shape=1.0"], "heads.Shape"),
        ([*THREE, "heads.texture=-1"], "greater than or equal to 0"),
        ([*THREE, "heads.pose=1.0"], "no image has a label of 'pose'; streams of counterfactuals: counterf"),
        ([*THREE, 'streams=["natural", "recomposed"]'], "no image has a label of 'background'"),
        ([*THREE, 'streams=["natural"]'], "no counterfactual or recomposed stream; streams: natural"),
    ],
)
def test_heads_that_nothing_can_train_are_refused(overrides: list[str], message: str, dataset: Path):
    with pytest.raises(UsageError, match=message):
        plan_of(configure(*overrides), dataset)


@pytest.mark.parametrize(
    "content", [b'{"labels": {"shape": 10}}', b'{"labels": [1]}', b"[", b'{"labels": {"shape": "1"}}']
)
def test_labels_that_are_none_are_refused_with_their_sample(
    content: bytes, dataset: Path, monkeypatch: pytest.MonkeyPatch
):
    streams = open_inputs(configure(*THREE), [str(dataset)]).streams
    images = next(stream.images for stream in streams if stream.term == "counterfactual")
    assert isinstance(images, StreamImages)
    members = {**images.samples.read(0), "json": content}
    monkeypatch.setattr(images.samples, "read", lambda position, extensions: members)
    with pytest.raises(FormatError, match=r"sample counterfactual-\d+: label"):
        images.read(0)


def test_frozen_batch_norm_keeps_its_statistics_and_learns_its_weights(dataset: Path):
    configuration = configure(
        *SMALL, "freeze_batch_norm=true", "init=required", 'streams=["natural", "counterfactual"]'
    )
    (plan,) = plan_stages(configuration, open_inputs(configuration, [str(dataset)]))
    model = make_model("mnist-cnn", 10)
    norm = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    norm.running_mean.fill_(0.5)
    before: dict[str, Any] = {name: value.clone() for name, value in norm.state_dict().items()}
    learner = Learner(model, configuration, 10, CPU)
    learner.begin(plan)
    assert model.training and not norm.training
    batch: StepBatch = next(make_loader(configuration, plan, CPU, Settings()).steps(0, 1))
    learner.gradients(batch)
    learner.update(0.1)
    after = norm.state_dict()
    assert torch.equal(after["running_mean"], before["running_mean"])
    assert torch.equal(after["num_batches_tracked"], before["num_batches_tracked"])
    assert not torch.equal(after["weight"], before["weight"])


def test_heads_answer_apart_in_evaluation_mode_alone_and_leave_it_so():
    model = make_model("mnist-cnn", 10, ["shape", "texture"]).eval()
    images = torch.randn(2, 3, 32, 32)
    each = head_logits(model, images)
    assert list(each) == ["shape", "texture"] and not torch.equal(each["shape"], each["texture"])
    assert model(images).shape == (2, 10)
