"""Whether a deliberation costs more than it did: its CPU time as a multiple of something that is not ours. `make smoke`, and in CI.

Seconds would say more about the machine than about us. So each round measures, in this one process and in turn, deliberations of three
agents (client, service and workers together; NATS and the model are processes of their own) and a pair that is libraries' work
alone: a message published to JetStream with nats-py, a question to the same model server with aiohttp.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import nats
import uvloop

from benchmarks.load import drive
from benchmarks.question import MODEL, QUESTION, TEMPERATURE, prompt
from parley.app import service, simulator
from parley.broker.host import tune_gc
from parley.broker.jetstream.embedded import embedded_nats
from parley.client import connect
from parley.settings import Settings

# Pairs that one deliberation costs, by `python -m benchmarks.smoke` on the commit that wrote it here: 12.4 and 12.7 on a quiet machine, up to
# 14.7 on one that has just run all tests, whose caches others use as well.
PAIRS = 13.0
# From this multiple of `PAIRS` on it is a step back.
STEP_BACK = 1.3
AGENTS = 3
AT_A_TIME = 32
ROUNDS = 9
DELIBERATIONS = 160
REFERENCES = 400

Doing = Callable[[], Awaitable[None]]


@asynccontextmanager
async def both() -> AsyncIterator[tuple[Doing, Doing]]:
    """One deliberation, and one pair."""
    with tempfile.TemporaryDirectory(prefix="parley-smoke-") as folder:
        async with (
            embedded_nats(Path(folder)) as server,
            simulator("--latency-ms", "0") as model,
            service(
                Settings(nats_url=server.url, vllm_url=model, vllm_model=MODEL, pool="local", http_port=0)
            ),
            connect(server.url) as client,
            aiohttp.ClientSession() as http,
        ):
            other = await nats.connect(server.url)
            jetstream = other.jetstream()
            await jetstream.add_stream(name="REFERENCE", subjects=["reference"])
            question = {"model": MODEL, "messages": list(prompt()), "temperature": TEMPERATURE}

            async def deliberation() -> None:
                await client.deliberate(QUESTION, agents=AGENTS)

            async def pair() -> None:
                await jetstream.publish("reference", bytes(600), headers={"content-type": "application/json"})
                async with http.post(f"{model}/v1/chat/completions", json=question) as response:
                    await response.json()

            yield deliberation, pair
            await other.close()


async def cpu_ms(doing: Doing, count: int) -> float:
    """CPU time of this process for each, in milliseconds."""
    before = time.process_time()
    await drive(doing, concurrency=AT_A_TIME, count=count)
    return 1000 * (time.process_time() - before) / count


async def measured(rounds: int) -> list[tuple[float, float]]:
    """CPU milliseconds of a deliberation and of a pair, round by round."""
    async with both() as (deliberation, pair):
        await cpu_ms(deliberation, DELIBERATIONS)
        await cpu_ms(pair, REFERENCES)
        tune_gc()
        return [
            (await cpu_ms(deliberation, DELIBERATIONS), await cpu_ms(pair, REFERENCES)) for _ in range(rounds)
        ]


def verdict(found: list[tuple[float, float]], pairs: float) -> tuple[bool, str]:
    """Whether it is no step back, and that in a line."""
    ratio = statistics.median(ours / theirs for ours, theirs in found)
    ours, theirs = (statistics.median(column) for column in zip(*found, strict=True))
    limit = STEP_BACK * pairs
    line = f"a deliberation costs {ratio:.2f} pairs ({ours:.2f} ms to {theirs:.2f} ms of CPU), was {pairs:g}, allowed {limit:.2f}"
    return ratio <= limit, line


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.smoke", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    kept, line = verdict(uvloop.run(measured(parser.parse_args().rounds)), PAIRS)
    print(line if kept else f"A STEP BACK: {line}. Profile it, or say in {__file__} why it has to cost more.")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
