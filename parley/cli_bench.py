"""`parley bench`: how much this service does with this model, by asking it."""

import asyncio
import json
import statistics
import time
from collections import Counter
from typing import Annotated, Any

import typer

from parley.cli_common import FAILED, OK, err, out, with_client
from parley.client import Client
from parley.client_errors import NoEnding
from parley.terminal import write_json

QUESTION = "Name one thing that makes a queue reliable, in one sentence."
SILENT = "no ending in time"


# fmt: off
def bench(
    question: Annotated[str, typer.Argument(help="What is asked, again and again.")] = QUESTION,
    count: Annotated[int, typer.Option(min=1, max=100_000, help="Deliberations in all.")] = 50,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many run at a time.")] = 10,
    agents: Annotated[int, typer.Option(min=1, help="Agents of each.")] = 3,
    select: Annotated[str, typer.Option(help="How a winner is chosen.")] = "none",
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer in tokens.")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
) -> None:
    """Ask many deliberations and tell how long they took. It costs what its calls cost.

    Exit codes: 0 all completed, 1 some ended otherwise, 3 no service.
    """
    # fmt: on
    asked = {"agents": agents, "select": select, "max_tokens": max_tokens}
    if not as_json:
        err.print(f"{count} deliberations of {agents} agents, {limit} at a time", markup=False, highlight=False)
    figures = with_client(lambda client: _measured(client, question, count, limit, asked))
    if as_json:
        write_json(out, json.dumps(figures, indent=2))
    else:
        for name, value in figures.items():
            out.print(f"{name:<22}{value}", markup=False, highlight=False)
    raise typer.Exit(OK if figures["completed"] == count else FAILED)


async def _measured(client: Client, question: str, count: int, limit: int, asked: dict[str, Any]) -> dict[str, Any]:
    times: list[float] = []
    statuses: Counter[str] = Counter()
    calls = tokens = 0
    free = asyncio.Semaphore(limit)

    async def one() -> None:
        nonlocal calls, tokens
        async with free:
            began = time.perf_counter()
            try:
                ending = await client.deliberate(question, **asked)
            except NoEnding:
                statuses[SILENT] += 1
                return
            times.append(time.perf_counter() - began)
            statuses[ending.status] += 1
            calls += ending.cost.calls if ending.cost is not None else ending.total_agents
            tokens += sum(result.usage.completion_tokens for result in ending.results)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(one())
    seconds = time.perf_counter() - began
    return {
        "completed": statuses["completed"],
        "otherwise": {status: number for status, number in statuses.items() if status != "completed"},
        "seconds": round(seconds, 2),
        "deliberations_a_second": round(count / seconds, 2),
        "calls_a_second": round(calls / seconds, 2),
        "answer_tokens_a_second": round(tokens / seconds, 1),
        "median_seconds": round(statistics.median(times), 3) if times else None,
        "p99_seconds": round(sorted(times)[int(0.99 * (len(times) - 1))], 3) if times else None,
    }
