"""What every command line has: options for how much is shown and logged, and one line for a user's mistake."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from .console import LONGEST_MESSAGE, command_arguments, exit_codes, set_output
from .errors import UsageError


class Command(click.Command):
    """A command that takes --log, --verbose and --quiet."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += [
            click.Option(
                ["--log"],
                type=click.Path(path_type=Path, dir_okay=False),
                metavar="FILE",
                help="Append what is shown of progress, warnings and errors, with times.",
            ),
            click.Option(["--verbose", "-v"], is_flag=True, help="Show each piece of work that is done."),
            click.Option(["--quiet", "-q"], is_flag=True, help="Show errors and warnings alone."),
        ]

    def invoke(self, ctx: click.Context) -> Any:
        set_output(*(ctx.params.pop(name) for name in ("log", "verbose", "quiet")))
        return super().invoke(ctx)


class Group(click.Group):
    """A group of such commands."""

    command_class = Command


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON in place of a table.")


def run_program(choose: Callable[[Sequence[str]], tuple[click.Command, str | None]]) -> None:
    """Run a program's command line; a user's mistake is one line and an exit code, never a traceback.

    choose: the command for these arguments, and a name where it takes the first of them.
    """
    with exit_codes():
        try:
            arguments = command_arguments()
            command, name = choose(arguments)
            code = command(arguments[1:] if name else arguments, name, standalone_mode=False)
        except click.ClickException as error:
            if len(error.format_message()) > LONGEST_MESSAGE:
                raise UsageError(error.format_message()) from error
            error.show()
            sys.exit(error.exit_code)
        except click.Abort as error:
            raise KeyboardInterrupt from error
        if isinstance(code, int) and code:
            sys.exit(code)
