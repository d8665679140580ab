"""Headers as people write them, the key in its header, and nothing of both in a text."""

import pytest

from parley.workers.model.secret_masking import struck_out
from parley.workers.model.server_access import ServerAccess, parse_headers

TWO = (("HTTP-Referer", "https://example.org/a,b"), ("X-Title", "Parley; test"))


@pytest.mark.parametrize(
    ("text", "headers"),
    [
        ('{"HTTP-Referer": "https://example.org/a,b", "X-Title": "Parley; test"}', TWO),
        ("HTTP-Referer: https://example.org/a,b\nX-Title: Parley; test\n", TWO),
        ("HTTP-Referer: https://example.org/a,b, X-Title: Parley; test", TWO),
        ("HTTP-Referer: https://example.org/a,b; X-Title: Parley; test", TWO),
        ("HTTP-Referer=https://example.org/a,b,X-Title=Parley; test", TWO),
        ("api-key=abc=", (("api-key", "abc="),)),
        ("X-Key:abc", (("X-Key", "abc"),)),
        ("Cookie: a=1; b=2", (("Cookie", "a=1; b=2"),)),
        ("Helicone-Auth: Bearer abc", (("Helicone-Auth", "Bearer abc"),)),
        ("X-Url: http://one, http://two", (("X-Url", "http://one, http://two"),)),
        ("", ()),
        ("  \n ", ()),
    ],
)
def test_headers_are_read_as_json_lines_or_a_list(text: str, headers: tuple[tuple[str, str], ...]) -> None:
    assert parse_headers(text) == headers


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("swordfish", "Name: value"),
        ("two words: swordfish", "Name: value"),
        ("X-Key:", "X-Key has no value"),
        ("X-Key: swordfish\x07", "X-Key has no value, or one with characters"),
        ("X-Key: swördfish", "X-Key has no value, or one with characters"),
        ('{"X-Key": "sword\\r\\nfish: 1"}', "X-Key has no value, or one with characters"),
        ('{"X-Key": 5}', "strings"),
        ('{"X-Key": "swordfish"', "not a JSON object"),
        ("X-Key: swordfish\nx-key: swordfish", "x-key is there twice"),
        ("Content-Length: 5", "Content-Length is set by Parley itself"),
        ("Accept-Encoding: gzip", "Accept-Encoding is set by Parley itself"),
    ],
)
def test_a_wrong_header_is_refused_without_its_value(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        parse_headers(text)
    assert "swordfish" not in str(caught.value)


def test_a_key_is_a_bearer_in_authorization_and_bare_elsewhere() -> None:
    assert ServerAccess().sent_headers("k") == {"authorization": "Bearer k"}
    assert ServerAccess("Api-Key", TWO).sent_headers("k") == {
        "api-key": "k", "http-referer": "https://example.org/a,b", "x-title": "Parley; test"
    }  # fmt: skip
    assert ServerAccess("api-key").sent_headers(None) == {}


def test_its_secrets_are_those_of_key_headers_and_proxy_and_its_repr_shows_none() -> None:
    access = ServerAccess("api-key", (("X-Auth", "swordfish-1"),), "PEM", "http://u:p%40ssword-2@proxy:3128")
    text = "key-key-key swordfish-1 p@ssword-2 p%40ssword-2"
    assert struck_out(text, access.secrets("key-key-key")) == "*** *** *** ***"
    assert "swordfish" not in repr(access)
    assert "ssword" not in repr(access)
    assert ServerAccess().secrets(None) == ()
