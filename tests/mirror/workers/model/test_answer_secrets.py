"""No part of an answer shows a secret, and an answer without one is not touched. Over HTTP: test_call_errors.py."""

from dataclasses import replace
from typing import Any

import pytest

from parley.broker.core.messages import ToolCall, Usage
from parley.workers.model.answer_secrets import calls_without_secrets, without_secrets
from parley.workers.model.responses import Completion

KEY = "sk-s3cret-0123456789"
PLAIN = Completion("42", "stop", "m", Usage(total_tokens=3), reasoning="hm", logprobs=({"token": "42"},))


@pytest.mark.parametrize("secrets", [(), (KEY,)])
def test_an_answer_without_a_secret_is_the_same(secrets: tuple[str, ...]) -> None:
    assert without_secrets(PLAIN, secrets, "asked") is PLAIN


@pytest.mark.parametrize("part", ["content", "reasoning", "finish_reason", "model"])
def test_each_part_of_an_answer_is_searched(part: str) -> None:
    quoting: dict[str, Any] = {part: f"you sent {KEY}"}
    clean = without_secrets(replace(PLAIN, **quoting), (KEY,), "asked")
    assert getattr(clean, part) == "you sent ***"
    assert clean.usage == PLAIN.usage


def test_the_model_that_was_asked_for_is_no_secret() -> None:
    answer = replace(PLAIN, model=KEY)
    assert without_secrets(answer, (KEY,), KEY) is answer


@pytest.mark.parametrize(
    ("content", "logprobs"),
    [(f"you sent {KEY}", ({"token": "sk-"}, {"token": "s3cret-0123456789"})), ("42", ({"token": KEY},))],
)
def test_log_probabilities_that_spell_a_secret_are_left_out(content: str, logprobs: Any) -> None:
    answer = replace(PLAIN, content=content, logprobs=logprobs)
    assert without_secrets(answer, (KEY,), "asked").logprobs is None


def test_calls_of_tools_are_searched() -> None:
    calls = [ToolCall(id=KEY, name=KEY, arguments=f'{{"key": "{KEY}"}}'), ToolCall(name="w")]
    clean = calls_without_secrets(calls, (KEY,))
    assert clean == [ToolCall(id="***", name="***", arguments='{"key": "***"}'), ToolCall(name="w")]
