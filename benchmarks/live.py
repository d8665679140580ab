"""A real vLLM with more to do than it can: does it make as many tokens through Parley as for a plain client?

As `busy`, which asks the same of a simulated model. `--url` names a vLLM to measure (VLLM_API_KEY is its key); without it the CPU build
that the tests install is started, with their made-up model.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.busy import PAIRS, in_turn, judge, tokens_per_second
from benchmarks.load import drive
from benchmarks.parts import plain_environment
from benchmarks.question import QUESTION, TEMPERATURE, prompt
from benchmarks.service import served
from benchmarks.targets import Found, table
from parley.broker.core.messages import DeliberationCompleted
from parley.broker.jetstream.embedded import embedded_nats
from parley.client import connect
from parley.workers.model.client import ChatRequest, ModelClient
from parley.workers.model.endpoint import Endpoint
from tests.live.environment import installed
from tests.live.model import written
from tests.live.server import vllm

# Twice what the server works at (tests/live/server.py): there is always something waiting.
CALLS = 64
AGENTS = 4
# As a usual answer has. The shorter they are, the more Parley does for a token, and on one machine it does that with the same cores.
ANSWER_TOKENS = 512
WINDOW_SECONDS = 8.0
# Whatever is asked is answered within this, queueing included.
PATIENCE_SECONDS = 300.0


async def run(
    url: str, *, pairs: int = PAIRS, window_seconds: float = WINDOW_SECONDS, calls: int = CALLS
) -> Found:
    """`url`: of a vLLM that runs nothing else; `calls`: kept at it by either side."""
    key = os.environ.get("VLLM_API_KEY")
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parley-live-")))
        plain = await stack.enter_async_context(ModelClient(api_key=key, connections=calls))
        model = (await plain.models(Endpoint(url)))[0].name
        environment = {"VLLM_MODEL": model, **({"VLLM_API_KEY": key} if key else {})}
        nats = await stack.enter_async_context(embedded_nats(folder))
        service = served(
            nats, [url], folder, pool="ray", inherited=plain_environment(), environment=environment
        )
        await stack.enter_async_context(service)
        client = await stack.enter_async_context(connect(nats.url))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        request = ChatRequest(model, prompt(), temperature=TEMPERATURE, max_tokens=ANSWER_TOKENS)

        async def made() -> float:
            return await generated(http, url)

        async def deliberate() -> None:
            asking = client.deliberate(
                QUESTION, agents=AGENTS, max_tokens=ANSWER_TOKENS, timeout_seconds=PATIENCE_SECONDS
            )
            ending = await asking
            assert isinstance(ending, DeliberationCompleted), ending
            assert not ending.degraded, ending

        async def call() -> None:
            await plain.complete(Endpoint(url), request, seconds=PATIENCE_SECONDS)

        async def through() -> float:
            return await tokens_per_second(deliberate, calls // AGENTS, made, window_seconds)

        async def beside() -> float:
            return await tokens_per_second(call, calls, made, window_seconds)

        # The first calls of each pay for what is made once: connections, compiled kernels, the cached prefix.
        for one, lanes in ((deliberate, calls // AGENTS), (call, calls)):
            await drive(one, concurrency=lanes, count=2 * lanes)
        found = await in_turn(through, beside, pairs)
    how = f"{calls} calls at {model}, up to {ANSWER_TOKENS} tokens each; through Parley {calls // AGENTS} deliberations of {AGENTS} agents"
    return judge(found, scenario="live", how=how)


async def generated(http: aiohttp.ClientSession, url: str) -> float:
    """Tokens a vLLM has made so far, by its own count."""
    async with http.get(f"{url}/metrics") as response:
        page = await response.text()
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == "vllm:generation_tokens_total")


@asynccontextmanager
async def local() -> AsyncIterator[str]:
    """The URL of a vLLM of our own. Raises `tests.live.environment.Unavailable` where it cannot be installed."""
    with tempfile.TemporaryDirectory(prefix="parley-live-") as name:
        python = await asyncio.to_thread(installed)
        install = await asyncio.to_thread(written, python, Path(name))
        mine = os.sched_getaffinity(0)
        theirs = set(sorted(mine)[: len(mine) // 2]) or mine
        # A model server has a machine of its own. This one takes whatever it gets, waiting in circles; so it gets half of the cores, and
        # Parley, its NATS, its Ray and the plain client the others. Who is started has the cores of who starts it.
        os.sched_setaffinity(0, theirs)
        try:
            async with vllm(install, Path(name), "--enable-prefix-caching") as server:
                os.sched_setaffinity(0, mine - theirs or mine)
                yield server.url
        finally:
            os.sched_setaffinity(0, mine)


async def measured(url: str | None, pairs: int) -> Found:
    async with AsyncExitStack() as stack:
        if url is None:
            url = await stack.enter_async_context(local())
        return await run(url, pairs=pairs)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.live", description=__doc__.split("\n")[0])
    parser.add_argument("--url", help="a vLLM that runs already, and nothing else")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    options = parser.parse_args(argv)
    if options.pairs < 1:
        parser.error("--pairs: at least 1")
    print(f"live (load average {os.getloadavg()[0]:.1f})", flush=True)
    found = uvloop.run(measured(options.url, options.pairs))
    print("\n" + table([found]))
    if options.json is not None:
        options.json.write_text(json.dumps(found.as_dict(), indent=1) + "\n")
    return 0 if found.met else 1


if __name__ == "__main__":
    sys.exit(main())
