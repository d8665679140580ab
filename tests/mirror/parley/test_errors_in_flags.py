"""The flags in errors: each is one that the command has."""

from typing import Any

import pytest
import typer

from parley.broker.core.errors import InvalidMessage
from parley.cli import app
from parley.errors_in_flags import FLAGS, errors_in_flags, in_flags
from parley.request_arguments import compose


def test_each_flag_exists() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # it is a group
    known = {name for command in ("ask", "cancel") for each in commands[command].params for name in each.opts}
    assert {flag for flag in FLAGS.values() if flag.startswith("--")} <= known


def test_what_the_service_says_of_a_field_names_the_flag_too() -> None:
    assert in_flags("num_agents: is 9, more than 4") == "--agents: is 9, more than 4"
    assert in_flags("constraints.requirements.0: is empty") == "--requirement: is empty"
    assert in_flags("anything else") == "anything else"


def test_what_is_about_a_choice_names_the_flags() -> None:
    def told(**asking: Any) -> str:
        with pytest.raises(InvalidMessage) as wrong, errors_in_flags():
            compose("x", **asking)
        return "; ".join(wrong.value.problems)

    assert told(judges=2) == "--judges needs --select judge; --select is none"
    assert told(select="judge", agree=2, answer_key={"last": "line"}) == (
        "--answer-key and --agree need --select vote; --select is judge"
    )
    assert told(select="vote") == "--select vote needs --answer-key, which says how a final answer is read"
    assert told(select="rank", agents=3) == (
        "--agents is 3; --select rank needs 4 to 9 (each pair of answers would have one judge); use --select judge"
    )
    assert (
        told(synthesize=True)
        == "--synthesize needs --select, which chooses what it is compared with; --select is none"
    )
    assert told(select="best") == "--select: must be 'none', 'vote', 'judge' or 'rank'"
    assert told(select="vote", answer_key={"last": "word"}) == "--answer-key: must be 'number' or 'line'"
    assert told(select="vote", answer_key={"json": "answer"}).startswith("--answer-key: ")
    assert told(select="judge", judges=6) == "--judges: at most 5"
