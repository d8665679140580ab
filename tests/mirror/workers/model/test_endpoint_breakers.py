"""Which endpoint may be called or probed, waiting for a change, and what others see of the breakers."""

import asyncio
import logging
import math
import time
from typing import Any

import pytest

from parley.broker.core.agent_error_table import Signal
from parley.broker.core.messages import ErrorType
from parley.workers.model.breaker import BreakerPolicy, BreakerState, BreakerStatus, Failure, Permit
from parley.workers.model.endpoint_address import Endpoint
from parley.workers.model.endpoint_breakers import EndpointBreakers
from parley.workers.model.endpoint_failover import FailoverClient
from parley.workers.model.model_client import ChatRequest, ModelClient
from parley.workers.model.model_error import ModelError
from tests import present
from tests.harness import until
from tests.rig.habit_server import habit_server

START = 1_800_000_000.0
ONE, TWO = Endpoint("http://user:secret@gpu-1:8000"), Endpoint("https://gpu-2/v1")
REFUSED = Failure(ErrorType.CONNECTION_FAILED, "refused")


def two() -> EndpointBreakers:
    return EndpointBreakers((ONE, TWO), BreakerPolicy(failures=1))


def admitted(breakers: EndpointBreakers, *order: Endpoint, now: float = START) -> tuple[Endpoint, Permit]:
    return present(breakers.admit(order, now))


def probe(breakers: EndpointBreakers, *order: Endpoint, now: float) -> tuple[Endpoint, Permit]:
    """The only one that is due."""
    ((endpoint, permit),) = breakers.probes_due(order, now)
    assert permit.probe
    return endpoint, permit


def open_breakers(breakers: EndpointBreakers, *endpoints: Endpoint, now: float = START) -> None:
    for endpoint in endpoints:
        breakers.end(*admitted(breakers, endpoint, now=now), Signal.DEAD, now, failure=REFUSED)


def test_the_first_closed_endpoint_of_the_given_order_is_called() -> None:
    breakers = two()
    assert admitted(breakers, ONE, TWO)[0] == ONE
    assert admitted(breakers, TWO, ONE)[0] == TWO
    open_breakers(breakers, ONE)
    assert admitted(breakers, ONE, TWO)[0] == TWO


def test_one_caller_probes_an_endpoint_that_is_due_and_all_call_a_closed_one() -> None:
    breakers = two()
    open_breakers(breakers, ONE)
    due = breakers.next_probe_at((ONE, TWO))
    assert breakers.probes_due((ONE, TWO), due - 0.1) == []
    assert admitted(breakers, ONE, TWO, now=due)[0] == TWO
    assert not breakers.probing((ONE, TWO))
    assert probe(breakers, ONE, TWO, now=due)[0] == ONE
    assert breakers.probing((ONE, TWO))
    assert breakers.probes_due((ONE, TWO), due) == []
    assert admitted(breakers, ONE, TWO, now=due)[0] == TWO


def test_while_all_are_open_none_is_called_until_the_first_is_due() -> None:
    breakers = two()
    open_breakers(breakers, ONE)
    open_breakers(breakers, TWO, now=START + 0.5)
    assert breakers.admit((ONE, TWO), START + 0.6) is None
    assert breakers.next_probe_at((ONE, TWO)) == START + 1.0
    probe(breakers, ONE, TWO, now=START + 1.0)
    assert breakers.next_probe_at((ONE, TWO)) == START + 1.5
    probe(breakers, ONE, TWO, now=START + 1.5)
    assert breakers.next_probe_at((ONE, TWO)) == math.inf


async def test_a_waiting_caller_wakes_at_a_change_or_when_its_time_is_up() -> None:
    breakers = two()
    await asyncio.wait_for(breakers.wait_changed(0.001, asyncio.sleep), 5)
    waiting = [asyncio.create_task(breakers.wait_changed(3_600, asyncio.sleep)) for _ in range(10)]
    await asyncio.sleep(0)
    open_breakers(breakers, ONE)
    await asyncio.wait_for(asyncio.gather(*waiting), 5)


