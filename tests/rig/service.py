"""`parley serve` in a process of its own, with a nats-server and simulated models beside it, to be looked at from
outside."""

import os
import resource
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from parley.broker.jetstream.embedded import EmbeddedNats, embedded_nats
from parley.local_nats_and_model import simulator
from tests.rig.child import answers, child, module
from tests.rig.proc import free_port, resident_mib

READY_SECONDS = 90.0
STOP_SECONDS = 40.0
# Settings without the prefix PARLEY_.
OTHER_SETTINGS = ("NATS_URL", "RAY_ADDRESS", "VLLM_URL", "VLLM_MODEL", "VLLM_API_KEY")


def plain_environment(**settings: str) -> dict[str, str]:
    """This process's environment without Parley's settings, and with `settings`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in OTHER_SETTINGS and not name.startswith("PARLEY_")
    }
    return {**kept, **settings}


def raise_file_limit() -> int:
    """Let this process and its children open as many files as the machine allows. Returns how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


@dataclass(frozen=True, slots=True)
class Serving:
    """A service that runs. `log`: its outputs, from warnings up."""

    nats_url: str
    model_url: str
    http_url: str
    pid: int
    nats_pid: int
    log: Path

    def resident_mib(self) -> float:
        """RSS of the service's own process, without Ray's processes."""
        return resident_mib(self.pid)


@asynccontextmanager
async def served(
    nats: EmbeddedNats,
    model_urls: Sequence[str],
    folder: Path,
    *,
    pool: str = "ray",
    environment: Mapping[str, str] | None = None,
    awaited: str = "/readyz",
) -> AsyncIterator[Serving]:
    """`parley serve` until the block ends. `environment`: more settings, by their variables' names.

    `awaited`: the path that answers 200 before the block begins; "/livez" for a service that does not become ready.
    """
    port = free_port()
    settings = {
        "NATS_URL": nats.url,
        "VLLM_URL": ",".join(model_urls),
        "PARLEY_POOL": pool,
        "PARLEY_HTTP_PORT": str(port),
        "PARLEY_LOG_LEVEL": "WARNING",
        **(environment or {}),
    }
    url, log = f"http://127.0.0.1:{port}", folder / "service.log"
    command = module("parley", "serve")
    async with (
        child(
            command, log, plain_environment(**settings), own_session=False, stop_seconds=STOP_SECONDS
        ) as process,
        aiohttp.ClientSession() as http,
    ):
        await process.ready(lambda: answers(http, url + awaited), READY_SECONDS)
        yield Serving(nats.url, model_urls[0], url, process.pid, nats.pid, log)


@dataclass(slots=True)
class Backends:
    """A nats-server and simulated models. The service starts when `serve` is called, and stops before them."""

    nats: EmbeddedNats
    model_urls: Sequence[str]
    folder: Path
    # Holds what `serve` has started.
    _stack: AsyncExitStack

    async def serve(
        self, environment: Mapping[str, str] | None = None, *, pool: str = "ray", awaited: str = "/readyz"
    ) -> Serving:
        """As `served`."""
        service = served(
            self.nats, self.model_urls, self.folder, pool=pool, environment=environment, awaited=awaited
        )
        return await self._stack.enter_async_context(service)


@asynccontextmanager
async def backends(
    *model_arguments: str, models: int = 1, sync_always: bool = False
) -> AsyncIterator[Backends]:
    """`models`: how many simulated models, each with `model_arguments`. `sync_always`: NATS syncs before it
    acknowledges."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parley-rig-")))
        nats = await stack.enter_async_context(embedded_nats(folder, sync_always=sync_always))
        urls = [await stack.enter_async_context(simulator(*model_arguments)) for _ in range(models)]
        yield Backends(nats, urls, folder, await stack.enter_async_context(AsyncExitStack()))


@asynccontextmanager
async def serving(
    *,
    pool: str,
    latency_ms: float,
    tokens: int = 48,
    sync_always: bool = False,
    environment: Mapping[str, str] | None = None,
    awaited: str = "/readyz",
) -> AsyncIterator[Serving]:
    """Backends with one simulated model, and a service; all is ready."""
    arguments = ("--latency-ms", str(latency_ms), "--tokens", str(tokens))
    async with backends(*arguments, sync_always=sync_always) as started:
        yield await started.serve(environment, pool=pool, awaited=awaited)


async def model_counts(urls: Sequence[str]) -> dict[str, int]:
    """What the simulated models have counted so far, added up."""
    found: dict[str, int] = {}
    async with aiohttp.ClientSession() as http:
        for url in urls:
            async with http.get(f"{url}/simulator") as response:
                counts: dict[str, Any] = await response.json()
            for name, value in counts.items():
                if isinstance(value, int):
                    found[name] = found.get(name, 0) + value
    return found


async def set_behaviour(urls: Sequence[str], **behaviour: Any) -> None:
    """Change how the simulated models behave from now on."""
    async with aiohttp.ClientSession() as http:
        for url in urls:
            async with http.post(f"{url}/simulator", json=behaviour) as response:
                response.raise_for_status()
