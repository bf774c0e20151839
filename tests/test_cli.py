"""A new user's mistakes: one line each, the right exit code, nothing lost."""

import json
import subprocess
import sys
import time

import pytest
import torch


def one_line(result, exit_code: int) -> str:
    """The single error line of a failed command."""
    assert result.exit_code == exit_code, result
    assert "Traceback" not in result.err
    lines = [line for line in result.err.splitlines() if line.startswith(("error:", "Error:"))]
    assert len(lines) == 1, result.err
    return lines[0]


def test_help_is_instant_because_heavy_imports_wait():
    probe = (
        "import sys, genint.pipeline.cli; print([m for m in ('torch', 'ray', 'numpy', 'pydantic') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True).stdout.strip() == "[]"


def test_every_command_explains_itself(run_cli):
    listed = run_cli("--help").out
    for command in ("recipes", "directions", "build-shards", "status", "verify", "preview", "inspect", "fit-generator"):
        assert command in listed
        assert "Options:" in run_cli(command, "--help").out


def test_unknown_recipe_suggests_the_near_miss(run_cli, tmp_path):
    line = one_line(run_cli("build-shards", "genint-imagnet-256", "--out", tmp_path / "out"), 2)
    assert "did you mean 'genint-imagenet-256'?" in line
    assert not (tmp_path / "out").exists()


def test_missing_recipe_file(run_cli):
    assert "no such recipe file" in one_line(run_cli("build-shards", "nowhere/mine.toml"), 2)


def test_missing_weights_say_which_files_to_put_where(run_cli, tmp_path):
    weights = tmp_path / "weights"
    weights.mkdir()
    line = one_line(run_cli("build-shards", "genint-imagenet-256", "--out", tmp_path / "o", "--weights", weights), 2)
    assert "config.json" in line
    assert str(weights) in line


def test_no_network_says_which_files_to_put_where(tmp_path):
    # A process of its own, whose requests go to a port where nobody listens.
    environment = {
        "PATH": "/usr/bin", "HOME": str(tmp_path), "HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9",
        "PYTHONPATH": ":".join(sys.path),
    }  # fmt: skip
    result = subprocess.run(
        [sys.executable, "-c", "from genint.pipeline.cli import main; main()",
         "build-shards", "gan-augmentation-256", "--out", tmp_path / "out"],
        capture_output=True, text=True, env=environment, timeout=120,
    )  # fmt: skip
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "config.json" in result.stderr
    assert "pytorch_model.bin" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_foreign_folder_is_left_alone(run_cli, tmp_path, tiny_recipe):
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter.tex").write_text("work of years")
    line = one_line(run_cli("build-shards", tiny_recipe, "--out", out), 2)
    assert "not empty and not a dataset of genint" in line
    assert [path.name for path in out.rglob("*") if path.is_file()] == ["chapter.tex"]


def test_an_unwritable_folder(run_cli, tiny_recipe):
    line = one_line(run_cli("build-shards", tiny_recipe, "--out", "/proc/dataset"), 1)
    assert "/proc" in line


def test_a_file_where_the_folder_should_be(run_cli, tmp_path, tiny_recipe):
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in one_line(run_cli("build-shards", tiny_recipe, "--out", tmp_path / "file"), 2)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("streams.observational.truncation=2.0", "end at 1.0"),
        ("streams.interventional.num_directions=65", "more than the latent size 64"),
        ("streams.interventional.num_directions=2", "more than num_directions = 2"),
        ("streams.interventional.latents_per_class=0", "greater than 0"),
        ("streams.interventional.step_ranges=[1.0, 2.0]", "step ranges for 2"),
        ("streams.observational.classes=[10]", "10 is not a class label (0 to 9)"),
        ("streams.observatoinal.truncation=0.5", "did you mean 'observational'?"),
        ("generator.name=biggan-deep-257", "did you mean"),
        ("nonsense", "expected KEY=VALUE"),
    ],
)
def test_a_recipe_that_cannot_be_made_is_refused_before_work_starts(run_cli, tmp_path, tiny_recipe, override, expected):
    out = tmp_path / "out"
    assert expected in one_line(run_cli("build-shards", tiny_recipe, "--out", out, "--set", override), 2)
    assert not out.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_asked_for_where_there_is_none(run_cli, tmp_path, tiny_recipe):
    line = one_line(run_cli("build-shards", tiny_recipe, "--out", tmp_path / "out", "--device", "cuda"), 2)
    assert "sees 0 GPUs" in line
    assert "--device cpu" in line


