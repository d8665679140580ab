"""Many deadlines at once: how late do the endings come? No agent is at work, so every deliberation ends by its
deadline. One process takes in, others count and expire, as in production.
"""

import argparse
import asyncio
import json
import math
import os
import random
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path

import aiohttp
import uvloop

from benchmarks.report import Result, Target, add_json, finish
from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.embedded import embedded_nats
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.scan import scan
from parley.request_arguments import body_of, compose
from tests.rig.child import answers, child, module
from tests.rig.proc import cpu_seconds, free_port
from tests.rig.service import READY_SECONDS, plain_environment
from tests.rig.waiting import until

COUNT = 10_000
# All deadlines fall within this.
SPREAD_SECONDS = 1.0
# Late by no more than this, at the 99th percentile.
MOST_LATE_SECONDS = 2.0
AGENTS = 3
# Requests taken in a second, by a margin: the deadlines come after all are recorded.
INTAKE_RATE = 300
# Publishes that wait for their acknowledgement.
UNACKNOWLEDGED = 256
PATIENCE_SECONDS = 120.0


@asynccontextmanager
async def _part(parts: str, number: int, nats_url: str, folder: Path) -> AsyncIterator[int]:
    """A process of the service. Yields its process id."""
    port = free_port()
    settings = {
        "NATS_URL": nats_url, "VLLM_URL": "http://127.0.0.1:9", "VLLM_MODEL": "none", "PARLEY_HTTP_PORT": str(port),
        "PARLEY_LOG_LEVEL": "WARNING",
    }  # fmt: skip
    log = folder / f"{parts.replace(',', '-')}-{number}.log"
    command = module("parley", "serve", "--parts", parts)
    async with (
        child(command, log, plain_environment(**settings), own_session=False) as process,
        aiohttp.ClientSession() as http,
    ):
        await process.ready(lambda: answers(http, f"http://127.0.0.1:{port}/readyz"), READY_SECONDS)
        yield process.pid


async def run(count: int = COUNT, aggregates: int = 1) -> Result:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parley-deadlines-")))
        nats = await stack.enter_async_context(embedded_nats(folder, sync_always=False))
        await stack.enter_async_context(_part("intake,query", 1, nats.url, folder))
        pids = [
            await stack.enter_async_context(_part("aggregate", number, nats.url, folder))
            for number in range(1, aggregates + 1)
        ]
        nc = await connect(nats.url, "benchmark")
        stack.push_async_callback(close, nc)
        jetstream = JetStream(nc)
        due = time.time() + count / INTAKE_RATE + 2
        deadlines = await _ask(jetstream, count, due)
        recorded = await _stored(jetstream, topology.TALLIES, count, due)
        await asyncio.sleep(max(0.0, due - time.time()))
        before = sum(map(cpu_seconds, pids))
        ended = await _endings(jetstream, count)
        used = sum(map(cpu_seconds, pids)) - before
    return _result(count, aggregates, deadlines, ended, recorded, used)


async def _ask(jetstream: JetStream, count: int, due: float) -> dict[str, float]:
    """Ask `count` times. Returns each deadline by the server's clock, by the name that the service gives."""
    room = asyncio.Semaphore(UNACKNOWLEDGED)

    async def one(at: float) -> tuple[int, float]:
        async with room:
            timeout = at - time.time()
            request = compose("x", agents=AGENTS, timeout_seconds=timeout)
            body = body_of(request)
            return (await jetstream.publish(topology.REQUESTED, body)).seq, timeout

    draw = random.Random(1)
    asked = await asyncio.gather(*(one(due + SPREAD_SECONDS * draw.random()) for _ in range(count)))
    timeouts = dict(asked)
    found: dict[str, float] = {}
    async with aclosing(scan(jetstream, topology.REQUESTS, topology.REQUESTED)) as messages:
        async for message in messages:
            seq = message.metadata.sequence.stream
            found[f"d-{seq}"] = message.metadata.timestamp.timestamp() + timeouts[seq]
    return found


async def _stored(jetstream: JetStream, stream: str, count: int, due: float) -> bool:
    """Whether `stream` holds `count` subjects before the deadlines come."""

    async def all_there() -> bool:
        info = await jetstream.js.stream_info(stream)
        return (info.state.messages or 0) >= count

    try:
        await until(all_there, f"{count} messages in {stream}", max(1.0, due - time.time()))
    except AssertionError:
        return False
    return True


async def _endings(jetstream: JetStream, count: int) -> dict[str, float]:
    """When each ending was stored. Looks rarely: looking costs the server time."""

    async def ended() -> bool:
        info = await jetstream.js.stream_info(topology.DELIBERATIONS, subjects_filter=topology.FAILED)
        await asyncio.sleep(0.25)
        return sum((info.state.subjects or {}).values()) >= count

    await until(ended, f"{count} endings", PATIENCE_SECONDS)
    found: dict[str, float] = {}
    async with aclosing(scan(jetstream, topology.DELIBERATIONS, topology.FAILED)) as messages:
        async for message in messages:
            task_id = json.loads(message.data)["task_id"]
            found.setdefault(task_id, message.metadata.timestamp.timestamp())
    return found


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that `share` of `values` do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def _result(
    count: int,
    aggregates: int,
    deadlines: dict[str, float],
    ended: dict[str, float],
    recorded: bool,
    used: float,
) -> Result:
    late = [ended[name] - at for name, at in deadlines.items()]
    span = max(ended.values()) - min(deadlines.values())
    how = (
        f"{count} deadlines within {SPREAD_SECONDS:g} s, {AGENTS} agents each and none at work; "
        f"{aggregates} aggregate, 1 intake; load average {os.getloadavg()[0]:.1f}"
    )
    targets = [Target("late, 99th percentile", percentile(late, 0.99), MOST_LATE_SECONDS, "s")]
    figures = {
        "late by more than a second, %": 100 * sum(each > 1 for each in late) / len(late),
        "late, median, s": percentile(late, 0.5),
        "late, most, s": max(late),
        "endings a second": len(late) / span,
        "CPU of the aggregates, µs an ending": 1e6 * used / count,
        "all were recorded before": float(recorded),
    }
    return Result("deadlines", how, targets, figures)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--aggregates", type=int, default=1, help="processes that count and expire")
    add_json(parser)


def main(options: argparse.Namespace) -> int:
    return finish([uvloop.run(run(options.count, options.aggregates))], options.json)
