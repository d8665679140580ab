"""A question as a conversation: what is passed on, what is refused by its place, and where words are added."""

from typing import Any

import pytest

from parley.broker.core.messages.conversation import question_in, with_words
from tests.mirror.broker.core.test_messages import problems_of, request

ASKED: dict[str, Any] = {"role": "user", "content": "Why?"}
SYSTEM: dict[str, Any] = {"role": "system", "content": "Be brief."}
IMAGE: dict[str, Any] = {
    "type": "image_url",
    "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"},
}
TEXT: dict[str, Any] = {"type": "text", "text": "What is this?"}


def of(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"task_description": None, "messages": list(messages), **fields}


@pytest.mark.parametrize(
    "messages",
    [
        [ASKED],
        [SYSTEM, ASKED, {"role": "assistant", "content": "Because."}, {**ASKED, "name": "Ann"}],
        [{"role": "user", "content": [TEXT, IMAGE]}],
        [{"role": "developer", "content": [TEXT]}, ASKED],
        [ASKED, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
         {"role": "tool", "tool_call_id": "1", "content": "42"}],
        [{**ASKED, "cache_control": {"type": "ephemeral"}}],
    ],
)  # fmt: skip
def test_a_conversation_is_passed_on_as_it_is(messages: list[dict[str, Any]]) -> None:
    assert list(request(**of(*messages)).messages or ()) == messages


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        (of(), "messages: Tuple should have at least 1 item"),
        (of(*[ASKED] * 257), "messages: Tuple should have at most 256 items"),
        (of({"role": "user", "content": "x" * 262_144}), "messages: it is 262174 bytes as JSON, more"),
        (of(SYSTEM), "messages: none of them is the user's"),
        (of(ASKED, {"role": "function", "content": "x"}), "messages: 1: role must be one of system, "),
        (of({"content": "x"}), "messages: 0: role must be one of"),
        (of({"role": "user"}), "messages: 0: content must be a text or a list of parts"),
        (of({"role": "assistant", "content": None}, ASKED), "messages: 0: content must be a text"),
        (of({"role": "user", "content": []}), "messages: 0: content has 0 parts; 1 to 256"),
        (of({"role": "user", "content": [{"type": "input_audio"}]}),
         "messages: 0: content.0: type must be text or image_url"),
        (of({"role": "user", "content": [TEXT, "x"]}), "0: content.1: type must be text or image_url"),
        (of({"role": "user", "content": [{"type": "text", "text": 5}]}), "0: content.0: text must be a text"),
        (of({"role": "user", "content": [{"type": "image_url", "image_url": "http://x"}]}),
         '0: content.0: image_url must be an object with "url", a text'),
        (of({"role": "user", "content": [{"type": ["text"]}]}), "0: content.0: type must be text or image_url"),
        (of(ASKED, task_description="x"), "task_description and messages are given; give one of them"),
        (of(SYSTEM, ASKED, system="x"), "system and messages both have a system message; give one of them"),
        (of(SYSTEM, ASKED, panel=[{}, {"system": "x"}]), "system and messages both have a system message"),
        ({"task_description": None}, "task_description is required, or messages"),
    ],
)  # fmt: skip
def test_another_conversation_is_refused_by_its_place(fields: dict[str, Any], problem: str) -> None:
    assert problem in problems_of(**fields)


def test_words_are_added_to_the_users_last_message_or_in_one_more() -> None:
    assert with_words([SYSTEM, ASKED], "") == [SYSTEM, ASKED]
    assert with_words([SYSTEM, ASKED], "Now.") == [SYSTEM, {"role": "user", "content": "Why?\n\nNow."}]
    parts = {"role": "user", "content": [TEXT, IMAGE]}
    assert with_words([parts], "Now.")[0]["content"] == [TEXT, IMAGE, {"type": "text", "text": "Now."}]
    told = {"role": "assistant", "content": "Because."}
    assert with_words([ASKED, told], "Now.") == [ASKED, told, {"role": "user", "content": "Now."}]


@pytest.mark.parametrize(
    ("messages", "question"),
    [
        ([ASKED, {"role": "assistant", "content": "x"}], "Why?"),
        ([ASKED, {"role": "user", "content": [TEXT, IMAGE, TEXT]}], "What is this?\nWhat is this?"),
        (["x", {"role": "user", "content": 5}], ""),
        ([SYSTEM], ""),
    ],
)
def test_the_question_in_it_is_the_users_last_words(messages: list[Any], question: str) -> None:
    assert question_in(messages) == question
