"""What goes wrong through no fault of the code: errors whose message is for the user."""

import re


class GenintError(Exception):
    """Work that could not be done; the command line prints the message and exits with 1."""


class UsageError(GenintError):
    """A request that cannot be met as asked; the command line prints the message and exits with 2."""


class RecipeError(UsageError):
    """A recipe that is not valid, found before any work starts."""


class FormatError(GenintError):
    """A file that is not what its name promises: truncated, altered or of another format."""


# Of a URL: user and password before the host (a port is none), and a query, where signatures stand.
USER_INFO = re.compile(r"(?<=://)(?:[^\s/@]+|[^\s/@:]+:(?!\d+/)[^\s@]+)@")
# Clients show it percent-encoded too.
QUERY = re.compile(r"(://[^\s?#'\"]*?(?:\?|%3F))[^\s#'\"]*[^\s#'\",:;.)]", re.IGNORECASE)


def mask_credentials(text: str) -> str:
    """A text as it may be shown: user info and queries of the URLs in it are left out."""
    return QUERY.sub(r"\1***", USER_INFO.sub("***@", text))


def shorten(value: object, limit: int = 120) -> str:
    """A text, or what else was found, as a message shows it: in one line, the middle left out where it is long."""
    text = value if isinstance(value, str) else repr(value)
    text = text.replace("\n", " ")
    if len(text) <= limit:
        return text
    end = limit // 3
    return f"{text[: limit - end]}... ({len(text):,} characters) ...{text[-end:]}"
