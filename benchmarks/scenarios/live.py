"""As `full_server`, with a real vLLM: a running one (`--url`), or the CPU build with the tests' model."""

import argparse
import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.load import drive
from benchmarks.question import QUESTION, TEMPERATURE, prompt
from benchmarks.report import Result, add_json, finish
from benchmarks.scenarios.full_server import PAIRS, WINDOW_SECONDS, compare, judge, tokens_per_second
from parley.broker.core.messages import DeliberationCompleted
from parley.broker.jetstream.embedded import embedded_nats
from parley.client import connect
from parley.workers.model.endpoint_address import Endpoint
from parley.workers.model.model_client import ChatRequest, ModelClient
from tests.rig.service import served
from tests.rig.vllm.install import installed
from tests.rig.vllm.model import written
from tests.rig.vllm.server import vllm

# Twice what the server runs at a time (tests/rig/vllm/server.py), so that some always wait.
CALLS = 64
AGENTS = 4
# Of a usual answer. For shorter ones Parley does more work for each token, and here it has the server's own cores.
ANSWER_TOKENS = 512
# An answer comes within this, queueing included.
PATIENCE_SECONDS = 300.0


async def run(url: str, pairs: int = PAIRS) -> Result:
    """`url`: of a vLLM that runs nothing else. VLLM_API_KEY is its key."""
    key = os.environ.get("VLLM_API_KEY")
    lanes = CALLS // AGENTS
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parley-live-")))
        plain_client = await stack.enter_async_context(ModelClient(api_key=key, connections=CALLS))
        model = (await plain_client.models(Endpoint(url)))[0].name
        nats = await stack.enter_async_context(embedded_nats(folder))
        environment = {"VLLM_MODEL": model, **({"VLLM_API_KEY": key} if key else {})}
        await stack.enter_async_context(served(nats, [url], folder, environment=environment))
        client = await stack.enter_async_context(connect(nats.url))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        request = ChatRequest(model, prompt(), temperature=TEMPERATURE, max_tokens=ANSWER_TOKENS)

        async def tokens() -> float:
            return await generated(http, url)

        async def deliberate() -> None:
            ending = await client.deliberate(
                QUESTION, agents=AGENTS, max_tokens=ANSWER_TOKENS, timeout_seconds=PATIENCE_SECONDS
            )
            assert isinstance(ending, DeliberationCompleted), ending
            assert not ending.degraded, ending

        async def call() -> None:
            await plain_client.complete(Endpoint(url), request, seconds=PATIENCE_SECONDS)

        async def parley() -> float:
            return await tokens_per_second(deliberate, lanes, tokens, WINDOW_SECONDS)

        async def plain() -> float:
            return await tokens_per_second(call, CALLS, tokens, WINDOW_SECONDS)

        # The first calls of each side also pay for connections, compiled kernels and the cached prefix.
        await drive(deliberate, concurrency=lanes, count=2 * lanes)
        await drive(call, concurrency=CALLS, count=2 * CALLS)
        found = await compare(parley, plain, pairs)
    server = f"{CALLS} calls at {model}, up to {ANSWER_TOKENS} tokens each"
    return judge(found, "live", f"{server}; through Parley {lanes} deliberations of {AGENTS} agents")


async def generated(http: aiohttp.ClientSession, url: str) -> float:
    """Tokens that a vLLM has made so far, by its own count."""
    async with http.get(f"{url}/metrics") as response:
        page = await response.text()
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == "vllm:generation_tokens_total")


@asynccontextmanager
async def local() -> AsyncIterator[str]:
    """The URL of a vLLM that is started here. Raises `tests.rig.vllm.install.Unavailable`."""
    with tempfile.TemporaryDirectory(prefix="parley-live-") as name:
        python = await asyncio.to_thread(installed)
        install = await asyncio.to_thread(written, python, Path(name))
        ours = os.sched_getaffinity(0)
        half = set(sorted(ours)[: len(ours) // 2]) or ours
        # A model server has a machine of its own in production; this one would use every core in busy loops. It gets
        # half of them; Parley, NATS, Ray and the plain client get the others. A child inherits its parent's cores.
        os.sched_setaffinity(0, half)
        try:
            async with vllm(install, Path(name), "--enable-prefix-caching") as server:
                os.sched_setaffinity(0, ours - half or ours)
                yield server.url
        finally:
            os.sched_setaffinity(0, ours)


async def run_anywhere(url: str | None, pairs: int) -> Result:
    """At `url`, or at a vLLM that is started here."""
    if url is not None:
        return await run(url, pairs)
    async with local() as started:
        return await run(started, pairs)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", help="a vLLM that runs already, and nothing else")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    add_json(parser)


def main(options: argparse.Namespace) -> int:
    if options.pairs < 1:
        raise SystemExit("--pairs: at least 1")
    print(f"live (load average {os.getloadavg()[0]:.1f})", flush=True)
    return finish([uvloop.run(run_anywhere(options.url, options.pairs))], options.json)
