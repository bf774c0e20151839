"""What README and the site's pages show is true: commands and snippets run, links lead somewhere, keys have words.

A ```bash block runs: on the mini world made small, in the order of the site's pages, in one folder. A ```sh block needs
a cluster, a bucket, a GPU or somebody's data: its commands are parsed by the real command line, and the recipes,
presets and keys that they name are loaded.
"""

import os
import re
import runpy
import shlex
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from genint.evaluate.cli import cli as evaluate_commands
from genint.evaluate.cli import main as evaluate
from genint.manifests.recipe import Recipe, load_recipe, shipped_recipes
from genint.pipeline.cli import cli as pipeline_commands
from genint.pipeline.cli import main as pipeline
from genint.train.cli import main as train
from genint.train.cli import presets
from genint.train.cli import train as train_command
from genint.train.configuration import load_configuration, shipped_presets

ROOT = Path(__file__).resolve().parents[1]
MAINS = {"genint-pipeline": pipeline, "genint-train": train, "genint-evaluate": evaluate}
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
# At most so much of each stream is made.
SMALL = {"latents_per_class": 2, "num_samples": 130, "samples_per_class": 5, "bank": 2}
FEW_IMAGES = [part for term in ("natural", "int", "transfer", "counterfactual") for part in
              ("--set", f"batch_sizes.{term}=8")]  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, what follows it, and its text."""

    page: str
    language: str
    title: str
    text: str

    @property
    def commands(self) -> Iterator[list[str]]:
        """Words of each command line, without comments."""
        for line in self.text.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def site_pages() -> list[str]:
    """Pages of the site in its order, by their place in docs/."""

    def walk(entries: list[dict[str, Any]]) -> Iterator[str]:
        for entry in entries:
            for value in entry.values():
                yield from walk(value) if isinstance(value, list) else [value]

    return [*walk(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])]


def written_pages() -> list[Path]:
    """README, the pages of docs/ in the site's order, and what the order leaves out."""
    ordered = [ROOT / "docs" / uri for uri in site_pages() if (ROOT / "docs" / uri).exists()]
    others = sorted({*(ROOT / "docs").rglob("*.md")} - {*ordered})
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ordered, *others]


