"""W3C trace context, as it travels in the header `traceparent`."""

import re

# Version ff and ids of zeros are invalid.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def parse_traceparent(value: str | None) -> str | None:
    """`value` if it is a trace context, else None: the W3C asks to ignore a malformed one, and this value goes on
    into HTTP headers."""
    return value if value is not None and _TRACEPARENT.fullmatch(value) else None
