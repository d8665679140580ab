"""The points of the curves: which are measured, for how long, and each system at each of them."""

import asyncio
import gc
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks import systems
from benchmarks.load import Task, answer, drive, measure, schedule
from benchmarks.peers import common
from benchmarks.systems import Parley, System
from parley.client import connect
from parley.local_nats_and_model import simulator
from tests.rig.proc import cpu_seconds
from tests.rig.service import serving

PARLEY, BARE = "parley", "bare"
LATENCY_MS = 50.0
TOKENS = 48
# Of the bare loop: more calls are never in flight.
CONNECTIONS = 1024

AGENTS = 3
CONCURRENCIES = (1, 4, 16, 64, 128)
FANS = (1, 3, 8, 16, 64)
# Calls in flight while the number of agents varies.
IN_FLIGHT = 192
# One point takes at most this in one run.
LONGEST_SECONDS = 20.0
# A system that takes longer for a point has stopped answering; its run ends.
STUCK_SECONDS = 90.0
# Open loop: arrivals as a share of what Parley did at most in this run.
SHARES = (0.125, 0.25, 0.375, 0.5)
# Its processes end within a point, and Ray's raylet does not wait for its children: their CPU time is lost.
UNCOUNTED = "actor"


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """`concurrency` deliberations at a time, of `agents` each."""

    concurrency: int
    agents: int

    def __str__(self) -> str:
        return f"{self.concurrency} at a time, {self.agents} agents"


