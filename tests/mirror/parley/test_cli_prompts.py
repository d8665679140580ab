"""`parley prompts`: what Parley writes around a question, before anything is asked."""

import json

import pytest
from typer.testing import CliRunner

from parley.broker.core.errors import InvalidMessage
from parley.cli_prompts import QUESTION, app
from parley.workers.prompts import GENERIC, PERSONAS, ROLES

shell = CliRunner()


def shown(*arguments: str) -> str:
    ran = shell.invoke(app, ["show", *arguments])
    assert ran.exit_code == 0, ran.output
    return ran.output


def test_a_role_is_shown_word_for_word_with_a_place_for_the_question() -> None:
    words = shown("DEV")
    assert words.startswith(
        f"[system]\n{ROLES['DEV']}\n[user]\n# Task\n\n{QUESTION}\n\n# Setting\n\n3 experts"
    )
    assert "# Setting" not in shown("DEV", "--agents", "1")
    assert PERSONAS[0].guidance in shown("DEV", "--diversity")


def test_any_other_name_has_a_general_experts_instructions_and_none_has_nothing() -> None:
    assert GENERIC.format(role="COOK") in shown("cook")
    assert shown("NONE") == f"[user]\n{QUESTION}\n"


def test_ones_own_system_message_stands_where_it_will_and_json_is_what_is_sent() -> None:
    messages = json.loads(shown("none", "--system", "Be brief.", "--json"))
    assert messages == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]


def test_the_list_names_each_role_once() -> None:
    lines = shell.invoke(app, ["list"]).output.splitlines()
    assert [line.split()[0] for line in lines] == [*ROLES, "NONE"]


def test_a_wrong_flag_is_named() -> None:
    ran = shell.invoke(app, ["show", "DEV", "--agents", "0"])
    assert isinstance(ran.exception, InvalidMessage)
    assert list(ran.exception.problems) == ["--agents: at least 1"]


@pytest.mark.parametrize("role", ["", "two words", "x" * 33])
def test_what_can_be_no_role_is_refused(role: str) -> None:
    ran = shell.invoke(app, ["show", role])
    assert isinstance(ran.exception, InvalidMessage)
    assert ran.exception.problems[0].startswith("--role: ")
