#!/usr/bin/env python3
"""Refuse a built site in which a link leads nowhere, a picture has no words, or something is fetched from elsewhere.

.venv/bin/python .ci/check_site.py build/site
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What a browser fetches by itself, by tag; links that a reader may follow are none of them.
FETCHED = {"img": "src", "script": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}
FETCHING_RELATIONS = {"stylesheet", "icon", "preconnect", "preload", "modulepreload", "dns-prefetch", "prefetch"}


@dataclass
class Page(HTMLParser):
    """What a page is made of: places within it, links, and what a browser fetches."""

    path: Path
    places: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.places |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag == "link" and FETCHING_RELATIONS & set(values.get("rel", "").split()):
            self.fetched.append(values.get("href", ""))
        if tag in FETCHED and values.get(FETCHED[tag]):
            self.fetched.append(values[FETCHED[tag]])
        if tag == "img" and not values.get("alt", "").strip():
            self.silent.append(values.get("src", "")[:60])


def problems(folder: Path) -> Iterator[str]:
    """One line for everything that is wrong with a site."""
    pages = {path: Page(path) for path in sorted(folder.rglob("*.html"))}
    if not pages:
        yield f"{folder}: no page"
    for path, page in pages.items():
        where = path.relative_to(folder)
        for silent in page.silent:
            yield f"{where}: picture {silent} has no alt text"
        for target in (*page.links, *page.fetched):
            parts = urlsplit(target)
            if parts.scheme == "data":
                continue
            if parts.scheme or parts.netloc:
                if target in page.fetched:
                    yield f"{where}: fetches {target}"
                continue
            # The page of an error is served in any folder: its own links begin at the site's root.
            base = folder if parts.path.startswith("/") else path.parent
            found = (base / unquote(parts.path).lstrip("/")).resolve() if parts.path else path.resolve()
            if found.is_dir():
                found /= "index.html"
            if not found.is_file():
                yield f"{where}: {target} leads nowhere"
            elif parts.fragment and found.suffix == ".html":
                places = pages[folder / found.relative_to(folder.resolve())].places
                if unquote(parts.fragment) not in places and parts.fragment != "__comments":
                    yield f"{where}: {target}: no such place in that page"
    for sheet in sorted(folder.rglob("*.css")):
        for address in re.findall(
            r"""url\(\s*["']?((?:https?:)?//[^)"']+)|@import\s+["']([^"']+)""", sheet.read_text()
        ):
            yield f"{sheet.relative_to(folder)}: fetches {''.join(address)}"


def main(arguments: list[str]) -> int:
    """Exit status: 0 where nothing is wrong."""
    folder = Path(arguments[0])
    lines = [*problems(folder)]
    print("\n".join(lines) or f"{folder}: all links lead somewhere, and nothing is fetched from elsewhere")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
