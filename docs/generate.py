"""Pages that the site takes from code and from files outside of docs/: reference tables, the notebook, README, results.

A hook of MkDocs (see mkdocs.yml). `generated_pages` needs no MkDocs, so that tests can look at what it writes.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin

import click
from genint.evaluate.cli import cli as evaluate_commands
from genint.manifests.recipe import Recipe, shipped_recipes, stream_models
from genint.manifests.sources.stream import Stream
from genint.pipeline.cli import cli as pipeline_commands
from genint.train.cli import presets as presets_command
from genint.train.cli import train as train_command
from genint.train.configuration import Configuration, Stage, describe_differences, describe_preset, shipped_presets
from pydantic import BaseModel
from pydantic.fields import FieldInfo

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "tutorial" / "python.ipynb"
COMMANDS: dict[str, list[click.Command]] = {
    "genint-pipeline": [pipeline_commands],
    "genint-train": [train_command, presets_command],
    "genint-evaluate": [evaluate_commands],
}
# Of the repository's own pages, those that the site shows as they are.
SHOWN = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """MkDocs asks for what else belongs to the site."""
    from mkdocs.structure.files import File

    for uri, text in generated_pages().items():
        files.append(File.generated(config, uri, content=text))
    for path in sorted((ROOT / "results").glob("*/**/*.svg")):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """MkDocs asks for changes of a page: where results/ lies in the site, and what presets say of paper and code."""
    return markdown.replace("](../../results/", "](").replace("<!-- by preset -->", _differences())


def on_post_build(config: "MkDocsConfig", **_: object) -> None:
    """MkDocs has built the site: let its search come from the site alone.

    Material's plugin `offline` has pages load a stand-in for workers from a server.
    """
    site = Path(config.site_dir)
    for path in site.rglob("*.html"):
        ours = "../" * (len(path.relative_to(site).parts) - 1) + "assets/frame-worker.js"
        path.write_text(path.read_text("utf-8").replace("https://unpkg.com/iframe-worker/shim", ours), "utf-8")


def generated_pages() -> dict[str, str]:
    """Markdown of each generated page, by its place in docs/."""
    pages = {
        **{f"reference/{name}.md": _commands(name, group) for name, group in COMMANDS.items()},
        "reference/recipes.md": _recipes(),
        "reference/recipe-keys.md": _recipe_keys(),
        "reference/presets.md": _presets(),
        "reference/preset-keys.md": _preset_keys(),
        "results/paper-numbers.md": _paper_numbers(),
        "tutorial/python.md": _notebook(json.loads(NOTEBOOK.read_text("utf-8"))),
    }
    return pages | {uri: _shown((ROOT / path).read_text("utf-8")) for path, uri in SHOWN.items()}


def _shown(text: str) -> str:
    """A page of the repository's root with its links as they are seen from docs/."""
    text = re.sub(r"\]\(docs/", "](", text).replace("](tutorial/python.ipynb)", "](tutorial/python.md)")
    for path, uri in SHOWN.items():
        text = text.replace(f"]({path}", f"]({uri}")
    return text


def _commands(name: str, commands: list[click.Command]) -> str:
    """A program's page: each command with its arguments and options, as `--help` has them."""
    lines = [f"# {name}", "Every command prints its options with `--help`."]
    for command in commands:
        if isinstance(command, click.Group):
            lines += [_paragraphs(command.help or "")]
            for each in command.commands.values():
                lines += [f"## {each.name}", *_command(each, f"{name} {each.name}")]
        else:
            title = name if command.name == "train" else f"{name} {command.name}"
            lines += [f"## {title}", *_command(command, title)]
    epilogs = dict.fromkeys(command.epilog for command in commands if command.epilog)
    return "\n\n".join([*lines, "## Exit codes", *map(_paragraphs, epilogs)]) + "\n"


