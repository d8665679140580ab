"""What the machine adds to a deliberation with judges: beside two rounds of bare calls, and beside `select: none`.

The same six calls: three agents and three judges through the service, or two gathers of three calls with the same HTTP
client. Systems take turns in every round, so that what else the machine does meets them alike.
"""

import argparse
import statistics
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop

from benchmarks.load import Measured, Task, measure
from benchmarks.question import MODEL, QUESTION
from benchmarks.report import Result, Target, add_json, finish
from benchmarks.systems import bare
from parley.app import service
from parley.broker.core.messages import DeliberationCompleted
from parley.broker.jetstream.embedded import embedded_nats
from parley.broker.process_tuning import tune_gc
from parley.client import connect
from parley.local_nats_and_model import simulator
from parley.settings import Settings

AGENTS = JUDGES = 3
# How long the simulated model takes for a call.
LATENCY_MS = 50
ROUNDS, ALONE, CROWD, AT_A_TIME = 5, 40, 200, 64
ADDED_MS, SHARE_OF_CALLS = 20.0, 0.9


@asynccontextmanager
async def tasks() -> AsyncIterator[dict[str, Task]]:
    """A deliberation with judges; two bare rounds of the same calls; deliberations without judges, of the same agents
    and of as many as there are calls."""
    with tempfile.TemporaryDirectory(prefix="parley-choice-") as folder:
        async with (
            embedded_nats(Path(folder)) as server,
            simulator("--latency-ms", str(LATENCY_MS)) as model,
            service(
                Settings(nats_url=server.url, vllm_url=model, vllm_model=MODEL, pool="local", http_port=0)
            ),
            connect(server.url) as client,
            bare(model, connections=AT_A_TIME * AGENTS) as loop,
        ):

            async def judged() -> None:
                ending = await client.deliberate(QUESTION, agents=AGENTS, select="judge", judges=JUDGES)
                assert isinstance(ending, DeliberationCompleted), ending
                assert not ending.degraded, ending

            async def twice_bare() -> None:
                await loop.deliberate(AGENTS)
                await loop.deliberate(JUDGES)

            async def ask(agents: int) -> None:
                ending = await client.deliberate(QUESTION, agents=agents)
                assert isinstance(ending, DeliberationCompleted), ending

            yield {
                "judged": judged,
                "bare": twice_bare,
                "asked": lambda: ask(AGENTS),
                "asked six": lambda: ask(AGENTS + JUDGES),
            }


async def run(rounds: int, alone: int = ALONE, crowd: int = CROWD) -> Result:
    found: dict[str, list[Measured]] = {}
    async with tasks() as each:
        tune_gc()
        for _ in range(rounds):
            for name, concurrency, count in (
                ("judged", 1, alone), ("bare", 1, alone),
                ("judged", AT_A_TIME, crowd), ("asked", AT_A_TIME, crowd), ("asked six", AT_A_TIME, crowd),
            ):  # fmt: skip
                calls = AGENTS if name == "asked" else AGENTS + JUDGES
                measured = await measure(each[name], concurrency=concurrency, count=count, agents=calls)
                found.setdefault(f"{name} x{concurrency}", []).append(measured)
    judged, bare_rounds = found["judged x1"], found["bare x1"]
    crowd_judged, crowd_asked = found[f"judged x{AT_A_TIME}"], found[f"asked x{AT_A_TIME}"]
    crowd_six = found[f"asked six x{AT_A_TIME}"]
    pairs = list(zip(judged, bare_rounds, strict=True))
    return Result(
        "choice overhead",
        f"3 + 3 calls of {LATENCY_MS} ms, {rounds} rounds in turn; medians",
        [
            Target(
                "added to two bare rounds",
                statistics.median(a.p50_ms - b.p50_ms for a, b in pairs),
                ADDED_MS,
                "ms",
            ),
            Target(
                "calls/s, of those of select: none",
                _share(crowd_judged, crowd_asked),
                SHARE_OF_CALLS,
                at_least=True,
            ),
        ],
        {
            "alone, with judges, p50 ms": statistics.median(one.p50_ms for one in judged),
            "alone, two bare rounds, p50 ms": statistics.median(one.p50_ms for one in bare_rounds),
            f"calls/s with judges, {AT_A_TIME} at a time": statistics.median(
                one.calls_per_second for one in crowd_judged
            ),
            f"calls/s of select: none, {AT_A_TIME} at a time": statistics.median(
                one.calls_per_second for one in crowd_asked
            ),
            "calls/s, of those of six agents in one phase": _share(crowd_judged, crowd_six),
        },
    )


def _share(ones: list[Measured], others: list[Measured]) -> float:
    pairs = zip(ones, others, strict=True)
    return statistics.median(one.calls_per_second / other.calls_per_second for one, other in pairs)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    add_json(parser)


def main(options: argparse.Namespace) -> int:
    return finish([uvloop.run(run(options.rounds))], options.json)
