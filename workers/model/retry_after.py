"""How long a server that refuses a call asks to be left alone, by its response's headers and body. Pure.

Servers say it as `retry-after-ms` (Azure), `Retry-After` in seconds or as a date, `x-ratelimit-reset-…` beside a
`x-ratelimit-remaining-…` of 0 (OpenAI, Groq, OpenRouter), or in the body: `retryDelay` (Google), "try again in 20s".
"""

import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# `1h2m3.5s`, `20ms`, `26 seconds`: what OpenAI and others write for a duration.
_UNITS = r"ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hours?|d|days?"
_PART = rf"(\d+(?:\.\d+)?)\s*({_UNITS})(?![a-z])\s*"
_PARTS = re.compile(_PART, re.IGNORECASE)
_DURATION = re.compile(rf"(?:{_PART})+", re.IGNORECASE)
_UNIT_SECONDS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0}
# In a body: Google's and others' fields, OpenRouter's copy of a header, and OpenAI's, Azure's and Groq's words.
_BODY_DELAYS = (
    re.compile(r'"retry[_-]?(?:delay|after)(?:_s|_seconds)?"\s*:\s*"?(\d+(?:\.\d+)?)s?"?', re.IGNORECASE),
    re.compile(r'"x-ratelimit-reset"\s*:\s*"?(\d+(?:\.\d+)?)"?', re.IGNORECASE),
    re.compile(rf"(?:try again|retry)\s+(?:in|after)\s+((?:{_PART})+)", re.IGNORECASE),
)
_SEARCHED_BYTES = 4_096
# The IETF's drafts: `limit=9, remaining=0, reset=5`, and `"default";r=0;t=5`.
_RATE_LIMIT = re.compile(r"\b(?:remaining|r)=0\b.*?\b(?:reset|t)=(\d+)")
# A number above this is an instant, in seconds since the epoch; above the next, in milliseconds.
_EPOCH_SECONDS, _EPOCH_MILLISECONDS = 1e9, 1e11


def retry_after(headers: Mapping[str, str], body: bytes, now: float) -> float | None:
    """Seconds from now; 0 for an instant that has passed; None if the server does not say, or makes no sense.

    `headers`: by any case of their names. `now`: seconds since the epoch; the response's own `Date` wins over it.
    """
    now = _date(headers.get("date", "")) or now
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    if (asked := _seconds(headers.get("retry-after", ""), now)) is not None:
        return asked
    if found := [seconds for reset in _resets(headers) if (seconds := _seconds(reset, now)) is not None]:
        return max(found)
    text = body[:_SEARCHED_BYTES].decode(errors="replace")
    delays = (delay for pattern in _BODY_DELAYS if (delay := pattern.search(text)))
    return next((_seconds(delay[1], now) for delay in delays), None)


def _resets(headers: Mapping[str, str]) -> Iterator[str]:
    """When what is used up comes back: `x-ratelimit-reset-tokens` beside a `x-ratelimit-remaining-tokens` of 0."""
    for name in headers:
        if "ratelimit" in name and "reset" in name:
            left = headers.get(name.replace("reset", "remaining"))
            if left is not None and _number(left) == 0:
                yield headers[name]
    if found := _RATE_LIMIT.search(headers.get("ratelimit", "")):
        yield found[1]


def _seconds(text: str, now: float) -> float | None:
    text = text.strip()
    first, _, _ = text.partition(",")  # a header that came twice is joined with a comma
    number = _number(first)
    if number is not None:
        if number < _EPOCH_SECONDS:
            return number
        return max(0.0, (number / 1000 if number > _EPOCH_MILLISECONDS else number) - now)
    if _DURATION.fullmatch(text):
        return sum(float(number) * _unit(unit.lower()) for number, unit in _PARTS.findall(text))
    date = _date(text)
    return None if date is None else max(0.0, date - now)


def _unit(name: str) -> float:
    return 0.001 if name.startswith(("ms", "milli")) else _UNIT_SECONDS[name[0]]


def _number(text: str) -> float | None:
    """A number that is neither negative nor endless."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 <= number < math.inf else None


def _date(text: str) -> float | None:
    """An HTTP date, or one of RFC 3339, as seconds since the epoch."""
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            date = read(text.strip())
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    return None
