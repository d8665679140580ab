"""The flags in errors: each is one that the command has."""

import typer

from parley.cli import app
from parley.errors_in_flags import FLAGS, in_flags


def test_each_flag_exists() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # it is a group
    known = {name for command in ("ask", "cancel") for each in commands[command].params for name in each.opts}
    assert {flag for flag in FLAGS.values() if flag.startswith("--")} <= known


def test_what_the_service_says_of_a_field_names_the_flag_too() -> None:
    assert in_flags("num_agents: is 9, more than 4") == "--agents: is 9, more than 4"
    assert in_flags("constraints.requirements.0: is empty") == "--requirement: is empty"
    assert in_flags("anything else") == "anything else"
