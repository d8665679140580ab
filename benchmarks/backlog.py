"""A long queue that waited while the service was down: is it drained as fast in the end as in the beginning?

The requests are in JetStream before the service is started. Nothing listens while it works: when each ending was stored is read
from the stream afterwards, by nats-server's own clock.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing

from benchmarks.flight import publish
from benchmarks.parts import Parts, parts
from benchmarks.service import resident_mib
from benchmarks.targets import Found, Target
from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.scan import scan

COUNT = 100_000
AGENTS = 1
MODEL_MS = 5.0
TIMEOUT_SECONDS = 3_600.0
# Of the first tenth's throughput, what the last one must have.
SHARE = 0.9
LOOK_SECONDS = 2.0
SAY_EVERY = 5
TENTHS = 10
# Read back at a time: an ending of one agent is small.
BATCH = 1_000


def tenths(moments: Sequence[float]) -> list[float]:
    """Throughput of each tenth of the endings, a second, from when each was stored (seconds, in any order)."""
    ranked = sorted(moments)
    rates = []
    for tenth in range(TENTHS):
        first, last = tenth * len(ranked) // TENTHS, (tenth + 1) * len(ranked) // TENTHS
        # From the ending before the tenth's first; the very first has none before it.
        start = max(0, first - 1)
        rates.append((last - 1 - start) / max(1e-9, ranked[last - 1] - ranked[start]))
    return rates


async def drained(its: Parts, wire: JetStream, count: int, pid: int) -> float:
    """Wait for all endings; the service's own memory at its highest, MiB."""
    started, highest = time.monotonic(), 0.0
    for look in range(10**9):
        state = (await wire.js.stream_info(topology.DELIBERATIONS, subjects_filter=topology.COMPLETED)).state
        done = (state.subjects or {}).get(topology.COMPLETED, 0)
        highest = max(highest, resident_mib(pid))
        if look % SAY_EVERY == 0 or done == count:
            seconds = time.monotonic() - started
            nats = resident_mib(its.nats.pid)
            waiting = (await wire.js.stream_info(topology.AGENT_REQUESTS)).state.messages
            print(
                f"  {seconds:5.0f} s: {done} ended, {waiting} wait for an agent; service {resident_mib(pid):.0f} MiB, "
                f"nats-server {nats:.0f} MiB",
                flush=True,
            )
        if done >= count:
            break
        if time.monotonic() - started > TIMEOUT_SECONDS:
            raise TimeoutError(f"{done} of {count} have ended")
        await asyncio.sleep(LOOK_SECONDS)
    return highest


async def moments(wire: JetStream) -> list[float]:
    """When each ending was stored, in seconds since the epoch."""
    async with aclosing(scan(wire, topology.DELIBERATIONS, topology.COMPLETED, batch=BATCH)) as messages:
        return [message.metadata.timestamp.timestamp() async for message in messages]


async def run(count: int = COUNT) -> Found:
    async with parts("--latency-ms", str(MODEL_MS)) as its:
        nc = await connect(its.nats.url, "backlog")
        try:
            await topology.provision(nc.jetstream())
            wire = JetStream(nc)
            began = time.monotonic()
            await publish(wire, "backlog", count, agents=AGENTS, timeout_seconds=TIMEOUT_SECONDS)
            published = time.monotonic() - began
            print(f"  {count} requests published in {published:.1f} s; the service starts", flush=True)
            service = await its.serve()
            highest = await drained(its, wire, count, service.pid)
            stored = await moments(wire)
        finally:
            await close(nc)
    return judge(count, stored, highest)


def judge(count: int, stored: Sequence[float], highest_mib: float) -> Found:
    rates = tenths(stored)
    targets = [
        Target("completed", len(stored), count, at_least=True),
        Target("last tenth's throughput over the first's", rates[-1] / rates[0], SHARE, at_least=True),
    ]
    figures = {f"tenth {place}, deliberations/s": rate for place, rate in enumerate(rates, 1)}
    figures["all, deliberations/s"] = (len(stored) - 1) / (max(stored) - min(stored))
    figures["the service's own process at most, MiB"] = highest_mib
    how = f"{count:,} deliberations of {AGENTS} agent, model {MODEL_MS:g} ms, queued before the service was started"
    return Found("backlog", how, targets, figures)
