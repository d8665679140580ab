"""A model server with more to do than it can: does it make as many tokens through Parley as for a plain client?

The simulated model makes `SLOTS` answers at a time and the rest wait, as in a vLLM that is full. Both sides keep the same number of
calls at it. In turn, in one service, so that a machine whose speed drifts drifts for both.
"""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from benchmarks import systems
from benchmarks.parts import parts, seen
from benchmarks.systems import Parley
from benchmarks.targets import Found, Target
from parley.client import connect

PAIRS = 5
SLOTS = 32
CALLS = 64
AGENTS = 4
# An answer has 24 to 48 tokens and takes half a second on average. The first comes after a moment, as with a prompt to read; answers
# of different length do not all end at once, which would make the length of the window matter.
TOKENS, FIRST_TOKEN_MS, TOKENS_PER_SECOND = 48, 50.0, 80.0
LEAST = 0.98
# Until the queue at the model server is full and its slots are out of step.
WARM_UP_SECONDS = 3.0
WINDOW_SECONDS = 8.0

One = Callable[[], Awaitable[None]]
Count = Callable[[], Awaitable[float]]


@asynccontextmanager
async def offered(one: One, lanes: int) -> AsyncIterator[None]:
    """`one` again and again in so many lanes, until the block ends; then each ends what it has begun."""
    stopping = False

    async def lane() -> None:
        while not stopping:
            await one()

    async with asyncio.TaskGroup() as group:
        for _ in range(lanes):
            group.create_task(lane())
        try:
            yield
        finally:
            stopping = True


async def tokens_per_second(one: One, lanes: int, made: Count, window_seconds: float) -> float:
    """`made`: how many the model server has counted so far."""
    async with offered(one, lanes):
        await asyncio.sleep(WARM_UP_SECONDS)
        before, started = await made(), time.perf_counter()
        await asyncio.sleep(window_seconds)
        after, ended = await made(), time.perf_counter()
    return (after - before) / (ended - started)


async def in_turn(through: Count, beside: Count, pairs: int) -> list[tuple[float, float]]:
    """Tokens/s of both, so many times, each from two turns: A B B A, the next B A A B. What a machine's speed does steadily meanwhile
    meets both alike."""
    found: list[tuple[float, float]] = []
    for number in range(pairs):
        outer, inner = (beside, through) if number % 2 else (through, beside)
        first, *middle, last = [await one() for one in (outer, inner, inner, outer)]
        both = statistics.mean((first, last)), statistics.mean(middle)
        found.append(both[::-1] if number % 2 else both)
        print(
            f"  {number + 1} of {pairs}: {found[-1][0]:.0f} tokens/s through Parley, {found[-1][1]:.0f} beside it",
            flush=True,
        )
    return found


async def run(pairs: int = PAIRS, window_seconds: float = WINDOW_SECONDS) -> Found:
    manner = (
        "--slots",
        SLOTS,
        "--tokens",
        TOKENS,
        "--latency-ms",
        FIRST_TOKEN_MS,
        "--tokens-per-second",
        TOKENS_PER_SECOND,
    )
    async with parts(*map(str, manner)) as its:
        service = await its.serve()
        async with (
            connect(service.nats_url) as client,
            systems.bare(service.model_url, connections=CALLS) as bare,
        ):
            through = Parley(client)

            async def made() -> float:
                return (await seen([service.model_url]))["generation_tokens"]

            async def parley() -> float:
                return await tokens_per_second(
                    lambda: through.deliberate(AGENTS), CALLS // AGENTS, made, window_seconds
                )

            async def direct() -> float:
                return await tokens_per_second(lambda: bare.deliberate(1), CALLS, made, window_seconds)

            return judge(await in_turn(parley, direct, pairs))


HOW = f"{CALLS} calls at a model server with {SLOTS} slots; through Parley {CALLS // AGENTS} deliberations of {AGENTS} agents"


def judge(found: Sequence[tuple[float, float]], *, scenario: str = "busy", how: str = HOW) -> Found:
    """Each pair: tokens/s through Parley, and of the plain client."""
    ratios = [through / beside for through, beside in found]
    targets = [
        Target(
            f"tokens/s over a plain client's, median of {len(found)}",
            statistics.median(ratios),
            LEAST,
            at_least=True,
        )
    ]
    figures = {
        "through Parley, tokens/s": statistics.median(through for through, _ in found),
        "plain client, tokens/s": statistics.median(beside for _, beside in found),
        "lowest ratio": min(ratios),
        "highest ratio": max(ratios),
    }
    return Found(scenario, how, targets, figures)
