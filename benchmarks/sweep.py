"""Every system at every point, as often as there are runs: in each run all of them have their turn, each time another the first."""

import asyncio
import gc
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from benchmarks.arrivals import answer, schedule
from benchmarks.load import drive, measure
from benchmarks.machine import cpu_seconds
from benchmarks.peers import skipped
from benchmarks.points import AGENTS, Pace, Point, rotated
from benchmarks.systems import System
from benchmarks.turn import BARE, PARLEY, Turn, turn

# No point takes that long; a system that does has stopped answering, and its turn is over.
STUCK_SECONDS = 90.0
# Of Parley's own saturation: how much arrives, whether or not what came before has ended.
SHARES = (0.125, 0.25, 0.375, 0.5)
# Its processes end within a point, and Ray's raylet does not wait for its children: what they have used is not known to anybody.
UNCOUNTED = "actor"


@dataclass(slots=True)
class Sweep:
    """`seconds`: what one point should take. `open_seconds`: how long open-loop load goes on. `say`: told of each figure.
    `skipped`: systems that could not be started, and are not tried again; `failures`: points that came to nothing."""

    names: list[str]
    points: Sequence[Point]
    seconds: float
    open_seconds: float
    say: Callable[[str], None]
    skipped: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    _paces: dict[str, Pace] = field(default_factory=dict)

    async def run(self, number: int) -> dict[str, Any]:
        """The figures of one run: `points`, one each system and point, and `open`, of open-loop load."""
        found: dict[str, Any] = {"load_average": os.getloadavg()[0], "points": [], "open": []}
        for name in rotated(self.names, number):
            async with AsyncExitStack() as stack:
                try:
                    its = await stack.enter_async_context(turn(name))
                except Exception as error:  # whatever hinders one, the others are measured
                    self.names.remove(name)
                    self.skipped.append(skipped.line(name, error))
                    self.say(self.skipped[-1])
                    continue
                try:
                    await self._measure(name, its, number, found)
                except Exception as error:  # what it has lost stays lost; its next turn begins anew
                    self.failures.append(
                        " ".join(f"run {number + 1}, {name}: {type(error).__name__} {error}".split())[:300]
                    )
                    self.say(f"failed: {self.failures[-1]}")
        return found

    async def _measure(self, name: str, its: Turn, number: int, found: dict[str, Any]) -> None:
        # This process has loaded every peer's client. Looking through all that for cycles it stands still for a tenth of a second now and then, and
        # whoever is measured just then is late. Otherwise the collector is Python's own, as in any plain loop.
        gc.collect()
        gc.freeze()
        for point in self.points:
            row = await self._point(name, its.system, point)
            if row is not None:
                found["points"].append(row)
        if name == PARLEY:
            await self._arriving(its, number, found)

    async def _point(self, name: str, system: System, point: Point) -> dict[str, Any] | None:
        """None if the point would take too long."""
        pace = self._paces.setdefault(name, Pace())
        if not pace.affords(point):
            return None
        one = _asking(system, point.agents)
        async with asyncio.timeout(STUCK_SECONDS):
            if not pace.knows(point):
                started = time.perf_counter()
                await drive(one, concurrency=point.concurrency, count=point.concurrency)
                pace.learn(point, point.concurrency / (time.perf_counter() - started))
            count = pace.count(point, self.seconds)
            before = cpu_seconds(os.getpid())
            measured = await measure(one, concurrency=point.concurrency, count=count, agents=point.agents)
            spent = cpu_seconds(os.getpid()) - before
        pace.learn(point, measured.deliberations_per_second)
        done = (count + max(point.concurrency, count // 10)) * point.agents  # the warm-up as well
        cpu = None if name == UNCOUNTED else 1000 * spent / done
        self.say(
            f"{name:<9}{point!s:<26}{measured.calls_per_second:9.1f} calls/s, p50 {measured.p50_ms:.1f} ms"
        )
        return {"system": name, **measured.as_dict(), "cpu_ms_per_call": cpu}

    async def _arriving(self, its: Turn, number: int, found: dict[str, Any]) -> None:
        """Parley at shares of what it did at most in this run, and the bare loop under the very same load."""
        rates = [
            row["deliberations_per_second"]
            for row in found["points"]
            if row["system"] == PARLEY and row["agents"] == AGENTS
        ]
        for share in SHARES:
            rate = share * max(rates)
            due = schedule(rate, self.open_seconds, seed=number)
            row: dict[str, Any] = {"share": share}
            for name, system in ((PARLEY, its.system), (BARE, its.bare)):
                before = cpu_seconds(os.getpid())
                async with asyncio.timeout(STUCK_SECONDS):
                    answered = await answer(_asking(system, AGENTS), due, rate=rate, agents=AGENTS)
                spent = cpu_seconds(os.getpid()) - before
                row[name] = {**answered.as_dict(), "cpu_ms_per_call": 1000 * spent / (len(due) * AGENTS)}
                what = f"{rate:.0f} arrive each second"
                self.say(
                    f"{name:<9}{what:<26}{'':>9} p50 {answered.p50_ms:.1f} ms, p99 {answered.p99_ms:.1f} ms"
                )
            found["open"].append(row)


def _asking(system: System, agents: int) -> Callable[[], Awaitable[None]]:
    return lambda: system.deliberate(agents)


def report(found: Mapping[str, Any]) -> str:
    """The medians, as text."""
    lines = [
        f"{'':<10}{'at a time':>10}{'agents':>8}{'calls/s':>10}{'p50 ms':>10}{'p99 ms':>10}{'CPU ms/call':>13}"
    ]
    lines += [
        f"{row['system']:<10}{row['concurrency']:>10}{row['agents']:>8}{row['calls_per_second']:>10.1f}"
        f"{row['p50_ms']:>10.1f}{row['p99_ms']:>10.1f}{_hundredths(row['cpu_ms_per_call']):>13}"
        for row in found["medians"]
    ]
    lines += [
        f"{row['rate']:.0f} arriving each second ({row['share']:.0%} of saturation): p50 {row['parley_p50_ms']:.1f} ms, p99 "
        f"{row['parley_p99_ms']:.1f} ms, {row['added_p99_ms']:.1f} ms more than the bare loop; {row['cpu_ms_per_call']:.2f} ms CPU a call"
        for row in found["arrivals"]
    ]
    for system, cost in found["cost_of_an_agent"].items():
        lines.append(
            f"{system}: an agent of 64 costs {cost['time']:.2f} of what one of 3 costs (CPU: {cost['cpu']:.2f})"
        )
    return "\n".join(lines)


def _hundredths(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
