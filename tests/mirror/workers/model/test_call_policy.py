"""The pauses between two calls. What they do to an agent's attempts is in test_endpoint_failover.py."""

import random

from parley.workers.model.call_policy import CallTimeouts, RetryPolicy


def test_no_pause_is_outside_its_bounds_whatever_the_jitter() -> None:
    rng, retry = random.Random(7), RetryPolicy(attempts=100, base=0.25, cap=10.0)
    assert retry.pause(3, 0.0) == 0.0
    for attempt in range(1, 101):
        pause = retry.pause(attempt, rng.random())
        assert 0 <= pause <= min(10.0, 0.25 * 2 ** (attempt - 1)), f"seed 7, attempt {attempt}"


def test_a_probe_has_as_long_to_connect_as_any_call() -> None:
    assert CallTimeouts(connect=1.5).probe > 1.5