def _command(command: click.Command, title: str) -> Iterator[str]:
    context = click.Context(command, info_name=title)
    yield f"```text\n{' '.join([title, *command.collect_usage_pieces(context)])}\n```"
    yield _paragraphs(command.help or "")
    rows = ["| option | default | meaning |", "|---|---|---|"]
    for option in command.params:
        if not isinstance(option, click.Option) or option.name in ("help", "version"):
            continue
        names = "/".join([*option.opts, *option.secondary_opts])
        metavar = option.make_metavar(context).replace("INTEGER RANGE", "N").replace("FLOAT RANGE", "X")
        taken = "" if option.is_flag else f" {metavar}"
        given = option.get_default(context)
        shown = f"`{given}`" if isinstance(given, (str, int, float)) and not isinstance(given, bool) else ""
        rows.append(f"| `{names}{taken}` | {shown} | {_cell(option.help or '')} |")
    if len(rows) > 2:
        yield "\n".join(rows)


def _cell(text: str) -> str:
    """Text for a table's cell: outside of code, a bar would end it."""
    parts = text.split("`")
    return "`".join(part if i % 2 else part.replace("|", "\\|") for i, part in enumerate(parts))


def _recipes() -> str:
    lines = [
        "# Shipped recipes",
        "`genint-pipeline recipes NAME` prints one with its comments: a start for [your own]"
        "(../tutorial/own-recipe.md). [Recipe keys](recipe-keys.md) lists what can stand in it.",
    ]
    for name, text in shipped_recipes().items():
        lines += [f"## {name}", text.splitlines()[0].removeprefix("# "), _folded("The recipe", text)]
    return "\n\n".join(lines) + "\n"


def _presets() -> str:
    lines = [
        "# Shipped presets",
        "`genint-train presets NAME` prints one, with those that it extends. [Preset keys](preset-keys.md) lists what "
        "can stand in it. What a preset does not name has its default, or the value in the preset that it extends.",
    ]
    for name, text in shipped_presets().items():
        lines += [f"## {name}", describe_preset(text), _folded("The preset", text)]
    return "\n\n".join(lines) + "\n"


def _folded(title: str, text: str) -> str:
    """A TOML text that is shown when its title is clicked."""
    indented = "\n".join(f"    {line}".rstrip() for line in ("```toml", *text.splitlines(), "```"))
    return f'??? note "{title}"\n\n{indented}'


def _recipe_keys() -> str:
    common, tables = list(Stream.model_fields), _tables(Recipe)
    lines = [
        "# Recipe keys",
        "A recipe is a TOML file. It holds everything that changes a pixel; what changes only speed or place is an "
        "option of the [command](genint-pipeline.md). Unknown keys are refused. `--set KEY=VALUE` changes one, such as "
        "`--set streams.interventional.truncation=0.5`.",
        "## At the top",
        _key_table(Recipe, without=("streams", *tables)),
    ]
    for name, (heading, model) in tables.items():
        about = Recipe.model_fields[name].description or _paragraphs(model.__doc__ or "")
        lines += [f"## `[{heading}]`", about, _key_table(model)]
    lines += [
        "## `[[streams]]`, of every source",
        _key_table(Stream),
    ]
    for source, model in sorted(stream_models().items()):
        about = (model.__doc__ or "").strip()
        changed = [key for key in common if key != "source" and _facts(model, key) != _facts(Stream, key)]
        own = [key for key in model.model_fields if key not in common]
        lines += [f'## `source = "{source}"`', _paragraphs(about), _key_table(model, only=[*own, *changed])]
    return "\n\n".join(lines) + "\n"


def _tables(model: type[BaseModel]) -> dict[str, tuple[str, type[BaseModel]]]:
    """Heading and model of each key that is a table, or a table of tables by name; lists of tables are none."""
    found = {}
    for name, field in model.model_fields.items():
        for each in (field.annotation, *get_args(field.annotation)):
            inner = get_args(each)[1] if get_origin(each) is dict else each
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                found[name] = (f"{name}.NAME" if inner is not each else name, inner)
    return found


def _preset_keys() -> str:
    lines = [
        "# Preset keys",
        'A preset is a TOML file; `extends = "NAME"` takes over another one. `--set KEY=VALUE` changes a key. Keys of '
        "a stage may stand at the top: there they hold for all stages.",
        "## At the top",
        _key_table(Configuration, without=("stages",)),
        "## `[[stages]]`",
        _key_table(Stage),
    ]
    return "\n\n".join(lines) + "\n"


