"""Open-loop load: when each deliberation is due, and from when its latency counts."""

import asyncio
from itertools import pairwise

import pytest

from benchmarks.arrivals import WARM_UP_SECONDS, answer, schedule


def test_arrivals_are_the_same_for_the_same_seed_only() -> None:
    assert schedule(50, 10, seed=1) == schedule(50, 10, seed=1)
    assert schedule(50, 10, seed=1) != schedule(50, 10, seed=2)


def test_arrivals_come_at_the_rate_in_order_and_in_time() -> None:
    due = schedule(100, 60, seed=7)
    assert len(due) == pytest.approx(6000, rel=0.05)
    assert due == sorted(due)
    assert due[0] > 0
    assert due[-1] < 60


def test_gaps_are_as_uneven_as_those_of_a_poisson_process() -> None:
    gaps = [later - earlier for earlier, later in pairwise(schedule(100, 60, seed=7))]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert deviation == pytest.approx(mean, rel=0.05)


async def test_what_waits_does_not_hold_up_what_comes_next() -> None:
    going = most = 0

    async def one() -> None:
        nonlocal going, most
        going += 1
        most = max(most, going)
        await asyncio.sleep(0.05)
        going -= 1

    due = [WARM_UP_SECONDS + 0.001 * place for place in range(10)]
    answered = await answer(one, due, rate=1000, agents=3)
    assert most == 10
    assert (answered.deliberations, answered.agents, answered.rate) == (10, 3, 1000)
    assert answered.p50_ms >= 50


async def test_the_beginning_is_not_counted() -> None:
    async def one() -> None: ...

    answered = await answer(one, [0.0, 0.01, WARM_UP_SECONDS], rate=1, agents=3)
    assert answered.deliberations == 1
