"""A generator of one's own (examples/tiny_style) goes the whole way, and its code runs only where the user names it."""

import json
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from genint.manifests.api import open_stream
from genint.manifests.directions import load_directions
from genint.manifests.errors import FormatError, RecipeError, UsageError
from genint.manifests.recipe import read_recipe
from genint.pipeline.api import compute_directions, load_generator, render_latents, render_stream
from genint.pipeline.cli import main
from genint.pipeline.generators.code import find_class
from genint.pipeline.networks.generator import LoadedGenerator
from torch import Tensor, nn

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "tiny_style"
RECIPE = EXAMPLE / "recipe.toml"
CODE = "tiny_style:TinyStyle"
ALLOW = ["--allow-code", CODE]
# The page that teaches it: its commands are those that run here, on less.
PAGE = (EXAMPLE.parents[1] / "docs" / "how-to" / "own-generator.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [shlex.split(line) for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
SMALL = ["--set", "streams.observational.latents_per_class=1", "--set", "streams.interventional.latents_per_class=1"]


def page_command(name: str, **places: Path) -> list[str]:
    """The page's command of that name, its folders replaced by these."""
    (command,) = [words[1:] for words in COMMANDS if words[:2] == ["genint-pipeline", name]]
    known = {"tiny-style": "weights", "tiny-directions": "drawn", "datasets/tiny-style": "dataset"}
    names = {word: str(places[place]) for word, place in known.items() if place in places}
    return [names.get(word, str(RECIPE) if word == "tiny-style.toml" else word) for word in command]


def forget_example() -> None:
    for name in ("tiny_style", "altered"):
        sys.modules.pop(name, None)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(EXAMPLE)
    yield
    forget_example()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the example's training writes, after two steps."""
    out = tmp_path_factory.mktemp("tiny-style")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLE)
        ((script, *arguments),) = [words[1:] for words in COMMANDS if words[0] == "python"]
        arguments[arguments.index("tiny-style")] = str(out)
        patch.setattr(sys, "argv", [script, *arguments, "--steps", "2", "--pictures", "64"])
        runpy.run_path(str(EXAMPLE.parents[1] / script), run_name="__main__")
    return out


