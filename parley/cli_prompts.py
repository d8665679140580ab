"""`parley prompts`: what Parley writes around a question. Asks nobody."""

import json
from collections.abc import Mapping
from typing import Annotated

import typer

from parley.cli_common import out
from parley.cli_common_options import ShellCommand, ShellGroup
from parley.errors_in_flags import errors_in_flags
from parley.request_arguments import compose
from parley.terminal import write_json, write_line, write_words

# What stands for a caller's words.
QUESTION = "<the question>"


def _own_roles() -> Mapping[str, str]:
    """Those of PARLEY_ROLES_DIR here. Raises SettingsError."""
    from parley.role_files import read_roles
    from parley.settings import load

    return read_roles(load().roles_dir)


app = typer.Typer(
    cls=ShellGroup, no_args_is_help=True, help="What Parley writes around a question: list, show."
)


@app.command("list", cls=ShellCommand)
def list_() -> None:
    """The roles that have instructions of their own. Any other name has a general expert's; NONE has nothing.

    With PARLEY_ROLES_DIR those of its files, too. The service may have another one.
    """
    from parley.workers.prompts import BARE, ROLES

    for role, words in {**ROLES, **_own_roles()}.items():
        write_words(out, f"{role:<10}{words.splitlines()[0]}")
    write_line(out, f"{BARE:<10}Nothing: the question as it is.")


# fmt: off
@app.command("show", cls=ShellCommand)
def show(
    role: Annotated[str, typer.Argument(help="DEV, QA, ARCHITECT, DEVOPS, DATA, NONE, or any other.")] = "DEV",
    system: Annotated[str | None, typer.Option(help="Your own system message instead.")] = None,
    agents: Annotated[int, typer.Option(help="How many agents.")] = 3,
    diversity: Annotated[bool, typer.Option("--diversity", help="With the first agent's persona.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the messages as JSON, nothing else.")] = False,
) -> None:
    """The messages that an agent's model is sent, word for word, but for the question."""
    from parley.workers import prompts

    with errors_in_flags():
        asked = compose(QUESTION, role=role, system=system, agents=agents, diversity=diversity)
    messages = prompts.preview(
        QUESTION, asked.role, agents=asked.num_agents, diversity=diversity,
        system=asked.system or _own_roles().get(asked.role))
    if as_json:
        write_json(out, json.dumps(list(messages), indent=2))
        return
    for message in messages:
        write_line(out, f"[{message['role']}]")
        write_words(out, message["content"])
# fmt: on
