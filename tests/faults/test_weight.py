"""What a client that may only ask can send, by weight: each part stays under the chart's memory limit, and honest
requests beside it end in time."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import aiohttp
import pytest

from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import connect
from parley.broker.jetstream.jetstream import JetStream
from parley.client import Client
from parley.client import connect as connect_client
from tests.rig.child import answers, child, module
from tests.rig.proc import free_port, resident_mib
from tests.rig.service import Backends, backends, plain_environment
from tests.rig.waiting import until

# helm/parley/values.yaml.
LIMIT_MIB = 512.0
# Honest requests: their deadline, how much later an ending may be heard, and the pause between two of them.
DEADLINE_SECONDS, LATE_SECONDS, PAUSE_SECONDS = 3.0, 1.0, 0.1
# Publishing at one time.
AT_ONCE = 16


@cache
def bad_metadata() -> bytes:
    """0.9 MB: 80,000 values of the wrong type."""
    return b'{"task_description":"x","metadata":{' + b",".join(b'"%d":1' % n for n in range(80_000)) + b"}}"


@cache
def deep_rubric() -> bytes:
    """0.9 MB of valid JSON that is far over the bound of constraints."""
    return b'{"task_description":"x","constraints":{"rubric":{"a":[' + b",".join([b"[]"] * 300_000) + b"]}}}"


def tiny_keys(number: int) -> bytes:
    """Valid, 16 KB: 1,000 entries of metadata, which take ten times as much in memory."""
    metadata = {f"{number:x}{n}": f"{n}" for n in range(1_000)}
    return json.dumps(
        {"task_description": "x", "num_agents": 1, "timeout_seconds": 120, "metadata": metadata}
    ).encode()


def schemas(number: int, count: int) -> bytes:
    """A schema of so many; 64 KiB have room for 21,000 empty ones."""
    empty: dict[str, object] = {}
    schema = {"allOf": [empty] * count}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    asked = {"task_description": f"{number}", "num_agents": 1, "timeout_seconds": 30, "response_format": form}
    return json.dumps(asked, separators=(",", ":")).encode()


# What is sent: how often, what, and how late an honest ending may be then. Valid requests are taken in the order in which
# they came: honest ones wait behind 4,000 others, which is a matter of throughput and not of weight.
FLOODS: Mapping[str, tuple[int, Callable[[int], bytes], float]] = {
    "64 bad requests of 0.9 MB": (64, lambda _: bad_metadata(), LATE_SECONDS),
    "86 MiB of bad requests": (100, lambda _: deep_rubric(), LATE_SECONDS),
    "4,000 requests of 16 KB": (4_000, tiny_keys, 60.0),
    # Below the size from which messages take turns.
    "2.5 MB of schemas, too large": (40, lambda number: schemas(number, 21_000), LATE_SECONDS),
    "400 schemas as large as may be": (400, lambda number: schemas(number, 1_999), 10.0),
}


@dataclass
class Watch:
    """The most memory that each process has had, in MiB."""

    pids: Mapping[str, int]
    most: dict[str, float] = field(default_factory=dict)

    async def run(self) -> None:
        while True:
            for name, pid in self.pids.items():
                self.most[name] = max(self.most.get(name, 0.0), resident_mib(pid))
            await asyncio.sleep(0.02)


@asynccontextmanager
async def parts(started: Backends, folder: Path, *, apart: bool) -> AsyncIterator[dict[str, int]]:
    """Process ids, by part: `serve` with all parts, or one process for each."""
    async with AsyncExitStack() as stack, aiohttp.ClientSession() as http:
        pids: dict[str, int] = {}
        for name in ("intake", "aggregate", "dispatch") if apart else ("intake,aggregate,dispatch,query",):
            port = free_port()
            settings = {
                "NATS_URL": started.nats.url, "VLLM_URL": started.model_urls[0], "PARLEY_POOL": "local",
                "PARLEY_HTTP_PORT": str(port), "PARLEY_LOG_LEVEL": "WARNING",
            }  # fmt: skip
            log = folder / f"{name.split(',')[0]}.log"
            process = await stack.enter_async_context(
                child(
                    module("parley", "serve", "--parts", name),
                    log,
                    plain_environment(**settings),
                    stop_seconds=40,
                )
            )

            async def ready(url: str = f"http://127.0.0.1:{port}/readyz") -> bool:
                return await answers(http, url)

            await process.ready(ready, 90)
            pids[name] = process.pid
        yield pids


async def honest(client: Client, until_done: asyncio.Event) -> list[float]:
    """Ask now and then until the flood is handled. How much later than its deadline each ending was heard."""

    async def ask() -> float:
        began = time.monotonic()
        asked = await client.submit("honest", agents=2, timeout_seconds=DEADLINE_SECONDS)
        await client.ending(asked, wait_seconds=90)
        return time.monotonic() - began - DEADLINE_SECONDS

    asked = [asyncio.create_task(ask()) for _ in range(10)]
    while not until_done.is_set():
        asked.append(asyncio.create_task(ask()))
        await asyncio.sleep(PAUSE_SECONDS)
    asked += [asyncio.create_task(ask()) for _ in range(10)]
    return list(await asyncio.gather(*asked))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("apart", [True, False], ids=["parts apart", "all parts in one process"])
@pytest.mark.parametrize("flood", FLOODS)
async def test_no_weight_of_requests_ends_a_part_or_makes_others_late(
    flood: str, apart: bool, tmp_path: Path, full: bool
) -> None:
    if not full and (flood, apart) != ("64 bad requests of 0.9 MB", True):
        pytest.skip("only in `make faults`")
    count, body, late_seconds = FLOODS[flood]
    body(0)  # made before anything is measured
    async with (
        backends("--latency-ms", "20") as started,
        parts(started, tmp_path, apart=apart) as pids,
        connect_client(started.nats.url) as client,
    ):
        nc = await connect(started.nats.url, "flood")
        wire, watch, done = JetStream(nc), Watch(pids), asyncio.Event()
        watching = asyncio.create_task(watch.run())
        asking = asyncio.create_task(honest(client, done))

        async def settled() -> bool:
            info = await wire.js.consumer_info(topology.INTAKE.stream, topology.INTAKE.name)
            return (info.num_pending or 0) + (info.num_ack_pending or 0) < 5  # honest ones go on coming

        try:
            began, place = time.monotonic(), asyncio.Semaphore(AT_ONCE)

            async def send(number: int) -> None:
                async with place:
                    await wire.publish(topology.REQUESTED, body(number))

            await asyncio.gather(*map(send, range(count)))
            await until(settled, "the flood is handled", 120)
            took = time.monotonic() - began
            done.set()
            late = await asking
        finally:
            watching.cancel()
            await nc.close()
    most = {name: round(mib) for name, mib in watch.most.items()}
    print(
        f"{flood}: {most} MiB, {len(late)} honest, latest {max(late):.2f} s after its deadline, {took:.1f} s"
    )
    assert max(watch.most.values()) < LIMIT_MIB
    assert max(late) < late_seconds
