"""A store that is full across a deadline: it is said everywhere, and every deliberation ends once there is room."""

import asyncio
import time
from pathlib import Path

import aiohttp
import pytest

from parley.app import Service, service
from parley.broker.core.errors import StoreFull
from parley.broker.core.messages import DeliberationFailed
from parley.client import Client, connect
from parley.doctor import examine
from parley.handlers.routes import Part
from parley.job import Job
from parley.settings import load
from tests.harness import until
from tests.rig.small_store import DISK, LIMITS, SmallStore, small_store

COUNT = 20
TIMEOUT_SECONDS = 3.0
NO_ROOM = "JetStream stores nothing: no space left"
# Endings come this long after there is room. A restarted server has to be found again first.
LATE_SECONDS = {DISK: 8.0, **dict.fromkeys(LIMITS, 2.0)}


@pytest.mark.parametrize("kind", [*LIMITS, DISK])
async def test_every_deliberation_ends_once_there_is_room(kind: str, tmp_path: Path) -> None:
    async with small_store(kind, tmp_path) as store:
        if store is None:
            pytest.skip("a small disk is a tmpfs, which only root may mount")
        settings = load(nats_url=store.url, pool="local", http_port=0, home=tmp_path, drain_seconds=0.1)
        # No agent runs, so nothing but the deadline ends a deliberation.
        async with (
            service(settings, frozenset(Part) - {Part.DISPATCH}) as running,
            connect(store.url) as client,
        ):
            await _end(store, running, client, LATE_SECONDS[kind])


async def _end(store: SmallStore, running: Service, client: Client, late_seconds: float) -> None:
    asked = [
        await client.submit("x", agents=2, timeout_seconds=TIMEOUT_SECONDS, task_id=f"t-{number}")
        for number in range(COUNT)
    ]
    deadline = time.monotonic() + TIMEOUT_SECONDS
    await until(lambda: _recorded(client), "all are recorded")
    await store.fill()
    full = time.monotonic()
    await until(lambda: _unready(running, NO_ROOM), "it is unready, with the cause", 10.0)
    known = time.monotonic() - full
    assert known < 5.0
    await _is_said(store, client)
    await asyncio.sleep(max(0.0, deadline + 1.5 - time.monotonic()))  # the deadlines fire in vain
    await store.free()
    room = time.monotonic()
    endings = await asyncio.gather(*(_ending(client, submitted) for submitted in asked))
    took = time.monotonic() - room
    print(
        f"{store.kind}: known after {known:.1f} s, {len(endings)} of {COUNT} ended {took:.1f} s after there was room"
    )
    assert took < late_seconds
    assert {ending.status for ending in endings} == {"timeout"}
    await until(lambda: _ready(running), "it is ready again", 20.0)


async def _is_said(store: SmallStore, client: Client) -> None:
    with pytest.raises(StoreFull, match=NO_ROOM):
        await client.submit("x" * 8_000, agents=2, timeout_seconds=TIMEOUT_SECONDS)  # more than a page
    found = [finding async for finding in examine(load(nats_url=store.url))]
    (said,) = [finding for finding in found if finding.what == "store"]
    assert not said.ok
    assert said.detail.startswith(NO_ROOM)


async def _recorded(client: Client) -> bool:
    return len(await client.tallies()) == COUNT


async def _ending(client: Client, submitted: Job) -> DeliberationFailed:
    ending = await client.ending(submitted, wait_seconds=60)
    assert isinstance(ending, DeliberationFailed)
    return ending


async def _unready(running: Service, cause: str) -> bool:
    status, body = await _readyz(running)
    return status == 503 and cause in body


async def _ready(running: Service) -> bool:
    return "store" not in (await _readyz(running))[1]


async def _readyz(running: Service) -> tuple[int, str]:
    async with aiohttp.ClientSession() as http, http.get(f"{running.http_url}/readyz") as response:
        return response.status, await response.text()
