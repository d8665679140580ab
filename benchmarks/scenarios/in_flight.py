"""Ten thousand deliberations in flight: do all end, and how much memory do they take? Two rounds, to see what memory
stays.

30,000 calls are 30,000 connections: more than one process may have open files, or one address and port may have
clients. So there are several simulated models, and the actors share the calls.
"""

import asyncio
import json
import math
import os
import re
import time
from collections import Counter
from dataclasses import dataclass, field

from nats.aio.msg import Msg

from benchmarks.question import QUESTION
from benchmarks.report import Result, Target
from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.jetstream import JetStream
from parley.request_arguments import body_of, compose
from tests.rig.proc import actors, descendants, listen_overflows, proportional_mib
from tests.rig.service import Backends, Serving, backends, model_counts, raise_file_limit, set_behaviour

AGENTS = 3
COUNT = 10_000
MODEL_SECONDS = 30.0
# Of the service and all of Ray's processes, without nats-server, the simulated models and this process.
MOST_MIB = 2048.0
# The second round may leave this much more than the first. Fragmented memory settles by the third or fourth round (with
# 3,000: 848, 862, 876, 882 and 882 MiB); a leak grows by the same amount in every round.
GROWTH = 0.10
ACTORS = 2
# Connections of one simulated model: far below the usual limits of files (20,000) and of ports to one address (28,000),
# because its listening socket holds only 128 unaccepted ones. The figures say how many found that queue full.
CALLS_A_MODEL = 2_500
TIMEOUT_SECONDS = 1_800.0
# After a round: idle connections close (15 s), and the garbage collector runs.
SETTLE_SECONDS = 25.0
SAMPLE_SECONDS = 1.0
# Publishes that wait for their acknowledgement.
UNACKNOWLEDGED = 256
# Differs between failures of the same kind.
_VARIABLE = re.compile(r"http://[^\s:,]+:\d+|\d+\.\d+ s|for \d+ s|since \S+")


@dataclass(slots=True)
class Sample:
    """`seconds` into a round. Memory in MiB."""

    seconds: float
    deliberations: int
    calls: int
    service: dict[str, float]
    others: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.service.values())


@dataclass(slots=True)
class Round:
    """`statuses`: how the deliberations ended; "degraded" is one of its own. `errors`: of failed agents, by type and
    first words. `refused`: connections of any process on this machine that found a listening socket full."""

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
    # Deliberations whose ending was heard.
    _names: set[str] = field(default_factory=set)
    # Set when all have ended.
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
            self.errors[f"{agent['error_type']}: {_VARIABLE.sub('…', agent['error'])[:90]}"] += 1
        self.ended += 1
        if self.ended == self.count:
            self._done.set()

    async def all_ended(self) -> None:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await self._done.wait()

    @property
    def peak(self) -> Sample:
        return max(self.samples, key=lambda sample: sample.total)


def service_mib(pid: int) -> dict[str, float]:
    """PSS by kind of process: the service itself, its Ray actors, Ray's other processes."""
    actor_pids = set(actors(pid))
    others = [each for each in descendants(pid) if each not in actor_pids]
    return {
        "service": proportional_mib(pid),
        "Ray actors": sum(map(proportional_mib, actor_pids)),
        "Ray's own processes": sum(map(proportional_mib, others)),
    }


def others_mib(service_pid: int, nats_pid: int) -> dict[str, float]:
    """PSS of the other processes of this measurement, all started by this one."""
    known = {service_pid, nats_pid, *descendants(service_pid)}
    models = [pid for pid in descendants(os.getpid()) if pid not in known]
    return {
        "nats-server": proportional_mib(nats_pid),
        "simulated models": sum(map(proportional_mib, models)),
        "load": proportional_mib(os.getpid()),
    }


def _memory(mib: dict[str, float]) -> str:
    return ", ".join(f"{kind} {value:.0f} MiB" for kind, value in mib.items())


async def look(
    started: Backends, service: Serving, jetstream: JetStream, round_: Round, began: float
) -> Sample:
    """Deliberations in flight are those with a tally, less those whose ending was heard."""
    info = await jetstream.js.stream_info(topology.TALLIES)
    ended = round_.ended
    running = (await model_counts(started.model_urls))["running"]
    ours, others = await asyncio.to_thread(
        lambda: (service_mib(service.pid), others_mib(service.pid, started.nats.pid))
    )
    recorded = info.state.messages - round_.recorded_before
    return Sample(time.monotonic() - began, recorded - ended, running, ours, others)


