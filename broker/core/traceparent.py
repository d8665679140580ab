"""W3C trace context, as it travels in the header `traceparent`."""

import re

# Version ff and ids of zeros are invalid.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def traceparent(value: str | None) -> str | None:
    """What it is, if it is one; a malformed one is ignored, as the W3C asks. It goes on into HTTP headers."""
    return value if value is not None and _TRACEPARENT.fullmatch(value) else None
