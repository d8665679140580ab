"""What every subcommand's line understands besides its own options: `-h`, `--version`, and `--wait` without a value; and
how its help and its usage errors look.
"""

import re
import sys
from importlib.metadata import version as distribution_version
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

HELP = {"help_option_names": ["-h", "--help"]}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf", re.IGNORECASE)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(distribution_version("parley-queue"))
        raise typer.Exit


def _version_option() -> Any:
    """The option, as typer makes it. Any: its class and its arguments differ between typer's versions."""
    app = typer.Typer(add_completion=False)

    @app.command()
    def nothing(
        version: Annotated[
            bool,
            typer.Option(
                "--version",
                is_eager=True,
                expose_value=False,
                callback=_print_version,
                help="Print the version.",
            ),
        ] = False,
    ) -> None: ...

    return next(parameter for parameter in typer.main.get_command(app).params if parameter.name == "version")


class PlainIntoPipes:
    """typer draws boxes around help and usage errors, whatever reads them: into a pipe they are plain words.

    typer looks at `rich_markup_mode` when it shows either; help goes to stdout, errors go to stderr.
    """

    # None: plain. Any: it is typer's.
    rich_markup_mode: Any

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._on_a_terminal = self.rich_markup_mode

    def main(self, *arguments: Any, **named: Any) -> Any:
        self.rich_markup_mode = self._on_a_terminal if _is_terminal(sys.stderr) else None
        return super().main(*arguments, **named)  # type: ignore[misc]  # TyperCommand and TyperGroup have it

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self.rich_markup_mode = self._on_a_terminal if _is_terminal(sys.stdout) else None
        super().format_help(ctx, formatter)  # type: ignore[misc]  # as above


def _is_terminal(stream: Any) -> bool:
    return stream is not None and not stream.closed and stream.isatty()


class ShellCommand(PlainIntoPipes, TyperCommand):
    """One subcommand. The parser has no option with an optional value: `--wait` alone becomes `--wait=inf`."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.params.append(_version_option())

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [*with_wait_value(args)] if _waits(self) else args)


class ShellGroup(PlainIntoPipes, TyperGroup):
    """A command with subcommands."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.params.append(_version_option())


def _waits(command: TyperCommand) -> bool:
    return any("--wait" in parameter.opts and not parameter.secondary_opts for parameter in command.params)


def with_wait_value(args: list[str]) -> list[str]:
    """The arguments with `--wait=inf` for each `--wait` that no number follows."""
    end = args.index("--") if "--" in args else len(args)
    return [
        "--wait=inf"
        if arg == "--wait" and not _NUMBER.fullmatch("".join(args[place + 1 : place + 2]))
        else arg
        for place, arg in enumerate(args[:end])
    ] + args[end:]