def read_blocks(path: Path) -> list[Block]:
    fences = re.finditer(r"^( *)```(\w+)([^\n]*)\n(.*?)^\1```", path.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    page = path.relative_to(ROOT).as_posix()
    return [Block(page, fence[2], fence[3].strip(), textwrap.dedent(fence[4])) for fence in fences]


PAGES = written_pages()
BLOCKS = [block for path in PAGES for block in read_blocks(path)]
NAMED_FILES = {
    match[1]: block.text for block in BLOCKS if (match := re.fullmatch(r'title="([^"]+\.toml)"', block.title))
}


def runnable() -> dict[str, Block | list[str]]:
    """Commands and Python snippets in the order in which they run, by a name; a command that stands twice runs once."""
    found: dict[str, Block | list[str]] = {}
    for block in BLOCKS:
        if block.language == "python" and block.page != "CONTRIBUTING.md":
            found[f"{block.page}: {block.text.splitlines()[0]} ..."] = block
        if block.language == "bash":
            for command in block.commands:
                if command[0] != "make":
                    found.setdefault(" ".join(command), command)
    return found


RUNNABLE = runnable()


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything runs one after another, with the files that pages tell to write."""
    folder = tmp_path_factory.mktemp("reader")
    for name, text in NAMED_FILES.items():
        (folder / name).write_text(text)
    return folder


def smaller(command: list[str]) -> list[str]:
    """A command's arguments, and those that make it quick."""
    name, *arguments = command
    if name == "genint-pipeline" and arguments[0] in ("build-shards", "directions"):
        parsed = parse(command)
        recipe = load_recipe(parsed["recipe"], parsed["overrides"])
        for stream in recipe.streams:
            for key, most in SMALL.items():
                if hasattr(stream, key) and (getattr(stream, key) or most + 1) > most:
                    arguments += ["--set", f"streams.{stream.name}.{key}={most}"]
            if hasattr(stream, "evaluations"):
                arguments += ["--set", f"streams.{stream.name}.evaluations=[1, 2]"]
    if name == "genint-pipeline" and arguments[0] in ("build-shards", "extend", "repair"):
        arguments += ["--workers", "1"]
    if name == "genint-train" and arguments[0] != "presets":
        arguments += FEW_IMAGES
        arguments += [] if "--dry-run" in arguments else ["--steps", "2"]
    if arguments[0] == "run":
        arguments += ["--corruptions", "0"]
    return arguments


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves tars to the collector
@pytest.mark.parametrize("name", RUNNABLE, ids=[name[:90] for name in RUNNABLE])
def test_what_pages_show_runs(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(workplace)
    what = RUNNABLE[name]
    if isinstance(what, Block):
        exec(compile(what.text, what.page, "exec"), {"__name__": "page"})  # noqa: S102 - our own pages
        return
    assert what[0] in MAINS, f"{what[0]}: a bash block has commands of genint and make alone; give others to sh"
    monkeypatch.setattr(sys, "argv", [what[0], *smaller(what)])
    code = 0
    try:
        MAINS[what[0]]()
    except SystemExit as ending:
        code = int(ending.code or 0)
    assert code == 0, capfd.readouterr().err


def parse(command: list[str]) -> dict[str, Any]:
    """Parameters of a genint command, as the real command line reads them. Raises click's UsageError."""
    name, *arguments = command
    if name == "genint-train":
        chosen: click.Command = train_command
        if arguments[:1] == ["presets"]:
            chosen, arguments = presets, arguments[1:]
    else:
        group = {"genint-pipeline": pipeline_commands, "genint-evaluate": evaluate_commands}[name]
        if arguments == ["--version"]:
            return {}
        chosen, arguments = group.commands[arguments[0]], arguments[1:]
    return chosen.make_context(name, [*arguments]).params


def genint_commands(block: Block) -> Iterator[list[str]]:
    """Commands of genint in a block, also within others, such as torchrun's or docker's."""
    for command in block.commands:
        programs = [i for i, word in enumerate(command) if Path(word).name in MAINS]
        # `docker run ... genint` names the image; what follows belongs to ray.
        if programs:
            yield [Path(command[programs[0]]).name, *command[programs[0] + 1 :]]


SHOWN_ALONE = [" ".join(command) for block in BLOCKS if block.language == "sh" for command in genint_commands(block)]


@pytest.mark.parametrize("command", dict.fromkeys(SHOWN_ALONE))
def test_commands_that_need_more_than_a_test_has_are_right(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(workplace)
    for key in ("release.key", "release.pub"):
        Path(key).touch()
    parsed = parse(shlex.split(command))
    if "recipe" in parsed:
        recipe = load_recipe(parsed["recipe"], parsed["overrides"])
        bound = {text.partition("=")[0] for text in parsed.get("inputs", ())}
        assert bound <= {*recipe.inputs()}
    if parsed.get("preset"):
        load_configuration(parsed["preset"], parsed["overrides"], {})


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "toml"], ids=lambda block: block.page)
def test_toml_is_a_recipe_or_keys_of_one(block: Block, tmp_path: Path) -> None:
    if block.title:
        (tmp_path / "recipe.toml").write_text(block.text)
        load_recipe(str(tmp_path / "recipe.toml"))
    else:
        assert {*tomllib.loads(block.text)} <= {*Recipe.model_fields}


def test_make_targets_of_the_first_screen_exist() -> None:
    commands = [command for block in read_blocks(PAGES[0]) if block.language == "bash" for command in block.commands]
    named = {command[1] for command in commands if command[0] == "make"}
    assert named == {"demo", "test"}
    assert named <= TARGETS


def test_make_targets_that_are_named_exist() -> None:
    named = {
        match[1] or match[2]
        for path in PAGES
        for match in re.finditer(r"`make ([\w-]+)|^ *make ([\w-]+)", path.read_text("utf-8"), re.MULTILINE)
    }
    assert named
    assert named - TARGETS == set()


@pytest.fixture(scope="module")
def generated() -> dict[str, str]:
    """Pages that the site takes from code."""
    return runpy.run_path(str(ROOT / "docs" / "generate.py"))["generated_pages"]()


def test_links_and_pictures_of_pages_are_there(generated: dict[str, str]) -> None:
    for path in PAGES:
        for target in re.findall(
            r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.DOTALL)
        ):
            place = target.partition("#")[0]
            if not place or "://" in place:
                continue
            found = Path(os.path.normpath(path.parent / place))
            uri = found.relative_to(ROOT / "docs").as_posix() if found.is_relative_to(ROOT / "docs") else ""
            assert found.exists() or uri in generated, f"{path}: {target}"


