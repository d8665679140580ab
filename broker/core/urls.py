"""URLs as people may see them: without the credentials they hold. Pure."""

import re

# Up to the last `@`, for a password may hold another; with or without a scheme, for nats-py takes both.
_SECRET = re.compile(r"^([A-Za-z+]+://)?.*@", re.DOTALL)


def masked(url: str) -> str:
    """The URL without what stands before `@`: it may hold a token or a password."""

    return ",".join(_SECRET.sub(r"\1***@", part.strip()) for part in url.split(","))
