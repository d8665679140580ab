"""Strikes secrets out of text that leaves the process: answers, errors, logs, readiness, doctor. Pure.

A server may quote what it was sent: the key in a 401, the headers in a debug page, the URL in a proxy's error; as it is,
percent-encoded, in JSON, in HTML or in base64, and cut off anywhere.
"""

import html
import json
import re
from base64 import b64decode, b64encode, urlsafe_b64encode
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import quote, quote_plus, unquote

STRUCK = "***"
# A shorter secret is struck out only where it stands as a word: it may be a part of many.
LONG_CHARACTERS = 8
# From here on also a secret of letters alone is no word of any language.
_NO_WORD_CHARACTERS = 16
# Below this it is no secret: each text contains it.
SHORT_CHARACTERS = 3
# Of a long secret, at the end of a text that was cut there.
_LEAST_OF_A_CUT_SECRET = 4
_HTML_NAMES = {
    "&": ("amp",),
    "<": ("lt",),
    ">": ("gt",),
    '"': ("quot",),
    "'": ("apos",),
    "/": ("sol",),
    "+": ("plus",),
}
# What separates the parts of a header's value.
_LETTERS_AND_DIGITS = re.compile(r"[A-Za-z0-9]+")
_SEPARATORS = re.compile(r"[\s;,=:\"']+")


def struck_out(text: str, secrets: tuple[str, ...]) -> str:
    """The text with `***` in place of each secret, in whatever form. `secrets`: as they are configured."""
    if not secrets:
        return text
    pattern, forms = _pattern(secrets)
    return _without_a_cut_end(pattern.sub(STRUCK, text), forms)


def struck_out_of_answer(text: str, secrets: tuple[str, ...]) -> str:
    """The same for what a model wrote, which seldom holds any: a tenth of the time. `secrets`: no everyday words."""
    if not secrets:
        return text
    parts, heads, longest = _signs(secrets)
    small = text.lower()
    if any(part in small for part in parts):
        text = _pattern(secrets)[0].sub(STRUCK, text)
    # The answer may have been cut within one. Fewer characters begin many words.
    if any(head in text[-longest:] for head in heads):
        text = _without_a_cut_end(text, _pattern(secrets)[1], LONG_CHARACTERS)
    return text


def is_no_word(secret: str) -> bool:
    """Whether a text that holds it has it from us. `EMPTY` or `password` may stand in any answer."""
    return len(secret) >= _NO_WORD_CHARACTERS or (len(secret) >= LONG_CHARACTERS and not secret.isalpha())


def secrets_of_key(key: str) -> tuple[str, ...]:
    """What must not be shown of a key: it alone, and as the user or the password of Basic authorization."""
    return (key, *(b64encode(pair.encode()).decode() for pair in (f"{key}:", f":{key}")))


def secrets_of_header(value: str) -> tuple[str, ...]:
    """What must not be shown of a header's value: it, its longer parts, and what they hold in base64."""
    parts = [part for part in (*value.split(), *_SEPARATORS.split(value)) if len(part) >= LONG_CHARACTERS]
    decoded = [pair for part in value.split() if (pair := _basic(part))]
    return (value, *parts, *decoded, *(pair.partition(":")[2] for pair in decoded))


def _basic(part: str) -> str | None:
    try:
        pair = b64decode(part, validate=True).decode()
    except ValueError:
        return None
    return pair if ":" in pair and pair.isprintable() else None


@lru_cache(maxsize=256)
def _pattern(secrets: tuple[str, ...]) -> tuple[re.Pattern[str], tuple[str, ...]]:
    """Matches every form of the secrets, the longest first, and the forms themselves."""
    found = {form for secret in secrets if len(secret) >= SHORT_CHARACTERS for form in _forms(secret)}
    forms = sorted((form for form in found if len(form) >= SHORT_CHARACTERS), key=len, reverse=True)
    if not forms:
        return re.compile(r"(?!)"), ()
    return re.compile("|".join(_whole(form) for form in forms), re.IGNORECASE), tuple(forms)


@lru_cache(maxsize=256)
def _signs(secrets: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """What a text has, in small letters, that holds a form of the secrets: of each form the longest part that is written
    in one way. What it has that was cut within one: the form's first characters. The length of the longest form."""
    _, forms = _pattern(secrets)
    parts = {max(_LETTERS_AND_DIGITS.findall(form) or [""], key=len).lower() for form in forms}
    heads = {form[:LONG_CHARACTERS] for form in forms if len(form) > LONG_CHARACTERS}
    return tuple(parts), tuple(heads), max(map(len, forms), default=0)


def _whole(form: str) -> str:
    escaped = "".join(map(_spelled, form))
    return escaped if len(form) >= LONG_CHARACTERS else rf"(?<![A-Za-z0-9]){escaped}(?![A-Za-z0-9])"


def _spelled(character: str) -> str:
    """Matches the character in all the ways that it is written in JSON, URLs, HTML and YAML, also twice encoded."""
    code = ord(character)
    plain = re.escape(character)
    if character.isalnum() or code > 0x7F:
        return plain
    names = "".join(f"|{name}" for name in _HTML_NAMES.get(character, ()))
    twice = "''|" if character == "'" else ""
    # Bounded: a text of backslashes alone would take a minute.
    numbers = rf"%(?:25){{0,2}}{code:02x}|\\{{1,4}}(?:u00|x){code:02x}"
    entity = rf"&(?:amp;){{0,2}}(?:#0{{0,3}}{code}|#x0{{0,3}}{code:x}{names});"
    return rf"(?:{twice}\\{{0,4}}{plain}|{numbers}|{entity})"


def _forms(secret: str) -> Iterable[str]:
    raw = secret.encode(errors="replace")
    yield secret
    yield unquote(secret)
    yield quote(secret)
    yield quote(secret, safe="")
    yield quote_plus(secret)
    yield html.escape(secret)
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret)[1:-1].replace("/", "\\/")
    yield _json_of_go(secret)
    yield b64encode(raw).decode().rstrip("=")
    yield urlsafe_b64encode(raw).decode().rstrip("=")


def _json_of_go(secret: str) -> str:
    """Go's JSON, and that of .NET in part, escapes what HTML would take for its own."""
    text = json.dumps(secret, ensure_ascii=False)[1:-1]
    for character in "&<>":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _without_a_cut_end(text: str, forms: tuple[str, ...], least: int = _LEAST_OF_A_CUT_SECRET) -> str:
    for form in forms:
        if len(form) < LONG_CHARACTERS:
            break
        for length in range(len(form) - 1, least - 1, -1):
            if text.endswith(form[:length]):
                return text[:-length] + STRUCK
    return text
