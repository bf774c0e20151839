"""The Python interface: names that stay, light to import, equal to what the commands do."""

import importlib
import inspect
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from genint.evaluate.api import evaluate_model
from genint.manifests.api import (
    FormatError,
    UsageError,
    coordinates,
    intervene,
    load_directions,
    open_stream,
    save_directions,
)
from genint.manifests.pictures import decode_picture
from genint.manifests.recipe import load_recipe
from genint.pipeline.api import compute_directions, load_generator, render_latents, render_stream
from genint.pipeline.images.encode import encode_image
from genint.train.api import TrainingStep, make_model, open_training
from genint.train.checkpoint import Preprocessing
from genint.train.distributed import Ranks
from genint.train.learner import Learner
from genint.train.trainer import Settings, make_loader
from torch import nn

MODULES = [f"genint.{room}.api" for room in ("manifests", "pipeline", "train", "evaluate")]
SMALL = ["batch_sizes.natural=8", "batch_sizes.int=4", "steps=3", 'streams=["natural", "interventional"]']


def test_importing_needs_neither_torch_nor_ray_nor_pydantic() -> None:
    heavy = "torch", "torchvision", "ray", "pydantic", "cv2", "sklearn", "scipy"
    code = f"import sys, {', '.join(MODULES)}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", MODULES)
def test_every_name_is_there_with_its_docstring(module: str) -> None:
    found = importlib.import_module(module)
    assert sorted(found.__all__) == found.__all__
    for name in found.__all__:
        assert inspect.getdoc(getattr(found, name)), name


@pytest.mark.parametrize("module", MODULES)
def test_rooms_say_that_they_are_typed(module: str) -> None:
    found = importlib.import_module(module)
    assert found.__file__ is not None
    assert Path(found.__file__).with_name("py.typed").is_file()


def test_a_rendered_stream_is_the_dataset_s(reference: Path, tiny_recipe: Path) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    recipe = load_recipe(str(tiny_recipe))
    stream = open_stream(str(reference), "interventional")
    recipe = load_recipe(str(tiny_recipe)).stream("interventional")
    rendered = render_stream(str(tiny_recipe), "interventional", 20, device=device)
    assert rendered.images.shape == (20, 3, 32, 32) and rendered.images.dtype == torch.uint8
    for position, key in enumerate(rendered.keys):
        sample = stream[position]
        assert sample.key == key
        assert sample.class_label == rendered.class_labels[position]
        assert sample.class_name == stream.class_names[sample.class_label]
        assert sample.parameters == rendered.parameters[position]
        encoded = encode_image(rendered.images[position].permute(1, 2, 0).numpy(), recipe)
        assert np.array_equal(np.asarray(sample.image), np.asarray(decode_picture(encoded)))


def test_a_stream_is_a_sequence_that_travels_to_workers(reference: Path) -> None:
    stream = open_stream(str(reference), "natural")
    keys = [sample.key for sample in stream]
    assert len(keys) == len(set(keys)) == len(stream) == 60
    assert stream[-1].key == keys[-1]
    assert pickle.loads(pickle.dumps(stream))[3].key == keys[3]  # noqa: S301
    # What comes along with an image: the mini world's object masks.
    assert "mask.png" in stream[0].members
    with pytest.raises(IndexError):
        stream[60]


def test_what_is_not_there_is_refused_in_words(reference: Path, tiny_recipe: Path) -> None:
    with pytest.raises(UsageError, match=r"no stream 'interventionl'; did you mean 'interventional'"):
        open_stream(str(reference), "interventionl")
    with pytest.raises(FormatError):
        open_stream(str(reference / "natural"), "natural")
    with pytest.raises(UsageError, match="renders no stream 'natural' with its generator"):
        render_stream(str(tiny_recipe), "natural")
    with pytest.raises(UsageError, match="has 60 samples"):
        render_stream(str(tiny_recipe), "interventional", 61)
    with pytest.raises(UsageError, match="not linear"):
        compute_directions(load_generator("mini"), 2, layer="generator.layers.0")


def test_directions_are_computed_saved_and_applied(tmp_path: Path) -> None:
    generator = load_generator("mini")
    save_directions(compute_directions(generator, 6), tmp_path / "directions.npz")
    directions = load_directions(tmp_path / "directions.npz")
    latents = np.random.default_rng(0).standard_normal((4, directions.latent.shape[1])).clip(-2, 2)
    moved = intervene(latents, directions, np.full(4, 2), np.full(4, 3.0))
    found, before = coordinates(moved, directions), coordinates(latents, directions)
    assert np.allclose(found[:, 2], 3.0)
    assert np.allclose(np.delete(found, 2, axis=1), np.delete(before, 2, axis=1))
    images = render_latents(generator, moved, range(4))
    assert images.shape == (4, 3, 32, 32) and images.abs().max() <= 1
    assert torch.equal(images[1:2], render_latents(generator, moved[1:2], [1]))


