"""Model servers that die under a whole service: agents in its process and in Ray actors, over real TCP."""

import asyncio
import socket
import struct
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from parley.broker.core.messages import DeliberationCompleted, Ending
from parley.client import Client, connect
from parley.local_nats_and_model import simulator
from parley.workers.simulator import DEFAULT_MODEL
from tests.harness import until
from tests.rig.proc import free_port
from tests.rig.service import Serving, serving

COOLDOWN_SECONDS = 0.4
POOLS = [pytest.param("local", 1, id="local"), pytest.param("ray", 2, id="ray", marks=pytest.mark.ray)]


class DeadServer:
    """Resets every connection, like the port of a program that has ended, and counts them."""

    def __init__(self) -> None:
        self.tries = 0
        self.url = ""

    async def reset(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tries += 1
        connection: socket.socket = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


@asynccontextmanager
async def dead_server() -> AsyncIterator[DeadServer]:
    server = DeadServer()
    listener = await asyncio.start_server(server.reset, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with listener:
        yield server


@asynccontextmanager
async def black_hole() -> AsyncIterator[str]:
    """The URL of a listener whose backlog is full: the kernel drops every further packet to it."""
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(8):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        await asyncio.sleep(0.1)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@asynccontextmanager
async def service(pool: str, vllm_url: str, **environment: str) -> AsyncIterator[tuple[Serving, Client]]:
    environment |= {"VLLM_URL": vllm_url, "VLLM_MODEL": DEFAULT_MODEL}
    environment |= {"PARLEY_BREAKER_COOLDOWN_SECONDS": str(COOLDOWN_SECONDS), "PARLEY_POOL_ACTORS": "2"}
    async with (
        # Some services have no live server and do not become ready.
        serving(pool=pool, latency_ms=20, tokens=12, environment=environment, awaited="/livez") as started,
        connect(started.nats_url) as client,
    ):
        yield started, client


async def breakers(on: Serving, url: str) -> dict[str, int]:
    """The number of workers by the state of that endpoint's breaker, and the openings, from /metrics."""
    async with aiohttp.ClientSession() as http, http.get(f"{on.http_url}/metrics") as response:
        page = await response.text()
    found: dict[str, int] = defaultdict(int)
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.labels.get("endpoint") == urlsplit(url).netloc:
                found[sample.labels.get("state", "openings")] = int(sample.value)
    return found


def complete(ending: Ending) -> bool:
    return isinstance(ending, DeliberationCompleted) and not ending.degraded


@pytest.mark.parametrize(("pool", "workers"), POOLS)
async def test_a_dead_server_beside_a_live_one_gets_only_probes(pool: str, workers: int) -> None:
    async with (
        dead_server() as dead,
        simulator("--latency-ms", "20") as live,
        service(pool, f"{dead.url},{live}") as (on, client),
    ):

        async def every_breaker_is_open() -> bool:
            assert complete(await client.deliberate("x", agents=4))
            seen = await breakers(on, dead.url)
            return seen["closed"] == 0 and seen["open"] + seen["half_open"] == workers

        await until(every_breaker_is_open, "every worker has opened its breaker")
        assert (await breakers(on, dead.url))["openings"] == workers
        before, began = dead.tries, time.monotonic()
        endings = await asyncio.gather(*(client.deliberate("x", agents=4) for _ in range(100)))
        assert all(complete(ending) for ending in endings)
        assert {result.proposal.model for ending in endings for result in ending.results} == {DEFAULT_MODEL}
        # No cool-down is shorter than half of the first.
        probes = workers * (1 + (time.monotonic() - began) / (COOLDOWN_SECONDS / 2))
        assert dead.tries - before <= probes
        assert await breakers(on, live) == {"closed": workers, "half_open": 0, "open": 0, "openings": 0}


async def test_a_server_that_drops_packets_beside_a_live_one_delays_no_agent() -> None:
    connect_seconds = 1.5
    limits = {"PARLEY_VLLM_CONNECT_TIMEOUT_SECONDS": str(connect_seconds)}
    async with (
        black_hole() as hole,
        simulator("--latency-ms", "20") as live,
        service("local", f"{hole},{live}", **limits) as (on, client),
    ):

        async def its_breaker_is_open() -> bool:
            assert complete(await client.deliberate("x", agents=4))
            return (await breakers(on, hole))["closed"] == 0

        await until(its_breaker_is_open, "the breaker is open")
        seen, end = set[str](), time.monotonic() + 6
        while time.monotonic() < end:  # for some probes
            ending = await client.deliberate("x", agents=4)
            assert complete(ending)
            assert all(result.duration_ms < connect_seconds * 1000 for result in ending.results)
            seen |= {state for state, count in (await breakers(on, hole)).items() if count}
        assert {"half_open", "open"} <= seen
        assert "closed" not in seen


@pytest.mark.parametrize(("pool", "workers"), POOLS)
async def test_deliberations_survive_a_restart_of_the_only_server(pool: str, workers: int) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    # Backoffs of 25 s in all: Python itself may take seconds to start again on a busy machine.
    async with service(pool, url, PARLEY_RETRY_ATTEMPTS="8") as (on, client), AsyncExitStack() as server:
        await server.enter_async_context(simulator("--port", str(port), "--latency-ms", "20"))
        assert complete(await client.deliberate("x", agents=4))
        assert await breakers(on, url) == {"closed": workers, "half_open": 0, "open": 0, "openings": 0}
        await server.aclose()

        waiting = [await client.submit("x", agents=4, timeout_seconds=60) for _ in range(10)]

        async def open_everywhere() -> bool:
            return (await breakers(on, url))["open"] == workers

        await until(open_everywhere, "every worker reports that the server is gone")
        assert not any(
            tally.ended
            for tally in await client.tallies()
            if tally.task_id in {each.task_id for each in waiting}
        )

        await server.enter_async_context(simulator("--port", str(port), "--latency-ms", "20"))
        endings = await asyncio.gather(*(client.ending(each, wait_seconds=60) for each in waiting))
        assert all(complete(ending) for ending in endings)

        async def closed_everywhere() -> bool:
            return (await breakers(on, url))["closed"] == workers

        # A worker reports a change even if it is idle.
        await until(closed_everywhere, "every worker reports that the server is back")
        assert (await breakers(on, url))["openings"] == workers


@pytest.mark.parametrize("pool", ["local", pytest.param("ray", marks=pytest.mark.ray)])
async def test_with_the_only_server_gone_deliberations_fail_soon_and_name_it(pool: str) -> None:
    async with dead_server() as dead, service(pool, dead.url, PARLEY_RETRY_ATTEMPTS="4") as (_, client):
        endings, began = [], time.monotonic()
        for _ in range(2):
            endings += await asyncio.gather(
                *(client.deliberate("x", agents=10, timeout_seconds=60) for _ in range(5))
            )
        # 0.25 + 0.5 + 1 s of backoff each time, and what a busy machine adds; far from the deadline.
        assert time.monotonic() - began < 20
        failures = [agent for ending in endings for agent in ending.failed_agents]
        assert len(failures) == 100
        assert {agent.error_type.value for agent in failures} <= {"connection_failed", "connection_lost"}
        assert all(dead.url in agent.error for agent in failures)
        last = [agent.error for ending in endings[5:] for agent in ending.failed_agents]
        assert all(f"the breaker of {dead.url} is open since " in error for error in last)
        # Fifty agents met it before any of them knew; four calls for each of a hundred would be the price
        # without.
        assert dead.tries < 200
