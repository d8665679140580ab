"""The `parley` command: its subcommands, and how an error becomes one line and an exit code.

Exit codes: 0 success (a deliberation: completed), 1 otherwise, 2 usage, 3 no service, 129 SIGHUP (the terminal was
closed), 130 Ctrl-C, 143 SIGTERM. `parley result` also has 4, not ended yet, and 5, unknown.
"""

import sys

import typer

from parley import (
    cli_asking,
    cli_batch,
    cli_bench,
    cli_deadletters,
    cli_gateway,
    cli_operating,
    cli_prompts,
    cli_results,
    cli_running,
    cli_watch,
)
from parley.broker.core.errors import InvalidMessage, ParleyError, SettingsError, Unavailable
from parley.cli_common import FAILED, NO_SERVICE, OK, USAGE, print_error
from parley.cli_common_options import HELP, ShellCommand, ShellGroup
from parley.env_file import ENV_FILE, load_env_file
from parley.terminal import flush, read_arguments_as_utf8, write_what_the_locale_lacks_as_escapes

INTERRUPTED = 130
app = typer.Typer(cls=ShellGroup, no_args_is_help=True, pretty_exceptions_enable=False, context_settings=HELP)
for command in (
    cli_running.up,
    cli_running.serve,
    cli_running.demo,
    cli_asking.ask,
    cli_batch.batch,
    cli_bench.bench,
    cli_results.result,
    cli_results.cancel,
    cli_watch.watch,
):
    app.command(cls=ShellCommand)(command)
app.command("ls", cls=ShellCommand)(cli_results.list_)
for operating in (cli_operating.settings, cli_operating.doctor, cli_operating.provision):
    app.command(cls=ShellCommand)(operating)
app.command("gateway-token", cls=ShellCommand)(cli_gateway.gateway_token)
app.add_typer(cli_deadletters.app, name="deadletters")
app.add_typer(cli_prompts.app, name="prompts")


def main() -> None:
    """Run the command. Parley's own errors become one line on stderr and an exit code."""
    write_what_the_locale_lacks_as_escapes()
    read_arguments_as_utf8()
    from_file = load_env_file()
    code: object = FAILED
    try:
        app()
    except SystemExit as ended:
        # typer writes the help itself, and has 1 for a reader that has left.
        code = OK if isinstance(ended.__context__, BrokenPipeError) else ended.code
    except KeyboardInterrupt:
        code = INTERRUPTED
    except (ParleyError, OSError) as error:
        code = _print(error, from_file)
    try:
        flush()
    except OSError as error:
        code = _print(error, from_file)
    sys.exit(code)  # type: ignore[arg-type]  # what SystemExit held


def _print(error: ParleyError | OSError, from_file: frozenset[str]) -> int:
    """Print each problem. `from_file`: the variables that the file `.env` has set. Returns the exit code."""
    for problem in error.problems if isinstance(error, SettingsError | InvalidMessage) else (str(error),):
        print_error(f"{problem} (from {ENV_FILE})" if problem.partition(":")[0] in from_file else problem)
    usage = isinstance(error, SettingsError | InvalidMessage)
    return USAGE if usage else NO_SERVICE if isinstance(error, Unavailable) else FAILED


@app.callback()
def _root() -> None:
    """A task queue for questions that several agents should answer.

    Exit codes: 0 it worked (a deliberation: completed), 1 it ended otherwise, 2 usage, 3 no service, 129 SIGHUP, 130
    Ctrl-C, 143 SIGTERM. `parley result` also has 4, not ended yet, and 5, unknown.

    Settings come from the environment, then from the file .env of the working directory.
    """
