"""A gateway is killed while many wait. Each goes on at another gateway, and hears each thing once."""

import asyncio
import json
import os
import signal
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import aiohttp

from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.direct_reads import read_all
from parley.broker.jetstream.jetstream import JetStream
from tests.rig.child import answers, child, module
from tests.rig.proc import free_port
from tests.rig.service import READY_SECONDS, Backends, backends, plain_environment, raise_file_limit

LISTENING, WAITING, AGENTS = 250, 250, 2
QUESTION = {"task_description": "x", "num_agents": AGENTS, "timeout_seconds": 120}
Http = aiohttp.ClientSession


async def test_every_wait_goes_on_at_another_gateway_and_nothing_is_heard_twice() -> None:
    raise_file_limit()
    async with AsyncExitStack() as stack:
        rig = await stack.enter_async_context(backends("--latency-ms", "4000"))
        await rig.serve(pool="local", environment={"PARLEY_POOL_SLOTS": "4096"})
        http = await stack.enter_async_context(Http(connector=aiohttp.TCPConnector(limit=0), timeout=_LONG))
        (dying, pid), (other, _) = [await _gateway(stack, rig, http, number) for number in (1, 2)]
        names = await _asked(http, dying)
        heard: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        begun = asyncio.Semaphore(0)
        listening = [
            asyncio.create_task(_listen(http, (dying, other), name, heard[name], begun))
            for name in names[:LISTENING]
        ]
        waiting = [asyncio.create_task(_wait(http, (dying, other), name)) for name in names[LISTENING:]]
        for _ in range(LISTENING):
            await begun.acquire()
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(60):
            await asyncio.gather(*listening)
            statuses = await asyncio.gather(*waiting)
        wanted = Counter({"phase": 1, "answer": AGENTS, "ending": 1})
        assert [
            name for name in names[:LISTENING] if Counter(one["type"] for one in heard[name]) != wanted
        ] == []
        assert Counter(statuses) == {"COMPLETED": WAITING}
        assert Counter((await _endings(rig)).values()) == {1: len(names)}


async def _gateway(stack: AsyncExitStack, rig: Backends, http: Http, number: int) -> tuple[str, int]:
    """Its URL and its process id."""
    port = free_port()
    environment = plain_environment(
        NATS_URL=rig.nats.url,
        PARLEY_GATEWAY_PORT=str(port),
        PARLEY_GATEWAY_GRPC_PORT="0",
        PARLEY_LOG_LEVEL="WARNING",
    )
    command, log = module("parley", "serve", "--parts", "gateway"), rig.folder / f"gateway-{number}.log"
    process = await stack.enter_async_context(child(command, log, environment, own_session=False))
    url = f"http://127.0.0.1:{port}"
    await process.ready(lambda: answers(http, f"{url}/readyz"), READY_SECONDS)
    return url, process.pid


async def _asked(http: Http, url: str) -> list[str]:
    async def ask() -> str:
        async with http.post(f"{url}/v1/deliberations", json=QUESTION) as answer:
            return str((await answer.json())["task_id"])

    return await asyncio.gather(*(ask() for _ in range(LISTENING + WAITING)))


async def _listen(
    http: Http, gateways: tuple[str, str], name: str, heard: list[dict[str, Any]], begun: asyncio.Semaphore
) -> None:
    """As a browser does: again with the last id, at the other gateway, until nothing follows."""
    headers: dict[str, str] = {}
    for url in (*gateways, gateways[1], gateways[1]):
        try:
            async with http.get(f"{url}/v1/deliberations/{name}/events", headers=headers) as answer:
                while line := await answer.content.readline():
                    if line.startswith(b"id: "):
                        headers["Last-Event-ID"] = line.removeprefix(b"id: ").decode().strip()
                    elif line.startswith(b"data: "):
                        heard.append(json.loads(line.removeprefix(b"data: ")))
                        if len(heard) == 1:
                            begun.release()
        except aiohttp.ClientError:
            continue
        if heard and heard[-1]["type"] == "ending":
            return


async def _wait(http: Http, gateways: tuple[str, str], name: str) -> str:
    for url in gateways:
        try:
            async with http.get(f"{url}/v1/deliberations/{name}", params={"wait": "60"}) as answer:
                return str((await answer.json())["status"])
        except aiohttp.ClientError:
            continue
    return "lost"


async def _endings(rig: Backends) -> Counter[str]:
    """How many endings each deliberation has in the stream."""
    nc = await connect(rig.nats.url, "tests")
    try:
        stored = read_all(JetStream(nc), topology.DELIBERATIONS, topology.COMPLETED)
        return Counter([json.loads(message.data)["task_id"] async for message in stored])
    finally:
        await close(nc)


_LONG = aiohttp.ClientTimeout(total=None, sock_read=90)
