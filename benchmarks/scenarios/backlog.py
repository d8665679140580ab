"""A long queue that waits while the service is down: is its end worked off as fast as its beginning?

The requests are in JetStream before the service starts. No subscriber listens meanwhile: afterwards the stream tells
when each ending was stored, by nats-server's clock.
"""

import asyncio
import itertools
import time
from collections.abc import Sequence
from contextlib import aclosing

from benchmarks.report import Result, Target
from benchmarks.scenarios.in_flight import publish
from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.provision import provision
from parley.broker.jetstream.scan import scan
from tests.rig.proc import resident_mib
from tests.rig.service import Backends, backends

COUNT = 100_000
AGENTS = 1
MODEL_MS = 5.0
TIMEOUT_SECONDS = 3_600.0
# The last tenth has at least this share of the first one's throughput.
SHARE = 0.9
POLL_SECONDS = 2.0
PRINT_EVERY = 5
TENTHS = 10
# Endings read at a time: those of one agent are small.
BATCH = 1_000


def tenths(moments: Sequence[float]) -> list[float]:
    """Endings a second in each tenth. `moments`: when each was stored, in seconds, in any order."""
    ranked = sorted(moments)
    rates = []
    for tenth in range(TENTHS):
        first, last = tenth * len(ranked) // TENTHS, (tenth + 1) * len(ranked) // TENTHS
        # Measured from the last ending of the tenth before. The first tenth has none.
        start = max(0, first - 1)
        rates.append((last - 1 - start) / max(1e-9, ranked[last - 1] - ranked[start]))
    return rates


async def drain(started: Backends, jetstream: JetStream, count: int, pid: int) -> float:
    """Wait for all endings. Returns the highest memory of the service's own process, in MiB."""
    began, highest = time.monotonic(), 0.0
    for look in itertools.count():
        state = (
            await jetstream.js.stream_info(topology.DELIBERATIONS, subjects_filter=topology.COMPLETED)
        ).state
        done = (state.subjects or {}).get(topology.COMPLETED, 0)
        highest = max(highest, resident_mib(pid))
        if look % PRINT_EVERY == 0 or done == count:
            seconds = time.monotonic() - began
            nats = resident_mib(started.nats.pid)
            waiting = (await jetstream.js.stream_info(topology.AGENT_REQUESTS)).state.messages
            print(
                f"  {seconds:5.0f} s: {done} ended, {waiting} wait for an agent; "
                f"service {resident_mib(pid):.0f} MiB, nats-server {nats:.0f} MiB",
                flush=True,
            )
        if done >= count:
            break
        if time.monotonic() - began > TIMEOUT_SECONDS:
            raise TimeoutError(f"{done} of {count} have ended")
        await asyncio.sleep(POLL_SECONDS)
    return highest


async def moments(jetstream: JetStream) -> list[float]:
    """When each ending was stored, in seconds since the epoch."""
    async with aclosing(scan(jetstream, topology.DELIBERATIONS, topology.COMPLETED, batch=BATCH)) as messages:
        return [message.metadata.timestamp.timestamp() async for message in messages]


async def run(count: int = COUNT) -> Result:
    async with backends("--latency-ms", str(MODEL_MS)) as started:
        nc = await connect(started.nats.url, "backlog")
        try:
            await provision(nc.jetstream())
            jetstream = JetStream(nc)
            began = time.monotonic()
            await publish(jetstream, "backlog", count, agents=AGENTS, timeout_seconds=TIMEOUT_SECONDS)
            published = time.monotonic() - began
            print(f"  {count} requests published in {published:.1f} s; the service starts", flush=True)
            service = await started.serve()
            highest = await drain(started, jetstream, count, service.pid)
            stored = await moments(jetstream)
        finally:
            await close(nc)
    return judge(count, stored, highest)


def judge(count: int, stored: Sequence[float], highest_mib: float) -> Result:
    rates = tenths(stored)
    targets = [
        Target("completed", len(stored), count, at_least=True),
        Target("last tenth's throughput over the first's", rates[-1] / rates[0], SHARE, at_least=True),
    ]
    figures = {f"tenth {place}, deliberations/s": rate for place, rate in enumerate(rates, 1)}
    figures["all, deliberations/s"] = (len(stored) - 1) / (max(stored) - min(stored))
    figures["the service's own process at most, MiB"] = highest_mib
    how = (
        f"{count:,} deliberations of {AGENTS} agent, model {MODEL_MS:g} ms, queued before the service starts"
    )
    return Result("backlog", how, targets, figures)
