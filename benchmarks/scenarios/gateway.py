"""What the gateway costs: a submission beside a bare publish, submissions in a second, memory with many listeners.

Everything runs on this machine: NATS, a simulated model, the service, the gateway, and the programs that ask.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import grpc
import uvloop

from benchmarks.report import Result, Target, add_json, finish
from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.jetstream import JetStream
from parley.gateway.grpc_stubs import orchestrator_pb2 as pb
from parley.gateway.grpc_stubs.orchestrator_pb2_grpc import OrchestratorServiceStub
from tests.rig.child import answers, child, module
from tests.rig.proc import free_port, resident_mib
from tests.rig.service import READY_SECONDS, backends, plain_environment, raise_file_limit

QUESTION: dict[str, Any] = {
    "task_description": "Which of these is safer, and why?",
    "num_agents": 1,
    "timeout_seconds": 3600,
}
# Submissions one after another, of each kind in turn.
SUBMISSIONS = 400
MOST_ADDED_MS = 5.0
MOST_DELIBERATE_MS = 10.0
LISTENERS, AT_ONCE = 2_000, 100
MOST_MIB = 300.0
LEAST_RATE = 500.0
RATE_SECONDS = 10.0
PROGRAMS = 32


@dataclass(frozen=True, slots=True)
class Stand:
    """What is measured: a gateway, and the NATS behind it."""

    url: str
    grpc_target: str
    pid: int
    wire: JetStream


@asynccontextmanager
async def _stand(*model_arguments: str) -> AsyncIterator[Stand]:
    async with AsyncExitStack() as stack:
        rig = await stack.enter_async_context(backends(*model_arguments))
        service = await rig.serve(pool="local", environment={"PARLEY_POOL_SLOTS": "4096"})
        port, grpc_port = free_port(), free_port()
        environment = plain_environment(
            NATS_URL=service.nats_url,
            PARLEY_GATEWAY_PORT=str(port),
            PARLEY_GATEWAY_GRPC_PORT=str(grpc_port),
            PARLEY_LOG_LEVEL="WARNING",
        )
        command, log = module("parley", "serve", "--parts", "gateway"), rig.folder / "gateway.log"
        process = await stack.enter_async_context(child(command, log, environment, own_session=False))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        url = f"http://127.0.0.1:{port}"
        await process.ready(lambda: answers(http, f"{url}/readyz"), READY_SECONDS)
        nc = await connect(service.nats_url, "benchmark")
        stack.push_async_callback(close, nc)
        yield Stand(url, f"127.0.0.1:{grpc_port}", process.pid, JetStream(nc))


async def _submission(stand: Stand) -> Result:
    """The median of a submission over HTTP, beside a bare JetStream publish of the same body."""
    body = json.dumps(QUESTION).encode()
    times: dict[str, list[float]] = {"bare": [], "http": []}
    async with aiohttp.ClientSession() as http:
        for _ in range(SUBMISSIONS):
            began = time.perf_counter()
            await stand.wire.publish(topology.REQUESTED, body)
            times["bare"].append(time.perf_counter() - began)
            began = time.perf_counter()
            await _ask(http, stand)
            times["http"].append(time.perf_counter() - began)
    bare, whole = (1000 * statistics.median(times[kind]) for kind in ("bare", "http"))
    how = f"{SUBMISSIONS} submissions and as many bare JetStream publishes, in turn; medians"
    added = Target("added to a bare publish", whole - bare, MOST_ADDED_MS, "ms")
    return Result("gateway submission", how, [added], {"over HTTP, ms": whole, "bare, ms": bare})


async def _grpc_submission(stand: Stand) -> Result:
    """The median of Deliberate over gRPC, beside a bare JetStream publish of the same question."""
    body = json.dumps(QUESTION).encode()
    request = pb.DeliberateRequest(**QUESTION)
    bare: list[float] = []
    whole: list[float] = []
    async with grpc.aio.insecure_channel(stand.grpc_target) as channel:
        stub = OrchestratorServiceStub(channel)
        for _ in range(SUBMISSIONS):
            began = time.perf_counter()
            await stand.wire.publish(topology.REQUESTED, body)
            bare.append(time.perf_counter() - began)
            began = time.perf_counter()
            await stub.Deliberate(request)
            whole.append(time.perf_counter() - began)
    median, added = (
        1000 * statistics.median(whole),
        1000 * (statistics.median(whole) - statistics.median(bare)),
    )
    how = f"{SUBMISSIONS} calls of Deliberate and as many bare JetStream publishes, in turn; medians"
    targets = [
        Target("Deliberate", median, MOST_DELIBERATE_MS, "ms"),
        Target("added to a bare publish", added, MOST_ADDED_MS, "ms"),
    ]
    p99 = 1000 * statistics.quantiles(whole, n=100)[98]
    return Result("gateway gRPC submission", how, targets, {"p99, ms": p99})


async def _rate(stand: Stand) -> Result:
    """Submissions in a second of many programs together."""
    count, end = 0, time.monotonic() + RATE_SECONDS
    began = time.monotonic()

    async def program(http: aiohttp.ClientSession) -> None:
        nonlocal count
        while time.monotonic() < end:
            await _ask(http, stand)
            count += 1

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=PROGRAMS)) as http:
        await asyncio.gather(*(program(http) for _ in range(PROGRAMS)))
    rate = count / (time.monotonic() - began)
    how = f"{PROGRAMS} programs for {RATE_SECONDS:g} s, through one gateway"
    return Result("gateway rate", how, [Target("submissions", rate, LEAST_RATE, "/s", at_least=True)])


async def _listeners(stand: Stand) -> Result:
    """Memory of the gateway while so many listen to as many deliberations that run."""
    before = resident_mib(stand.pid)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        names = [await _ask(http, stand) for _ in range(LISTENERS)]
        async with AsyncExitStack() as stack:

            async def listen(name: str) -> None:
                listening = http.get(f"{stand.url}/v1/deliberations/{name}/events", timeout=_LONG)
                answer = await stack.enter_async_context(listening)
                while not (await answer.content.readline()).startswith(b"event: phase"):
                    pass

            for at in range(0, LISTENERS, AT_ONCE):
                await asyncio.gather(*map(listen, names[at : at + AT_ONCE]))
            held = resident_mib(stand.pid)
    how = f"{LISTENERS} listeners, each to a deliberation of its own that runs"
    return Result("gateway listeners", how, [Target("RSS", held, MOST_MIB, "MiB")], {"before, MiB": before})


_LONG = aiohttp.ClientTimeout(total=None, sock_read=120)


async def _ask(http: aiohttp.ClientSession, stand: Stand) -> str:
    async with http.post(f"{stand.url}/v1/deliberations", json=QUESTION) as answer:
        assert answer.status == 202, await answer.text()
        return str((await answer.json())["task_id"])


async def _measure() -> list[Result]:
    raise_file_limit()
    async with _stand("--latency-ms", "5") as quick:
        results = [await _submission(quick), await _grpc_submission(quick), await _rate(quick)]
    async with _stand("--latency-ms", "20000") as slow:
        results.append(await _listeners(slow))
    return results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser)


def main(arguments: argparse.Namespace) -> int:
    return finish(uvloop.run(_measure()), arguments.json)
