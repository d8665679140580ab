"""Every letter of an answer is on the terminal, in its order, whatever Markdown it is and however narrow the terminal."""

import io
import re

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from parley.broker.core.printable import harmless
from parley.styled_answer import MAX_STYLED_ANSWER, folded, styled

# Each of them has a meaning in Markdown, in Rich's markup, or an odd width on a terminal.
TRICKY = "ab*_<>`[]()|#->&;:~\\!\"'=+.1 \n\t" + "大é👩💻🇩🇪🏴\u200d\u0301\u0e01\u0e33اー\u202e\u200b\ud800\x1b"


@given(
    answer=st.text(st.sampled_from(TRICKY) | st.characters(), max_size=300),
    width=st.integers(1, 120),
    colour=st.booleans(),
)
def test_every_visible_letter_of_an_answer_is_shown_in_order(answer: str, width: int, colour: bool) -> None:
    shown = io.StringIO()
    console = Console(
        file=shown, width=width, force_terminal=colour, color_system="truecolor" if colour else None
    )
    console.print(folded(styled(answer), width, console), soft_wrap=True)
    letters = iter(re.sub("\x1b\\[[0-9;]*m", "", shown.getvalue()))
    assert all(letter in letters for letter in harmless(answer) if not letter.isspace())


def test_markdown_is_styled() -> None:
    text = styled("# Head\n**bold** `code` *soft*\n```\ncode\n```\nplain")
    styles = {text.plain[span.start : span.end]: str(span.style) for span in text.spans}
    assert styles["# Head"] == "bold"
    assert styles["**bold**"] == "bold"
    assert styles["`code`"] == styles["code"] == "cyan"
    assert "plain" not in styles


def test_prose_is_broken_at_words_and_code_is_not() -> None:
    prose, code = "word " * 20, "x = " + "y + " * 20 + "z"
    console = Console(file=io.StringIO(), width=40)
    text = folded(styled(f"{prose}\n```\n{code}\n```\n    {code}\n|{code}|"), 40, console).plain
    assert all(len(line) <= 40 for line in text.split("\n")[:3])
    assert text.count(code) == 3


def test_a_long_answer_takes_no_long_time() -> None:
    # The lexer needs eleven seconds for the second, in one piece (measured).
    for answer in ("**" * MAX_STYLED_ANSWER, "\n" * 16_384, "- [ ] **a\n" * 2_000):
        assert styled(answer).plain == answer