@pytest.fixture(scope="module")
def dataset(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's recipe, built. Not to be changed."""
    out = tmp_path_factory.mktemp("built") / "dataset"
    command = [*page_command("build-shards", weights=weights, dataset=out), *SMALL, "--workers", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLE)
        patch.setattr(sys, "argv", ["genint-pipeline", *command])
        main()
    return out


def test_every_command_works_as_with_the_generators_that_genint_knows(
    dataset: Path, weights: Path, tmp_path: Path, run_cli
) -> None:
    rebuilt = run_cli(*page_command("verify", dataset=dataset, weights=weights), "--rebuild", "all")
    assert rebuilt.exit_code == 0
    assert rebuilt.out.count("parameters equal, bytes equal") == 2
    assert f"Its code is {CODE}, of digest" in (dataset / "croissant.json").read_text()

    copy = shutil.copytree(dataset, tmp_path / "dataset")
    shard = copy / "interventional/0000/interventional-0000000.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1000])
    assert run_cli("repair", copy, "--weights", weights, *ALLOW, "--workers", "1").exit_code == 0
    assert shard.read_bytes() == content
    more = ["--set", "streams.observational.latents_per_class=2"]
    assert run_cli("extend", copy, *more, "--weights", weights, *ALLOW, "--workers", "1").exit_code == 0
    assert len(open_stream(str(copy), "observational")) == 20

    drawn = run_cli(*page_command("directions", weights=weights, drawn=tmp_path / "drawn"), "--show", "2")
    assert drawn.exit_code == 0
    stored = load_directions(dataset / "directions/tiny-style-first.npz")
    np.testing.assert_array_equal(stored.latent, load_directions(tmp_path / "drawn/directions.npz").latent)
    cost = run_cli("build-shards", RECIPE, "--weights", weights, *ALLOW, "--out", tmp_path / "none", "--dry-run")
    assert cost.exit_code == 0
    assert "interventional" in cost.out


def test_the_python_of_the_page_runs(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```py\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "tiny-style").symlink_to(weights)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Tensor] = {}
    exec(code, names)  # noqa: S102
    assert names["images"].shape == (8, 3, 32, 32)
    assert names["images"].abs().max() <= 1


def test_the_recipe_of_the_page_is_one() -> None:
    (text,) = re.findall(r"```toml .*\n([^`]*)```", PAGE)
    recipe = read_recipe(text, "page")
    assert recipe.generator == read_recipe(RECIPE.read_text(), "example").generator.model_copy(
        update={"batch_size": 64}
    )


def test_interventions_move_the_image_along_the_directions_of_a_linear_layer(weights: Path) -> None:
    generator = load_generator(weights, code=CODE)
    exact = compute_directions(generator, 4, layer="first")
    # The right singular vectors of the layer's weight.
    _, _, vectors = np.linalg.svd(generator.model.first.weight.double().numpy())
    np.testing.assert_allclose(np.abs(np.sum(exact.latent * vectors[:4], axis=1)), 1, atol=1e-4)
    rendered = render_stream(str(RECIPE), count=4, weights=str(weights), allow_code=CODE)
    assert rendered.images.shape == (4, 3, 32, 32)
    latents = np.zeros((2, 32), np.float32)
    moved = latents + 3 * exact.latent[:1].astype(np.float32)
    assert not torch.equal(render_latents(generator, latents, [0, 1]), render_latents(generator, moved, [0, 1]))


def test_layers_that_are_not_linear_have_directions_by_samples(weights: Path) -> None:
    generator = load_generator(weights, code=CODE)
    with pytest.raises(UsageError, match=r"layer 'mapping' is not linear.*sampled"):
        compute_directions(generator, 2, layer="mapping")
    sampled = compute_directions(generator, 2, layer="mapping", samples=64, class_label=3)
    assert sampled.activation_shape == (128,)
    with pytest.raises(UsageError, match=r"no layer 'mappin' to take directions of; there are first, classes, mapping"):
        compute_directions(generator, 2, layer="mappin", samples=64)


@pytest.mark.parametrize(
    "command",
    [
        ["verify", "{dataset}", "--rebuild", "1", "--weights", "{weights}"],
        ["repair", "{dataset}", "--weights", "{weights}"],
        ["extend", "{dataset}", "--set", "streams.observational.latents_per_class=2", "--weights", "{weights}"],
        ["build-shards", "{dataset}/recipe.toml", "--weights", "{weights}", "--out", "{dataset}-2"],
        ["directions", "{dataset}/recipe.toml", "--weights", "{weights}", "--out", "{dataset}-3"],
    ],
)
def test_code_of_a_recipe_does_not_run_unless_the_user_names_it(dataset, weights, run_cli, command) -> None:
    filled = [part.format(dataset=dataset, weights=weights) for part in command]
    forget_example()
    for allowed in ([], ["--allow-code", "other:Class"]):
        result = run_cli(*filled, *allowed)
        assert result.exit_code == 2
        assert CODE in result.err.splitlines()[-1]
        assert "--allow-code" in result.err
        assert "tiny_style" not in sys.modules


def test_commands_that_render_nothing_never_load_code(dataset: Path, tmp_path: Path, run_cli) -> None:
    forget_example()
    copy = shutil.copytree(dataset, tmp_path / "dataset")
    key = open_stream(str(copy), "observational")[0].key
    for command in (
        ["verify", copy], ["status", copy], ["inspect", copy, key], ["preview", copy], ["clean", copy],
        ["fetch", copy, tmp_path / "fetched"], ["publish", copy, f"{tmp_path}/published"],
    ):  # fmt: skip
        result = run_cli(*command)
        assert result.exit_code == 0, (command, result.err)
    assert "tiny_style" not in sys.modules


def test_other_code_or_weights_are_refused(dataset: Path, weights: Path, tmp_path: Path, run_cli, monkeypatch) -> None:
    altered = tmp_path / "code"
    altered.mkdir()
    source = (EXAMPLE / "tiny_style.py").read_text()
    (altered / "tiny_style.py").write_text(source.replace("leaky_relu(", "leaky_relu(2 * "))
    monkeypatch.syspath_prepend(altered)
    forget_example()
    result = run_cli("verify", dataset, "--rebuild", "1", "--weights", weights, *ALLOW)
    assert result.exit_code == 2
    assert f"code of {CODE}" in result.err
    assert "the dataset is rendered with" in result.err
    forget_example()
    again = ["build-shards", RECIPE, *SMALL, "--weights", weights, *ALLOW, "--out", dataset, "--workers", "1"]
    result = run_cli(*again)
    assert result.exit_code == 2
    assert "begun with another recipe (generator code: " in result.err

    (altered / "tiny_style.py").write_text(source)
    forget_example()
    others = shutil.copytree(weights, tmp_path / "weights")
    state = torch.load(others / "pytorch_model.bin", weights_only=True)
    torch.save({name: value + 0.01 for name, value in state.items()}, others / "pytorch_model.bin")
    result = run_cli("verify", dataset, "--rebuild", "1", "--weights", others, *ALLOW)
    assert result.exit_code == 2
    assert ": weights " in result.err


def test_the_digest_is_of_the_whole_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "altered"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "layers.py").write_text("WIDTH = 3\n")
    (package / "model.py").write_text("from torch import nn\nfrom .layers import WIDTH\nclass Mine(nn.Module): ...\n")
    (package / "notes.txt").write_text("of no effect")
    monkeypatch.syspath_prepend(tmp_path)
    _, digest = find_class("altered.model:Mine")
    (package / "notes.txt").write_text("still of no effect")
    assert find_class("altered.model:Mine")[1] == digest
    (package / "layers.py").write_text("WIDTH = 4\n")
    assert find_class("altered.model:Mine")[1] != digest
    for name in ("altered.model", "altered.layers"):
        sys.modules.pop(name)


def test_an_entry_point_names_code_too(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "tiny_style-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-style\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[genint.generators]\ntiny-style = {CODE}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_generator(weights, code="tiny-style").code_sha256 == load_generator(weights, code=CODE).code_sha256
    with pytest.raises(UsageError, match="'tiny-stile': no installed package has an entry point of this name"):
        load_generator(weights, code="tiny-stile")


class Good(nn.Module):
    """The least that keeps the contract."""

    z_dim, num_classes, resolution = 4, 3, 8

    def __init__(self, shade: float = 0.0) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, latents: Tensor, class_labels: Tensor) -> Tensor:
        return self.layer(latents)[:, :, None, None].expand(-1, -1, 8, 8).tanh()


class WithoutSize(Good):
    resolution = None  # type: ignore[assignment]


class Random(Good):
    def forward(self, latents: Tensor, class_labels: Tensor) -> Tensor:
        return super().forward(latents, class_labels) + torch.rand(1)


class Grey(Good):
    def forward(self, latents: Tensor, class_labels: Tensor) -> Tensor:
        return super().forward(latents, class_labels)[:, :1]


class OneHot(Good):
    def forward(self, latents: Tensor, class_labels: Tensor) -> Tensor:
        return super().forward(latents, class_labels @ torch.eye(3))


def load_here(tmp_path: Path, name: str, config: dict[str, object]) -> LoadedGenerator:
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save(Good().state_dict(), tmp_path / "pytorch_model.bin")
    return load_generator(tmp_path, code=f"{__name__}:{name}")


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("WithoutSize", {}, r"WithoutSize: resolution = None; expected a positive integer"),
        ("Random", {}, r"Random: two calls with one latent give two images"),
        ("Grey", {}, r"Grey: gives torch.float32 \[2, 1, 8, 8\] .* expected .* \[2, 3, 8, 8\]"),
        ("OneHot", {}, r"OneHot: cannot be called with latents \[2, 4\] and labels \[2\]"),
        ("Good", {"width": 3}, r"config.json: does not fit Good\(.*got an unexpected keyword argument 'width'"),
        ("Good", {"class_names": ["a", "a", "b"]}, r"config.json: class_names is not a list of 3 different names"),
    ],
)
def test_what_breaks_the_contract_is_named(tmp_path, name, config, message) -> None:
    with pytest.raises(FormatError, match=message) as error:
        load_here(tmp_path, name, config)
    assert "\n" not in str(error.value)


def test_only_modules_of_torch_are_made(weights: Path) -> None:
    for code, message in (
        ("subprocess:Popen", "subprocess has no torch.nn.Module of the name 'Popen'"),
        ("no_such_module:Class", "No module named 'no_such_module'; install it here"),
    ):
        with pytest.raises(UsageError, match=message):
            load_generator(weights, code=code)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('code = "os.system"', "generator.code"),
        ('code = "tiny_style:TinyStyle; import os"', "generator.code"),
        ('code = "a:B"\nname = "mini"', "a generator that genint knows"),
    ],
)
def test_recipes_name_code_in_one_of_two_forms(text: str, message: str) -> None:
    name = "" if "name" in text else 'name = "own"\n'
    stream = '[[streams]]\nname = "o"\nsource = "observational"\nlatents_per_class = 1'
    recipe = f'name = "r"\nseed = 1\n[generator]\n{name}{text}\n{stream}'
    with pytest.raises(RecipeError, match=message):
        read_recipe(recipe, "here")


def test_fingerprints_without_such_a_generator_do_not_name_code(dataset: Path, reference: Path) -> None:
    assert "code_sha256" in json.loads((dataset / "records/plan.json").read_text())["fingerprint"]
    assert "code" not in (reference / "records/plan.json").read_text()
