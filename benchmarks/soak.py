"""Constant load for a long time, and a table of what must not grow: `make soak MINUTES=60`.

The service runs on real Ray, with a real nats-server and a simulated model, in processes of their own, and is measured from
outside. Tallies are kept for three minutes only (the least there is), so that what ages out does so within the run. The streams
keep two days by design: they are judged by what one deliberation leaves in them. Ends with 1 when something grows or is lost.
"""

import argparse
import asyncio
import itertools
import json
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import uvloop
from nats.aio.msg import Msg

from benchmarks.machine import descendants
from benchmarks.service import Serving, resident_mib, serving
from benchmarks.steady import Figure, Sample, header, judge, row
from parley.broker.core.messages import DeliberationCancel
from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.jetstream import JetStream
from parley.client import compose

QUESTION = "Write a function that computes the factorial of a non-negative integer."
MODEL_MS = 100.0
# Of the model's answers. What is retried, what is not, and what never comes.
FAULTS = {"500": 0.02, "429": 0.01, "garbage": 0.005, "400": 0.01, "hang": 0.001}
TIMEOUT_SECONDS = 10.0
# The promise: an ending at the latest one second after the deadline.
LATE_SECONDS = 1.0
# In the midst of its agents' calls.
CANCEL_AFTER_SECONDS = 0.05
# The least that PARLEY_KEEP_SECONDS takes.
KEEP_SECONDS = 180.0
SAMPLES = 30
LONGEST_PAUSE_SECONDS = 60.0
# Allocators and caches fill, Ray starts what it starts. Then tallies must have begun to be forgotten.
WARM_UP_SECONDS = 90.0
FORGETTING_SECONDS = KEEP_SECONDS + 30.0

MIB = 2**20
STREAMS = {
    topology.DELIBERATIONS: "deliberations",
    topology.AGENT_REQUESTS: "requests",
    topology.AGENT_RESPONSES: "responses",
    topology.DEAD_LETTERS: "dead",
    topology.TALLIES: "tallies",
    topology.RESULTS: "results",
}
# What may be between the first third and the last. Memory: about what two runs of the same build differ by on a busy machine.
# nats-server keeps an index of what its streams hold, and those grow; in ten minutes nothing of it shows (docs/performance.md).
FIGURES = (
    Figure("service MiB", 8.0, WARM_UP_SECONDS),
    Figure("service files", 2.0, WARM_UP_SECONDS),
    Figure("actors MiB", 16.0, WARM_UP_SECONDS),
    # Connections to the model, kept alive: as many as calls overlapped at the busiest moment so far.
    Figure("actors files", 20.0, WARM_UP_SECONDS),
    Figure("nats MiB", 2 / 1024, FORGETTING_SECONDS, per_deliberation=True),
    Figure("nats files", 6.0, FORGETTING_SECONDS),
    Figure("consumers", 0.0),
    Figure("in flight", 10.0),
    Figure("requests", 10.0),
    # A deliberation leaves its request and its ending, one in twenty a cancel too; and its agents' outcomes, three and now and then four.
    Figure("deliberations", 2.1, WARM_UP_SECONDS, per_deliberation=True),
    Figure("responses", 3.2, WARM_UP_SECONDS, per_deliberation=True),
    Figure("deliberations MiB", 6 / 1024, WARM_UP_SECONDS, per_deliberation=True),
    Figure("responses MiB", 6 / 1024, WARM_UP_SECONDS, per_deliberation=True),
    Figure("dead", 0.0),
    Figure("tallies", 100.0, FORGETTING_SECONDS),
    Figure("tallies MiB", 0.5, FORGETTING_SECONDS),
    Figure("results", 0.0),
)
SHOWN = [
    *(
        "in flight",
        "lost",
        "late",
        "doubled",
        "service MiB",
        "service files",
        "actors MiB",
        "actors files",
        "nats MiB",
        "nats files",
    ),
    *(
        "consumers",
        "deliberations",
        "deliberations MiB",
        "requests",
        "responses",
        "responses MiB",
        "tallies",
        "dead",
    ),
]


