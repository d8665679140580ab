"""Hostile payloads on every consumed subject: the service goes on, accounts for each of them, and its memory stays
flat.

`HOSTILE_PAYLOADS`: how many. 1,500 with every test run, 10,000 with `make faults`.
"""

import asyncio
import os
from collections import deque
from collections.abc import Sequence

import aiohttp
import pytest

from parley.broker.core.messages import DeliberationCompleted
from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.jetstream import JetStream
from parley.client import Client
from parley.client import connect as connect_client
from parley.job import Job
from tests.faults.hostile import DELETING, Hostile, Kind, headers, messages
from tests.faults.raw import raw_connection
from tests.faults.siege import Siege, backlog, read_books, settled, unaccounted
from tests.harness import fresh, until
from tests.rig.service import Serving, serving

COUNT = int(os.environ.get("HOSTILE_PAYLOADS", "1500"))
ROUND = 100
# Deliberations of each round: those that hostile messages name, and others.
VICTIMS, BYSTANDERS = 3, 1
# The model takes long enough for a victim to be running while the next rounds are sent.
MODEL_MS = 1_000
# The next round waits until fewer messages than this are left, so that the service keeps up.
MOST_WAITING = 150
SETTLE_SECONDS = 60.0
# Timeout of valid requests, and the default. A victim whose agents are stopped by a forged broadcast waits for it.
PATIENCE_SECONDS = 8.0
# Above the most of the first fifth of the messages. Cached outcomes may take 16 MiB (outcome_cache.MAX_BYTES), and
# the allocator as much for the largest messages. Measured: 6 to 14 MiB with 10,000 messages (83 MB), 8 to 16 MiB with
# 1,500.
GROWTH_MIB = 32.0


async def submitted(client: Client, what: str) -> Job:
    return await client.submit(what, task_id=fresh(what), agents=3, timeout_seconds=PATIENCE_SECONDS)


async def all_ended(client: Client) -> bool:
    return all(tally.ending_seq is not None for tally in await client.tallies())


async def ready(service: Serving) -> bool:
    async with aiohttp.ClientSession() as http, http.get(f"{service.http_url}/readyz") as response:
        return response.status == 200


async def failures(service: Serving) -> dict[str, float]:
    """Handlers that raised an unexpected error, by consumer. No message may cause one."""
    async with aiohttp.ClientSession() as http, http.get(f"{service.http_url}/metrics") as response:
        lines = [
            line
            for line in (await response.text()).splitlines()
            if line.startswith("parley_handler_failures_total{")
        ]
    counted = {line.split('"')[1]: float(line.split()[-1]) for line in lines}
    assert set(counted) == {durable.name for durable in topology.DURABLES}
    return {name: count for name, count in counted.items() if count}


ENVIRONMENT = {"PARLEY_POOL_SLOTS": "4096", "PARLEY_TIMEOUT_SECONDS": f"{PATIENCE_SECONDS}"}


@pytest.mark.timeout(60 + COUNT // 50)
async def test_no_payload_stops_the_service_or_is_lost_or_stays_in_memory() -> None:
    hostile = messages(COUNT)
    async with (
        serving(pool="local", latency_ms=MODEL_MS, environment=ENVIRONMENT) as service,
        connect_client(service.nats_url) as client,
        raw_connection(service.nats_url) as raw,
    ):
        nc = await connect(service.nats_url, "siege")
        try:
            await besiege(service, client, Siege(raw, deque(maxlen=2 * VICTIMS)), JetStream(nc), hostile)
            assert raw.errors == []
        finally:
            await close(nc)


async def besiege(
    service: Serving, client: Client, siege: Siege, wire: JetStream, hostile: Sequence[Hostile]
) -> None:
    victims: list[Job] = []
    bystanders: list[Job] = []
    sizes: list[float] = []

    async def keeping_up() -> bool:
        waiting = await backlog(wire)
        # Dispatched work waits for the model, not for the service.
        return sum(count for name, count in waiting.items() if name != topology.DISPATCH.name) < MOST_WAITING

    for start in range(0, len(hostile), ROUND):
        victims += [await submitted(client, "victim") for _ in range(VICTIMS)]
        bystanders += [await submitted(client, "bystander") for _ in range(BYSTANDERS)]
        siege.live.extend(victim.task_id for victim in victims[-VICTIMS:])
        await siege.send(hostile[start : start + ROUND])
        await until(keeping_up, "the service keeps up", SETTLE_SECONDS)
        sizes.append(service.resident_mib())

    endings = await asyncio.gather(*(client.ending(each, wait_seconds=SETTLE_SECONDS) for each in bystanders))
    assert all(isinstance(ending, DeliberationCompleted) and not ending.degraded for ending in endings)
    await settled(wire, SETTLE_SECONDS)
    # A request whose agents a forged `agent.cancel` has stopped ends by its deadline.
    await until(lambda: all_ended(client), "every deliberation has ended", SETTLE_SECONDS)
    await settled(wire, SETTLE_SECONDS)
    assert await ready(service)
    assert await failures(service) == {}
    assert "Traceback" not in service.log.read_text()

    books = await read_books(wire)
    wrong, fates = unaccounted(siege.sent, books)
    early, late = max(sizes[: len(sizes) // 5]), sizes[-1]
    print(
        f"\n{len(siege.sent)} hostile messages; memory {early:.0f} MiB after a fifth of them, {late:.0f} MiB after all"
    )
    print("\n".join(f"{count:>6} {fate}" for fate, count in sorted(fates.items())))
    assert not wrong, "\n".join(wrong)
    assert fates.total() == len(hostile)
    assert {name: statuses for name, statuses in books.endings.items() if len(statuses) != 1} == {}
    assert {each.task_id for each in victims} <= set(books.endings)
    assert late - early <= GROWTH_MIB

    # The server obeys these from any client. They delete messages; the service goes on with the next ones.
    await siege.send(Hostile(Kind.REQUEST, b"deliberation.requested", b"{}", block) for block in DELETING)
    await siege.send([Hostile(Kind.REQUEST, b"deliberation.requested", b"{}", headers(b"Nats-Rollup: all"))])
    await settled(wire, SETTLE_SECONDS)
    assert (await client.deliberate("still there?", timeout_seconds=30)).status == "completed"
