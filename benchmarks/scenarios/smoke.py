"""Does a deliberation cost more CPU time than before? Measured as a ratio, in CI.

Seconds would measure the machine. So each round measures, in this one process and in turn, deliberations of three
agents (client, service and workers together; NATS and the model are other processes) and pairs of library work: one
message published to JetStream with nats-py, one question to the same model server with aiohttp.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import nats
import uvloop

from benchmarks.load import Task, drive
from benchmarks.question import MODEL, QUESTION, TEMPERATURE, prompt
from parley.app import service
from parley.broker.jetstream.embedded import embedded_nats
from parley.broker.process_tuning import tune_gc
from parley.client import connect
from parley.local_nats_and_model import simulator
from parley.settings import Settings

# Pairs that one deliberation costs, by `python -m benchmarks smoke`: 12.4 and 12.7 on a quiet machine, up to 14.7 on
# one that has just run all tests, since other processes then use the caches too.
PAIRS = 13.0
# More than this multiple of `PAIRS` is a step back.
STEP_BACK = 1.3
AGENTS = 3
AT_A_TIME = 32
ROUNDS = 9
DELIBERATIONS = 160
REFERENCES = 400


@asynccontextmanager
async def both() -> AsyncIterator[tuple[Task, Task]]:
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


async def cpu_ms(task: Task, count: int) -> float:
    """CPU time of this process for each, in milliseconds."""
    before = time.process_time()
    await drive(task, concurrency=AT_A_TIME, count=count)
    return 1000 * (time.process_time() - before) / count


async def measured(rounds: int) -> list[tuple[float, float]]:
    """CPU milliseconds of a deliberation and of a pair, for each round."""
    async with both() as (deliberation, pair):
        await cpu_ms(deliberation, DELIBERATIONS)
        await cpu_ms(pair, REFERENCES)
        tune_gc()
        return [
            (await cpu_ms(deliberation, DELIBERATIONS), await cpu_ms(pair, REFERENCES)) for _ in range(rounds)
        ]


def judge(found: list[tuple[float, float]], pairs: float) -> tuple[bool, str]:
    """Whether it is no step back, and a line that says so."""
    ratio = statistics.median(ours / theirs for ours, theirs in found)
    ours, theirs = (statistics.median(column) for column in zip(*found, strict=True))
    limit = STEP_BACK * pairs
    cpu = f"{ours:.2f} ms to {theirs:.2f} ms of CPU"
    return ratio <= limit, (
        f"a deliberation costs {ratio:.2f} pairs ({cpu}), was {pairs:g}, allowed {limit:.2f}"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=ROUNDS)


def main(options: argparse.Namespace) -> int:
    kept, line = judge(uvloop.run(measured(options.rounds)), PAIRS)
    print(line if kept else f"A STEP BACK: {line}. Profile it, or say in {__file__} why it has to cost more.")
    return 0 if kept else 1
