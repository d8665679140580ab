"""So many deliberations in flight at once: do all end, and what does it take in memory? Twice in one service, for what stays.

30,000 calls are 30,000 connections: more than one process may have open files, and than one address and port may have from here.
So there are several simulated models, and the actors share the calls.
"""

import asyncio
import json
import math
import re
import time
from collections import Counter
from dataclasses import dataclass, field

from nats.aio.msg import Msg

from benchmarks.memory import OURS, others_mib, ours_mib, overflows
from benchmarks.parts import Parts, behave, parts, raise_file_limit, seen
from benchmarks.question import QUESTION
from benchmarks.service import Serving
from benchmarks.targets import Found, Target
from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.jetstream import JetStream
from parley.client import compose

AGENTS = 3
COUNT = 10_000
MODEL_SECONDS = 30.0
# Of the service with everything of Ray's. Neither nats-server nor the simulated models nor the load.
MOST_MIB = 2048.0
# The second round may leave so much more than the first. What an allocator keeps in pieces settles by the third or fourth round
# (measured with 3,000: 848, 862, 876, 882 and 882 MiB); a leak would be as much again with every round.
GROWTH = 0.10
ACTORS = 2
# Connections of one simulated model: below the usual limits of files (20,000) and of ports to one address (28,000). Fewer still, for
# its listening socket holds only 128 that are not accepted yet; how many found it full is among the figures.
CALLS_A_MODEL = 2_500
TIMEOUT_SECONDS = 1_800.0
# After a round: kept connections are closed (15 s), the collector has come by.
SETTLE_SECONDS = 25.0
SAMPLE_SECONDS = 1.0
# Published and not acknowledged by JetStream yet.
PUBLISHING = 256
_ADDRESS = re.compile(r"http://[^\s:,]+:\d+|\d+\.\d+ s|for \d+ s|since \S+")


@dataclass(slots=True)
class Sample:
    """`seconds` into a round. Memory in MiB."""

    seconds: float
    deliberations: int
    calls: int
    ours: dict[str, float]
    others: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.ours.values())


@dataclass(slots=True)
class Round:
    """`statuses`: how the deliberations ended; a degraded one is none that completed. `errors`: of agents that failed, by their type
    and the first words of what was said. `refused`: connections that found a listening socket full, of anybody on this machine."""

    name: str
    count: int
    statuses: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    recorded_before: int = 0
    ended: int = 0
    doubled: int = 0
    refused: int = 0
    samples: list[Sample] = field(default_factory=list)
    seconds: float = 0.0
    _names: set[str] = field(default_factory=set)
    _done: asyncio.Event = field(default_factory=asyncio.Event)

    async def hear(self, msg: Msg) -> None:
        ending = json.loads(msg.data)
        name = ending["task_id"]
        if not name.startswith(self.name):
            return
        if name in self._names:
            self.doubled += 1
            return
        self._names.add(name)
        status = "degraded" if ending.get("degraded") else ending["status"]
        self.statuses[status] += 1
        for agent in ending.get("failed_agents", ()):
            self.errors[f"{agent['error_type']}: {_ADDRESS.sub('…', agent['error'])[:90]}"] += 1
        self.ended += 1
        if self.ended == self.count:
            self._done.set()

    async def all_ended(self, patience_seconds: float) -> None:
        async with asyncio.timeout(patience_seconds):
            await self._done.wait()

    @property
    def peak(self) -> Sample:
        return max(self.samples, key=lambda sample: sample.total)


async def look(its: Parts, service: Serving, wire: JetStream, round_: Round, started: float) -> Sample:
    """Deliberations in flight: those that the service has recorded, less those whose ending was heard."""
    info = await wire.js.stream_info(topology.TALLIES)
    ended = round_.ended
    running = (await seen(its.model_urls))["running"]
    ours, others = await asyncio.to_thread(
        lambda: (ours_mib(service.pid), others_mib(service.pid, its.nats.pid))
    )
    recorded = info.state.messages - round_.recorded_before
    return Sample(time.monotonic() - started, recorded - ended, running, ours, others)


async def one_round(its: Parts, service: Serving, wire: JetStream, name: str, count: int) -> Round:
    before = (await wire.js.stream_info(topology.TALLIES)).state.messages
    found = Round(name, count, recorded_before=before)
    heard = [
        await wire.nc.subscribe(subject, cb=found.hear) for subject in (topology.COMPLETED, topology.FAILED)
    ]
    started, refused = time.monotonic(), overflows()

    async def watch() -> None:
        while True:
            found.samples.append(await look(its, service, wire, found, started))
            last = found.samples[-1]
            if len(found.samples) % 5 == 1:
                print(
                    f"  {name} {last.seconds:5.0f} s: {last.deliberations} in flight, {last.calls} calls, {found.ended} ended, "
                    + ", ".join(
                        f"{kind} {mib:.0f} MiB" for kind, mib in {**last.ours, **last.others}.items()
                    ),
                    flush=True,
                )
            await asyncio.sleep(SAMPLE_SECONDS)

    watching = asyncio.create_task(watch())
    try:
        await publish(wire, name, count)
        await found.all_ended(TIMEOUT_SECONDS)
    finally:
        found.seconds = time.monotonic() - started
        found.refused = overflows() - refused
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        for each in heard:
            await each.unsubscribe()
    told = ", ".join(f"{count} {what}" for what, count in (found.statuses + found.errors).items())
    print(f"  {name} in {found.seconds:.0f} s: {told}; {found.refused} connections refused", flush=True)
    return found


