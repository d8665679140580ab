"""Text that is safe to print, and says all that it said."""

import json

import pytest

from parley.broker.core.printable import harmless, on_one_line, safe_json, visible

CONTROLS = [
    "\x1b[2J", "\x1b]0;title\x07", "\x1b]52;c;aGk=\x07", "\x9b2J", "\x07", "\x08", "\r", "\x7f", "\x00", "\x85",
]  # fmt: skip
FORMATS = ["\u202e", "\u2066", "\u200b", "\u2028", "\u2029", "\ufeff", "\U000e0041"]


@pytest.mark.parametrize("letters", CONTROLS + FORMATS, ids=ascii)
def test_what_a_terminal_would_obey_is_seen_as_an_escape(letters: str) -> None:
    text = visible(f"be{letters}fore")
    assert letters not in text
    assert text.startswith("be\\")
    assert text.endswith("fore")
    assert visible(text) == text


def test_so_are_bytes_that_are_no_text() -> None:
    assert visible(b"\xff a \x00") == "\\xff a \\x00"
    assert visible("a\u202eb\u2028c\u200b\ud800") == "a\\u202eb\\u2028c\\u200b\\ud800"
    assert visible("größe 大\n\t✓".encode()) == "größe 大\n\t✓"


def test_of_a_models_text_controls_go_and_formats_are_escaped() -> None:
    assert harmless("a\x1bb\u202ec\n\td") == "ab\\u202ec\n\td"
    # A family, and a word of Persian.
    for text in ("👩\u200d👧", "می\u200cخواهم"):
        assert harmless(text) == text


@pytest.mark.parametrize("end", ["\r\n", "\r", "\v", "\f", "\x85"], ids=ascii)
def test_every_line_end_of_a_models_text_is_one(end: str) -> None:
    assert harmless(f"one{end}two{end}{end}three") == "one\ntwo\n\nthree"


def test_one_line_is_one_whatever_ends_lines() -> None:
    assert on_one_line("a\nb\r\nc\x85d\u2028e\tf\x1b  \u202e\n") == "a b c\\x85d\\u2028e f\\x1b \\u202e"


@pytest.mark.parametrize("letters", [*CONTROLS, *FORMATS, "größe", "\ud83d"], ids=ascii)
def test_json_keeps_its_values_and_holds_nothing_that_a_terminal_obeys(letters: str) -> None:
    value = {"a": [f"be{letters}fore", "\n"]}
    text = safe_json(json.dumps(value, indent=2, ensure_ascii=False))
    assert json.loads(text) == value
    assert visible(text) == text