async def test_a_caller_that_stops_waiting_leaves_nothing_behind() -> None:
    breakers, begun, ended = two(), list[float](), list[float]()

    async def sleep(seconds: float) -> None:
        begun.append(seconds)
        try:
            await asyncio.sleep(seconds)
        finally:
            ended.append(seconds)

    waiting = asyncio.create_task(breakers.wait_changed(3_600, sleep))
    await until(lambda: begun, "the timer runs")
    waiting.cancel()
    await until(lambda: ended == [3_600], "the timer is gone too")
    open_breakers(breakers, ONE)


def test_a_watcher_is_called_at_every_change_and_at_nothing_else() -> None:
    breakers, seen = two(), list[BreakerState]()
    breakers.watch(lambda: seen.append(breakers[ONE].state))
    for _ in range(100):
        breakers.end(*admitted(breakers, ONE), Signal.ALIVE, START)
    assert seen == []
    open_breakers(breakers, ONE)
    breakers.end(*probe(breakers, ONE, now=START + 1), Signal.IGNORED, START + 1)
    breakers.end(*probe(breakers, ONE, now=START + 2), Signal.ALIVE, START + 2)
    assert seen == [
        BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.OPEN, BreakerState.HALF_OPEN,
        BreakerState.CLOSED,
    ]  # fmt: skip


def test_a_status_names_host_and_port_and_no_secret() -> None:
    breakers = two()
    assert breakers.statuses == (
        BreakerStatus("gpu-1:8000", BreakerState.CLOSED, 0),
        BreakerStatus("gpu-2:443", BreakerState.CLOSED, 0),
    )
    open_breakers(breakers, TWO)
    assert breakers.statuses[1] == BreakerStatus("gpu-2:443", BreakerState.OPEN, 1)


def test_a_pause_is_logged_once_for_the_calls_that_were_refused_together(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "parley.workers")
    breakers = two()
    for n in range(5):
        breakers.pause(ONE, 60.0, START + n, Failure(ErrorType.RATE_LIMITED, "HTTP 429"))
    breakers.pause(ONE, 60.0, START + 100, Failure(ErrorType.RATE_LIMITED, "HTTP 429"))
    assert [record.getMessage() for record in caplog.records] == [
        f"{ONE} is left alone for 60.0 s: HTTP 429"
    ] * 2


def test_a_shorter_pause_ends_no_longer_one() -> None:
    breakers = two()
    for seconds in (60.0, 1.0, 0.0):
        breakers.pause(ONE, seconds, START, Failure(ErrorType.RATE_LIMITED, "HTTP 429"))
    assert breakers.first_free((ONE,), START)[0] == START + 60
    assert breakers.admit((ONE,), START + 59) is None
    assert breakers.admit((ONE,), START + 60) is not None


OVERLONG: list[tuple[int, Any]] = [
    (200, {"error": "Input validation error: `inputs` must have less than 1024 tokens. Given: 3000"}),
    (200, {"error": {"message": "Prompt has 9000 tokens, limit is 4096"}}),
    (200, {"error": {"code": "tokens_limit_reached", "message": "no"}}),
    (500, {"error": {"message": "llama_decode: failed to decode, n_ctx too small"}}),
    (200, b': ping\n\n{"error": {"code": "context_length_exceeded", "message": "too long"}}\n'),
]


@pytest.mark.parametrize(("status", "body"), OVERLONG)
async def test_the_overlong_prompts_of_six_callers_open_no_breaker(status: int, body: Any) -> None:
    """They would keep all others from a server that works."""
    async with (
        habit_server(lambda _: (status, body, {})) as server,
        ModelClient(stream=isinstance(body, bytes)) as model,
    ):
        endpoint = Endpoint(server.url)
        client = FailoverClient(model, (endpoint,))
        for caller in range(6):
            request = ChatRequest(model="m", messages=[{"role": "user", "content": "word " * 9_000}])
            with pytest.raises(ModelError) as caught:
                await client.complete(f"task-{caller}", request, time.time() + 30)
            assert caught.value.error_type is ErrorType.CONTEXT_TOO_LONG
        assert client.breakers[endpoint].state is BreakerState.CLOSED
        assert client.breakers[endpoint].failure is None
        assert len(server.heard) == 6  # and none is repeated
        await client.close()