def fanned(agents: int) -> Point:
    """The point for this number of agents on the curve over agents."""
    return Point(max(1, IN_FLIGHT // agents), agents)


def points(*, quick: bool = False) -> list[Point]:
    """The points of both curves, each once. `quick`: the two ends and one between."""
    concurrencies = CONCURRENCIES[::2] if quick else CONCURRENCIES
    fans = FANS[::2] if quick else FANS
    found = [Point(concurrency, AGENTS) for concurrency in concurrencies]
    return list(dict.fromkeys([*found, *map(fanned, fans), fanned(AGENTS)]))


@dataclass(slots=True)
class Pace:
    """How fast one system was so far. Decides what it is asked next."""

    # The best of any point.
    calls_per_second: float = 0.0
    # Deliberations a second at each point.
    _rates: dict[Point, float] = field(default_factory=dict)

    def learn(self, point: Point, deliberations_per_second: float) -> None:
        self._rates[point] = deliberations_per_second
        self.calls_per_second = max(self.calls_per_second, deliberations_per_second * point.agents)

    def knows(self, point: Point) -> bool:
        return point in self._rates

    def affords(self, point: Point) -> bool:
        """Whether one round of warm-up and one that counts end in time."""
        if self.calls_per_second == 0.0:
            return True
        return 2 * point.concurrency * point.agents / self.calls_per_second <= LONGEST_SECONDS

    def count(self, point: Point, seconds: float) -> int:
        """Deliberations that take about `seconds`, at least as many as run at a time."""
        return max(point.concurrency, round(self._rates[point] * seconds))


def rotated(names: Sequence[str], run: int) -> list[str]:
    """Another name comes first in each run."""
    first = run % len(names)
    return [*names[first:], *names[:first]]


@dataclass(frozen=True, slots=True)
class Started:
    """A system that runs. `bare`: the plain loop, with the same model server."""

    system: System
    bare: System


@asynccontextmanager
async def started(name: str, *, sync_always: bool = False) -> AsyncIterator[Started]:
    """Start one system alone, with all it needs. `sync_always`: Parley's NATS syncs before it acknowledges."""
    async with AsyncExitStack() as stack:
        if name == PARLEY:
            service = await stack.enter_async_context(
                serving(pool="ray", latency_ms=LATENCY_MS, tokens=TOKENS, sync_always=sync_always)
            )
            client = await stack.enter_async_context(connect(service.nats_url))
            bare = await stack.enter_async_context(systems.bare(service.model_url, connections=CONNECTIONS))
            yield Started(Parley(client), bare)
            return
        model = simulator("--latency-ms", str(LATENCY_MS), "--tokens", str(TOKENS))
        model_url = await stack.enter_async_context(model)
        bare = await stack.enter_async_context(systems.bare(model_url, connections=CONNECTIONS))
        if name == BARE:
            yield Started(bare, bare)
        else:
            yield Started(await stack.enter_async_context(common.running(name, model_url)), bare)


@dataclass(slots=True)
class Sweep:
    """Every system at every point, once in each run. `seconds`: for one point. `open_seconds`: for one open loop.

    `report` gets a line for each figure. `skipped`: systems that do not start, and are not tried again. `failures`:
    points without a figure.
    """

    names: list[str]
    points: Sequence[Point]
    seconds: float
    open_seconds: float
    report: Callable[[str], None]
    sync_always: bool = False
    skipped: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    # By system.
    _paces: dict[str, Pace] = field(default_factory=dict)

    async def run(self, number: int) -> dict[str, Any]:
        """The figures of one run: `points`, one for each system and point, and `open`, of the open loop."""
        found: dict[str, Any] = {"load_average": os.getloadavg()[0], "points": [], "open": []}
        for name in rotated(self.names, number):
            async with AsyncExitStack() as stack:
                try:
                    running = await stack.enter_async_context(started(name, sync_always=self.sync_always))
                except Exception as error:  # the other systems are measured all the same
                    self.names.remove(name)
                    self.skipped.append(common.skipped_line(name, error))
                    self.report(self.skipped[-1])
                    continue
                try:
                    await self._measure(name, running, number, found)
                except Exception as error:  # this run's remaining points are lost; the next run starts anew
                    line = f"run {number + 1}, {name}: {type(error).__name__} {error}"
                    self.failures.append(" ".join(line.split())[:300])
                    self.report(f"failed: {self.failures[-1]}")
        return found

    async def _measure(self, name: str, running: Started, number: int, found: dict[str, Any]) -> None:
        # This process has loaded every peer's client. A full collection over all of it takes a tenth of a second,
        # which would count as latency of the system under test. The collector stays on, as in any plain loop.
        gc.collect()
        gc.freeze()
        for point in self.points:
            row = await self._point(name, running.system, point)
            if row is not None:
                found["points"].append(row)
        if name == PARLEY:
            await self._open(running, number, found)

    async def _point(self, name: str, system: System, point: Point) -> dict[str, Any] | None:
        """None if the point would take too long."""
        pace = self._paces.setdefault(name, Pace())
        if not pace.affords(point):
            return None
        task = _deliberation(system, point.agents)
        async with asyncio.timeout(STUCK_SECONDS):
            if not pace.knows(point):
                began = time.perf_counter()
                await drive(task, concurrency=point.concurrency, count=point.concurrency)
                pace.learn(point, point.concurrency / (time.perf_counter() - began))
            count = pace.count(point, self.seconds)
            before = cpu_seconds(os.getpid())
            measured = await measure(task, concurrency=point.concurrency, count=count, agents=point.agents)
            spent = cpu_seconds(os.getpid()) - before
        pace.learn(point, measured.deliberations_per_second)
        calls = (count + max(point.concurrency, count // 10)) * point.agents  # with the warm-up
        cpu = None if name == UNCOUNTED else 1000 * spent / calls
        self.report(
            f"{name:<9}{point!s:<26}{measured.calls_per_second:9.1f} calls/s, p50 {measured.p50_ms:.1f} ms"
        )
        return {"system": name, **measured.as_dict(), "cpu_ms_per_call": cpu}

    async def _open(self, running: Started, number: int, found: dict[str, Any]) -> None:
        """The open loop through Parley, then the bare loop with the same arrivals."""
        rates = [
            row["deliberations_per_second"]
            for row in found["points"]
            if row["system"] == PARLEY and row["agents"] == AGENTS
        ]
        for share in SHARES:
            rate = share * max(rates)
            due = schedule(rate, self.open_seconds, seed=number)
            row: dict[str, Any] = {"share": share}
            for name, system in ((PARLEY, running.system), (BARE, running.bare)):
                before = cpu_seconds(os.getpid())
                async with asyncio.timeout(STUCK_SECONDS):
                    answered = await answer(_deliberation(system, AGENTS), due, rate=rate, agents=AGENTS)
                spent = cpu_seconds(os.getpid()) - before
                row[name] = {**asdict(answered), "cpu_ms_per_call": 1000 * spent / (len(due) * AGENTS)}
                arrivals = f"{rate:.0f} arrive each second"
                latencies = f"p50 {answered.p50_ms:.1f} ms, p99 {answered.p99_ms:.1f} ms"
                self.report(f"{name:<9}{arrivals:<36}{latencies}")
            found["open"].append(row)


def _deliberation(system: System, agents: int) -> Task:
    return lambda: system.deliberate(agents)
