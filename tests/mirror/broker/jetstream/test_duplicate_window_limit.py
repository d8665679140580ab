"""A stream fits itself to a server that remembers a Msg-Id for less long, if that is long enough."""

import pytest
from nats.js.api import StreamConfig
from nats.js.errors import APIError

from parley.broker.jetstream.duplicate_window_limit import window_limit, with_shorter_window
from parley.broker.jetstream.provision_errors import refused


def window_refused(limit: str) -> APIError:
    said = f"duplicates window can not be larger then server limit of {limit}"
    return APIError(code=400, err_code=10052, description=said)


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [("1m0s", 60.0), ("10m0s", 600.0), ("1h0m0s", 3_600.0), ("45s", 45.0), ("2.5s", 2.5), ("500ms", None)],
)
def test_the_limit_of_a_duplicate_window_is_read(limit: str, seconds: float | None) -> None:
    assert window_limit(window_refused(limit)) == seconds


@pytest.mark.parametrize(
    ("limit", "window"), [("10m0s", 600.0), ("2m0s", 120.0), ("1m0s", None), ("2h0m0s", None)]
)
def test_a_window_is_shortened_to_what_is_allowed_and_is_enough(limit: str, window: float | None) -> None:
    shorter = with_shorter_window(StreamConfig(name="S", duplicate_window=3_600.0), window_refused(limit))
    assert (shorter and shorter.duplicate_window) == window


def test_a_window_that_is_too_short_is_named_with_the_remedy() -> None:
    line = refused("stream S", window_refused("1m0s"), replicas=1, storage_bytes=None)
    assert "limit of 1m0s; raise it (duplicate_window of the server's limits) to 120 s at least" in line
