"""Servers' words for an answer that is not whole."""

import pytest

from parley.broker.core.finish_reasons import is_broken_off, is_filtered, is_rate_limit, is_too_long


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


@pytest.mark.parametrize(
    "reason", ["stop", "eos", "", "unknown", "lengthy", "tool_calls", "other", "terror", "generate_limit"]
)
def test_a_whole_answer(reason: str) -> None:
    assert not is_broken_off(reason)
    assert not is_rate_limit(reason)
    assert not is_too_long(reason)
    assert not is_filtered(reason)


@pytest.mark.parametrize(
    "reason",
    [
        "error", "ERROR", "error: timeout", "abort", "abort: x", "model_error", "modelError", "upstream_error",
        "engine_error", "connection-error", "generation error", "failed", "cancelled", "user_cancel", "overloaded",
        "engine_overloaded", "timeout", "malformed_function_call", "MALFORMED_RESPONSE", "incomplete", "network_error",
        "insufficient_system_resource", "service_unavailable",
    ],
)  # fmt: skip
def test_an_answer_that_the_server_gave_up(reason: str) -> None:
    assert is_broken_off(reason)
    assert not is_rate_limit(reason)


@pytest.mark.parametrize(
    "reason", ["rate_limit", "rateLimited", "RATE_LIMIT_EXCEEDED", "error: rate limit", "quota"]
)
def test_an_answer_that_a_rate_ended(reason: str) -> None:
    assert is_rate_limit(reason)


@pytest.mark.parametrize("reason", ["error_toxic", "error: content_filter", "incomplete: max_output_tokens"])
def test_the_limit_and_the_filter_are_no_faults_of_the_server(reason: str) -> None:
    assert not is_broken_off(reason)
