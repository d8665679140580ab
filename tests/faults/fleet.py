"""The whole service as it runs in production: two processes of each part, a nats-server that syncs every write, a Ray cluster of
its own, a model server. Each under a supervisor, each to be killed."""

import asyncio
import os
import sys
import sysconfig
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from benchmarks.machine import descendants, free_port
from parley.broker.jetstream.embedded import config, executable
from tests.faults.processes import Process, named
from tests.harness import ModelServer

HEAD_CPUS = 4
# Else Ray takes the machine's outside address for 127.0.0.1, in the head and in who joins it.
ON_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
# Ray's own authentication, as a cluster that others can reach has it. Every process gets the token by its environment.
RAY_TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "faults-" + "0" * 32}
# Ray's minimum.
OBJECT_STORE_BYTES = 80 * 1024 * 1024


@dataclass(slots=True)
class Fleet:
    """`parts`: the service's processes by name (intake-1, intake-2, …)."""

    folder: Path
    nats_url: str
    nats: Process
    model: Process
    steer: ModelServer
    head: Process
    parts: dict[str, Process] = field(default_factory=dict)

    def of(self, part: str) -> Process:
        return self.parts[f"{part}-1"]

    @property
    def everyone(self) -> list[Process]:
        return [self.nats, self.model, self.head, *self.parts.values()]

    def actor_pids(self) -> list[int]:
        """Processes of Ray's that run our actors."""
        return named(descendants(self.head.pid), "ray::WorkerActor")

    async def ready(self) -> None:
        await asyncio.gather(*(process.ready() for process in self.everyone))


@asynccontextmanager
async def fleet(folder: Path, *, ack_wait_seconds: float) -> AsyncIterator[Fleet]:
    """Everything up and ready until the block ends. `ack_wait_seconds`: after this, a dead dispatcher's work is somebody else's."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)))

        async def run(process: Process) -> Process:
            await process.start()
            stack.push_async_callback(process.stop)
            return process

        nats_url, nats = _nats(folder)
        model_url, model = _model(folder, http)
        head_address, head = _head(folder)
        for process in (nats, model, head):
            await run(process)
        whole = Fleet(folder, nats_url, nats, model, ModelServer(model_url, http), head)
        await asyncio.gather(*(process.ready() for process in whole.everyone))
        shared = {
            "NATS_URL": nats_url,
            "VLLM_URL": model_url,
            "RAY_ADDRESS": head_address,
            **ON_LOOPBACK,
            **RAY_TOKEN,
            "PARLEY_POOL_ACTORS": "1",
            "PARLEY_POOL_SLOTS": "64",
            "PARLEY_DRAIN_SECONDS": "10",
            "PARLEY_ACK_WAIT_SECONDS": f"{ack_wait_seconds:g}",
            "PARLEY_LOG_LEVEL": "INFO",
        }
        # The first makes the streams; after it, all at once.
        for names in (("intake-1",), ("intake-2", "dispatch-1", "dispatch-2", "aggregate-1", "aggregate-2")):
            for name in names:
                whole.parts[name] = await run(_part(name, folder, http, shared))
            await asyncio.gather(*(whole.parts[name].ready() for name in names))
        yield whole


def _part(name: str, folder: Path, http: aiohttp.ClientSession, environment: dict[str, str]) -> Process:
    part, port = name.partition("-")[0], free_port()
    parts = "intake,query" if part == "intake" else part

    async def ready() -> bool:
        return await _answers(http, f"http://127.0.0.1:{port}/readyz")

    command = (sys.executable, "-m", "parley", "serve", "--parts", parts)
    return Process(
        name, command, folder=folder, environment={**environment, "PARLEY_HTTP_PORT": str(port)}, ready=ready
    )


def _nats(folder: Path) -> tuple[str, Process]:
    home, port, token = folder / "nats", free_port(), "faults"
    home.mkdir()
    path = home / "nats-server.conf"
    path.write_text(config(home, port=port, token=token, sync_always=True))

    async def ready() -> bool:
        return await _listens(port)

    process = Process("nats", (executable(), "-c", str(path)), folder=folder, environment={}, ready=ready)
    return f"nats://{token}@127.0.0.1:{port}", process


def _model(folder: Path, http: aiohttp.ClientSession) -> tuple[str, Process]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"

    async def ready() -> bool:
        return await _answers(http, f"{url}/v1/models")

    # Slow enough that a kill meets calls under way, quick enough for many deliberations.
    command = (
        sys.executable,
        "-m",
        "parley.workers.simulator",
        "--port",
        str(port),
        "--latency-ms",
        "300",
        "--tokens",
        "12",
    )
    return url, Process("model", command, folder=folder, environment={}, ready=ready)


def _head(folder: Path) -> tuple[str, Process]:
    port = free_port()
    command: Sequence[str] = (
        f"{sysconfig.get_path('scripts')}/ray",
        *(
            "start",
            "--head",
            "--block",
            f"--port={port}",
            "--node-ip-address=127.0.0.1",
            f"--num-cpus={HEAD_CPUS}",
        ),
        *(
            "--include-dashboard=false",
            "--disable-usage-stats",
            f"--object-store-memory={OBJECT_STORE_BYTES}",
        ),
        # Unix sockets under it must stay below 108 characters: not pytest's folder.
        f"--temp-dir=/tmp/parley-ray-{os.getpid()}",
    )

    async def ready() -> bool:
        return await _listens(port)

    environment = {**ON_LOOPBACK, **RAY_TOKEN}
    return f"127.0.0.1:{port}", Process(
        "ray-head", command, folder=folder, environment=environment, ready=ready
    )


async def _answers(http: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with http.get(url) as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 1.0)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
