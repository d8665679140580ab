"""The status that codes and words stand for. The types of whole errors are in test_error_body.py."""

from collections.abc import Sequence

import pytest

from parley.workers.model.error_meaning import Code, status_of_codes, status_of_words


@pytest.mark.parametrize(
    ("codes", "status"),
    [
        ([429], 429),
        (["429"], 429),
        ([429.0], 429),
        ([200, "overloaded_error"], 503),
        (["rate_limited"], 429),
        (["Rate Limit Exceeded"], 429),
        (["daily_quota_reached"], 429),
        (["the rate limit of this model is not what the engine died of"], None),
        (["GatewayTimeout"], 504),
        (["no", 7], None),
        ([], None),
    ],
)
def test_codes_stand_for_a_status(codes: Sequence[Code], status: int | None) -> None:
    assert status_of_codes(codes) == status


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("429", 429),
        ("HTTP/2 503", 503),
        ("Error code: 401 - no", 401),
        ("request failed with status code 502", 502),
        ("(500) died", 500),
        ("You are throttled", 429),
        ("429.5 is no status", None),
        ("500 ms are too few", None),
        ("4290", None),
        ("the 429th request", None),
        ("200 OK", None),
        ("", None),
    ],
)
def test_words_stand_for_a_status(text: str, status: int | None) -> None:
    assert status_of_words(text) == status
