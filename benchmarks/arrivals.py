"""Open-loop load: deliberations are asked for when they are due, whether or not earlier ones have ended."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass

from benchmarks.load import percentiles_ms

# Left out of the figures, at the beginning.
WARM_UP_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Answered:
    """`rate`: deliberations asked for each second. Latencies in milliseconds, from when a deliberation was due to its end."""

    rate: float
    agents: int
    deliberations: int
    p50_ms: float
    p99_ms: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def schedule(rate: float, seconds: float, seed: int) -> list[float]:
    """When each is due, in seconds from the start: a Poisson process, the same for the same seed."""
    dice = random.Random(seed)
    due: list[float] = []
    now = dice.expovariate(rate)
    while now < seconds:
        due.append(now)
        now += dice.expovariate(rate)
    return due


async def answer(
    one: Callable[[], Awaitable[None]], due: Sequence[float], *, rate: float, agents: int
) -> Answered:
    """Do `one` at each time of `due`. What is late to begin counts as late: nobody waits for the load to be ready."""
    started = time.perf_counter()

    async def timed(moment: float) -> float:
        await one()
        return time.perf_counter() - started - moment

    asked: list[tuple[float, asyncio.Task[float]]] = []
    for moment in due:
        await asyncio.sleep(max(0.0, started + moment - time.perf_counter()))
        asked.append((moment, asyncio.create_task(timed(moment))))
    await asyncio.gather(*(task for _, task in asked))
    counted = [task.result() for moment, task in asked if moment >= WARM_UP_SECONDS]
    p50_ms, p99_ms = percentiles_ms(counted)
    return Answered(rate, agents, len(counted), p50_ms, p99_ms)
