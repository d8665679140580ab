"""What a message says: content in every form, reasoning apart, refusals."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.workers.model.answer_text import (
    MAX_REASONING_CHARACTERS,
    NotText,
    Said,
    said,
    shortened,
    without_thinking,
)

MESSAGES: list[tuple[dict[str, Any], Said]] = [
    ({"content": "hi"}, Said("hi")),
    ({"content": None}, Said()),
    ({}, Said()),
    ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, Said("ab")),
    ({"content": [None, {"type": "text", "text": "a"}]}, Said("a")),
    ({"content": ["a", {"type": "output_text", "text": "b"}]}, Said("ab")),
    ({"content": {"type": "text", "text": "a"}}, Said("a")),
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


@pytest.mark.parametrize("content", [5, True, [5], [[1]], {"answer": 42}, [{"type": "text", "text": 5}]])
def test_what_is_no_text_is_refused(content: Any) -> None:
    with pytest.raises(NotText):
        said({"content": content})


@pytest.mark.parametrize(
    ("content", "answer", "reasoning"),
    [
        ("<think>\nhm\n</think>\n\n42", "42", "hm"),
        ("\n <think></think>42", "42", ""),
        ("<think>hm</think>42 <think> is a tag", "42 <think> is a tag", "hm"),
        ("<thinking>hm</thinking>42", "42", "hm"),
        ("<thought>hm</thought>42", "42", "hm"),
        ("[THINK]hm[/THINK]42", "42", "hm"),
        ("hm\nhm\n</think>\n\n42", "42", "hm\nhm"),
        ("</think>\n42", "42", ""),
        ("<think>it goes on and on", "", "it goes on and on"),
        ("<think>a</think>\n<think>b</think>42", "42", "a\nb"),
        ("<think>a</think><think>on and on", "", "a\non and on"),
        ("<think> is the tag that opens it.", "<think> is the tag that opens it.", ""),
        ("Hm, so 42.</think>The answer is 42.", "The answer is 42.", "Hm, so 42."),
        ("Hm, so 42.</think>\n\nIt is 42.", "It is 42.", "Hm, so 42."),
        ("<|begin_of_thought|>hm<|end_of_thought|>42", "42", "hm"),
        ("<|START_THINKING|>hm<|END_THINKING|>42", "42", "hm"),
        ("End it:\n```\n</think>\n```\nGo on.", "End it:\n```\n</think>\n```\nGo on.", ""),
        ("Write `</think>`.", "Write `</think>`.", ""),
        (
            "<reasoning>why</reasoning><answer>42</answer>",
            "<reasoning>why</reasoning><answer>42</answer>",
            "",
        ),
        ("42", "42", ""),
        ("The tag </think> ends it.", "The tag </think> ends it.", ""),
        ("`<think>` opens, `</think>` closes", "`<think>` opens, `</think>` closes", ""),
        ("first <think>\nhm\n</think>\nlast", "first <think>\nhm\n</think>\nlast", ""),
        ("<answer>42</answer>", "<answer>42</answer>", ""),
    ],
)
def test_the_reasoning_is_cut_off_and_kept(content: str, answer: str, reasoning: str) -> None:
    assert without_thinking(content) == (answer, reasoning)


@given(st.text().filter(lambda text: "think" not in text.lower() and "<" not in text and "[" not in text))
def test_an_answer_without_a_tag_stays_as_it_is(content: str) -> None:
    assert without_thinking(content)[0] == content or "◁" in content


def test_long_reasoning_keeps_its_end() -> None:
    assert shortened("x" * MAX_REASONING_CHARACTERS) == "x" * MAX_REASONING_CHARACTERS
    long = shortened("a" + "x" * MAX_REASONING_CHARACTERS)
    assert (len(long), long[:2]) == (MAX_REASONING_CHARACTERS, "…x")
