"""The whole service as in production: two processes of each part, a nats-server that syncs every write, a Ray cluster,
a model server. Each has a supervisor, and a test can kill each."""

import asyncio
import os
import shutil
import sysconfig
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from parley.broker.jetstream.embedded import config, executable
from tests.faults.processes import Process
from tests.harness import ModelServer
from tests.rig.child import answers, listens, module
from tests.rig.proc import actors, free_port

HEAD_CPUS = 4
# Without it Ray replaces 127.0.0.1 with the machine's outside address, in the head and in its clients.
ON_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
# Ray's own authentication, as in a cluster that others can reach. Each process gets the token by its environment.
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
        """Processes that run our actors."""
        return actors(self.head.pid)

    async def ready(self) -> None:
        await asyncio.gather(*(process.ready() for process in self.everyone))


@asynccontextmanager
async def fleet(folder: Path, *, ack_wait_seconds: float) -> AsyncIterator[Fleet]:
    """Everything up and ready until the block ends. `ack_wait_seconds`: after this, another
    dispatcher gets the work of a dead one."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)))

        async def run(process: Process) -> Process:
            await process.start()
            stack.push_async_callback(process.stop)
            return process

        stack.callback(shutil.rmtree, _ray_folder(), ignore_errors=True)
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
        # The first one makes the streams. Then all others start at once.
        for names in (("intake-1",), ("intake-2", "dispatch-1", "dispatch-2", "aggregate-1", "aggregate-2")):
            for name in names:
                whole.parts[name] = await run(_part(name, folder, http, shared))
            await asyncio.gather(*(whole.parts[name].ready() for name in names))
        yield whole


def _part(name: str, folder: Path, http: aiohttp.ClientSession, environment: dict[str, str]) -> Process:
    part, port = name.partition("-")[0], free_port()
    parts = "intake,query" if part == "intake" else part

    async def ready() -> bool:
        return await answers(http, f"http://127.0.0.1:{port}/readyz")

    command = module("parley", "serve", "--parts", parts)
    return Process(
        name, command, folder=folder, environment={**environment, "PARLEY_HTTP_PORT": str(port)}, ready=ready
    )


def _nats(folder: Path) -> tuple[str, Process]:
    home, port, token = folder / "nats", free_port(), "faults"
    home.mkdir()
    path = home / "nats-server.conf"
    path.write_text(config(home, port=port, token=token, sync_always=True))

    async def ready() -> bool:
        return await listens(port)

    process = Process("nats", (executable(), "-c", str(path)), folder=folder, environment={}, ready=ready)
    return f"nats://{token}@127.0.0.1:{port}", process


def _model(folder: Path, http: aiohttp.ClientSession) -> tuple[str, Process]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"

    async def ready() -> bool:
        return await answers(http, f"{url}/v1/models")

    # Slow enough that a kill meets running calls, quick enough for many deliberations.
    command = module("parley.workers.simulator", "--port", str(port), "--latency-ms", "300", "--tokens", "12")
    return url, Process("model", command, folder=folder, environment={}, ready=ready)


def _ray_folder() -> str:
    """Paths of Unix sockets below it must be shorter than 108 characters, which rules out pytest's folder."""
    return f"/tmp/parley-ray-{os.getpid()}"


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
        f"--temp-dir={_ray_folder()}",
    )

    async def ready() -> bool:
        return await listens(port)

    environment = {**ON_LOOPBACK, **RAY_TOKEN}
    return f"127.0.0.1:{port}", Process(
        "ray-head", command, folder=folder, environment=environment, ready=ready
    )
