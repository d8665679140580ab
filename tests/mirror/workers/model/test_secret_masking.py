"""A secret in whatever form it comes back, and nothing else, is struck out."""

import html
import json
import time
from base64 import b64encode
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.workers.model.secret_masking import (
    is_no_word,
    secrets_of_header,
    secrets_of_key,
    struck_out,
    struck_out_of_answer,
)

KEY = "sk-Ab/9+x=y&Ω z"


FORMS = pytest.mark.parametrize(
    "form",
    [
        KEY, KEY.upper(), quote(KEY), quote(KEY, safe=""), quote(KEY, safe="").lower(), quote_plus(KEY), html.escape(KEY),
        KEY.replace("&", "\\u0026"), json.dumps(KEY)[1:-1], json.dumps(KEY)[1:-1].replace("/", "\\/"), b64encode(KEY.encode()).decode(),
        KEY.replace("/", "%2F"), KEY.replace("/", "\\\\/"), KEY.replace("+", "\\u002B").replace("&", "\\\\u0026"),
        KEY.replace("+", "&#43;").replace("&", "&amp;", 1), KEY.replace("/", "&#x2F;").replace("=", "&#x3D;"),
        quote(quote(KEY, safe=""), safe=""), html.escape(html.escape(KEY)), KEY.replace("-", "\\x2d"),
        b64encode(f"{KEY}:".encode()).decode(), b64encode(f":{KEY}".encode()).decode(),
    ],
)  # fmt: skip


@FORMS
@pytest.mark.parametrize("strike", [struck_out, struck_out_of_answer])
def test_each_form_of_a_key_is_struck_out(form: str, strike: Callable[[str, tuple[str, ...]], str]) -> None:
    text = strike(f"Incorrect API key provided: {form}. See https://example.org", secrets_of_key(KEY))
    assert text.startswith("Incorrect API key provided: ***")
    assert text.endswith(". See https://example.org")


@pytest.mark.parametrize("length", range(4, len("sk-0123456789")))
def test_a_key_that_was_cut_at_the_end_of_a_text_is_struck_out(length: int) -> None:
    key = "sk-0123456789"
    assert struck_out(f"bad key {key[:length]}", secrets_of_key(key)) == "bad key ***"


def test_a_short_secret_is_struck_out_as_a_word_only_and_a_tiny_one_not_at_all() -> None:
    assert struck_out("hush: hushed, 'hush'", ("hush",)) == "***: hushed, '***'"
    assert struck_out("a bad key", ("a",)) == "a bad key"
    assert struck_out("a bad key", ()) == "a bad key"


def test_of_a_header_its_parts_and_what_they_hold_are_struck_out() -> None:
    basic = b64encode(b"team:swordfish-77").decode()
    secrets = secrets_of_header(f"Basic {basic}")
    assert struck_out(f"got {basic} from swordfish-77", secrets) == "got *** from ***"
    assert struck_out("who is 0123456789?", secrets_of_header("Token 0123456789")) == "who is ***?"
    assert struck_out("session 0123456789", secrets_of_header("session=0123456789; x=1")) == "session ***"


@given(st.text(min_size=8, max_size=60), st.text(), st.text())
def test_no_text_keeps_a_secret(secret: str, before: str, after: str) -> None:
    kept = struck_out(before + secret + after, (secret,))
    assert secret not in kept.replace("***", "\n\n\n") or set(secret) == {"*"} or "\n" in secret


@pytest.mark.parametrize("text", ["\\" * 50_000, "%25" * 20_000, "&amp;" * 20_000])
def test_a_text_of_nothing_but_escapes_is_searched_once(text: str) -> None:
    began = time.monotonic()
    assert struck_out(text, ("\\/+0123456789",)) == text
    assert time.monotonic() - began < 5  # it was minutes


def test_an_answer_that_holds_no_secret_stays_as_it_is_and_costs_little() -> None:
    answer, secrets = "An answer of some length. " * 40_000, secrets_of_key("sk-0123456789abcdef")
    struck_out_of_answer("", secrets)  # the pattern is made once
    began = time.perf_counter()
    assert struck_out_of_answer(answer, secrets) is answer
    assert struck_out_of_answer("it begins with sk-0", secrets) == "it begins with sk-0"
    assert time.perf_counter() - began < 0.5


@pytest.mark.parametrize("length", range(8, len("sk-0123456789")))
def test_an_answer_that_was_cut_within_a_key_shows_no_piece_of_it(length: int) -> None:
    key = "sk-0123456789"
    assert struck_out_of_answer(f"the key {key[:length]}", secrets_of_key(key)) == "the key ***"


@pytest.mark.parametrize(
    ("secret", "expected"),
    [
        ("EMPTY", False),
        ("password", False),
        ("sk-1", False),
        ("sk-12345", True),
        ("swordfishswordfish", True),
    ],
)
def test_an_everyday_word_is_no_secret_of_ours(secret: str, expected: bool) -> None:
    assert is_no_word(secret) is expected