async def publish(
    wire: JetStream, name: str, count: int, *, agents: int = AGENTS, timeout_seconds: float = TIMEOUT_SECONDS
) -> None:
    """Store so many requests, each with a name of its own."""
    left = iter(range(count))

    async def lane() -> None:
        for number in left:
            request = compose(
                QUESTION, task_id=f"{name}-{number}", agents=agents, timeout_seconds=timeout_seconds
            )
            await wire.publish(topology.REQUESTED, request.model_dump_json(exclude_none=True).encode())

    await asyncio.gather(*(lane() for _ in range(min(PUBLISHING, count))))


async def run(
    count: int = COUNT, *, model_seconds: float = MODEL_SECONDS, settle_seconds: float = SETTLE_SECONDS
) -> Found:
    raise_file_limit()
    calls = count * AGENTS
    models = math.ceil(calls / CALLS_A_MODEL)
    environment = {
        "PARLEY_POOL_ACTORS": str(ACTORS),
        # The jobs are shared evenly; some room, so that none waits for a place while another is idle.
        "PARLEY_POOL_SLOTS": str(math.ceil(calls / ACTORS)),
        "PARLEY_TIMEOUT_SECONDS": f"{TIMEOUT_SECONDS:g}",
    }
    async with parts("--latency-ms", "0", models=models) as its:
        service = await its.serve(environment)
        # Not before it is ready: readiness wants a token of each server, within 30 s.
        await behave(its.model_urls, latency_ms=1000 * model_seconds)
        nc = await connect(service.nats_url, "flight")
        try:
            wire = JetStream(nc)
            rounds, after = [], []
            idle = ours_mib(service.pid)
            for name in ("first", "second"):
                rounds.append(await one_round(its, service, wire, name, count))
                await asyncio.sleep(settle_seconds)
                after.append(ours_mib(service.pid))
                print(
                    f"  after {name}: "
                    + ", ".join(f"{kind} {mib:.0f} MiB" for kind, mib in after[-1].items()),
                    flush=True,
                )
            said = service.log.read_text(errors="replace").splitlines()
            for line in said[-10:]:
                print(f"  the service said: {line[:300]}")
        finally:
            await close(nc)
    return judge(count, rounds, idle, after, len(said))


def judge(
    count: int, rounds: list[Round], idle: dict[str, float], after: list[dict[str, float]], said: int = 0
) -> Found:
    first, second = (sum(each.values()) for each in after)
    peak = max((round_.peak for round_ in rounds), key=lambda sample: sample.total)
    targets = [
        Target(
            "completed, fewest of both",
            min(each.statuses.get("completed", 0) for each in rounds),
            count,
            at_least=True,
        ),
        Target("ended twice", sum(each.doubled for each in rounds), 0),
        Target("in flight at once", min(_most(each) for each in rounds), count, at_least=True),
        Target("peak memory", peak.total, MOST_MIB, "MiB"),
        Target("memory after the second over after the first", second / first, 1 + GROWTH),
    ]
    figures: dict[str, float] = {
        "calls at once, most": max(sample.calls for each in rounds for sample in each.samples)
    }
    figures |= {f"{each.name} round, seconds": each.seconds for each in rounds}
    figures |= {
        f"{each.name} round, {what}": number
        for each in rounds
        for what, number in (each.statuses + each.errors).items()
    }
    figures |= {
        f"{each.name} round, connections that found a listening socket full": each.refused for each in rounds
    }
    figures |= {f"{each.name} round, peak MiB": each.peak.total for each in rounds}
    figures |= {f"idle, {kind} MiB": mib for kind, mib in idle.items()}
    figures |= {f"at the peak, {kind} MiB": mib for kind, mib in (peak.ours | peak.others).items()}
    for place, each in zip(("first", "second"), after, strict=True):
        figures |= {f"after the {place}, {kind} MiB": mib for kind, mib in each.items()}
    figures["lines in the service's log"] = said
    how = f"{count:,} deliberations of {AGENTS} agents, twice, calls of {MODEL_SECONDS:g} s; PSS of {', '.join(OURS)}"
    return Found("flight", how, targets, figures)


def _most(found: Round) -> int:
    return max((sample.deliberations for sample in found.samples), default=0)
