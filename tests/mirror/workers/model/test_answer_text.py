"""What a message says: content in every form, reasoning apart, refusals."""

from typing import Any

import pytest

from parley.workers.model.answer_text import (
    MAX_REASONING_CHARACTERS,
    NotText,
    Said,
    said,
    shortened,
)

MESSAGES: list[tuple[dict[str, Any], Said]] = [
    ({"content": "hi"}, Said("hi")),
    ({"content": None}, Said()),
    ({}, Said()),
    ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, Said("ab")),
    ({"content": [None, {"type": "text", "text": "a"}]}, Said("a")),
    ({"content": ["a", {"type": "output_text", "text": "b"}]}, Said("ab")),
    ({"content": {"type": "text", "text": "a"}}, Said("a")),
    ({"content": [{"type": "text", "content": "a"}, {"type": "output_text", "content": "b"}]}, Said("ab")),
    ({"content": {"type": "text", "content": "a"}}, Said("a")),
    ({"content": [{"type": "text", "text": "", "content": "b"}, {"type": "image", "content": "x"}]}, Said("")),
    ({"content": [{"text": {"value": "a", "annotations": []}}]}, Said("a")),
    ({"content": [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "a"}]}, Said("a")),
    (
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "a"}]},
        Said("a", "hm"),
    ),
    ({"content": [{"type": "reasoning", "text": "hm"}, {"type": "text", "text": "a"}]}, Said("a", "hm")),
    ({"content": [{"type": "refusal", "refusal": "no"}]}, Said("", "", "no")),
    ({"content": "a", "reasoning_content": "hm"}, Said("a", "hm")),
    ({"content": "a", "reasoning": "hm"}, Said("a", "hm")),
    ({"content": "a", "thinking": "hm"}, Said("a", "hm")),
    ({"content": "a", "reasoning": "hm", "reasoning_content": "hm"}, Said("a", "hm")),
    ({"content": "a", "reasoning": None, "reasoning_content": ""}, Said("a")),
    ({"content": "a", "reasoning": {"effort": "low"}}, Said("a")),
    ({"content": None, "refusal": "I can't help with that."}, Said("", "", "I can't help with that.")),
    ({"content": "a", "refusal": None}, Said("a")),
]  # fmt: skip


@pytest.mark.parametrize(("message", "expected"), MESSAGES)
def test_what_a_message_says(message: dict[str, Any], expected: Said) -> None:
    assert said(message) == expected


@pytest.mark.parametrize(
    "content",
    [5, True, [5], [[1]], {"answer": 42}, [{"type": "text", "text": 5}], [{"type": "text", "content": 5}]],
)
def test_what_is_no_text_is_refused(content: Any) -> None:
    with pytest.raises(NotText):
        said({"content": content})


def test_long_reasoning_keeps_its_end() -> None:
    assert shortened("x" * MAX_REASONING_CHARACTERS) == "x" * MAX_REASONING_CHARACTERS
    long = shortened("a" + "x" * MAX_REASONING_CHARACTERS)
    assert (len(long), long[:2]) == (MAX_REASONING_CHARACTERS, "…x")
