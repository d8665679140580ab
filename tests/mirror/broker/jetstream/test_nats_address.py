"""NATS URLs as people write them."""

import re

import pytest

from parley.broker.core.url_masking import masked
from parley.broker.jetstream.nats_address import (
    DecodedUri,
    UrlCredentials,
    credentials_of,
    has_credentials,
    is_usable,
    servers,
)
from parley.broker.jetstream.nats_client import NatsClient

PASSWORDS = ("p/w", "p#w", "p?w", "p@w", "p:w", "p w", "ä€", "100%", "[x]", "a,b", "/#?@:", "p\\w", "a&b=c",
             "a/b,c", "a,b,c", "a[b,c/d,e", "a,nats:/b")  # fmt: skip


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_password_as_it_is_reaches_nats_py_as_it_is(password: str) -> None:
    url = f"nats://me:{password}@host:4222"
    (found,) = servers(url)
    uri = NatsClient._parse_server_uri(found)
    assert isinstance(uri, DecodedUri)
    assert (uri.username, uri.password, uri.hostname, uri.port) == ("me", password, "host", 4222)
    assert password not in masked(url)


@pytest.mark.parametrize(
    ("url", "user", "password"),
    [
        ("nats://me:p%2Fw%40@host", "me", "p/w@"),
        ("nats://me%40x:pw@host", "me@x", "pw"),
        ("nats://t/o#k?@host", "t/o#k?", None),
        ("nats://to%23ken@host", "to#ken", None),
        ("host:4222", None, None),
        ("me:pw@host:4222", "me", "pw"),
        ("nats://:pw@[::1]:4222", "", "pw"),
        ("NATS://me:pw@host:4222", "me", "pw"),
    ],
)
def test_credentials_are_what_stands_before_the_last_at_sign(
    url: str, user: str | None, password: str | None
) -> None:
    expected = None if user is None else UrlCredentials(user, password)
    assert credentials_of(url) == [expected]
    assert has_credentials(url) is (user is not None)
    assert "pw" not in repr(credentials_of(url))


@pytest.mark.parametrize("url", ["nats://to,ken@h", "to,ken@h", "nats://to,k,en@h", "nats://one@h,to,ken@h"])
def test_no_part_of_a_token_with_commas_is_shown(url: str) -> None:
    """It looks like two servers, of which the second has a token."""
    assert not {"to", "k", "ken", "en"} & set(re.split(r"[,/@]+", masked(url)))
    assert masked(url).endswith("***,***@h")


def test_each_server_of_a_list_keeps_its_own() -> None:
    url = "nats://a:x,y@one:1, nats://two:2,tls://t/k@three"
    assert servers(url) == ["nats://a:x%2Cy@one:1", "nats://two:2", "tls://t%2Fk@three"]
    assert masked(url) == "nats://***@one:1,nats://two:2,tls://***@three"


@pytest.mark.parametrize(
    ("url", "host"), [("NATS://me:pw@h:4222", "h"), ("Tls://h", "h"), ("TLS://me:p/w@h", "h")]
)
def test_a_scheme_counts_in_any_case(url: str, host: str) -> None:
    (found,) = servers(url)
    uri = NatsClient._parse_server_uri(found)
    assert (uri.hostname, uri.scheme) == (host, url.partition(":")[0].lower())


@pytest.mark.parametrize(
    ("server", "usable"),
    [
        ("nats://host", True), ("tls://u:p/w@host:4222", True), ("wss://host", True), ("ws://host:80/path", True),
        ("http://host", False), ("host:4222", False), ("nats://", False), ("nats://host:0", False), ("nats://[::1", False),
        ("", False),
    ],
)  # fmt: skip
def test_what_is_a_server(server: str, usable: bool) -> None:
    assert is_usable(server) is usable
