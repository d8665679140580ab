"""A full model server: does it make as many tokens through Parley as for a plain client?

The simulated model makes `SLOTS` answers at a time and queues the rest, as a full vLLM does. Both sides keep the same
number of calls at it, in turn, with one service, so that a drifting machine drifts for both.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence

from benchmarks import systems
from benchmarks.load import Task, repeated
from benchmarks.report import Result, Target
from benchmarks.systems import Parley
from parley.client import connect
from tests.rig.service import backends, model_counts

PAIRS = 5
SLOTS = 32
CALLS = 64
AGENTS = 4
# An answer has 24 to 48 tokens and takes half a second on average. The first token comes later, as after a prompt.
# Answers of different length do not end together, which would make the window's length matter.
TOKENS, FIRST_TOKEN_MS, TOKENS_PER_SECOND = 48, 50.0, 80.0
LEAST = 0.98
# Until the model server's queue is full and its slots are out of step.
WARM_UP_SECONDS = 3.0
WINDOW_SECONDS = 8.0

Count = Callable[[], Awaitable[float]]


async def tokens_per_second(task: Task, concurrency: int, tokens: Count, window_seconds: float) -> float:
    """`tokens`: how many the model server has made so far."""
    async with repeated(task, concurrency):
        await asyncio.sleep(WARM_UP_SECONDS)
        before, started = await tokens(), time.perf_counter()
        await asyncio.sleep(window_seconds)
        after, ended = await tokens(), time.perf_counter()
    return (after - before) / (ended - started)


async def compare(parley: Count, plain: Count, pairs: int) -> list[tuple[float, float]]:
    """Tokens/s of both, `pairs` times, each from two measurements: A B B A, then B A A B. A steady drift meets both
    alike."""
    found: list[tuple[float, float]] = []
    for number in range(pairs):
        outer, inner = (plain, parley) if number % 2 else (parley, plain)
        first, *middle, last = [await measure() for measure in (outer, inner, inner, outer)]
        both = statistics.mean((first, last)), statistics.mean(middle)
        found.append(both[::-1] if number % 2 else both)
        through, beside = found[-1]
        print(
            f"  {number + 1} of {pairs}: tokens/s through Parley {through:.0f}, plain {beside:.0f}",
            flush=True,
        )
    return found


async def run(pairs: int = PAIRS, window_seconds: float = WINDOW_SECONDS) -> Result:
    arguments = ("--slots", SLOTS, "--tokens", TOKENS, "--latency-ms", FIRST_TOKEN_MS)
    speed = ("--tokens-per-second", TOKENS_PER_SECOND)
    async with backends(*map(str, (*arguments, *speed))) as started:
        service = await started.serve()
        async with (
            connect(service.nats_url) as client,
            systems.bare(service.model_url, connections=CALLS) as bare,
        ):
            through = Parley(client)

            async def tokens() -> float:
                return (await model_counts([service.model_url]))["generation_tokens"]

            async def parley() -> float:
                lanes = CALLS // AGENTS
                return await tokens_per_second(
                    lambda: through.deliberate(AGENTS), lanes, tokens, window_seconds
                )

            async def plain() -> float:
                return await tokens_per_second(lambda: bare.deliberate(1), CALLS, tokens, window_seconds)

            pairs_found = await compare(parley, plain, pairs)
    server = f"{CALLS} calls at a model server with {SLOTS} slots"
    how = f"{server}; through Parley {CALLS // AGENTS} deliberations of {AGENTS} agents"
    return judge(pairs_found, "full-server", how)


def judge(pairs: Sequence[tuple[float, float]], scenario: str, how: str) -> Result:
    """Each pair: tokens/s through Parley, and of the plain client."""
    ratios = [parley / plain for parley, plain in pairs]
    name = f"tokens/s over a plain client's, median of {len(pairs)}"
    targets = [Target(name, statistics.median(ratios), LEAST, at_least=True)]
    figures = {
        "through Parley, tokens/s": statistics.median(parley for parley, _ in pairs),
        "plain client, tokens/s": statistics.median(plain for _, plain in pairs),
        "lowest ratio": min(ratios),
        "highest ratio": max(ratios),
    }
    return Result(scenario, how, targets, figures)
