"""Ready means that nothing stands in the way; whatever does is named, and nothing can hold the answer up."""

import asyncio
import time

import pytest

from parley.monitoring import health
from parley.monitoring.health import problems


async def well() -> str | None:
    return None


async def ill() -> str | None:
    return "no streams"


async def broken() -> str | None:
    raise ConnectionError("it is gone")


async def mute() -> str | None:
    raise ZeroDivisionError


async def stuck() -> str | None:
    await asyncio.Event().wait()
    return None


async def test_where_every_check_is_well_there_are_no_problems() -> None:
    assert await problems({"nats": well, "pool": well}) == {}
    assert await problems({}) == {}


async def test_what_stands_in_the_way_is_told_under_the_name_of_its_check() -> None:
    assert await problems({"nats": well, "streams": ill}) == {"streams": "no streams"}


async def test_a_check_that_raises_has_failed_with_its_words_or_its_kind() -> None:
    assert await problems({"a": broken, "b": mute, "c": well}) == {
        "a": "it is gone",
        "b": "ZeroDivisionError",
    }


async def test_a_check_that_takes_too_long_has_failed_and_delays_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.2)
    started = time.monotonic()
    found = await problems({"slow": stuck, "slower": stuck, "streams": ill})
    assert found == {
        "slow": "no answer within 0.2 s",
        "slower": "no answer within 0.2 s",
        "streams": "no streams",
    }
    assert 0.2 <= time.monotonic() - started < 2  # side by side, not one after the other


def test_a_check_is_cut_short_before_a_probe_would_be() -> None:
    # The chart gives its probes five seconds.
    assert health.CHECK_SECONDS < 5


async def test_being_cancelled_is_no_problem_of_a_check() -> None:
    asked = asyncio.create_task(problems({"slow": stuck}))
    await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
