"""Every failed check is reported by name, and no check can delay the answer or the others."""

import asyncio
import time

import pytest

from parley.monitoring import check_runner
from parley.monitoring.check_runner import problems


async def healthy() -> str | None:
    return None


async def unhealthy() -> str | None:
    return "no streams"


async def raising() -> str | None:
    raise ConnectionError("it is gone")


async def without_message() -> str | None:
    raise ZeroDivisionError


async def hanging() -> str | None:
    await asyncio.Event().wait()
    return None


async def test_there_are_no_problems_when_every_check_succeeds() -> None:
    assert await problems({"nats": healthy, "pool": healthy}) == {}
    assert await problems({}) == {}


async def test_a_problem_is_reported_under_the_name_of_its_check() -> None:
    assert await problems({"nats": healthy, "streams": unhealthy}) == {"streams": "no streams"}


async def test_a_check_that_raises_has_failed_with_its_message_or_its_type() -> None:
    assert await problems({"a": raising, "b": without_message, "c": healthy}) == {
        "a": "it is gone",
        "b": "ZeroDivisionError",
    }


async def test_a_check_that_takes_too_long_fails_and_delays_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_runner, "CHECK_SECONDS", 0.2)
    started = time.monotonic()
    found = await problems({"slow": hanging, "slower": hanging, "streams": unhealthy})
    assert found == {
        "slow": "no answer within 0.2 s",
        "slower": "no answer within 0.2 s",
        "streams": "no streams",
    }
    assert 0.2 <= time.monotonic() - started < 2  # the checks run concurrently


def test_a_check_times_out_before_the_probe_does() -> None:
    # The chart gives its probes five seconds.
    assert check_runner.CHECK_SECONDS < 5


async def test_cancellation_is_not_reported_as_a_problem() -> None:
    asked = asyncio.create_task(problems({"slow": hanging}))
    await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
