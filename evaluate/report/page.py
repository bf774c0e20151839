"""What a report's page is made of: sections of text, tables and figures, rendered into one self-contained file."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from io import StringIO
from pathlib import Path

import matplotlib
from jinja2 import Environment
from markupsafe import escape
from matplotlib.figure import Figure

from ...manifests.errors import FormatError
from ...manifests.page_style import page_style


@dataclass(frozen=True)
class Cell:
    """A table cell: a large text, a small one below it, and CSS classes."""

    text: str
    note: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Table:
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Picture:
    """A figure with its caption; `markup` is SVG or an image as a data URI: the page refers to nothing outside."""

    markup: str
    caption: str


@dataclass(frozen=True)
class Section:
    title: str
    texts: Sequence[str] = field(default_factory=list)
    tables: Sequence[Table] = field(default_factory=list)
    figures: Sequence[Picture] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        return self.title.lower().replace(" ", "-")


def render_page(title: str, subtitle: str, sections: Sequence[Section], summary: Section) -> str:
    """The page as HTML; what its summary holds stands first, if it holds anything."""
    text = (files(__package__) / "templates" / "report.html").read_text("utf-8")
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(text)
    return template.render(title=title, subtitle=subtitle, sections=sections, summary=summary, style=page_style())


def draw_figure(figure: Figure, caption: str) -> Picture:
    """A matplotlib figure as inline SVG."""
    # The caption is what somebody hears who cannot see the figure.
    return Picture(
        _inline(_to_svg(figure)).replace("<svg", f'<svg role="img" aria-label="{escape(caption)}"', 1), caption
    )


def save_figure(figure: Figure, path: Path) -> None:
    """Write a matplotlib figure as SVG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_to_svg(figure), "utf-8")


def embed_file(path: Path, caption: str) -> Picture:
    """A figure in a file (.svg or .png) for the page, as an image: what is in it cannot act. Raises FormatError."""
    if path.is_symlink() or not path.is_file():
        found = "missing; run the analysis again" if not path.exists() else "not a file of its own"
        raise FormatError(f"{path}: {found}")
    encoded = base64.b64encode(path.read_bytes()).decode()
    kind = "svg+xml" if path.suffix == ".svg" else "png"
    return Picture(f'<img alt="{escape(caption)}" src="data:image/{kind};base64,{encoded}">', caption)


def _to_svg(figure: Figure) -> str:
    text = StringIO()
    # Text as text; and without a date or random ids, equal results give equal files.
    with matplotlib.rc_context({"svg.hashsalt": "genint", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
    return text.getvalue()


def _inline(svg: str) -> str:
    return svg[svg.index("<svg") :]
