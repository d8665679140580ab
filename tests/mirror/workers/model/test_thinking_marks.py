"""Reasoning that stands in the answer's text is cut off, and nothing else is."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.workers.model.thinking_marks import without_thinking


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
        # Nested, or only spoken of.
        ("<think>a <think>b</think> c</think>42", "42", "a <think>b</think> c"),
        ("<think>a <think>b</think> c</think>", "", "a <think>b</think> c"),
        ("<think>I use <think> here</think>42", "42", "I use <think> here"),
        ("<think>a <think>b</think>42", "42", "a <think>b"),
        ("<think>I write `</think>` at the end.</think>42", "42", "I write `</think>` at the end."),
        ('<think>I write "</think>".\n</think>\n42', "42", 'I write "</think>".'),
        ("<think>I end with </think> then.</think>42", "42", "I end with </think> then."),
        ("<think>So:\n```\n</think>\n```\nok</think>42", "42", "So:\n```\n</think>\n```\nok"),
        ("<think>hm</think>`</think>` ends it", "`</think>` ends it", "hm"),
        ("<think>hm</think>It ends with </think> alone", "It ends with </think> alone", "hm"),
        ('<think>It is "yes"</think>"yes"', '"yes"', 'It is "yes"'),
        ("<think>ok </think> so it is 42.</think>", "so it is 42.</think>", "ok"),
        ("<think> opens, `</think>` closes", "<think> opens, `</think>` closes", ""),
        ("The user wants `</think>`.\nok.\n</think>\n42", "42", "The user wants `</think>`.\nok."),
        # In another case.
        ("<Think>hm</Think>42", "42", "hm"),
        ("<THINK>hm</think>42", "42", "hm"),
        ("[think]hm[/think]42", "42", "hm"),
        ("hm\n</Think>\n42", "42", "hm"),
        # gpt-oss.
        (
            "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>42<|return|>",
            "42",
            "hm",
        ),
        (
            (
                "<|start|>assistant<|channel|>analysis<|message|>a<|end|><|channel|>commentary<|message|>b<|end|>"
                "<|start|>assistant<|channel|>final <|constrain|>json<|message|>{}"
            ),
            "{}",
            "a\nb",
        ),
        ("<|channel|>analysis<|message|>on and on", "", "on and on"),
        ("<|channel|>analysis<|message|>hm<|end|>42", "42", "hm"),
        ("<|channel|> is a token", "<|channel|> is a token", ""),
        ("analysishm, soassistantfinal42", "42", "hm, so"),
        ("analysis of a text", "analysis of a text", ""),
    ],
)
def test_the_reasoning_is_cut_off_and_kept(content: str, answer: str, reasoning: str) -> None:
    assert without_thinking(content) == (answer, reasoning)


@given(st.text().filter(lambda text: "think" not in text.lower() and "<" not in text and "[" not in text))
def test_an_answer_without_a_tag_stays_as_it_is(content: str) -> None:
    assert without_thinking(content)[0] == content or "◁" in content


@pytest.mark.parametrize(
    "content",
    [
        "<think></think>" * 200_000,
        "<think>" * 200_000,
        "<think>" + "`</think>` ``` " * 200_000,
        "x. </think> y\n" * 200_000,
        "<|channel|>a<|message|>" * 200_000,
        "<|channel|>" * 200_000,
        "<think>" + "a </think> b" * 200_000,
    ],
    ids=lambda content: content[:24],
)
def test_marks_without_end_take_no_long_time(content: str) -> None:
    began = time.perf_counter()
    without_thinking(content)
    assert time.perf_counter() - began < 5
