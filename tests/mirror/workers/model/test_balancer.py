"""Which endpoint may be called, who is told of a change, and what others see of the breakers."""

import asyncio
import math

from parley.broker.core.messages import ErrorType
from parley.workers.model.balancer import BreakerStatus, EndpointBalancer, EndpointPermit
from parley.workers.model.breaker import BreakerPolicy, BreakerState
from parley.workers.model.endpoint import Endpoint
from parley.workers.model.responses import ModelError
from tests.harness import until

START = 1_800_000_000.0
ONE, TWO = Endpoint("http://user:secret@gpu-1:8000"), Endpoint("https://gpu-2/v1")
REFUSED = ModelError(ErrorType.CONNECTION_FAILED, "refused")


def board(**tolerance: float) -> EndpointBalancer:
    return EndpointBalancer(BreakerPolicy(failures=1, **tolerance))


def line(switchboard: EndpointBalancer, *order: Endpoint, now: float = START) -> EndpointPermit:
    found = switchboard.admit(order, now)
    assert found is not None
    return found


def probe(switchboard: EndpointBalancer, *order: Endpoint, now: float) -> EndpointPermit:
    """The only one that is due."""
    (found,) = switchboard.due(order, now)
    assert found.leave.probe
    return found


def opened(switchboard: EndpointBalancer, *endpoints: Endpoint, now: float = START) -> None:
    for endpoint in endpoints:
        switchboard.end(line(switchboard, endpoint, now=now), REFUSED, now)


def test_the_first_that_is_closed_is_called_in_the_order_that_was_asked_for() -> None:
    switchboard = board()
    assert line(switchboard, ONE, TWO).endpoint == ONE
    assert line(switchboard, TWO, ONE).endpoint == TWO
    opened(switchboard, ONE)
    assert line(switchboard, ONE, TWO).endpoint == TWO


def test_one_that_is_due_is_probed_by_one_only_and_whoever_asks_calls_a_closed_one() -> None:
    switchboard = board()
    opened(switchboard, ONE)
    due = switchboard.probe_at((ONE, TWO))
    assert switchboard.due((ONE, TWO), due - 0.1) == []
    assert line(switchboard, ONE, TWO, now=due).endpoint == TWO
    assert not switchboard.probing((ONE, TWO))
    assert probe(switchboard, ONE, TWO, now=due).endpoint == ONE
    assert switchboard.probing((ONE, TWO))
    assert switchboard.due((ONE, TWO), due) == []
    assert line(switchboard, ONE, TWO, now=due).endpoint == TWO


def test_there_is_nobody_to_call_while_all_are_open_until_the_first_is_due() -> None:
    switchboard = board()
    opened(switchboard, ONE)
    opened(switchboard, TWO, now=START + 0.5)
    assert switchboard.admit((ONE, TWO), START + 0.6) is None
    assert switchboard.probe_at((ONE, TWO)) == START + 1.0
    probe(switchboard, ONE, TWO, now=START + 1.0)
    assert switchboard.probe_at((ONE, TWO)) == START + 1.5
    probe(switchboard, ONE, TWO, now=START + 1.5)
    assert switchboard.probe_at((ONE, TWO)) == math.inf


def test_every_call_is_told_of_by_its_kind() -> None:
    switchboard = EndpointBalancer(BreakerPolicy(failures=2))
    for _ in range(10):
        switchboard.end(line(switchboard, ONE), ModelError(ErrorType.RATE_LIMITED, "later"), START)
        switchboard.call_off(line(switchboard, ONE), START)
        switchboard.end(
            line(switchboard, ONE),
            ModelError(ErrorType.SERVER_ERROR, "500", status=500),
            START,
            task_id="one",
        )
        switchboard.end(line(switchboard, ONE), None, START)
    assert switchboard.breaker(ONE).state is BreakerState.CLOSED
    for _ in range(2):
        switchboard.end(
            line(switchboard, ONE),
            ModelError(ErrorType.SERVER_ERROR, "502", status=502),
            START,
            task_id="one",
        )
    assert switchboard.breaker(ONE).state is BreakerState.OPEN


async def test_who_waits_hears_of_a_change_and_else_of_the_time() -> None:
    switchboard = board()
    await asyncio.wait_for(switchboard.news(0.001, asyncio.sleep), 5)
    waiting = [asyncio.create_task(switchboard.news(3_600, asyncio.sleep)) for _ in range(10)]
    await asyncio.sleep(0)
    opened(switchboard, ONE)
    await asyncio.wait_for(asyncio.gather(*waiting), 5)


async def test_who_stops_waiting_leaves_nothing_behind() -> None:
    switchboard, before = board(), asyncio.all_tasks()
    waiting = asyncio.create_task(switchboard.news(3_600, asyncio.sleep))
    await asyncio.sleep(0)
    waiting.cancel()
    await until(lambda: asyncio.all_tasks() == before, "the timer is gone too")
    opened(switchboard, ONE)


async def test_a_probe_that_is_out_runs_by_itself_and_is_called_off_when_the_switchboard_closes() -> None:
    switchboard, before, ends = board(), asyncio.all_tasks(), list[str]()

    async def quick() -> None:
        ends.append("quick")

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ends.append("endless")

    switchboard.send_out(quick())
    switchboard.send_out(endless())
    await until(lambda: ends == ["quick"], "the first probe is over")
    await asyncio.wait_for(switchboard.close(), 5)
    assert ends == ["quick", "endless"]
    assert asyncio.all_tasks() == before
    await switchboard.close()


def test_a_watcher_is_told_of_every_change_and_of_nothing_else() -> None:
    switchboard, seen = board(), list[BreakerState]()
    switchboard.watch(lambda: seen.append(switchboard.breaker(ONE).state))
    for _ in range(100):
        switchboard.end(line(switchboard, ONE), None, START)
    assert seen == []
    opened(switchboard, ONE)
    switchboard.call_off(probe(switchboard, ONE, now=START + 1), START + 1)
    switchboard.end(probe(switchboard, ONE, now=START + 2), None, START + 2)
    assert seen == [
        BreakerState.OPEN,
        BreakerState.HALF_OPEN,
        BreakerState.OPEN,
        BreakerState.HALF_OPEN,
        BreakerState.CLOSED,
    ]


def test_what_is_seen_from_outside_names_host_and_port_and_no_secret() -> None:
    switchboard = board()
    assert switchboard.breaker_statuses((ONE, TWO)) == (
        BreakerStatus("gpu-1:8000", BreakerState.CLOSED, 0),
        BreakerStatus("gpu-2:443", BreakerState.CLOSED, 0),
    )
    opened(switchboard, TWO)
    assert switchboard.breaker_statuses((ONE, TWO))[1] == BreakerStatus("gpu-2:443", BreakerState.OPEN, 1)
