"""The wait between attempts doubles, has a cap, and never overflows."""

import sys

import pytest

from parley.broker.core.backoff import backoff


def test_the_wait_doubles_up_to_its_cap() -> None:
    assert [backoff(attempt, 0.25, 3.0) for attempt in range(1, 7)] == [0.25, 0.5, 1.0, 2.0, 3.0, 3.0]


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_jitter_scales_the_wait_after_the_cap(jitter: float) -> None:
    assert backoff(1, 2.0, 15.0, jitter) == 2.0 * jitter
    assert backoff(9, 2.0, 15.0, jitter) == 15.0 * jitter


@pytest.mark.parametrize("attempt", [1_000, 1_100, 10**9, 10**30])
@pytest.mark.parametrize("base", [1e-300, 0.25, sys.float_info.max])
def test_no_attempt_is_too_many(attempt: int, base: float) -> None:
    assert backoff(attempt, base, 15.0) <= 15.0


def test_a_base_of_zero_never_waits() -> None:
    assert backoff(10**6, 0.0, 15.0) == 0.0
