"""What a model server says, read without a server. That it says so over HTTP, and in how many other ways, is in test_vllm.py."""

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.broker.core.messages import ErrorType, Usage
from parley.workers.model.endpoint import Endpoint
from parley.workers.model.responses import (
    MAX_ANSWER_BYTES,
    MAX_ERROR_CHARACTERS,
    Completion,
    ModelError,
    ServedModel,
    StreamAssembler,
    completion,
    refusal,
    served,
)

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
WORDS = st.text(min_size=1).filter(lambda text: bool(text.strip()) and text.isprintable())


def line(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode()


def said(content: str | None = None, finish_reason: str | None = None) -> bytes:
    return line(model="m", choices=[{"delta": {"content": content}, "finish_reason": finish_reason}])


def gathered(lines: Sequence[bytes]) -> Completion:
    gathering = StreamAssembler("asked")
    for each in lines:
        if gathering.take(each):
            break
    return gathering.whole()


@given(parts=st.lists(WORDS, min_size=1, max_size=8))
def test_however_an_answer_is_cut_into_events_it_is_the_one_that_comes_whole(parts: list[str]) -> None:
    content = "".join(parts)
    body = {
        "model": "m",
        "choices": [{"message": {"content": content}, "finish_reason": "stop"}],
        "usage": USAGE,
    }
    whole = completion(json.dumps(body).encode(), "asked")
    assert whole == Completion(content, "stop", "m", Usage(**USAGE))
    lines = [said(""), *map(said, parts), said(None, "stop"), line(choices=[], usage=USAGE), b"data: [DONE]"]
    assert gathered(lines) == whole
    assert gathered([each + b"\r" for line_ in lines for each in (b": comment", b"", line_)]) == whole


def test_what_comes_after_the_last_line_is_not_read() -> None:
    gathering = StreamAssembler("asked")
    assert not gathering.take(said("hi", "stop"))
    assert gathering.take(b"data: [DONE]")
    assert gathering.whole().content == "hi"


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
def test_a_stream_that_brings_no_answer_says_of_which_kind(lines: Sequence[bytes], kind: ErrorType) -> None:
    with pytest.raises(ModelError) as caught:
        gathered(lines)
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
                        "choices",
                        "message",
                        "content",
                        "usage",
                        "model",
                        "error",
                        "finish_reason",
                        "data",
                        "id",
                    ]
                ),
                x,
            )
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_no_body_brings_anything_but_an_answer_or_a_model_error(body: bytes) -> None:
    for read in (
        lambda: completion(body, "m"),
        lambda: served(Endpoint("http://h"), body),
        lambda: gathered([b"data: " + body]),
    ):
        with suppress(ModelError):
            read()
    assert refusal(400, "1", body).status == 400


def test_models_are_listed_with_what_they_take_where_the_server_says_so() -> None:
    body = json.dumps(
        {"data": [{"id": "a", "max_model_len": 4096}, {"id": "b"}, {"id": "c", "max_model_len": "many"}]}
    ).encode()
    assert served(Endpoint("http://h"), body) == [ServedModel("a", 4096), ServedModel("b"), ServedModel("c")]


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [(None, None), ("2", 2.0), ("0.5", 0.5), ("-1", None), ("nan", None), ("inf", None), ("soon", None)],
)
def test_a_refusal_asks_for_a_pause_where_it_names_seconds(
    retry_after: str | None, seconds: float | None
) -> None:
    assert refusal(503, retry_after, b"{}").retry_after == seconds


def test_a_refusal_that_quotes_the_whole_prompt_is_cut_short() -> None:
    error = refusal(400, None, json.dumps({"error": {"message": "prompt " * 10_000}}).encode())
    assert len(str(error)) < MAX_ERROR_CHARACTERS + 100
