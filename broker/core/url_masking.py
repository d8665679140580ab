"""URLs without their credentials, for logs and error messages; and a list of NATS URLs taken apart. Pure."""

import re
from collections.abc import Sequence

# Up to the last `@`: a password may contain one. The scheme may be missing: nats-py accepts both.
_SECRET = re.compile(r"^([A-Za-z+]+://)?.*@", re.DOTALL)
# What may be the first half of a token.
_ALL_BUT_SCHEME = re.compile(r"^([A-Za-z+]+://)?.*", re.DOTALL)
# A value in a query may be a key; a version is none, and says which API is called.
_QUERY_VALUE = re.compile(r"([?&](?!api-version=)[^=&#]*=)[^&#]+", re.IGNORECASE)
# `nats://name:word` without an `@`, where `word` is no port: the password has a comma in it, and goes on.
_BEGUN_PASSWORD = re.compile(r"[A-Za-z+]+://[^@/\[\]:]*:(?![0-9]{1,5}(?:/|$))[^@]+", re.DOTALL)


def split_servers(url: str) -> list[str]:
    """The URLs, separated by commas. A comma inside a password is part of it where no port can be meant."""
    parts: list[str] = []
    pieces = url.split(",")
    while pieces:
        taken = _length_of_first(pieces)
        parts.append(",".join(pieces[:taken]).strip())
        del pieces[:taken]
    return parts


def _length_of_first(pieces: Sequence[str]) -> int:
    """How many of `pieces` are the first URL."""
    if _BEGUN_PASSWORD.fullmatch(pieces[0].strip()):
        for place, piece in enumerate(pieces[1:], start=2):
            if "://" in piece:
                break
            if "@" in piece:
                return place
    return 1


def masked(url: str) -> str:
    """The URLs, separated by commas, each with `***` in place of its token or password, and of its query's values.

    A token with commas looks like servers before one with a token: none of them is shown.
    """
    shown: list[str] = []
    token_begins_before = False
    for part in reversed(split_servers(url)):
        plain = _QUERY_VALUE.sub(r"\1***", _SECRET.sub(r"\1***@", part))
        has_credentials = "@" in part
        hidden = token_begins_before and not has_credentials
        shown.append(_ALL_BUT_SCHEME.sub(r"\1***", part) if hidden else plain)
        token_begins_before = (has_credentials or hidden) and "://" not in part
    return ",".join(reversed(shown))