@pytest.mark.parametrize("extra", [[], ["mixup=0.2"], ["label_smoothing=0.1", "lambda_int=0.3"]], ids=" ".join)
def test_the_loss_of_a_step_is_the_trainer_s(reference: Path, extra: list[str]) -> None:
    training = open_training(str(reference), "mini-genint", overrides=[*SMALL, *extra])
    torch.manual_seed(0)
    model = make_model(training)
    ranks = Ranks(0, 1, torch.device("cpu"))
    learner = Learner(model, training.configuration, len(training.class_names), ranks)
    (plan,) = training.plans
    learner.begin(plan)
    loader = make_loader(training.configuration, plan, ranks, Settings())
    steps = list(training.steps())
    assert [step.step for step in steps] == [0, 1, 2] and training.num_steps == 3
    for step, batch in zip(steps, loader.steps(0, 3), strict=True):
        assert step.images.shape == (12, 3, training.configuration.size, training.configuration.size)
        shares = dict(zip(learner.weights, learner.gradients(batch).tolist(), strict=True))
        assert step.loss(model(step.images)).item() == pytest.approx(learner.loss(shares), rel=1e-5)
        assert step.lr == plan.lr(step.step)
    (again,) = training.steps(1, 2)
    assert torch.equal(again.images, steps[1].images)


def test_a_loader_goes_on_where_its_state_says_and_ranks_share_its_steps(reference: Path) -> None:
    training = open_training(str(reference), "mini-genint", overrides=SMALL)
    whole = list(training.loader())
    first = training.loader()
    assert len(first) == len(whole) == 3 and first.state_dict() == {"step": 0}
    assert torch.equal(next(iter(first)).images, whole[0].images)
    second = training.loader(workers=1)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    rest = list(second)
    assert [step.step for step in rest] == [1, 2] and torch.equal(rest[0].images, whole[1].images)
    assert [step.step for step in second] == [0, 1, 2]  # anew, as every loader
    ranks = [next(iter(training.loader(rank=rank, world_size=2))) for rank in range(2)]
    for term, labels in whole[0].labels.items():
        assert torch.equal(torch.cat([step.labels[term] for step in ranks]), labels)
    for state in ({}, {"step": 4}, {"step": "1"}):
        with pytest.raises(UsageError, match="expected a step from 0 to 3"):
            first.load_state_dict(state)


@pytest.mark.filterwarnings("ignore")  # Lightning's, about loggers and workers
def test_lightning_trains_on_a_loader_and_goes_on(reference: Path, tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning", reason="Lightning is not installed")
    training = open_training(str(reference), "mini-genint", overrides=SMALL)
    seen: list[int] = []

    class Own(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = make_model(training)

        def training_step(self, step: TrainingStep, index: int) -> torch.Tensor:
            seen.append(step.step)
            return step.loss(self.model(step.images))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def fit(**settings: object) -> None:
        saved = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=1)
        trainer = lightning.Trainer(
            accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
            use_distributed_sampler=False, callbacks=[saved], default_root_dir=tmp_path, **settings,
        )  # fmt: skip
        trainer.fit(Own(), training.loader(), ckpt_path="last" if seen else None)

    fit(max_steps=2)
    fit()
    assert seen == [0, 1, 2]


class AlwaysTheFirst(nn.Module):
    """A classifier whose answer is the first class."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert not self.training
        return torch.eye(10)[torch.zeros(len(images), dtype=torch.int64)]


def test_a_model_of_one_s_own_is_measured(reference: Path) -> None:
    stream = open_stream(str(reference), "natural")
    model = AlwaysTheFirst().train()
    model.norm.eval()
    (found,) = evaluate_model(
        model, f"shards={reference}:natural", stream.class_names, preprocessing=Preprocessing(None, 32)
    )
    first = sum(sample.class_label == 0 for sample in stream)
    assert (found.top1.hits, found.top1.count) == (first, 60)
    assert model.training and not model.norm.training
    with pytest.raises(UsageError, match="knows no class"):
        evaluate_model(model, f"shards={reference}:natural", [f"other {i}" for i in range(10)])
