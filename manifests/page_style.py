"""How the pages look that commands write: for any width, on paper, in the dark."""

from importlib.resources import files


def page_style() -> str:
    """The style sheet, to stand in the page itself: a page refers to nothing outside of it."""
    return (files(__package__) / "data" / "page.css").read_text("utf-8")
