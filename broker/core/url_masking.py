"""URLs without their credentials, for logs and error messages. Pure."""

import re

# Up to the last `@`: a password may contain one. The scheme may be missing: nats-py accepts both.
_SECRET = re.compile(r"^([A-Za-z+]+://)?.*@", re.DOTALL)


def masked(url: str) -> str:
    """The URLs, separated by commas, each with `***` in place of its token or password."""
    return ",".join(_SECRET.sub(r"\1***@", part.strip()) for part in url.split(","))
