"""The headers of a message as NATS's protocol writes them. Pure."""

import re
from functools import lru_cache

import nats.errors

# A header's name (RFC 9110's tokens).
_KEY = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_LINE_BREAKS = str.maketrans("\r\n", "  ")


def encode_head(headers: dict[str, str]) -> bytes:
    """Raises BadHeaderError for a name that no header can have."""
    lines = ["NATS/1.0", *[f"{_name(key)}: {value.strip()}" for key, value in headers.items()]]
    text = "\r\n".join(lines)
    if text.count("\n") + text.count("\r") != 2 * (len(lines) - 1):
        # A line break in a value would begin another header.
        text = "\r\n".join(line.translate(_LINE_BREAKS) for line in lines)
    return f"{text}\r\n\r\n".encode()


# Few names are ever used, each for every message.
@lru_cache(maxsize=256)
def _name(key: str) -> str:
    if not _KEY(key):
        raise nats.errors.BadHeaderError(key)
    # nats-py's own names are enums, which an f-string would not write as their text.
    return str.strip(key)