async def one_round(
    started: Backends, service: Serving, jetstream: JetStream, name: str, count: int
) -> Round:
    before = (await jetstream.js.stream_info(topology.TALLIES)).state.messages
    found = Round(name, count, recorded_before=before)
    heard = [
        await jetstream.nc.subscribe(subject, cb=found.hear)
        for subject in (topology.COMPLETED, topology.FAILED)
    ]
    began, refused = time.monotonic(), listen_overflows()

    async def watch() -> None:
        while True:
            found.samples.append(await look(started, service, jetstream, found, began))
            last = found.samples[-1]
            if len(found.samples) % 5 == 1:
                memory = _memory({**last.service, **last.others})
                state = f"{last.deliberations} in flight, {last.calls} calls, {found.ended} ended"
                print(f"  {name} {last.seconds:5.0f} s: {state}, {memory}", flush=True)
            await asyncio.sleep(SAMPLE_SECONDS)

    watching = asyncio.create_task(watch())
    try:
        await publish(jetstream, name, count)
        await found.all_ended()
    finally:
        found.seconds = time.monotonic() - began
        found.refused = listen_overflows() - refused
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        for each in heard:
            await each.unsubscribe()
    told = ", ".join(f"{count} {what}" for what, count in (found.statuses + found.errors).items())
    print(f"  {name} in {found.seconds:.0f} s: {told}; {found.refused} connections refused", flush=True)
    return found


async def publish(
    jetstream: JetStream,
    name: str,
    count: int,
    *,
    agents: int = AGENTS,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> None:
    """Store `count` requests named NAME-0, NAME-1, …"""
    left = iter(range(count))

    async def lane() -> None:
        for number in left:
            request = compose(
                QUESTION, task_id=f"{name}-{number}", agents=agents, timeout_seconds=timeout_seconds
            )
            await jetstream.publish(topology.REQUESTED, body_of(request))

    await asyncio.gather(*(lane() for _ in range(min(UNACKNOWLEDGED, count))))


async def run(
    count: int = COUNT, *, model_seconds: float = MODEL_SECONDS, settle_seconds: float = SETTLE_SECONDS
) -> Result:
    raise_file_limit()
    calls = count * AGENTS
    models = math.ceil(calls / CALLS_A_MODEL)
    environment = {
        "PARLEY_POOL_ACTORS": str(ACTORS),
        # Rounded up, so that no job waits for a slot while another actor has a free one.
        "PARLEY_POOL_SLOTS": str(math.ceil(calls / ACTORS)),
        "PARLEY_TIMEOUT_SECONDS": f"{TIMEOUT_SECONDS:g}",
    }
    async with backends("--latency-ms", "0", models=models) as started:
        service = await started.serve(environment)
        # Only now: readiness waits for a token of each server, at most 30 s.
        await set_behaviour(started.model_urls, latency_ms=1000 * model_seconds)
        nc = await connect(service.nats_url, "in-flight")
        try:
            jetstream = JetStream(nc)
            rounds, after = [], []
            idle = service_mib(service.pid)
            for name in ("first", "second"):
                rounds.append(await one_round(started, service, jetstream, name, count))
                await asyncio.sleep(settle_seconds)
                after.append(service_mib(service.pid))
                print(f"  after {name}: {_memory(after[-1])}", flush=True)
            log = service.log.read_text(errors="replace").splitlines()
            for line in log[-10:]:
                print(f"  the service's log: {line[:300]}")
        finally:
            await close(nc)
    return judge(count, rounds, idle, after, len(log))


def judge(
    count: int, rounds: list[Round], idle: dict[str, float], after: list[dict[str, float]], log_lines: int = 0
) -> Result:
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
    figures |= {f"at the peak, {kind} MiB": mib for kind, mib in (peak.service | peak.others).items()}
    for place, each in zip(("first", "second"), after, strict=True):
        figures |= {f"after the {place}, {kind} MiB": mib for kind, mib in each.items()}
    figures["lines in the service's log"] = log_lines
    how = f"{count:,} deliberations of {AGENTS} agents, twice, calls of {MODEL_SECONDS:g} s; PSS of the service and Ray"
    return Result("in-flight", how, targets, figures)


def _most(found: Round) -> int:
    return max((sample.deliberations for sample in found.samples), default=0)