def _facts(model: type[BaseModel], key: str) -> tuple[str, str, str]:
    """Type, default and description of a key."""
    field = model.model_fields[key]
    return _type(model, key), _default(field), field.description or ""


def _key_table(model: type[BaseModel], only: "list[str] | None" = None, without: tuple[str, ...] = ()) -> str:
    keys = [key for key in model.model_fields if key not in without] if only is None else only
    if not keys:
        return "No keys besides those of every source."
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key in keys:
        kind, default, description = _facts(model, key)
        rows.append(f"| `{key}` | {kind} | {default} | {_cell(description)} |")
    return "\n".join(rows)


def _type(model: type[BaseModel], key: str) -> str:
    """A key's type in words, from its JSON Schema, which knows limits and choices."""
    schema = model.model_json_schema()
    return _words(schema["properties"][key], schema.get("$defs", {}))


def _words(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return _words(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "const" in schema:
        return f'`"{schema["const"]}"`'
    if "enum" in schema:
        return ", ".join(f'`"{value}"`' for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(_words(each, definitions) for each in schema["anyOf"] if each.get("type") != "null")
    kind = schema.get("type")
    if kind == "array":
        inner = _words(schema["items"], definitions) if "items" in schema else "value"
        return f"list: {inner}"
    if kind == "object":
        inner = schema.get("additionalProperties")
        return f"table: {_words(inner, definitions)}" if isinstance(inner, dict) else "table"
    words = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false"}[kind or "string"]
    return ", ".join([words, *_limits(schema)])


def _limits(schema: Mapping[str, Any]) -> Iterator[str]:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    for name, sign in signs.items():
        if name in schema:
            yield f"{sign} {'2^63' if schema[name] == 2**63 else schema[name]}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "none"
    if isinstance(value, BaseModel):
        return "its own"
    return f"`{json.dumps(value, default=list)}`"


def _paragraphs(docstring: str) -> str:
    """A docstring with its line breaks undone."""
    return "\n\n".join(" ".join(part.split()) for part in docstring.split("\n\n"))


def _differences() -> str:
    lines = ["## By preset"]
    for name, text in shipped_presets().items():
        if comment := describe_differences(text):
            lines += [f"**`{name}`**", " ".join(comment)]
    return "\n\n".join(lines)


def _paper_numbers() -> str:
    """The tables of GenInt's paper as reports have them beside their own numbers."""
    paper = json.loads((ROOT / "evaluate" / "report" / "data" / "paper.json").read_text("utf-8"))
    lines = [
        "# The paper's numbers",
        f"{paper['source']}, in {paper['unit']}. Reports show them beside your own numbers on the same test sets.",
    ]
    for table in paper["tables"]:
        heads = []
        for column in table["columns"]:
            facts = (column["arch"], column["augmentation"], column["test_set"], column["metric"])
            heads.append(", ".join(fact.replace("_", " ") for fact in facts if fact))
        rows = ["| row | " + " | ".join(heads) + " |", "|---" * (1 + len(heads)) + "|"]
        for row in table["rows"]:
            name = f"{row['row']}, {row['arch']}" if "arch" in row else row["row"]
            rows.append(f"| {name} | " + " | ".join("" if v is None else f"{v:.2f}" for v in row["values"]) + " |")
        lines += [f"## Table {table['table']}", f"{table['caption']}.", "\n".join(rows)]
        for each in table["quoted"]:
            all_of_them = len(each["columns"]) == len(heads)
            places = "all columns" if all_of_them else "; ".join(heads[column] for column in each["columns"])
            lines.append(f"Quoted, not measured: {each['row']} ({places}), from {each['from']}.")
    return "\n\n".join(lines) + "\n"


def _notebook(notebook: Mapping[str, Any]) -> str:
    """A notebook as Markdown: text, code and what the code gave when it was last run."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {"text/plain": output.get("text", [])})
            if "image/png" in data:
                alt = cell["metadata"]["alt"]  # a cell that draws says what
                parts.append(f'<img alt="{alt}" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">')
            else:
                parts.append("```text\n" + "".join(data["text/plain"]).rstrip() + "\n```")
    return "\n\n".join(parts) + "\n"
