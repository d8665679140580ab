"""NATS URLs as people write them: a password with `/ # ? @ :` as it is, or percent-encoded. Pure."""

import re
from dataclasses import dataclass, field
from urllib.parse import ParseResult, quote, unquote, urlsplit

from parley.broker.core.url_masking import split_servers

SCHEMES = frozenset({"nats", "tls", "ws", "wss"})
# What can only stand after the credentials: no `@` is in it.
_SERVER = re.compile(r"(?:([A-Za-z+]+)://)?(?:(.*)@)?([^@]*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class UrlCredentials:
    """What stands before the `@`: a user and a password, or a token. Each as it is meant, not percent-encoded."""

    user: str
    password: str | None = field(repr=False)


class DecodedUri(ParseResult):
    """As nats-py reads a server's URL, but its user and password are decoded. nats-py (2.16.0) uses them as they
    stand."""

    @property
    def username(self) -> str | None:
        name = super().username
        return None if name is None else unquote(name)

    @property
    def password(self) -> str | None:
        word = super().password
        return None if word is None else unquote(word)


def servers(url: str) -> list[str]:
    """The servers of a comma-separated list, each with its credentials percent-encoded."""
    return [_encoded(part) for part in split_servers(url)]


def with_password(server: str, password: str) -> str:
    """`server` as of `servers`, and `password` where it has a user alone."""
    prefix, given, rest = _taken_apart(server)
    if given is None or given.password is not None:
        return server
    return f"{prefix}{quote(given.user, safe='')}:{quote(password, safe='')}@{rest}"


def is_usable_as_written(server: str) -> bool:
    """As `is_usable`, also for what nats-py takes as `nats://`."""
    return is_usable(server if "://" in server else f"nats://{server}")


def credentials_of(url: str) -> list[UrlCredentials | None]:
    """Those of each server in a comma-separated list."""
    return [_taken_apart(part)[1] for part in split_servers(url)]


def has_credentials(url: str) -> bool:
    return any(found is not None for found in credentials_of(url))


def is_usable(server: str) -> bool:
    """Whether this is the URL of one server, with a scheme that NATS has."""
    try:
        found = urlsplit(_encoded(server))
        return found.scheme in SCHEMES and bool(found.hostname) and (found.port is None or found.port > 0)
    except ValueError:
        return False


def _taken_apart(server: str) -> tuple[str, UrlCredentials | None, str]:
    found = _SERVER.fullmatch(server)
    assert found is not None, "it matches every text"
    scheme, before, rest = found.groups()
    prefix = f"{scheme.lower()}://" if scheme else ""  # nats-py knows no other case
    if before is None:
        return prefix, None, rest
    user, colon, password = before.partition(":")
    return prefix, UrlCredentials(unquote(user), unquote(password) if colon else None), rest


def _encoded(server: str) -> str:
    prefix, given, rest = _taken_apart(server)
    if given is None:
        return f"{prefix}{rest}"
    password = "" if given.password is None else f":{quote(given.password, safe='')}"
    return f"{prefix}{quote(given.user, safe='')}{password}@{rest}"
