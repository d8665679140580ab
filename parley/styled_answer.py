"""A model's answer for a terminal: every character that it wrote, with its Markdown styled and never dropped. Pure."""

import re
from collections.abc import Iterable

from pygments.lexers.markup import MarkdownLexer
from pygments.token import Generic, Keyword, Literal, Name, _TokenType
from rich.console import Console
from rich.text import Text

from parley.broker.core.printable import harmless

# One line is styled up to this length, and an answer up to that: the lexer may need quadratic time in both.
MAX_STYLED_LINE, MAX_STYLED_ANSWER = 2_000, 256 * 1024
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
# Letters of one column each, and no table or indented code.
_PROSE = re.compile(r"(?! {4}| *\|)[ -~\u00a1-\u00ac\u00ae-\u02ff\u0391-\u03ff\u0400-\u0481\u2010-\u2027]+")
# Columns below which the terminal breaks every line itself.
NARROW = 20
_CODE_STYLE = "cyan"
_STYLES = {
    Generic.Heading: "bold",
    Generic.Subheading: "bold",
    Generic.Strong: "bold",
    Generic.Emph: "italic",
    Generic.Deleted: "strike",
    Literal.String.Backtick: _CODE_STYLE,
    Keyword: "bold",
    Name.Attribute: "underline",
}


def styled(content: str) -> Text:
    """The answer as it was written. A link shows its text and its address, and is none that a terminal could follow."""
    source = harmless(content)
    text = Text(source)
    if len(source) > MAX_STYLED_ANSWER:
        return text
    # Without code blocks: they would be read by the lexer of whichever language the model names.
    lexer = MarkdownLexer(stripnl=False, ensurenl=False, handlecodeblocks=False)
    fence, start = "", 0
    for line in source.split("\n"):
        mark = _FENCE.match(line)
        if fence or mark:
            text.stylize(_CODE_STYLE, start, start + len(line))
            fence = _next_fence(fence, mark)
        elif line.strip() and len(line) <= MAX_STYLED_LINE:
            _style_line(text, start, lexer.get_tokens_unprocessed(f"{line}\n"))
        start += len(line) + 1
    return text


def folded(text: Text, width: int, console: Console) -> Text:
    """The answer with its long lines broken at words. To be printed with `soft_wrap`: the terminal breaks the others.

    Those are lines of code and tables, which breaks would spoil, and letters without a width of their own, at which
    Rich (15.0) drops letters or divides by zero.
    """
    if width < NARROW or console.is_dumb_terminal:
        return text
    lines: list[Text] = []
    fence = ""
    for line in text.split("\n", allow_blank=True):
        mark = _FENCE.match(line.plain)
        simple = not (fence or mark) and len(line) > width and _PROSE.fullmatch(line.plain)
        lines += line.wrap(console, width) if simple else [line]
        fence = _next_fence(fence, mark)
    return Text("\n").join(lines)


def _next_fence(fence: str, mark: re.Match[str] | None) -> str:
    """The open code block's mark after this line; empty if none is open."""
    if mark is None:
        return fence
    if not fence:
        return mark[1]
    closes = mark[1].startswith(fence) and not mark.string[mark.end() :].strip()
    return "" if closes else fence


def _style_line(text: Text, start: int, tokens: Iterable[tuple[int, _TokenType, str]]) -> None:
    for place, kind, value in tokens:
        style = _STYLES.get(kind)
        if style is not None:
            text.stylize(style, start + place, start + place + len(value))
