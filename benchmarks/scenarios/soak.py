"""Constant load for a long time, and a table of what must not grow.

The service runs with real Ray, a real nats-server and a simulated model, each in its own process, and is measured
from outside. Tallies are kept for three minutes (the minimum), so that they age out within the run. The streams keep
two days by design: they are judged by what one deliberation leaves in them. Exit code 1 if a figure grows or an
ending is lost.
"""

import argparse
import asyncio
import itertools
import json
import sys
import time
from dataclasses import dataclass, field

import uvloop
from nats.aio.msg import Msg

from benchmarks.growth import Limit, Sample, header, judge, row
from benchmarks.question import QUESTION
from parley.broker.core.messages import DeliberationCancel
from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.jetstream import JetStream
from parley.request_arguments import body_of, compose
from tests.rig.proc import actors, open_files, resident_mib
from tests.rig.service import Serving, serving, set_behaviour

MODEL_MS = 100.0
# Shares of the model's answers: some are retried, some are not, some never come.
FAULTS = {"500": 0.02, "429": 0.01, "garbage": 0.005, "400": 0.01, "hang": 0.001}
TIMEOUT_SECONDS = 10.0
# The promise: an ending at most one second after the deadline.
LATE_SECONDS = 1.0
# While its agents' calls run.
CANCEL_AFTER_SECONDS = 0.05
# The minimum of PARLEY_KEEP_SECONDS.
KEEP_SECONDS = 180.0
SAMPLES = 30
LONGEST_PAUSE_SECONDS = 60.0
# First allocators and caches fill, and Ray starts its processes. Then the first tallies age out.
WARM_UP_SECONDS = 90.0
FORGETTING_SECONDS = KEEP_SECONDS + 30.0

MIB = 2**20
STREAMS = {
    topology.REQUESTS: "asked",
    topology.DELIBERATIONS: "deliberations",
    topology.AGENT_REQUESTS: "requests",
    topology.AGENT_RESPONSES: "responses",
    topology.DEAD_LETTERS: "dead",
    topology.SUSPECTS: "suspects",
    topology.TALLIES: "tallies",
    topology.RESULTS: "results",
}
# Allowed rise from the first third to the last. Memory: about the difference of two runs of one build on a busy
# machine. nats-server's index grows with its streams; ten minutes do not show it (docs/performance.md).
LIMITS = (
    Limit("service MiB", 8.0, WARM_UP_SECONDS),
    Limit("service files", 2.0, WARM_UP_SECONDS),
    Limit("actors MiB", 16.0, WARM_UP_SECONDS),
    # Idle connections to the model: as many as calls overlapped at the busiest moment so far.
    Limit("actors files", 20.0, WARM_UP_SECONDS),
    Limit("nats MiB", 2 / 1024, FORGETTING_SECONDS, per_deliberation=True),
    Limit("nats files", 6.0, FORGETTING_SECONDS),
    Limit("consumers", 0.0),
    Limit("in flight", 10.0),
    Limit("requests", 10.0),
    # A deliberation leaves its request, one in twenty also a cancel; its ending; and three or four outcomes.
    Limit("asked", 1.1, WARM_UP_SECONDS, per_deliberation=True),
    Limit("asked MiB", 3 / 1024, WARM_UP_SECONDS, per_deliberation=True),
    Limit("deliberations", 1.1, WARM_UP_SECONDS, per_deliberation=True),
    Limit("responses", 3.2, WARM_UP_SECONDS, per_deliberation=True),
    Limit("deliberations MiB", 6 / 1024, WARM_UP_SECONDS, per_deliberation=True),
    Limit("responses MiB", 6 / 1024, WARM_UP_SECONDS, per_deliberation=True),
    Limit("dead", 0.0),
    Limit("suspects", 0.0),
    Limit("tallies", 100.0, FORGETTING_SECONDS),
    Limit("tallies MiB", 0.5, FORGETTING_SECONDS),
    Limit("results", 0.0),
)
SHOWN = [
    *("in flight", "lost", "late", "doubled", "service MiB", "service files", "actors MiB", "actors files"),
    *(
        "nats MiB",
        "nats files",
        "consumers",
        "asked",
        "asked MiB",
        "deliberations",
        "deliberations MiB",
        "requests",
        "responses",
    ),
    *("responses MiB", "tallies", "dead", "suspects"),
]