def test_every_page_of_the_site_is_there(generated: dict[str, str]) -> None:
    pages = site_pages()
    assert [uri for uri in pages if uri not in generated and not (ROOT / "docs" / uri).exists()] == []
    assert [uri for uri in generated if uri not in pages] == []


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 110


def test_every_recipe_preset_and_key_is_described(generated: dict[str, str]) -> None:
    assert [name for name in shipped_recipes() if f"\n## {name}\n" not in generated["reference/recipes.md"]] == []
    assert [name for name in shipped_presets() if f"\n## {name}\n" not in generated["reference/presets.md"]] == []
    for page in ("reference/recipe-keys.md", "reference/preset-keys.md"):
        assert re.findall(r"^\| `(\w+)` .*\|  \|$", generated[page], re.MULTILINE) == [], page


def test_every_option_is_described(generated: dict[str, str]) -> None:
    for program in MAINS:
        page = generated[f"reference/{program}.md"]
        assert re.findall(r"^\| `(\S+).*\|  \|$", page, re.MULTILINE) == [], program


def test_what_a_site_must_not_have_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(ROOT / ".ci" / "check_site.py"), run_name="check_site")["main"]
    page = tmp_path / "index.html"
    page.write_text('<h1 id="a"></h1><a href="#a">x</a><a href="https://example.org">y</a><img alt="z" src="z.png">')
    (tmp_path / "z.png").touch()
    assert main([str(tmp_path)]) == 0
    page.write_text(
        '<a href="other.html">x</a><a href="#b">y</a><img src="data:image/png;base64,"><script src="https://a.b/c.js">'
        '</script><link rel="stylesheet" href="//fonts.example.org/f.css">'
    )
    (tmp_path / "s.css").write_text('@import "https://a.b/d.css"; a { background: url(//a.b/e.png) }')
    capsys.readouterr()
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "index.html: picture data:image/png;base64, has no alt text",
        "index.html: other.html leads nowhere",
        "index.html: #b: no such place in that page",
        "index.html: fetches https://a.b/c.js",
        "index.html: fetches //fonts.example.org/f.css",
        "s.css: fetches https://a.b/d.css",
        "s.css: fetches //a.b/e.png",
    ]


def test_the_notebook_runs(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = runpy.run_path(str(ROOT / "docs" / "run_notebook.py"), run_name="run_notebook")
    monkeypatch.chdir(workplace)
    notebook = run["json"].loads(run["NOTEBOOK"].read_text("utf-8"))
    done = run["run_notebook"](notebook)
    gave = [
        [*map(str, output.get("data", {"text": 0}))] for cell in done["cells"] for output in cell.get("outputs", [])
    ]
    kept = [[*map(str, o.get("data", {"text": 0}))] for cell in notebook["cells"] for o in cell.get("outputs", [])]
    assert gave == kept, "run docs/run_notebook.py and commit the notebook"
    assert sum("image/png" in kinds for kinds in gave) == 2
