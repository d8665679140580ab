"""The `parley` command: its subcommands, and how an error becomes one line and an exit code.

Exit codes: 0 success (a deliberation: completed), 1 otherwise, 2 usage, 3 no service.
"""

import sys
from importlib.metadata import version as distribution_version
from typing import Annotated

import typer

from parley import cli_asking, cli_operating, cli_running, deadletters
from parley.broker.core.errors import InvalidMessage, ParleyError, SettingsError, Unavailable
from parley.cli_common import FAILED, NO_SERVICE, USAGE, print_error

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for command in (
    cli_running.up,
    cli_running.serve,
    cli_running.demo,
    cli_asking.ask,
    cli_asking.result,
    cli_asking.cancel,
):
    app.command()(command)
app.command("ls")(cli_asking.list_)
for command in (cli_operating.settings, cli_operating.doctor, cli_operating.provision):
    app.command()(command)
app.add_typer(deadletters.app, name="deadletters")


def main() -> None:
    """Run the command. Parley's own errors become one line on stderr and an exit code."""
    try:
        app()
    except (ParleyError, OSError) as error:
        for problem in error.problems if isinstance(error, SettingsError) else (str(error),):
            print_error(problem)
        usage = isinstance(error, SettingsError | InvalidMessage)
        sys.exit(USAGE if usage else NO_SERVICE if isinstance(error, Unavailable) else FAILED)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", is_eager=True, help="Print the version.")] = False,
) -> None:
    """A task queue for questions that several agents should answer.

    Exit codes: 0 it worked (a deliberation: completed), 1 it ended otherwise, 2 usage, 3 no service.
    """
    if version:
        print(distribution_version("parley-queue"))
        raise typer.Exit
