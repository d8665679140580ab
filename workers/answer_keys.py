"""What a choice needs of an answer: a digest that is the same for answers that are the same. Pure."""

import json
import re
import unicodedata
from collections import deque
from collections.abc import Sequence
from decimal import Context, Decimal, InvalidOperation
from hashlib import blake2b
from typing import Any

from parley.broker.core.finish_reasons import is_filtered, is_too_long
from parley.broker.core.messages import AnswerKey
from parley.workers.json_in_text import objects, whole_value

# The end of an answer, in which its final answer is looked for.
MAX_CHARACTERS = 64 * 1024
# Powers of ten that are written out: 1000000, not 1E+6.
_WRITTEN_OUT = 40
# Characters before a number in which it is told whether it is a part of something.
_NEAR = 64
# Between thousands. Narrow spaces only: a plain one is between words.
_SEPARATORS = ",'’\u00a0\u2009\u202f"
_NUMBER = re.compile(
    rf"[-+\u2212\u2013]?(?:\d{{1,3}}(?:[{_SEPARATORS}]\d{{3}})+|\d+|(?=\.\d))(?:\.\d+)?(?:[eE][-+]?\d{{1,3}})?"
)
# What looks like a number or is written with digits, such as 1/2, 12:30, 10^5 or 1,5: compared as it is written.
_TOKEN = re.compile(
    rf"(?<!\w)(?:[-+\u2212\u2013](?=[.\d]))?\.?\d(?:[\d.:/^*{_SEPARATORS}]*\d)?(?:[eE][-+]?\d{{1,3}}(?!\w))?"
)
# Superscripts, subscripts and fractions in one sign.
_SMALL = "\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u2089\u2150-\u215e"
_SMALL_SIGN = re.compile(f"[{_SMALL}]")
# A number with this before or after it is a part of something: 3·10^8, m/s^2, 3 1/2, 1 000, 2024-05-01, \frac{1}{2}, [1].
_MORE_BEFORE = re.compile(
    r"(?:\[|[\^_\u00b7\u00d7\u22c5\u221a\u00b1]|\d\s?[-+*/x\u2212\u2013\u00f7]|\d[ \t]|\}[ \t]*\{"
    r"|\\(?!boxed|fbox|text|math|displaystyle|,|;|!| )[A-Za-z]+[ \t]*\{?)[ \t]*[{(]?$"
)
_MORE_AFTER = re.compile(r"[eE][-+]?\d|[ \t]*[\^\u00b7\u00d7\u22c5]")
# What belongs to the number that it follows: 42 %, 10⁵, 0x1F, 3π.
_SUFFIX = re.compile(rf"[ \t]?[%\u2030]|\u03c0|[{_SMALL}]+|\w*\d\w*")
# Lines that say nothing: the marks of a code block or a formula, rules, closing brackets.
_EMPTY_LINE = re.compile(r"\s*(?:[`~]{3,}\w*|\$\$|\\[\])]|[-*_=]{3,}|[\])}]+[,;]?)\s*")
_DROPPED = str.maketrans({**dict.fromkeys(_SEPARATORS), "\u2212": "-", "\u2013": "-"})
# Pairs around a final answer that say nothing: emphasis and quotes. Underscores and brackets may be part of it.
_PAIRS = (
    ("**", "**"),
    ("*", "*"),
    ("`", "`"),
    ("$", "$"),
    ("\\(", "\\)"),
    ('"', '"'),
    ("'", "'"),
    ("“", "”"),
    ("‘", "’"),
    ("«", "»"),
)
_LIST_MARK = re.compile(r"^(?:[-*>#]+|\d+[.)])\s+")


def vote_of(text: str, key: AnswerKey, finish_reason: str = "stop", *, refused: bool = False) -> str | None:
    """The final answer that is counted. An answer that was cut off or filtered has none: what stands at its end is on the
    way to one. Nor has a refusal, in which all who refuse would agree."""
    if refused or is_too_long(finish_reason) or is_filtered(finish_reason):
        return None
    return final_answer(text, key)


def digest(text: str) -> str:
    """The same for the same words, however they are spaced."""
    return blake2b(" ".join(text.split()).encode(errors="replace"), digest_size=8).hexdigest()


