"""URLs without their credentials, for logs and error messages; and a list of NATS URLs taken apart. Pure."""

import re

# Up to the last `@`: a password may contain one. The scheme may be missing: nats-py accepts both.
_SECRET = re.compile(r"^([A-Za-z+]+://)?.*@", re.DOTALL)
# A value in a query may be a key; a version is none, and says which API is called.
_QUERY_VALUE = re.compile(r"([?&](?!api-version=)[^=&#]*=)[^&#]+", re.IGNORECASE)
# `nats://name:word` without an `@`, where `word` is no port: a password follows that has a comma in it.
_BEGUN_PASSWORD = re.compile(r"[A-Za-z+]+://[^@/\[\]]*:(?![0-9]{1,5}/?$)[^@/]+")


def split_servers(url: str) -> list[str]:
    """The URLs, separated by commas. A comma inside a password is part of it where no port can be meant."""
    parts: list[str] = []
    for part in url.split(","):
        if parts and _BEGUN_PASSWORD.fullmatch(parts[-1].strip()) and "@" in part and "://" not in part:
            parts[-1] += f",{part}"
        else:
            parts.append(part)
    return [part.strip() for part in parts]


def masked(url: str) -> str:
    """The URLs, separated by commas, each with `***` in place of its token or password, and of its query's values."""
    return ",".join(_QUERY_VALUE.sub(r"\1***", _SECRET.sub(r"\1***@", part)) for part in split_servers(url))
