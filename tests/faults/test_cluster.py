"""A NATS cluster of three: its leader killed, frozen, and parted from the others, with a service on each side."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import close, connect
from parley.local_nats_and_model import simulator
from tests.faults import load
from tests.faults.cluster import SERVERS, Cluster, cluster
from tests.faults.processes import Process
from tests.rig.child import answers, module
from tests.rig.proc import free_port
from tests.rig.service import plain_environment

FULL, SHORT = 200, 30
FREEZE_SECONDS = 12.0
CUT_SECONDS = 15.0
CASE_SECONDS = 300

Strike = Callable[[Cluster, int], Awaitable[None]]

pytestmark = pytest.mark.timeout(CASE_SECONDS)


async def killed(servers: Cluster, leader: int) -> None:
    servers.servers[leader].kill()


async def frozen(servers: Cluster, leader: int) -> None:
    servers.servers[leader].freeze()
    await asyncio.sleep(FREEZE_SECONDS)
    servers.servers[leader].thaw()


async def cut_off(servers: Cluster, leader: int) -> None:
    servers.cut_off(leader)
    await asyncio.sleep(CUT_SECONDS)
    servers.mend()


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with cluster(tmp_path) as running:
        yield running


@pytest.mark.parametrize("strike", [killed, frozen, cut_off], ids=lambda strike: strike.__name__)
async def test_every_deliberation_ends_once_whatever_becomes_of_the_leader(
    strike: Strike, servers: Cluster, tmp_path: Path, full: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if not full and strike is not killed:
        pytest.skip("only in `make faults`")
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)))
        model = await stack.enter_async_context(simulator("--latency-ms", "300", "--tokens", "12"))
        # Each service knows one server more than the other: after a partition one of them may stay on each side.
        first = _service(
            "service-0", tmp_path, http, NATS_URL=servers.url(), VLLM_URL=model, PARLEY_REPLICAS="3"
        )
        await first.start()
        stack.push_async_callback(first.stop)
        await first.ready()
        leader = await servers.leader(topology.DELIBERATIONS)
        others = [number for number in SERVERS if number != leader]
        second = _service(
            "service-1", tmp_path, http, NATS_URL=servers.url(leader), VLLM_URL=model, PARLEY_REPLICAS="3"
        )
        await second.start()
        stack.push_async_callback(second.stop)
        await second.ready()
        observer = await connect(servers.url(*others), "faults")
        stack.push_async_callback(close, observer)
        outcome = await load.run(observer, FULL if full else SHORT, lambda: strike(servers, leader))
        shown = f"{outcome}\n{first.log_end()}\n{second.log_end()}"
        logs = first.log_end(1_000_000) + second.log_end(1_000_000)
        print(
            f"{strike.__name__}: {dict(outcome.statuses)}, lost {len(outcome.lost)}, doubled "
            f"{len(outcome.doubled)}, late {len(outcome.late)}, heard twice {len(outcome.seen_twice)}"
        )
    assert (outcome.lost, outcome.doubled, outcome.late, outcome.unmarked) == ([], [], [], []), shown
    assert outcome.dead_letters == 0, shown
    assert set(outcome.statuses) == {"completed"}, shown
    assert "Traceback" not in logs
    # A stream between two leaders is not full.
    assert "no space left" not in f"{caplog.text}{logs}"


def _service(name: str, folder: Path, http: aiohttp.ClientSession, **settings: str) -> Process:
    port = free_port()

    async def ready() -> bool:
        return await answers(http, f"http://127.0.0.1:{port}/readyz")

    environment = plain_environment(**settings, PARLEY_POOL="local", PARLEY_HTTP_PORT=str(port))
    return Process(name, module("parley", "serve"), folder=folder, environment=environment, ready=ready)
