"""How long a server asks to be left alone, in the forms that servers use."""

from collections.abc import Mapping

import httpx
import pytest

from parley.workers.model.retry_after import retry_after

# Wed, 21 Oct 2026 07:28:00 GMT
NOW = 1_792_567_680.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("60", 60.0),
        ("0.5", 0.5),
        ("0", 0.0),
        (" 7 ", 7.0),
        ("60s", 60.0),
        ("30 seconds", 30.0),
        ("1m30s", 90.0),
        ("2 minutes 5 sec", 125.0),
        ("1d", 86_400.0),
        ("500 ms", 0.5),
        ("60, 60", 60.0),
        ("86400", 86_400.0),
        ("Wed, 21 Oct 2026 07:28:30 GMT", 30.0),
        ("Wednesday, 21-Oct-26 07:29:00 GMT", 60.0),
        ("Wed Oct 21 07:29:00 2026", 60.0),
        ("2026-10-21T07:28:05Z", 5.0),
        ("Wed, 21 Oct 2026 07:27:00 GMT", 0.0),
        ("Thu, 22 Oct 2026 07:28:00 GMT", 86_400.0),
        ("1792567690", 10.0),
        ("1792567690000", 10.0),
        ("-1", None),
        ("-86400", None),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("", None),
        ("Wed, 99 Oct 2026 07:28:30 GMT", None),
    ],
)
def test_retry_after_is_seconds_a_duration_or_a_date(header: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": header}, b"", NOW) == seconds


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "60"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "60"}, 60.0),
        ({"retry-after-ms": "-5"}, None),
        ({"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-remaining-requests": "0"}, 360.0),
        ({"x-ratelimit-reset-tokens": "20ms", "x-ratelimit-remaining-tokens": "0"}, 0.02),
        ({"x-ratelimit-reset-tokens": "1h2m3.5s", "x-ratelimit-remaining-tokens": "0"}, 3_723.5),
        # What is not used up is not the reason.
        ({"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-remaining-requests": "9"}, None),
        ({"x-ratelimit-reset-requests": "6m0s"}, None),
        (
            {
                "x-ratelimit-reset-requests": "1s", "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-tokens": "7s", "x-ratelimit-remaining-tokens": "0",
            },
            7.0,
        ),
        ({"x-ratelimit-reset": "1792567690000", "x-ratelimit-remaining": "0"}, 10.0),
        ({"anthropic-ratelimit-tokens-reset": "2026-10-21T07:28:05Z", "anthropic-ratelimit-tokens-remaining": "0"}, 5.0),
        ({"retry-after": "soon", "x-ratelimit-reset": "5", "x-ratelimit-remaining": "0"}, 5.0),
        ({"x-ratelimit-reset-tokens-minute": "11.4", "x-ratelimit-remaining-tokens-minute": "0"}, 11.4),
        ({"ratelimitbysize-reset": "9", "ratelimitbysize-remaining": "0"}, 9.0),
        ({"ratelimit": "limit=9, remaining=0, reset=5"}, 5.0),
        ({"ratelimit": '"default";r=0;t=30'}, 30.0),
        ({"ratelimit": '"default";r=10;t=30'}, None),
        ({"ratelimit-reset": "12", "ratelimit-remaining": "0"}, 12.0),
        ({}, None),
    ],
)  # fmt: skip
def test_other_headers_say_it_too(headers: Mapping[str, str], seconds: float | None) -> None:
    assert retry_after(headers, b"", NOW) == pytest.approx(seconds)


def test_a_date_is_read_by_the_servers_own_clock() -> None:
    headers = {"date": "Wed, 21 Oct 2026 09:00:00 GMT", "retry-after": "Wed, 21 Oct 2026 09:00:20 GMT"}
    assert retry_after(headers, b"", NOW) == 20.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Rate limit reached. Please try again in 20s.", 20.0),
        ("Please try again in 7m12.5s. Need more tokens?", 432.5),
        ("Try again in 250ms", 0.25),
        ("Please retry after 26 seconds.", 26.0),
        ('{"error": {"retry_after": 5}}', 5.0),
        ('{"retryAfter": "5"}', 5.0),
        ('{"metadata": {"headers": {"X-RateLimit-Reset": "1792567690000"}}}', 10.0),
        ("Please try again later", None),
        ("Retry after fixing 5 mistakes", None),
        ("try again in 5 streams", None),
    ],
)
def test_the_body_says_it_too(text: str, seconds: float | None) -> None:
    assert retry_after({}, text.encode(), NOW) == seconds


def test_googles_delay_is_in_the_body_and_names_of_headers_may_have_any_case() -> None:
    assert retry_after({}, b'[{"error": {"code": 429, "details": [{"retryDelay": "34.5s"}]}}]', NOW) == 34.5
    assert retry_after(httpx.Headers({"Retry-After": "3"}), b"", NOW) == 3.0