@dataclass(slots=True)
class Load:
    """Deliberations at a constant rate, however long they take, and how each ended."""

    jetstream: JetStream
    # Deadline by task_id, on the clock of `time.monotonic`.
    waiting: dict[str, float] = field(default_factory=dict)
    # Status by task_id.
    ended: dict[str, str] = field(default_factory=dict)
    late: int = 0
    doubled: int = 0
    # Requests that are being published.
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def listen(self) -> None:
        for subject in (topology.COMPLETED, topology.FAILED):
            await self.jetstream.nc.subscribe(subject, cb=self._hear)

    async def _hear(self, msg: Msg) -> None:
        ending = json.loads(msg.data)
        task_id = ending["task_id"]
        if task_id in self.ended:
            self.doubled += 1
            return
        self.ended[task_id] = sys.intern(ending["status"])
        self.late += time.monotonic() > self.waiting.pop(task_id) + LATE_SECONDS

    @property
    def lost(self) -> int:
        return sum(time.monotonic() > deadline + LATE_SECONDS for deadline in self.waiting.values())

    async def run(self, rate: float, seconds: float) -> None:
        started = time.monotonic()
        for number in itertools.count():
            due = started + number / rate
            if due > started + seconds:
                break
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(self._one(number))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        await asyncio.gather(*self._tasks)

    async def _one(self, number: int) -> None:
        """Of twenty, one is cancelled, one finishes early and one fails: it asks for an unknown model."""
        early = number % 20 == 1
        request = compose(
            QUESTION,
            task_id=f"soak-{number}",
            agents=4 if early else 3,
            min_responses=1,
            finish_early=early,
            model="unknown" if number % 20 == 2 else None,
            timeout_seconds=TIMEOUT_SECONDS,
        )
        task_id = f"soak-{number}"
        self.waiting[task_id] = time.monotonic() + TIMEOUT_SECONDS
        await self.jetstream.publish(topology.REQUESTED, body_of(request))
        if number % 20 == 0:
            await asyncio.sleep(CANCEL_AFTER_SECONDS)
            await self.jetstream.publish(
                topology.CANCEL, DeliberationCancel(task_id=task_id, reason="soak").encode()
            )


# ── sampling ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def sample(service: Serving, load: Load, seconds: float) -> Sample:
    actor_pids = actors(service.pid)
    figures: dict[str, float] = {
        "in flight": len(load.waiting),
        "lost": load.lost,
        "late": load.late,
        "doubled": load.doubled,
        "service MiB": service.resident_mib(),
        "service files": open_files(service.pid),
        "actors MiB": sum(map(resident_mib, actor_pids)),
        "actors files": sum(map(open_files, actor_pids)),
        "nats MiB": resident_mib(service.nats_pid),
        "nats files": open_files(service.nats_pid),
        "consumers": 0,
    }
    for info in await load.jetstream.js.streams_info():
        assert info.config.name is not None
        name = STREAMS[info.config.name]
        figures[name] = info.state.messages
        figures[f"{name} MiB"] = info.state.bytes / MIB
        figures["consumers"] += info.state.consumer_count
    return Sample(seconds, len(load.ended), figures)


# ── the run ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def run(options: argparse.Namespace) -> bool:
    """Print the table and the judgements. Returns whether all is well."""
    seconds = 60.0 * options.minutes
    pause = min(LONGEST_PAUSE_SECONDS, seconds / SAMPLES)
    samples: list[Sample] = []
    async with serving(
        pool=options.pool, latency_ms=MODEL_MS, environment={"PARLEY_KEEP_SECONDS": f"{KEEP_SECONDS:g}"}
    ) as service:
        await set_behaviour([service.model_url], faults=FAULTS)
        nc = await connect(service.nats_url, "soak")
        try:
            load = Load(JetStream(nc))
            await load.listen()
            print(
                f"{options.rate:g} deliberations/s for {options.minutes:g} minutes, pool {options.pool}",
                flush=True,
            )
            print(header(SHOWN) + "\n" + "|---" * (len(SHOWN) + 2) + "|", flush=True)
            started = time.monotonic()
            driving = asyncio.create_task(load.run(options.rate, seconds))
            while not driving.done():
                await asyncio.wait([driving], timeout=pause)
                if not driving.done():
                    samples.append(await sample(service, load, time.monotonic() - started))
                    print(row(samples[-1], SHOWN), flush=True)
            await driving
            await _last_endings(load)
            return _report(samples, load)
        finally:
            await close(nc)


async def _last_endings(load: Load) -> None:
    """Wait until each has its ending, or all others are late."""
    while load.waiting and load.lost < len(load.waiting):  # noqa: ASYNC110  # the time decides as well as a message
        await asyncio.sleep(0.05)


def _report(samples: list[Sample], load: Load) -> bool:
    statuses = {
        status: list(load.ended.values()).count(status) for status in sorted(set(load.ended.values()))
    }
    print("\n" + ", ".join(f"{count} {status}" for status, count in statuses.items()))
    growths = [judge(limit, samples) for limit in LIMITS]
    print("\n".join(map(str, growths)))
    counts = {"lost": load.lost, "late": load.late, "doubled": load.doubled}
    print("\n".join(f"{'GROWS' if count else 'ok':>6}  {name}: {count}" for name, count in counts.items()))
    return all(growth.flat for growth in growths) and not any(counts.values())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=20.0, help="deliberations asked for each second")
    parser.add_argument("--pool", choices=("ray", "local"), default="ray")


def main(options: argparse.Namespace) -> int:
    return 0 if uvloop.run(run(options)) else 1
