"""Put load on a function and time it: closed loop (a fixed number at a time) and open loop (arrivals at a fixed
rate)."""

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass

# Open loop: what arrives before this is not counted.
WARM_UP_SECONDS = 1.0

Task = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Measured:
    """Closed loop. `agents` calls in each of `deliberations`. Latencies of a whole deliberation, in milliseconds."""

    concurrency: int
    agents: int
    deliberations: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def deliberations_per_second(self) -> float:
        return self.deliberations / self.seconds

    @property
    def calls_per_second(self) -> float:
        return self.deliberations_per_second * self.agents

    def as_dict(self) -> dict[str, float]:
        rates = {
            "deliberations_per_second": self.deliberations_per_second,
            "calls_per_second": self.calls_per_second,
        }
        return {**asdict(self), **rates}


@dataclass(frozen=True, slots=True)
class Answered:
    """Open loop. `rate`: arrivals a second. Latencies from the moment a deliberation was due to its end, in
    milliseconds."""

    rate: float
    agents: int
    deliberations: int
    p50_ms: float
    p99_ms: float


async def measure(task: Task, *, concurrency: int, count: int, agents: int) -> Measured:
    """Run `task` `count` times, `concurrency` at a time, after a warm-up of a tenth as many."""
    await drive(task, concurrency=concurrency, count=max(concurrency, count // 10))
    started = time.perf_counter()
    latencies = await drive(task, concurrency=concurrency, count=count)
    seconds = time.perf_counter() - started
    return Measured(concurrency, agents, count, seconds, *percentiles_ms(latencies))


def percentiles_ms(latencies: Sequence[float]) -> tuple[float, float]:
    """p50 and p99 in milliseconds, of latencies in seconds."""
    ranked = sorted(latencies)
    return 1000 * statistics.median(ranked), 1000 * ranked[min(len(ranked) - 1, int(0.99 * len(ranked)))]


async def drive(task: Task, *, concurrency: int, count: int) -> list[float]:
    """Run `task` `count` times, `concurrency` at a time. Returns how long each took, in seconds."""
    left = count
    latencies: list[float] = []

    async def lane() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            started = time.perf_counter()
            await task()
            latencies.append(time.perf_counter() - started)

    await asyncio.gather(*(lane() for _ in range(min(concurrency, count))))
    return latencies


@asynccontextmanager
async def repeated(task: Task, concurrency: int) -> AsyncIterator[None]:
    """Run `task` again and again, `concurrency` at a time, until the block ends. Then wait for those that run."""
    stopping = False

    async def lane() -> None:
        while not stopping:
            await task()

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(lane())
        try:
            yield
        finally:
            stopping = True


def schedule(rate: float, seconds: float, seed: int) -> list[float]:
    """Arrival times of a Poisson process, in seconds from the start. The same for the same seed."""
    dice = random.Random(seed)
    due: list[float] = []
    now = dice.expovariate(rate)
    while now < seconds:
        due.append(now)
        now += dice.expovariate(rate)
    return due


async def answer(task: Task, due: Sequence[float], *, rate: float, agents: int) -> Answered:
    """Start `task` at each time of `due`, whether or not earlier ones have ended. A late start counts as latency."""
    started = time.perf_counter()

    async def timed(moment: float) -> float:
        await task()
        return time.perf_counter() - started - moment

    asked: list[tuple[float, asyncio.Task[float]]] = []
    for moment in due:
        await asyncio.sleep(max(0.0, started + moment - time.perf_counter()))
        asked.append((moment, asyncio.create_task(timed(moment))))
    await asyncio.gather(*(running for _, running in asked))
    counted = [running.result() for moment, running in asked if moment >= WARM_UP_SECONDS]
    return Answered(rate, agents, len(counted), *percentiles_ms(counted))
