import argparse
import errno
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from genint.manifests.errors import FormatError, UsageError
from genint.train import checkpoint
from genint.train.checkpoint import (
    Preprocessing,
    check_arch,
    check_size,
    describe_model,
    initialise,
    load_classifier,
    make_model,
    read_checkpoint,
    save_checkpoint,
)
from genint.train.vision import models, v2
from PIL import Image
from torch import nn

ARCH = "shufflenet_v2_x0_5"


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return make_model(ARCH, 4).eval()


def same(first: nn.Module, second: nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_our_checkpoint_says_all_that_a_classifier_needs(model: nn.Module, tmp_path: Path):
    preprocessing = Preprocessing(40, 32, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    content = describe_model(ARCH, ("a", "b", "c", "d"), preprocessing)
    run = tmp_path / "my-run"
    run.mkdir()
    save_checkpoint(run / "last.pt", {**content, "model": model.state_dict(), "step": 7})
    classifier = load_classifier(str(run))
    assert same(classifier.model, model) and not classifier.model.training
    assert (classifier.name, classifier.arch, classifier.step) == ("my-run", ARCH, 7)
    assert (classifier.class_names, classifier.preprocessing) == (("a", "b", "c", "d"), preprocessing)
    assert [path.name for path in run.iterdir()] == ["last.pt"]


def test_the_released_checkpoint_loads_without_its_prefixes(tmp_path: Path):
    model = make_model(ARCH, 1000)
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    path = tmp_path / "checkpoint.pth.tar"
    torch.save({"epoch": 88, "arch": ARCH, "state_dict": state, "best_acc1": torch.tensor(70.4)}, path)
    classifier = load_classifier(str(path))
    assert same(classifier.model, model)
    assert (classifier.name, len(classifier.class_names), classifier.step) == ("checkpoint", 1000, None)
    fresh = make_model(ARCH, 1000)
    assert initialise(fresh, ARCH, str(path)) == (classifier.sha256, ())
    assert same(fresh, model)


def test_a_bare_state_dict_takes_its_arch_from_its_name(tmp_path: Path):
    model = make_model(ARCH, 1000)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    assert same(load_classifier(f"{ARCH}={tmp_path / 'weights.pth'}").model, model)
    with pytest.raises(UsageError, match="names no arch"):
        load_classifier(str(tmp_path / "weights.pth"))


def test_torchvisions_weights_are_found_in_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = make_model(ARCH, 1000)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = models.get_model_weights(ARCH).DEFAULT
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    cached = tmp_path / "hub" / "checkpoints" / Path(weights.url).name
    torch.save(model.state_dict(), cached)
    # torchvision compares a digest in the file's name only when it downloads; this is its own way to read a cache.
    classifier = load_classifier(f"torchvision:{ARCH}")
    assert same(classifier.model, model) and classifier.preprocessing.crop == 224
    fresh = make_model(ARCH, 1000)
    initialise(fresh, ARCH, f"torchvision:{ARCH}")
    assert same(fresh, model)
    with pytest.raises(UsageError, match="known weights of"):
        load_classifier(f"torchvision:{ARCH}:NO_SUCH")


def test_a_checkpoint_of_another_arch_is_refused_by_name(model: nn.Module, tmp_path: Path):
    path = tmp_path / "other.pt"
    content = describe_model(ARCH, ("a", "b", "c", "d"), Preprocessing())
    save_checkpoint(path, {**content, "model": model.state_dict()})
    with pytest.raises(UsageError, match=f"a checkpoint of {ARCH}, and arch = resnet18"):
        initialise(make_model("resnet18", 4), "resnet18", str(path))
    torch.save(model.state_dict(), path)
    with pytest.raises(UsageError, match=r"not a checkpoint of resnet18: it lacks bn1\.bias"):
        initialise(make_model("resnet18", 4), "resnet18", str(path))
    with pytest.raises(UsageError, match=r"fc.weight is \[4, 1024\], expected \[5, 1024\]"):
        initialise(make_model(ARCH, 5), ARCH, str(path))


def test_an_unknown_arch_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean resnet18 "):
        check_arch("resnet-18")


def test_a_file_that_would_run_code_or_is_damaged_is_refused(tmp_path: Path):
    class Runs:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("executed",)

    torch.save({"weights": Runs()}, tmp_path / "code.pt")
    (tmp_path / "text.pt").write_text("hello")
    torch.save({"format": "genint-train", "version": 99}, tmp_path / "new.pt")
    with pytest.raises(FormatError, match=r"holds more than tensors: print, which would run code; .* save its weights"):
        read_checkpoint(tmp_path / "code.pt")
    with pytest.raises(FormatError, match=r"not a whole PyTorch file \(5 bytes\)"):
        read_checkpoint(tmp_path / "text.pt")
    with pytest.raises(FormatError, match="version 99"):
        read_checkpoint(tmp_path / "new.pt")
    with pytest.raises(UsageError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "missing.pt")


def test_an_interrupted_save_leaves_the_old_checkpoint_whole(tmp_path: Path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"step": 1})
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_checkpoint(path, {"step": 2, "bad": lambda: None})
    assert read_checkpoint(path)["step"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.pt"]


def test_preprocessing_is_torchvisions():
    image = Image.effect_noise((50, 40), 80).convert("RGB")
    preprocessing = Preprocessing(36, 32)
    reference = v2.Compose(
        [
            v2.Resize(36),
            v2.CenterCrop(32),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )
    ours = preprocessing.normalize(preprocessing.prepare(image)[None])[0]
    assert torch.allclose(ours, reference(image), atol=1e-6)


@pytest.fixture(scope="module")
def published() -> nn.Module:
    torch.manual_seed(1)
    return make_model(ARCH, 1000).eval()


@pytest.mark.parametrize(
    ("pack", "suffix"),
    [
        (lambda state: {"state_dict": state, "args": argparse.Namespace(lr=0.1), "best_acc1": np.float64(70.5)}, ""),
        (lambda state: {f"_orig_mod.module.{name}": value for name, value in state.items()}, ""),
        (lambda state: dict(sorted(state.items())), ""),
        (lambda state: {"state_dict": {f"model.{name}": value for name, value in state.items()}}, ""),
        (lambda state: {"n_averaged": torch.tensor(3), **{f"module.{n}": v for n, v in state.items()}}, ""),
        (lambda state: {"model_ema": {"n_averaged": torch.tensor(3), **state}}, ""),
        (lambda state: {"model": {n: v * 0 for n, v in state.items()}, "model_ema": state}, ":ema"),
    ],
)
def test_files_of_others_training_scripts_load(
    pack: Callable[[dict[str, Any]], dict[str, Any]], suffix: str, published: nn.Module, tmp_path: Path
):
    torch.save(pack(published.state_dict()), tmp_path / "other.pth")
    assert same(load_classifier(f"{ARCH}={tmp_path / 'other.pth'}{suffix}").model, published)


def test_which_of_two_sets_of_weights_is_taken_is_said(published: nn.Module, tmp_path: Path):
    path = tmp_path / "two.pth"
    state = published.state_dict()
    torch.save({"state_dict": state, "state_dict_ema": {name: value * 0 for name, value in state.items()}}, path)
    classifier = load_classifier(f"{ARCH}={path}")
    assert same(classifier.model, published)
    assert classifier.notes == (f"trained weights; for their average: {path}:ema",)
    torch.save(state, path)
    with pytest.raises(UsageError, match="holds no average of the weights"):
        load_classifier(f"{ARCH}={path}:ema")


def test_safetensors_load(published: nn.Module, tmp_path: Path):
    safetensors = pytest.importorskip("safetensors.torch", reason="the package safetensors is not installed")
    path = tmp_path / "model.safetensors"
    safetensors.save_file(published.state_dict(), path)
    assert same(load_classifier(f"{ARCH}={path}").model, published)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(FormatError, match="safetensors"):
        load_classifier(f"{ARCH}={path}")


def test_weights_of_others_get_the_preprocessing_that_torchvision_published(tmp_path: Path):
    torch.save(make_model("efficientnet_b0", 1000).state_dict(), tmp_path / "b0.pth")
    classifier = load_classifier(f"efficientnet_b0={tmp_path / 'b0.pth'}")
    assert classifier.preprocessing == Preprocessing(interpolation="bicubic")
    assert classifier.notes == (
        "preprocessing is taken to be that of torchvision's efficientnet_b0: bicubic to 256 px, crop of 224",
    )
    image = Image.effect_noise((300, 280), 80).convert("RGB")
    reference = models.get_model_weights("efficientnet_b0").DEFAULT.transforms()(image)
    ours = classifier.preprocessing
    assert torch.allclose(ours.normalize(ours.prepare(image)[None])[0], reference, atol=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("version"), "checkpoint version None"),
        (lambda content: content["model"].update({7: torch.zeros(1)}), "expected a name with a tensor"),
        (lambda content: content.update(preprocessing={"a": 1}), "preprocessing"),
        (lambda content: content["preprocessing"].update(resize=10**9), "resize"),
        (lambda content: content.update(class_names=7), "class_names"),
        (lambda content: content.update(class_names=["a"] * 4), "two classes have one name"),
        (lambda content: content.update(configuration=None), "configuration"),
        (lambda content: content.update(arch=["x"]), "names no arch"),
        (lambda content: content.update(model=torch.zeros(3)), "no state dict|expected a name"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused(
    change: Callable[[dict[str, Any]], Any], message: str, model: nn.Module, tmp_path: Path
):
    content = describe_model(ARCH, ("a", "b", "c", "d"), Preprocessing())
    content |= {"format": "genint-train", "version": 1, "model": dict(model.state_dict()), "configuration": {}}
    change(content)
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises((FormatError, UsageError), match=message):
        load_classifier(str(tmp_path / "x.pt"))


def test_a_full_disk_is_an_error_that_names_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Full:
        def write(self, content: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr("builtins.open", lambda *_: Full())
    with pytest.raises(OSError, match="No space left on device") as caught:
        save_checkpoint(tmp_path / "last.pt", {"model": {"a": torch.zeros(1000)}})
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "last.pt"))


@pytest.mark.parametrize("arch", ["alexnet", "vit_b_32"])
def test_an_arch_that_takes_no_images_of_the_size_is_refused(arch: str):
    with pytest.raises(UsageError, match=f"arch {arch}: takes no images of 32 x 32 px"):
        check_size(make_model(arch, 4), arch, 32)


def test_archs_with_heads_for_training_alone_give_one_tensor_of_logits():
    model = make_model("googlenet", 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_size(model, "googlenet", 32)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.train()(torch.zeros(2, 3, 32, 32)).shape == (2, 4)


def test_half_a_resnet_has_half_the_channels_of_every_layer():
    half, whole = make_model("resnet18-half", 10).state_dict(), make_model("resnet18", 10).state_dict()
    assert list(half) == list(whole)
    for name, tensor in whole.items():
        # Channels are 64 and more, kernels and classes fewer.
        assert list(half[name].shape) == [length // 2 if length >= 64 else length for length in tensor.shape], name


def test_mean_and_scale_are_put_on_a_device_once() -> None:
    preprocessing = Preprocessing(None, 4, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    with torch.inference_mode():
        first = preprocessing.normalize(images)
    made = checkpoint._channels.cache_info().misses
    second = preprocessing.normalize(images)
    assert torch.equal(first, second) and checkpoint._channels.cache_info().misses == made
    assert not second.is_inference()
