"""What every subcommand understands: `-h`, `--version`, in plain words into a pipe; and `--wait` with and without its
seconds.
"""

import asyncio

import pytest
import typer
from typer.testing import CliRunner

from parley.cli import app
from parley.cli_common_options import with_wait_value
from tests.mirror.parley.test_cli import OK, PARLEY, USAGE, Shell, bare
from tests.rig.pseudo_terminal import pseudo_terminal

__all__ = ["bare"]


# Letters of boxes and of escape sequences.
DRAWN = "╭╮╰╯│─┌└┃━\x1b"


def commands() -> list[list[str]]:
    group = typer.main.get_command(app)
    found: list[list[str]] = [[]]
    for name, command in group.commands.items():  # type: ignore[attr-defined]  # it is a group
        found.append([name])
        found += [[name, inner] for inner in getattr(command, "commands", ())]
    return found


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_has_help_and_the_version(command: list[str]) -> None:
    for flag in ("-h", "--help"):
        helped = CliRunner().invoke(app, [*command, flag])
        assert helped.exit_code == 0, helped.output
        assert "--version" in helped.output
        assert "Usage: " in helped.output
        assert not set(helped.output) & set(DRAWN)
    told = CliRunner().invoke(app, [*command, "--version"])
    assert (told.exit_code, told.output) == (0, "0.2.0\n") or told.output.count(".") == 2


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("d-1 --wait", "d-1 --wait=inf"),
        ("--wait d-1", "--wait=inf d-1"),
        ("--wait 5 d-1", "--wait 5 d-1"),
        ("--wait .5 --json", "--wait .5 --json"),
        ("--wait=5 d-1", "--wait=5 d-1"),
        ("--wait --json", "--wait=inf --json"),
        ("-- --wait", "-- --wait"),
    ],
)
def test_wait_may_stand_alone(given: str, read: str) -> None:
    assert with_wait_value(given.split()) == read.split()


@pytest.mark.parametrize(
    "line", ["", "nope", "ask --agents", "ask x --agents many", "deadletters", "ls --nope"]
)
async def test_a_command_line_that_cannot_be_read_is_told_in_plain_words_into_a_pipe(
    line: str, bare: Shell
) -> None:
    ran = await bare(*line.split(), FORCE_COLOR="1", COLUMNS="80")
    assert (ran.code, ran.out, set(ran.err) & set(DRAWN)) == (USAGE, "", set())
    assert "Usage: parley" in ran.err or "Error: " in ran.err


async def test_a_terminal_has_help_in_boxes(bare: Shell) -> None:
    seen = {**bare.environment, "TERM": "xterm"}
    async with pseudo_terminal(PARLEY, "ask", "-h", environment=seen) as terminal:
        assert await terminal.end() == OK
    assert "╭─ Options" in terminal.text


async def test_a_shell_can_complete_the_subcommands(bare: Shell) -> None:
    shown, completed = await asyncio.gather(
        bare("--show-completion", "bash"),
        bare(_PARLEY_COMPLETE="complete_bash", COMP_WORDS="parley r", COMP_CWORD="1"),
    )
    assert (shown.code, completed.code) == (OK, OK)
    assert "_PARLEY_COMPLETE" in shown.out
    assert completed.out.split() == ["result"]
