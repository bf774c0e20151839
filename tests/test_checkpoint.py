import pickle
from pathlib import Path

import pytest
import torch
from genint.manifests.errors import FormatError, UsageError
from genint.train.checkpoint import (
    Preprocessing,
    check_arch,
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
