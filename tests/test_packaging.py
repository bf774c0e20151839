"""What is released: an sdist and a wheel that build, are in order, and work where they are installed."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it, without network."""
    for name in ("build.__main__", "setuptools"):  # `build` alone is a folder of the repository, too
        try:
            found = find_spec(name)
        except ModuleNotFoundError:
            found = None
        if found is None:
            pytest.skip(f"{name.partition('.')[0]} is not installed; make test installs it")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    for name in ("manifests", "pipeline", "train", "evaluate", "docs", "examples", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source]
    subprocess.run(command, check=True, cwd=out, stdout=subprocess.DEVNULL)
    return out


def test_the_wheel_works_where_it_is_installed(distributions: Path, tmp_path: Path) -> None:
    (wheel,) = distributions.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--target", tmp_path, wheel], check=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def run(*arguments: str) -> str:
        script = tmp_path / "bin" / "genint-pipeline"
        return subprocess.run(
            [script, *arguments], env=environment, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    assert run("--version").strip().endswith(version())
    assert {"mini", "genint-imagenet-256"} <= {recipe["name"] for recipe in json.loads(run("recipes", "--json"))}
    for shipped in ("pipeline/data/mini-generator/pytorch_model.bin", "evaluate/report/templates", "train/py.typed"):
        assert (tmp_path / "genint" / shipped).exists()


def test_the_sdist_has_what_a_packager_needs(distributions: Path) -> None:
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "CHANGELOG.md", "constraints.txt", "tests/tiny.toml", "examples/tiny_style/recipe.toml"} <= names
    assert not [name for name in names if name.endswith(".pyc")]


def test_twine_finds_nothing_wrong(distributions: Path) -> None:
    if find_spec("twine") is None:
        pytest.skip("twine is not installed; make test installs it")
    files = sorted(map(str, distributions.iterdir()))
    checked = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout


def test_every_place_that_names_the_version_names_the_same() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == version()
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert [each["year"] for each in citation["references"]] == [2021, 2021]
    assert re.search(rf"^## {re.escape(version())}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_forms_and_hooks_are_what_their_readers_expect() -> None:
    for form in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        tree = yaml.safe_load(form.read_text())
        assert {"name", "description", "body"} <= tree.keys()
        assert all({"type", "attributes"} <= part.keys() for part in tree["body"])
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [hook["id"] for hook in repository["hooks"]] == ["ruff", "ruff-format"]


def test_contributing_names_targets_and_files_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z][\w-]*)", text)) <= targets
    paths = re.findall(r"`((?:manifests|pipeline|train|evaluate|tests|docs|examples)/[\w./-]*)`", text)
    assert len(paths) > 5
    for path in paths:
        assert "NAME" in path or (ROOT / path).exists(), path


def test_make_help_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    described = set(re.findall(r"^([\w-]+):.*## ", text, re.MULTILINE))
    assert described == set(phony.split())


def version() -> str:
    (found,) = re.findall(r"^version = (.+)$", (ROOT / "setup.cfg").read_text(), re.MULTILINE)
    return found
