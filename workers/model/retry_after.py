"""How long a server that refuses a call asks to be left alone, by its response's headers and body. Pure.

Servers say it as `retry-after-ms` (Azure), `Retry-After` in seconds or as a date, `x-ratelimit-reset-…` beside a
`x-ratelimit-remaining-…` of 0 (OpenAI, Groq, OpenRouter), or as `retryDelay` in the body (Google).
"""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# `1h2m3.5s`, `20ms`, `60`: what OpenAI and others write for a duration.
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")
_UNIT_SECONDS = (3600.0, 60.0, 1.0, 0.001)
_BODY_DELAY = re.compile(rb'"retryDelay"\s*:\s*"(\d+(?:\.\d+)?)s"')
# A number above this is an instant, in seconds since the epoch; above the next, in milliseconds.
_EPOCH_SECONDS, _EPOCH_MILLISECONDS = 1e9, 1e11
# The header of a reset, and the one that says how many calls or tokens are left until then.
_RESETS = (
    ("x-ratelimit-reset-requests", "x-ratelimit-remaining-requests"),
    ("x-ratelimit-reset-tokens", "x-ratelimit-remaining-tokens"),
    ("anthropic-ratelimit-requests-reset", "anthropic-ratelimit-requests-remaining"),
    ("anthropic-ratelimit-tokens-reset", "anthropic-ratelimit-tokens-remaining"),
    ("x-ratelimit-reset", "x-ratelimit-remaining"),
    ("ratelimit-reset", "ratelimit-remaining"),
)


def retry_after(headers: Mapping[str, str], body: bytes, now: float) -> float | None:
    """Seconds from now; 0 for an instant that has passed; None if the server does not say, or makes no sense.

    `headers`: by any case of their names. `now`: seconds since the epoch; the response's own `Date` wins over it.
    """
    now = _date(headers.get("date", "")) or now
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    if (header := headers.get("retry-after")) is not None:
        return _seconds(header, now)
    resets = (
        _seconds(headers.get(reset, ""), now) for reset, left in _RESETS if _is_used_up(headers.get(left))
    )
    if found := [seconds for seconds in resets if seconds is not None]:
        return max(found)
    delay = _BODY_DELAY.search(body)
    return float(delay[1]) if delay else None


def _is_used_up(left: str | None) -> bool:
    return left is not None and _number(left) == 0


def _seconds(text: str, now: float) -> float | None:
    text = text.strip()
    first, _, _ = text.partition(",")  # a header that came twice is joined with a comma
    number = _number(first)
    if number is not None:
        if number < _EPOCH_SECONDS:
            return number
        return max(0.0, (number / 1000 if number > _EPOCH_MILLISECONDS else number) - now)
    duration = _DURATION.fullmatch(text)
    if text and duration is not None:
        return sum(float(n or 0) * unit for n, unit in zip(duration.groups(), _UNIT_SECONDS, strict=True))
    date = _date(text)
    return None if date is None else max(0.0, date - now)


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