def final_answer(text: str, key: AnswerKey) -> str | None:
    """What an answer finally says, in the form in which answers are compared. None if it cannot be read."""
    end = text[-MAX_CHARACTERS:]
    if key.json_pointer is not None:
        return _json_value(text, key.json_pointer)
    if key.last == "number":
        return _last_number(end)
    if key.after is not None:
        marks = list(re.finditer(re.escape(key.after), end, re.IGNORECASE))
        lines = map(_without_half_marks, end[marks[-1].end() :].splitlines() if marks else [])
        return next(filter(None, map(_normal, lines)), None)
    telling = (line for line in reversed(end.splitlines()) if not _EMPTY_LINE.fullmatch(line))
    return next(filter(None, map(_normal, telling)), None)


def _last_number(text: str) -> str | None:
    """The last number. The line with it, as it is written, where it is a part of something: of different answers no
    two may count as the same one, even if some that are the same count as different."""
    found = deque(_TOKEN.finditer(text), maxlen=1)
    if not found:
        return None
    last = found[0]
    start = text.rfind("\n", 0, last.start()) + 1
    before = text[max(start, last.start() - _NEAR) : last.start()]
    suffix = _SUFFIX.match(text, last.end())
    if _MORE_BEFORE.search(before) or _MORE_AFTER.match(text, suffix.end() if suffix else last.end()):
        return _normal(text[start:].partition("\n")[0])
    return _normal(last[0]) + (suffix[0].strip().casefold() if suffix else "")


def _without_half_marks(line: str) -> str:
    """What stands after a word within emphasis: `**ANSWER: 42**` leaves `42**`."""
    bare = line.strip()
    for mark in ("**", "__", "`", "$", "*"):
        if bare.count(mark) % 2:
            bare = (
                bare.removeprefix(mark).strip() if bare.startswith(mark) else bare.removesuffix(mark).strip()
            )
    return bare


def _normal(text: str) -> str:
    # NFKC also turns narrow spaces, which separate thousands, into plain ones: so a number is looked for before, too.
    # It also turns 10⁵ into 105.
    plain = text if _SMALL_SIGN.search(text) else unicodedata.normalize("NFKC", text)
    for form in (text, plain):
        stripped = _bare(form)
        if _NUMBER.fullmatch(stripped):
            return _number(stripped)
    return " ".join(stripped.casefold().split())


def _bare(text: str) -> str:
    """Without a list's mark, pairs of emphasis or quotes, and the full stop of a sentence."""
    bare = _LIST_MARK.sub("", text.strip())
    for _ in range(4):
        before = bare
        if bare.endswith((".", "。")) and not bare.endswith(".."):
            bare = bare[:-1].rstrip()
        for opening, closing in _PAIRS:
            within = len(bare) > len(opening) + len(closing)
            if within and bare.startswith(opening) and bare.endswith(closing):
                bare = bare[len(opening) : -len(closing)].strip()
        if bare == before:
            break
    return bare


def _number(text: str) -> str:
    """Equal numbers in one form."""
    digits = text.translate(_DROPPED)
    try:
        number = Decimal(digits).normalize(Context(prec=len(digits) + 8))
    except InvalidOperation:
        return text.casefold()
    number = abs(number) if number.is_zero() else number
    return format(number, "f") if abs(number.adjusted()) < _WRITTEN_OUT else str(number)


def _json_value(text: str, pointer: str) -> str | None:
    steps = [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]
    whole = whole_value(text)
    for found in (whole,) if whole is not None else objects(text):
        value = _at(found, steps)
        if value is not None:
            return _told(value)
    return None


def _at(value: Any, steps: Sequence[str]) -> Any:
    """None also for a null, which is no answer."""
    for step in steps:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isdecimal() and int(step[:6]) < len(value):
            value = value[int(step[:6])]
        else:
            return None
    return value


def _told(value: Any) -> str | None:
    """A value of JSON in the form in which answers are compared."""
    if isinstance(value, str):
        return _normal(value) or None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _number(str(value))
    return json.dumps(value, sort_keys=True)
