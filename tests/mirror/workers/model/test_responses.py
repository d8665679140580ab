"""Reading what a model server sends, without a server. The same over HTTP is in test_client.py."""

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.broker.core.agent_error_table import Signal
from parley.broker.core.messages import ErrorType, Usage
from parley.workers.model.model_list import read_list
from parley.workers.model.responses import (
    MAX_ANSWER_BYTES,
    MAX_ERROR_CHARACTERS,
    Completion,
    ModelError,
    StreamAssembler,
    completion,
    refusal,
)

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
WORDS = st.text(min_size=1).filter(lambda text: bool(text.strip()) and text.isprintable())


def line(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode()


def said(content: str | None = None, finish_reason: str | None = None) -> bytes:
    return line(model="m", choices=[{"delta": {"content": content}, "finish_reason": finish_reason}])


def assembled(lines: Sequence[bytes]) -> Completion:
    answer = StreamAssembler("asked")
    for each in lines:
        if answer.add(each):
            break
    return answer.completion()


@given(parts=st.lists(WORDS, min_size=1, max_size=8))
def test_a_streamed_answer_equals_the_plain_one_however_it_is_cut_into_events(parts: list[str]) -> None:
    content = "".join(parts)
    body = {
        "model": "m",
        "choices": [{"message": {"content": content}, "finish_reason": "stop"}],
        "usage": USAGE,
    }
    whole = completion(json.dumps(body).encode(), "asked")
    assert whole == Completion(content, "stop", "m", Usage(**USAGE))
    lines = [said(""), *map(said, parts), said(None, "stop"), line(choices=[], usage=USAGE), b"data: [DONE]"]
    assert assembled(lines) == whole
    assert assembled([each + b"\r" for line_ in lines for each in (b": comment", b"", line_)]) == whole


def test_the_last_line_says_so() -> None:
    answer = StreamAssembler("asked")
    assert not answer.add(said("hi", "stop"))
    assert answer.add(b"data: [DONE]")
    assert answer.completion().content == "hi"


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        ([], ErrorType.CONNECTION_LOST),
        ([said("half an answer")], ErrorType.CONNECTION_LOST),
        ([said("half"), b"data: [DONE]"], ErrorType.CONNECTION_LOST),
        ([said("half"), line(error={"message": "engine died"}), b"data: [DONE]"], ErrorType.SERVER_ERROR),
        ([said("half", "abort")], ErrorType.SERVER_ERROR),
        ([said(None, "stop")], ErrorType.EMPTY_ANSWER),
        ([said(" \n", "length")], ErrorType.EMPTY_ANSWER),
        ([b"data: {"], ErrorType.MALFORMED_ANSWER),
        ([b"data: []"], ErrorType.MALFORMED_ANSWER),
        ([line(choices=[{"delta": {"content": 7}}])], ErrorType.MALFORMED_ANSWER),
        ([line(choices=["x"])], ErrorType.MALFORMED_ANSWER),
        ([said("x" * (MAX_ANSWER_BYTES // 2))] * 3, ErrorType.MALFORMED_ANSWER),
    ],
)
def test_a_stream_without_an_answer_is_an_error_of_its_kind(lines: Sequence[bytes], kind: ErrorType) -> None:
    with pytest.raises(ModelError) as caught:
        assembled(lines)
    assert caught.value.error_type is kind
    assert str(caught.value)


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
        lambda: assembled([b"data: " + body]),
    ):
        with suppress(ModelError):
            read()
    assert refusal(400, "1", body).status == 400


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [(None, None), ("2", 2.0), ("0.5", 0.5), ("-1", None), ("nan", None), ("inf", None), ("soon", None)],
)
def test_a_refusal_may_ask_for_a_pause(retry_after: str | None, seconds: float | None) -> None:
    assert refusal(503, retry_after, b"{}").retry_after == seconds


def test_a_refusal_that_quotes_the_whole_prompt_is_cut_short() -> None:
    error = refusal(400, None, json.dumps({"error": {"message": "prompt " * 10_000}}).encode())
    assert len(str(error)) < MAX_ERROR_CHARACTERS + 100


def test_an_error_says_whether_its_endpoint_is_alive_dead_or_neither() -> None:
    def signal(kind: ErrorType, status: int | None = None, retry_after: float | None = None) -> Signal:
        return ModelError(kind, "no", retry_after, status).signal

    assert signal(ErrorType.BAD_REQUEST, 400) is signal(ErrorType.CONTEXT_TOO_LONG, 400) is Signal.ALIVE
    assert signal(ErrorType.UNAUTHORIZED, 401) is signal(ErrorType.MODEL_NOT_FOUND, 404) is Signal.ALIVE
    assert signal(ErrorType.RATE_LIMITED, 429) is signal(ErrorType.SERVER_ERROR, 503, 1.0) is Signal.ALIVE
    assert signal(ErrorType.CONNECTION_FAILED) is signal(ErrorType.CONNECTION_LOST) is Signal.DEAD
    assert signal(ErrorType.FIRST_BYTE_TIMEOUT) is Signal.DEAD
    assert [signal(ErrorType.SERVER_ERROR, status) for status in (502, 504)] == [Signal.DEAD] * 2
    assert [signal(ErrorType.SERVER_ERROR, status) for status in (500, 503, None)] == [Signal.AMBIGUOUS] * 3
    assert signal(ErrorType.DEADLINE_EXCEEDED) is signal(ErrorType.CANCELLED) is Signal.IGNORED
