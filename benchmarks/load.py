"""Puts load on something and measures it: so many at a time, each timed from the outside."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Measured:
    """`agents` calls in each of `deliberations`; latencies in milliseconds, of a whole deliberation."""

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


async def measure(
    one: Callable[[], Awaitable[None]], *, concurrency: int, count: int, agents: int
) -> Measured:
    """Do `one` `count` times, `concurrency` at a time. A tenth as many go before and are not counted."""
    await drive(one, concurrency=concurrency, count=max(concurrency, count // 10))
    started = time.perf_counter()
    latencies = await drive(one, concurrency=concurrency, count=count)
    seconds = time.perf_counter() - started
    p50_ms, p99_ms = percentiles_ms(latencies)
    return Measured(concurrency, agents, count, seconds, p50_ms, p99_ms)


def percentiles_ms(latencies: Sequence[float]) -> tuple[float, float]:
    """p50 and p99 in milliseconds, of latencies in seconds."""
    ranked = sorted(latencies)
    return 1000 * statistics.median(ranked), 1000 * ranked[min(len(ranked) - 1, int(0.99 * len(ranked)))]


async def drive(one: Callable[[], Awaitable[None]], *, concurrency: int, count: int) -> list[float]:
    """How long each took, in seconds."""
    left = count
    latencies: list[float] = []

    async def lane() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            started = time.perf_counter()
            await one()
            latencies.append(time.perf_counter() - started)

    await asyncio.gather(*(lane() for _ in range(min(concurrency, count))))
    return latencies