@pytest.mark.parametrize(
    "arguments",
    [
        ["build-shards", "--device", "tpu"],
        ["build-shards", "--address", "auto"],
        ["build-shards", "--workers", "0"],
        ["build-shards", "--input", "imagenet=/tmp"],
        ["build-shards", "--stream", "nope"],
        ["build-shards", "--frobnicate"],
        ["directions", "gan-augmentation-256"],
        ["directions", "--classes", "a,b"],
        ["directions", "--classes", "11"],
        ["recipes", "mimi"],
        ["verify", "--rebuild", "0"],
        ["verify", "--rebuild", "some"],
        ["verify", "--report", "page.html"],
        ["verify", "--rebuild", "all", "--report", "page.pdf"],
    ],
    ids=" ".join,
)
def test_bad_usage_exits_with_2(run_cli, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    one_line(run_cli(*arguments), 2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [["status"], ["verify"], ["preview"], ["inspect"]], ids=lambda c: c[0])
def test_a_folder_that_is_no_dataset(run_cli, tmp_path, command):
    arguments = ["natural-00000000"] if command == ["inspect"] else []
    assert "not a dataset" in one_line(run_cli(*command, tmp_path, *arguments), 1)


def test_dry_run_writes_nothing_and_prints_the_cost(run_cli, tmp_path, tiny_recipe):
    result = run_cli("build-shards", tiny_recipe, "--out", tmp_path / "out", "--dry-run")
    assert result.exit_code == 0
    for expected in ("natural", "60", "interventional", "one core (cpu:", "free"):
        assert expected in result.out
    assert not (tmp_path / "out").exists()


def test_directions_writes_a_ganspace_file_and_a_picture(run_cli, tmp_path):
    from genint.manifests.directions import load_directions
    from PIL import Image

    out = tmp_path / "directions"
    result = run_cli("directions", "--out", out, "--show", 3, "--classes", "0,7")
    assert result.exit_code == 0
    assert load_directions(out / "directions.npz").latent.shape == (20, 64)
    with Image.open(out / "directions.png") as picture:
        assert picture.width > 500


def test_inspect_finds_a_sample_and_its_plan(run_cli, tmp_path, tiny_recipe):
    out = tmp_path / "out"
    run_cli("build-shards", tiny_recipe, "--out", out, "--workers", 1)
    found = json.loads(run_cli("inspect", out, "interventional-00000031").out)
    assert found["parameters"]["sample_index"] == 31
    assert found["differs_from_plan"] == []
    assert (out / found["shard"]).exists()
    assert "60 samples" in one_line(run_cli("inspect", out, "interventional-00000060"), 2)


def test_schema_is_generated_for_recipe_and_manifest(run_cli):
    for kind in ("recipe", "manifest"):
        assert "properties" in json.loads(run_cli("schema", kind).out)


def test_recipes_prints_a_recipe_to_start_from(run_cli, tmp_path):
    from genint.manifests.recipe import load_recipe

    (tmp_path / "mine.toml").write_text(run_cli("recipes", "mini").out)
    assert load_recipe(str(tmp_path / "mine.toml")).digest() == load_recipe("mini").digest()
    assert "genint-imagenet-256" in run_cli("recipes").out


def test_fit_generator_resumes_and_writes_what_the_package_loads(tmp_path):
    from genint.pipeline.biggan.generator import load_generator
    from genint.pipeline.mini.fit_generator import FitSettings, fit_generator

    settings = FitSettings(steps=3, batch_size=8, num_objects=100, statistics_batches=1)
    assert [progress.step for progress in fit_generator(tmp_path / "whole", settings)] == [1, 2, 3]
    model = load_generator(tmp_path / "whole").model
    assert model.config.z_dim == 64
    # Statistics differ between truncations: they were measured, not left at their initial values.
    norm = model.generator.layers[0].bn_0
    assert (norm.running_vars[10] != norm.running_vars[50]).any()


def test_fit_generator_starts_from_a_fitted_one(tmp_path):
    from genint.manifests.errors import UsageError
    from genint.pipeline.biggan.generator import load_generator
    from genint.pipeline.generators.load import weights_location
    from genint.pipeline.mini import fit_generator as fitting

    settings = fitting.FitSettings(steps=2, batch_size=8, num_objects=100, statistics_batches=1)
    shipped = load_generator(weights_location("mini"))
    list(fitting.fit_generator(tmp_path, settings, start=shipped))
    fitted = load_generator(tmp_path)
    # While the critic has its head start, the generator stays as it was.
    before, after = shipped.model.state_dict(), fitted.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name, _ in shipped.model.named_parameters())
    assert json.loads((tmp_path / "settings.json").read_text())["start_sha256"] == shipped.weights_sha256
    with pytest.raises(UsageError, match="made with another start_sha256"):
        list(fitting.fit_generator(tmp_path, settings))
    shipped.model.config.channel_width = 32
    with pytest.raises(UsageError, match="not of the mini configuration"):
        list(fitting.fit_generator(tmp_path / "other", settings, start=shipped))


def test_progress_lines_are_plain_where_there_is_no_terminal(capfd):
    from genint.manifests.console import ProgressDisplay

    with ProgressDisplay("work", "samples") as display:
        display.update(0, 10)
        time.sleep(0.01)
        display.update(10, 10, "1 of 1 shards")
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "work: 0/10 samples"
    assert lines[-1].startswith("work: 10/10 samples, ")
    assert lines[-1].endswith("samples/s (1 of 1 shards)")