@dataclass(slots=True)
class Load:
    """Deliberations asked for at a constant rate, however long they take, and what became of each."""

    wire: JetStream
    waiting: dict[str, float] = field(
        default_factory=dict
    )  # deadline by task_id, on the clock of `time.monotonic`
    ended: dict[str, str] = field(default_factory=dict)
    late: int = 0
    doubled: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def listen(self) -> None:
        for subject in (topology.COMPLETED, topology.FAILED):
            await self.wire.nc.subscribe(subject, cb=self._hear)

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
        """Of twenty, one is cancelled, one finishes early and one fails: it asks for a model that nobody serves."""
        early = number % 20 == 1
        request = compose(
            QUESTION,
            task_id=f"soak-{number}",
            agents=4 if early else 3,
            min_responses=1,
            finish_early=early,
            model="nobody-s" if number % 20 == 2 else None,
            timeout_seconds=TIMEOUT_SECONDS,
        )
        task_id = f"soak-{number}"
        self.waiting[task_id] = time.monotonic() + TIMEOUT_SECONDS
        await self.wire.publish(topology.REQUESTED, request.model_dump_json(exclude_none=True).encode())
        if number % 20 == 0:
            await asyncio.sleep(CANCEL_AFTER_SECONDS)
            await self.wire.publish(
                topology.CANCEL, DeliberationCancel(task_id=task_id, reason="soak").encode()
            )


# ── sampling ──────────────────────────────────────────────────────────────────────────────────────────────────────


def actors(pid: int) -> list[int]:
    """Process ids of the service's own Ray actors: below its own raylet, another's on this machine are not."""
    found = []
    for each in descendants(pid):
        with suppress(OSError):
            if Path(f"/proc/{each}/cmdline").read_bytes().startswith(b"ray::WorkerActor"):
                found.append(each)
    return found


def open_files(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


async def sample(service: Serving, load: Load, seconds: float) -> Sample:
    crew = actors(service.pid)
    figures: dict[str, float] = {
        "in flight": len(load.waiting),
        "lost": load.lost,
        "late": load.late,
        "doubled": load.doubled,
        "service MiB": service.resident_mib(),
        "service files": open_files(service.pid),
        "actors MiB": sum(map(resident_mib, crew)),
        "actors files": sum(map(open_files, crew)),
        "nats MiB": resident_mib(service.nats_pid),
        "nats files": open_files(service.nats_pid),
        "consumers": 0,
    }
    for info in await load.wire.js.streams_info():
        assert info.config.name is not None
        name = STREAMS[info.config.name]
        figures[name] = info.state.messages
        figures[f"{name} MiB"] = info.state.bytes / MIB
        figures["consumers"] += info.state.consumer_count
    return Sample(seconds, len(load.ended), figures)


# ── the run ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def run(options: argparse.Namespace) -> bool:
    """Print the table and the verdicts; whether all is well."""
    seconds = 60.0 * options.minutes
    pause = min(LONGEST_PAUSE_SECONDS, seconds / SAMPLES)
    samples: list[Sample] = []
    async with serving(
        pool=options.pool, latency_ms=MODEL_MS, environment={"PARLEY_KEEP_SECONDS": f"{KEEP_SECONDS:g}"}
    ) as service:
        async with (
            aiohttp.ClientSession() as http,
            http.post(f"{service.model_url}/simulator", json={"faults": FAULTS}) as answer,
        ):
            assert answer.status == 200
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
            return _verdict(samples, load)
        finally:
            await close(nc)


async def _last_endings(load: Load) -> None:
    """Wait until each has its ending, or the last one is past its time."""
    while load.waiting and load.lost < len(load.waiting):  # noqa: ASYNC110  # time decides it as well as a message
        await asyncio.sleep(0.05)


def _verdict(samples: list[Sample], load: Load) -> bool:
    statuses = {
        status: list(load.ended.values()).count(status) for status in sorted(set(load.ended.values()))
    }
    print("\n" + ", ".join(f"{count} {status}" for status, count in statuses.items()))
    verdicts = [judge(figure, samples) for figure in FIGURES]
    print("\n".join(map(str, verdicts)))
    counts = {"lost": load.lost, "late": load.late, "doubled": load.doubled}
    print("\n".join(f"{'GROWS' if count else 'ok':>6}  {name}: {count}" for name, count in counts.items()))
    return all(verdict.flat for verdict in verdicts) and not any(counts.values())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=20.0, help="deliberations asked for each second")
    parser.add_argument("--pool", choices=("ray", "local"), default="ray")
    return 0 if uvloop.run(run(parser.parse_args())) else 1


if __name__ == "__main__":
    sys.exit(main())
