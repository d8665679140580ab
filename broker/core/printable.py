"""Text of models, servers and senders as it may be printed: it must not move a terminal's cursor, retitle its window, or
show itself in another order than it has. Pure.
"""

import json
import re
import unicodedata

# Control characters; format characters, which reverse or hide the text around them; half a surrogate pair, which is
# unprintable; separators that break the line.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Emoji and some scripts are written with these two, and they change no order.
_JOINERS = "\u200c\u200d"
# The line ends of other systems. Left out they would make one word of two.
_LINE_ENDS = re.compile("\r\n|[\r\v\f\x85]")
# The letters that make room and no more: NEL and the separators of Unicode are seen as escapes.
_SPACES = re.compile("[ \t\n\r\v\f]+")


def _is_unsafe(character: str) -> bool:
    return unicodedata.category(character) in _UNSAFE and character not in "\n\t"


def visible(text: str | bytes) -> str:
    """The text with each unsafe character, and each byte that is not UTF-8, as an escape: nothing is left out."""
    if isinstance(text, bytes):
        text = text.decode(errors="backslashreplace")
    return "".join(c.encode("unicode_escape").decode() if _is_unsafe(c) else c for c in text)


def harmless(text: str) -> str:
    """A model's text: every line end as `\\n`, without other control characters, and with format characters as escapes."""
    kept = (c for c in _LINE_ENDS.sub("\n", text) if not (unicodedata.category(c) == "Cc" and _is_unsafe(c)))
    return "".join(c if c in _JOINERS else visible(c) for c in kept)


def on_one_line(text: str) -> str:
    """The text visible and on one line: what a server says of an error must not look like a line of ours."""
    return visible(_SPACES.sub(" ", text).strip(" "))


def safe_json(text: str) -> str:
    """JSON with each unsafe character in a string as JSON's own escape: the values stay what they are."""
    return "".join(json.dumps(c)[1:-1] if _is_unsafe(c) else c for c in text)
