"""Reading a whole answer, without a server. The same over HTTP is in test_model_client.py."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.broker.core.messages import ErrorType
from parley.workers.model.error_body import refusal
from parley.workers.model.model_error import ModelError
from parley.workers.model.model_list import read_list
from parley.workers.model.responses import Completion, completion


def read(message: Any, finish_reason: Any = "stop", **fields: Any) -> Completion:
    choice = {"message": message, "finish_reason": finish_reason}
    return completion(json.dumps({"choices": [choice], **fields}).encode(), "asked")


@pytest.mark.parametrize(
    ("message", "reason", "kind", "words"),
    [
        ({"content": "half an"}, "error", ErrorType.SERVER_ERROR, "broke off: finish_reason error"),
        ({"content": "half an"}, "abort", ErrorType.SERVER_ERROR, "broke off: finish_reason abort"),
        ({"content": "half"}, "insufficient_system_resource", ErrorType.SERVER_ERROR, "broke off"),
        ({"content": "half"}, "network_error", ErrorType.SERVER_ERROR, "broke off"),
        ({"content": "half"}, "error: timeout", ErrorType.SERVER_ERROR, "broke off: finish_reason error: timeout"),
        ({"content": "half"}, "MALFORMED_FUNCTION_CALL", ErrorType.SERVER_ERROR, "broke off"),
        ({"content": "half"}, "rate_limit", ErrorType.RATE_LIMITED, "broke off: finish_reason rate_limit"),
        ({"content": "half"}, {"type": "abort"}, ErrorType.SERVER_ERROR, "broke off: finish_reason abort"),
        ({"content": ""}, "content_filter: RECITATION", ErrorType.EMPTY_ANSWER, "a content filter"),
        ({"content": ""}, "sensitive", ErrorType.EMPTY_ANSWER, "a content filter"),
        ({"content": {"answer": 42}}, "stop", ErrorType.MALFORMED_ANSWER, "no text"),
        ({"content": None}, "content_filter", ErrorType.EMPTY_ANSWER, "a content filter of the model server"),
        ({"content": None}, "SAFETY", ErrorType.EMPTY_ANSWER, "a content filter of the model server"),
        ({"content": "<think>on and on"}, "length", ErrorType.EMPTY_ANSWER, "does it need more `max_tokens`"),
        ({"content": "", "reasoning": "hm"}, "stop", ErrorType.EMPTY_ANSWER, "came to no answer"),
        ({"content": None, "tool_calls": []}, "tool_calls", ErrorType.EMPTY_ANSWER, "finish_reason tool_calls"),
        ({"content": 5}, "stop", ErrorType.MALFORMED_ANSWER, "no text"),
    ],
)  # fmt: skip
def test_what_is_no_answer_says_why(message: Any, reason: Any, kind: ErrorType, words: str) -> None:
    with pytest.raises(ModelError) as caught:
        read(message, reason)
    assert caught.value.error_type is kind
    assert words in str(caught.value)


WEATHER = {
    "id": "call-1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Rome"}'},
}


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ({"content": None, "tool_calls": [WEATHER]}, ("call-1", "weather", '{"city": "Rome"}')),
        ({"content": "<think>hm</think>", "tool_calls": [WEATHER]}, ("call-1", "weather", '{"city": "Rome"}')),
        ({"content": None, "function_call": WEATHER["function"]}, ("", "weather", '{"city": "Rome"}')),
        ({"tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Rome"}}}]},
         ("", "weather", '{"city": "Rome"}')),
        ({"tool_calls": [{"function": None, "id": 5}]}, ("", "?", "")),
        ({"tool_calls": [{"function": {"name": "w", "arguments": "x" * 9_000}}]}, ("", "w", "")),
    ],
)  # fmt: skip
def test_a_call_of_a_tool_is_no_answer_and_is_kept(message: Any, call: tuple[str, str, str]) -> None:
    with pytest.raises(ModelError, match="asked for a tool instead of answering: ") as caught:
        read(message, "tool_calls", usage={"completion_tokens": 7})
    assert caught.value.error_type is ErrorType.TOOL_CALL
    (kept,) = caught.value.tool_calls
    assert (kept.id, kept.name, kept.arguments) == call
    assert caught.value.usage.completion_tokens == 7


def test_calls_of_tools_are_kept_up_to_a_bound() -> None:
    calls = [{"function": {"name": f"t{number}", "arguments": "x" * 1_000}} for number in range(100)]
    with pytest.raises(ModelError) as caught:
        read({"content": "", "tool_calls": calls})
    assert [call.name for call in caught.value.tool_calls] == [f"t{number}" for number in range(7)]


def test_words_that_lead_up_to_a_call_of_a_tool_are_kept_beside_it() -> None:
    message = {"content": "Let me\nlook.", "tool_calls": [WEATHER]}
    with pytest.raises(ModelError, match=r"Parley runs none; it said: Let me look\.$") as told:
        read(message, "tool_calls")
    assert told.value.error_type is ErrorType.TOOL_CALL
    assert len(told.value.tool_calls) == 1
    # Of a model that waits for no tool they are the answer.
    assert read(message, "stop").content == "Let me\nlook."


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter", "eos", None])
def test_an_answer_says_why_it_ends(reason: str | None) -> None:
    assert read({"content": "half an ans"}, reason).finish_reason == (reason or "unknown")


@pytest.mark.parametrize(
    ("sent", "told"), [({"type": "length", "length": 5}, "length"), ("null", "unknown"), ("", "unknown")]
)
def test_a_reason_in_another_form(sent: Any, told: str) -> None:
    assert read({"content": "42"}, sent).finish_reason == told


def test_an_empty_body_is_called_so() -> None:
    with pytest.raises(ModelError, match="the answer is empty"):
        completion(b" \n", "m")


def test_reasoning_and_refusals_are_told() -> None:
    answer = read({"content": "<think>more</think>42", "reasoning_content": "hm"})
    assert (answer.content, answer.reasoning, answer.refused) == ("42", "hm\nmore", False)
    refused = read({"content": None, "refusal": "I won't."})
    assert (refused.content, refused.refused) == ("I won't.", True)
    assert not read({"content": "x", "refusal": "I won't."}).refused


@pytest.mark.parametrize(
    "fields",
    [{"error": None}, {"error": {}}, {"error": ""}, {"detail": "x"}, {"object": "chat.completion"}, {"type": "message"}],
)  # fmt: skip
def test_what_only_looks_like_an_error_is_none(fields: dict[str, Any]) -> None:
    assert read({"content": "42"}, **fields).content == "42"


def test_the_choice_of_index_0_is_the_answer_wherever_it_stands() -> None:
    choices = [{"index": 1, "message": {"content": "NO"}}, {"index": 0, "message": {"content": "42"}}]
    assert completion(json.dumps({"choices": choices}).encode(), "m").content == "42"


def test_the_older_api_has_a_text() -> None:
    assert completion(b'{"choices": [{"text": "42"}]}', "m").content == "42"


@given(
    body=st.binary(max_size=64)
    | st.recursive(
        st.none() | st.integers() | st.text(),
        lambda x: (
            st.lists(x)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "choices", "message", "content", "usage", "model", "error", "finish_reason", "data",
                        "id",
                    ]
                ),
                x,
            )
        ),
    ).map(lambda value: json.dumps(value).encode())
)  # fmt: skip
def test_any_body_is_an_answer_or_a_model_error(body: bytes) -> None:
    for read in (
        lambda: completion(body, "m"),
        lambda: read_list("http://h", body),
    ):
        with suppress(ModelError):
            read()
    assert refusal(400, body).status == 400
