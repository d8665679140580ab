"""Putting the events of a stream together, without a server. The same over HTTP is in test_model_client.py."""

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from parley.broker.core.messages import ErrorType, Usage
from parley.workers.model.answer_text import MAX_REASONING_CHARACTERS
from parley.workers.model.model_error import ModelError
from parley.workers.model.responses import MAX_ANSWER_BYTES, Completion, completion
from parley.workers.model.stream_events import StreamAssembler
from parley.workers.model.thinking_marks import without_thinking

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
WORDS = st.text(min_size=1).filter(lambda text: bool(text.strip()) and text.isprintable())


def line(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode()


def said(content: str | None = None, finish_reason: str | None = None) -> bytes:
    return line(model="m", choices=[{"delta": {"content": content}, "finish_reason": finish_reason}])


# An error as it stands in a stream without `data:`.
TOO_LONG = b'{"error": {"code": "context_length_exceeded", "message": "too long"}}'


def assembled(lines: Sequence[bytes]) -> Completion:
    answer = StreamAssembler("asked")
    for each in lines:
        if answer.add(each):
            break
    return answer.completion()


@given(parts=st.lists(WORDS, min_size=1, max_size=8))
def test_a_streamed_answer_equals_the_plain_one_however_it_is_cut_into_events(parts: list[str]) -> None:
    content = "".join(parts)
    assume(
        without_thinking(content) == (content, "")
    )  # Hypothesis knows the marks of reasoning from our source
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
        ([b"data: [DONE]"], ErrorType.CONNECTION_LOST),
        ([said("half"), b"error: engine died"], ErrorType.SERVER_ERROR),
        ([said("half"), b'error: {"code": 429, "message": "slow"}'], ErrorType.RATE_LIMITED),
        ([said("half"), b"event: error", b'data: {"code": 500, "message": "died"}'], ErrorType.SERVER_ERROR),
        ([said("half"), b"event: error", b"data: it died"], ErrorType.SERVER_ERROR),
        ([said("half"), line(error="died")], ErrorType.SERVER_ERROR),
        ([said("half"), line(error={"code": "context_length_exceeded"})], ErrorType.CONTEXT_TOO_LONG),
        (
            [line(choices=[{"error": {"code": 502, "message": "x"}, "finish_reason": "error"}])],
            ErrorType.SERVER_ERROR,
        ),
        ([said("half", "error")], ErrorType.SERVER_ERROR),
        ([said("half", "rate_limit")], ErrorType.RATE_LIMITED),
        ([said("half"), b"", TOO_LONG], ErrorType.CONTEXT_TOO_LONG),
        ([b": ping", b"", TOO_LONG, b""], ErrorType.CONTEXT_TOO_LONG),
        ([said("half"), b"", b'{"error": {"code": 429}}'], ErrorType.RATE_LIMITED),
        ([said("half"), b"", b"{", b'"error": {', b'"code": 429', b"}", b"}", b""], ErrorType.RATE_LIMITED),
        ([said("half")[6:], b'{"error": {"code": 429}}'], ErrorType.RATE_LIMITED),
        ([b"[" + said("half")[6:] + b",", b'{"error": {"code": 429}}]'], ErrorType.RATE_LIMITED),
        ([said("half") + b'data: {"error": {"code": 429}}'], ErrorType.RATE_LIMITED),
        ([b"Too Many Requests"], ErrorType.RATE_LIMITED),
        ([b": ping", b"", b"HTTP 401"], ErrorType.UNAUTHORIZED),
        ([b"data: Too Many Requests", b""], ErrorType.RATE_LIMITED),
        ([said("half"), b"Internal Server Error"], ErrorType.SERVER_ERROR),
        ([said("half"), b"Service Unavailable", b"data: [DONE]"], ErrorType.SERVER_ERROR),
        ([b"it is a text"], ErrorType.MALFORMED_ANSWER),
        ([b"dat"], ErrorType.CONNECTION_LOST),
        ([said("half"), b"data: it is a text", b"", said("x", "stop")], ErrorType.MALFORMED_ANSWER),
        ([b"error: null"], ErrorType.CONNECTION_LOST),
        ([said("half")[6:], said("half")[6:]], ErrorType.CONNECTION_LOST),
        ([b'{"error": {"code": 429}}'], ErrorType.RATE_LIMITED),
        ([b"data: {", b"", said("x", "stop")], ErrorType.MALFORMED_ANSWER),
        (
            [line(choices=[{"delta": {"reasoning_content": "hm"}, "finish_reason": "length"}])],
            ErrorType.EMPTY_ANSWER,
        ),
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


FIRST, LAST = said("4"), said("2", "stop")
ODD: list[tuple[str, Sequence[bytes]]] = [
    ("[DONE] without finish_reason", [FIRST, said("2"), b"data: [DONE]"]),
    ("no [DONE]", [FIRST, LAST]),
    ("no blank lines", [FIRST, LAST, b"data: [DONE]"]),
    ("no blank after the colon", [FIRST.replace(b"data: ", b"data:"), LAST.replace(b"data: ", b"data:")]),
    ("two objects in one event", [FIRST, LAST, b"", b"data: [DONE]"]),
    ("one object on two lines", [b'data: {"choices": [{"delta":', b'data: {"content": "42"}, "finish_reason": "stop"}]}', b""]),
    ("empty data", [b"data:", b"", b"data: ", FIRST, b"data:", b"", LAST]),
    ("comments, names, ids", [b": ping", b"event: message", b"id: 5", b"retry: 100", FIRST, b"", b":", LAST]),
    ("CRLF and a byte order mark", [b"\xef\xbb\xbf" + FIRST + b"\r", b"\r", LAST + b"\r", b"\r"]),
    ("second choices", [FIRST, line(choices=[{"index": 1, "delta": {"content": "NO"}, "finish_reason": "length"}]), LAST]),
    ("two choices at once", [line(choices=[{"index": 0, "delta": {"content": "42"}, "finish_reason": "stop"}, {"index": 1, "delta": {"content": "NO"}}])]),
    ("figures without choices", [FIRST, LAST, line(usage={"prompt_tokens": 1}), b"data: [DONE]"]),
    ("choices null", [line(choices=None), FIRST, line(choices=[]), LAST]),
    ("error null", [line(choices=[{"delta": {"content": "42"}, "finish_reason": "stop"}], error=None)]),
    ("delta null", [line(choices=[{"delta": None}]), FIRST, LAST]),
    ("the whole message at the end", [FIRST, said("2"), line(choices=[{"message": {"content": "42"}, "finish_reason": "stop"}])]),
    ("the whole message each time", [line(choices=[{"message": {"content": "4"}}]), line(choices=[{"message": {"content": "42"}, "finish_reason": "stop"}])]),
    ("the word null for no reason", [said("4", "null"), LAST]),
    ("a quoted [DONE]", [FIRST, LAST, b'data: "[DONE]"']),
    ("another word for [DONE]", [FIRST, LAST, b"data: DONE", b""]),
    ("a quoted [DONE] and no finish_reason", [FIRST, said("2"), b'data: "[DONE]"']),
    ("another word for [DONE] and no finish_reason", [FIRST, said("2"), b"data: DONE", b""]),
    ("[DONE] alone on its line", [FIRST, said("2"), b"", b"[DONE]"]),
    ("error: null", [b"error: null", b"", b"error:", b'error: {"message": ""}', b"error: {}", FIRST, LAST]),
    ("words that keep alive", [b"data: null", b"", b'data: ""', b"", b"data: ping", b"", b"data: keep-alive", b"", FIRST, LAST]),
    ("a ping by its name", [b"event: ping", b"data: 17:30", b"", FIRST, b"event: keepalive", b"data:", b"", LAST]),
    ("two events on one line", [FIRST + LAST]),
    ("three events on one line", [FIRST + b" " + LAST + b"data: [DONE]"]),
    ("two objects on one line", [FIRST + LAST[6:]]),
    ("an event and the begin of one", [FIRST + LAST[:20], LAST[20:]]),
    ("lines that end with CR", [b"\r\r".join([FIRST, LAST, b"data: [DONE]", b""])]),
    ("an object a line", [FIRST[6:], LAST[6:]]),
    ("an object a line, blank lines, [DONE]", [FIRST[6:], b"", said("2")[6:], b"", b"[DONE]"]),
    ("a list of events", [b"[" + FIRST[6:] + b",", LAST[6:] + b"]"]),
    ("a list of events on one line", [b"[" + FIRST[6:] + b"," + LAST[6:] + b"]"]),
    ("one event and no stream", [said("42", "stop")[6:], b""]),
    ("what is no JSON after the end", [FIRST, LAST, b"data: {", b"", b"data: {"]),
    ("an error without a word", [line(choices=[{"delta": {"content": "42"}, "finish_reason": "stop"}], error={"message": "", "code": None})]),
    ("only the whole message", [line(choices=[{"message": {"content": "42"}, "finish_reason": "stop"}])]),
    ("text of the older API", [line(choices=[{"text": "42", "finish_reason": "stop"}])]),
    ("content as parts", [line(choices=[{"delta": {"content": [{"type": "text", "text": "42"}]}, "finish_reason": "stop"}])]),
    ("JSON instead of a stream", [b'{"choices": [{"message": {"content": "42"}, "finish_reason": "stop"}]}']),
    ("JSON on several lines", [b"", b"{", b'"choices": [{"message": {"content": "42"}}]', b"}", b""]),
    ("finish_reason before figures and a late blank", [FIRST, LAST, line(choices=[{"delta": {}, "finish_reason": None}])]),
]  # fmt: skip


@pytest.mark.parametrize(("habit", "lines"), ODD, ids=[habit for habit, _ in ODD])
def test_a_stream_with_a_habit_is_an_answer(habit: str, lines: Sequence[bytes]) -> None:
    assert assembled(lines).content == "42", habit


def test_reasoning_is_kept_apart() -> None:
    pieces = [line(choices=[{"delta": {"reasoning_content": word}}]) for word in ("hm, ", "yes")]
    answer = assembled([*pieces, FIRST, LAST])
    assert (answer.content, answer.reasoning) == ("42", "hm, yes")


def test_endless_reasoning_is_bounded_and_its_end_is_kept() -> None:
    piece = line(choices=[{"delta": {"reasoning": "x" * 10_000}}])
    answer = assembled([piece] * 20 + [line(choices=[{"delta": {"reasoning": "END"}}]), FIRST, LAST])
    assert len(answer.reasoning) == MAX_REASONING_CHARACTERS
    assert answer.reasoning.endswith("END")
    with pytest.raises(ModelError):
        assembled([piece] * 1_000)


def test_the_halves_of_a_character_in_two_events_become_one() -> None:
    halves = [
        b'data: {"choices": [{"delta": {"content": "\\ud83d"}}]}',
        b'data: {"choices": [{"delta": {"content": "\\ude00"}}]}',
    ]
    assert assembled([*halves, said("!", "stop")]).content == "\U0001f600!"
    assert assembled([halves[0], said("!", "stop")]).content == "?!"


def test_a_refusal_in_pieces_is_the_answer_and_told_as_one() -> None:
    pieces = [
        line(choices=[{"delta": {"refusal": word}, "finish_reason": end}])
        for word, end in (("I ", None), ("won't.", "stop"))
    ]
    answer = assembled(pieces)
    assert (answer.content, answer.refused) == ("I won't.", True)


def test_a_reason_that_is_the_word_null_ends_nothing() -> None:
    answer = StreamAssembler("asked")
    answer.add(said("4", "null"))
    assert not answer.finished


def test_a_finished_answer_needs_no_more_lines() -> None:
    answer = StreamAssembler("asked")
    answer.add(FIRST)
    assert not answer.finished
    answer.add(LAST)
    assert answer.finished


@given(
    st.lists(
        st.sampled_from(
            [
                b"data: {",
                b"data:",
                b"",
                b"}",
                b"data: }",
                b'data: {"choices": [{}]}',
                b"event: error",
                b"error:",
                b"{",
                b"data: [DONE]",
                b"data: 5",
                b"data: {}{}",
                b'{"choices": []}',
                b"[{},",
                b"{}]",
                b"\r\r{}\r",
                b"text",
                b"data: null",
                b"[DONE]",
            ]
        )
    )
)
def test_any_lines_are_an_answer_or_a_model_error(lines: Sequence[bytes]) -> None:
    with suppress(ModelError):
        assembled(lines)


@pytest.mark.parametrize(
    "line", [b"data: " + b"{}" * 2_000_000, b"\r" * 2_000_000 + b"x", b"[" + b"{}," * 1_000_000 + b"{}]"], ids=["events", "CR", "list"]
)  # fmt: skip
def test_events_that_come_at_once_do_not_come_without_end(line: bytes) -> None:
    with pytest.raises(ModelError, match="answer is over"):
        assembled([line])


def tool(index: int, **function: str) -> bytes:
    call = {"index": index, "function": function, **({"id": f"call-{index}"} if "name" in function else {})}
    return line(choices=[{"delta": {"tool_calls": [call]}}])


def test_calls_of_tools_in_pieces_are_put_together() -> None:
    lines = [
        tool(0, name="weather", arguments=""),
        tool(0, arguments='{"city": '),
        tool(1, name="time", arguments="{}"),
        tool(0, arguments='"Rome"}'),
        line(choices=[{"delta": {}, "finish_reason": "tool_calls"}]),
    ]
    with pytest.raises(ModelError) as caught:
        assembled(lines)
    assert caught.value.error_type is ErrorType.TOOL_CALL
    assert [(call.id, call.name, call.arguments) for call in caught.value.tool_calls] == [
        ("call-0", "weather", '{"city": "Rome"}'),
        ("call-1", "time", "{}"),
    ]


def test_empty_pieces_of_calls_of_tools_do_not_come_without_end() -> None:
    with pytest.raises(ModelError, match="answer is over"):
        assembled([tool(0, arguments="")] * MAX_ANSWER_BYTES)


def test_log_probabilities_are_kept_as_they_are_plain_and_streamed() -> None:
    tokens: list[dict[str, Any]] = [
        {"token": word, "logprob": -0.5, "top_logprobs": []} for word in ("a", "b")
    ]
    choice = {"message": {"content": "ab"}, "finish_reason": "stop", "logprobs": {"content": tokens}}
    assert completion(json.dumps({"choices": [choice]}).encode(), "m").logprobs == tuple(tokens)
    pieces = [
        line(choices=[{"delta": {"content": one["token"]}, "logprobs": {"content": [one]}}]) for one in tokens
    ]
    end = line(choices=[{"delta": {}, "finish_reason": "stop", "logprobs": None}])
    assert assembled([*pieces, end]).logprobs == tuple(tokens)
    assert assembled([said("ab", "stop")]).logprobs is None


@pytest.mark.parametrize("logprobs", [[], "x", {"content": None}, {"content": "x"}, {"content": []}])
def test_log_probabilities_that_are_none_spoil_no_answer(logprobs: Any) -> None:
    assert (
        assembled(
            [line(choices=[{"delta": {"content": "a"}, "finish_reason": "stop", "logprobs": logprobs}])]
        ).logprobs
        is None
    )


def test_of_many_log_probabilities_the_first_ones_are_kept() -> None:
    entries = [{"token": "x" * 1_000, "logprob": -1.0}] * 1_000
    found = assembled(
        [
            line(
                choices=[
                    {"delta": {"content": "a"}, "finish_reason": "stop", "logprobs": {"content": entries}}
                ]
            )
        ]
    )
    assert found.logprobs is not None
    assert 200 < len(found.logprobs) < 262


def test_calls_of_tools_that_a_server_does_not_count_stay_apart() -> None:
    def whole(call_id: str, name: str) -> bytes:
        call = {"index": 0, "id": call_id, "function": {"name": name, "arguments": "{}"}}
        return line(choices=[{"delta": {"tool_calls": [call]}, "finish_reason": "tool_calls"}])

    with pytest.raises(ModelError) as caught:
        assembled([whole("1", "x"), whole("2", "y")])
    assert [(call.id, call.name, call.arguments) for call in caught.value.tool_calls] == [
        ("1", "x", "{}"),
        ("2", "y", "{}"),
    ]


def test_log_probabilities_that_cannot_be_passed_on_spoil_no_answer() -> None:
    deep: Any = {"token": "x"}
    for _ in range(600):
        deep = {"token": deep}
    entries = [{"token": "\ud83d", "logprob": -1}, deep, {"token": "y", "logprob": -2}]
    found = assembled(
        [
            line(
                choices=[
                    {"delta": {"content": "a"}, "finish_reason": "stop", "logprobs": {"content": entries}}
                ]
            )
        ]
    )
    assert found.logprobs is not None
    assert [one["logprob"] for one in found.logprobs] == [-1, -2]
    json.dumps(found.logprobs, ensure_ascii=False).encode()
