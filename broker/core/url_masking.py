"""URLs without their credentials, for logs and error messages. Pure."""

import re

# Up to the last `@`: a password may contain one. The scheme may be missing: nats-py accepts both.
_SECRET = re.compile(r"^([A-Za-z+]+://)?.*@", re.DOTALL)
# A value in a query may be a key; a version is none, and says which API is called.
_QUERY_VALUE = re.compile(r"([?&](?!api-version=)[^=&#]*=)[^&#]+", re.IGNORECASE)


def masked(url: str) -> str:
    """The URLs, separated by commas, each with `***` in place of its token or password, and of its query's values."""
    return ",".join(
        _QUERY_VALUE.sub(r"\1***", _SECRET.sub(r"\1***@", part.strip())) for part in url.split(",")
    )
