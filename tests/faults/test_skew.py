"""A machine whose clock is minutes or hours wrong: the service on it ends deliberations as any other does.

The clock of the service's process is moved by libfaketime (Debian's package `libfaketime`), and only the one that can be
set on a real machine: CLOCK_MONOTONIC stays as it is. nats-server keeps the right time.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache
from pathlib import Path

import aiohttp
import pytest

from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.embedded import embedded_nats
from parley.broker.jetstream.nats_client import NatsClient as Nats
from parley.client import connect as connect_client
from parley.local_nats_and_model import simulator
from tests.faults import load
from tests.faults.processes import Process
from tests.rig.child import answers, module
from tests.rig.debian import NotHere, unpacked
from tests.rig.proc import free_port
from tests.rig.service import plain_environment

COUNT, TIMEOUT_SECONDS = 40, 12.0
# The skews of the first service, in seconds; the second keeps the right time, if there is one.
SKEWS = {
    "ten minutes ahead": 600, "an hour ahead": 3_600, "three minutes ahead": 180,
    "three minutes behind": -180, "an hour behind": -3_600,
}  # fmt: skip
SHORT = {("an hour ahead", False), ("ten minutes ahead", True)}
# At once, to see the throughput, with a deadline that is far.
BURST, FAR_SECONDS = 100, 900.0

pytestmark = pytest.mark.timeout(240)


@cache
def libfaketime() -> str:
    """The library's path. Skips the test where it cannot be had."""
    where = "usr/lib/*/faketime/libfaketime.so.1"
    for root in (Path("/"), None):
        try:
            found = sorted((root or unpacked("libfaketime")).glob(where))
        except NotHere as error:
            pytest.skip(str(error))
        if found:
            return str(found[0])
    pytest.skip("Debian's libfaketime holds no library")


def skewed(seconds: float) -> dict[str, str]:
    """The environment of a process whose clock is `seconds` ahead."""
    if not seconds:
        return {}
    return {
        "LD_PRELOAD": libfaketime(),
        "FAKETIME": f"{seconds:+g}",
        "DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


@asynccontextmanager
async def services(folder: Path, *skews: float) -> AsyncIterator[tuple[str, Nats, list[str]]]:
    """A service for each skew: the URL of their NATS, a connection to it, and where they serve HTTP."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)))
        nats = await stack.enter_async_context(embedded_nats(folder / "nats"))
        model = await stack.enter_async_context(simulator("--latency-ms", "100", "--tokens", "12"))
        urls = []
        for number, skew in enumerate(skews):
            settings = {"NATS_URL": nats.url, "VLLM_URL": model, "PARLEY_POOL": "local"}
            url, process = _service(f"service-{number}", folder, http, {**settings, **skewed(skew)})
            await process.start()
            stack.push_async_callback(process.stop)
            await process.ready()
            urls.append(url)
        observer = await connect(nats.url, "faults")
        stack.push_async_callback(close, observer)
        yield nats.url, observer, urls


def _service(
    name: str, folder: Path, http: aiohttp.ClientSession, settings: dict[str, str]
) -> tuple[str, Process]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"

    async def ready() -> bool:
        return await answers(http, f"{url}/readyz")

    environment = plain_environment(**settings, PARLEY_HTTP_PORT=str(port))
    command = module("parley", "serve")
    return url, Process(name, command, folder=folder, environment=environment, ready=ready)


async def nothing() -> None:
    """No other fault."""


@pytest.mark.parametrize("alone", [False, True], ids=["one of two", "alone"])
@pytest.mark.parametrize("skew", SKEWS)
async def test_no_deliberation_ends_wrongly(skew: str, alone: bool, tmp_path: Path, full: bool) -> None:
    if not full and (skew, alone) not in SHORT:
        pytest.skip("only in `make faults`")
    skews = (SKEWS[skew],) if alone else (SKEWS[skew], 0)
    async with services(tmp_path, *skews) as (_, observer, urls):
        outcome = await load.run(observer, COUNT, nothing, timeout=TIMEOUT_SECONDS)
        metrics, ready = await get(f"{urls[0]}/metrics"), await get(f"{urls[0]}/readyz")
    assert dict(outcome.statuses) == {"completed": COUNT}
    assert (outcome.lost, outcome.doubled, outcome.late, outcome.unmarked) == ([], [], [], [])
    (line,) = [line for line in metrics.splitlines() if line.startswith("parley_clock_offset_seconds ")]
    assert float(line.split()[1]) == pytest.approx(SKEWS[skew], abs=0.5)
    assert "corrected for" in ready
    assert '"ready": true' in ready
    print(f"{skew}, {'alone' if alone else 'one of two'}: {COUNT} of {COUNT} completed")


async def test_the_throughput_is_that_of_right_clocks(tmp_path: Path, full: bool) -> None:
    """Three minutes ahead, each ending counted as decided long ago, and was looked for in the whole stream."""
    if not full:
        pytest.skip("only in `make faults`")
    took = {}
    for skew in (0, 180):
        folder = tmp_path / str(skew)
        folder.mkdir()
        async with services(folder, skew, 0) as (url, _, _), connect_client(url) as client:
            for _ in range(2):  # the first warms up
                began = time.monotonic()
                await together(
                    lambda: client.deliberate("x", agents=2, timeout_seconds=FAR_SECONDS),  # awaited here
                    BURST,
                )
                took[skew] = time.monotonic() - began
    print(f"{BURST} at once: {took[0]:.1f} s with right clocks, {took[180]:.1f} s with one 3 min ahead")
    assert took[180] < 2 * took[0] + 0.5


async def together(ask: Callable[[], Coroutine[object, object, object]], count: int) -> None:
    await asyncio.gather(*(ask() for _ in range(count)))


async def get(url: str) -> str:
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        return await response.text()
