"""Servers' words for an answer that is not whole."""

import pytest

from parley.broker.core.finish_reasons import is_filtered, is_too_long


@pytest.mark.parametrize(
    "reason", ["length", "LENGTH", "max_tokens", "MAX-TOKENS", "model_length", "token_limit"]
)
def test_an_answer_that_was_too_long(reason: str) -> None:
    assert is_too_long(reason)
    assert not is_filtered(reason)


@pytest.mark.parametrize(
    "reason", ["content_filter", "content-filter", "content_filter: RECITATION", "SAFETY", "refusal", "spii"]
)
def test_an_answer_that_was_filtered(reason: str) -> None:
    assert is_filtered(reason)
    assert not is_too_long(reason)


@pytest.mark.parametrize("reason", ["stop", "eos", "", "unknown", "lengthy", "tool_calls"])
def test_a_whole_answer(reason: str) -> None:
    assert not is_too_long(reason)
    assert not is_filtered(reason)
