"""The parts of a measurement that has to say when each of them starts: nats-server, simulated models, the service."""

import asyncio
import os
import resource
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.machine import free_port
from benchmarks.service import Serving, _ready, _stop
from broker.embedded import EmbeddedNats, embedded_nats
from parley.app import simulator


def raise_file_limit() -> int:
    """As many open files as the machine allows this process and what it starts, sockets among them; how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def plain_environment(**settings: str) -> dict[str, str]:
    """Ours without any setting of Parley's, and with these."""
    foreign = ("NATS_URL", "RAY_ADDRESS", "VLLM_URL", "VLLM_MODEL", "VLLM_API_KEY")
    kept = {name: value for name, value in os.environ.items() if name not in foreign and not name.startswith("PARLEY_")}
    return {**kept, **settings}


@dataclass(slots=True)
class Parts:
    """A nats-server and simulated models. The service is started when it is asked for, and stopped with the rest."""

    nats: EmbeddedNats
    model_urls: Sequence[str]
    folder: Path
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def serve(self, environment: Mapping[str, str] | None = None) -> Serving:
        """Start `parley serve` on real Ray; it is ready. `environment`: more settings, by their variables' names."""
        port = free_port()
        path = self.folder / "service.log"
        log = self._stack.enter_context(path.open("wb"))
        settings = {
            "NATS_URL": self.nats.url,
            "VLLM_URL": ",".join(self.model_urls),
            "PARLEY_POOL": "ray",
            "PARLEY_HTTP_PORT": str(port),
            "PARLEY_LOG_LEVEL": "WARNING",
            **(environment or {}),
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "parley", "serve"),
            env=plain_environment(**settings),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        self._stack.push_async_callback(_stop, process)
        url = f"http://127.0.0.1:{port}"
        await _ready(url, process, path)
        return Serving(self.nats.url, self.model_urls[0], url, process.pid, self.nats.pid, path)


@asynccontextmanager
async def parts(*manner: str, models: int = 1) -> AsyncIterator[Parts]:
    """`manner`: arguments of each of so many simulated `models`."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parley-scale-")))
        nats = await stack.enter_async_context(embedded_nats(folder))
        urls = [await stack.enter_async_context(simulator(*manner)) for _ in range(models)]
        found = Parts(nats, urls, folder)
        await stack.enter_async_context(found._stack)
        yield found


async def seen(urls: Sequence[str]) -> dict[str, int]:
    """What the simulated models have counted so far, together."""
    found: dict[str, int] = {}
    async with aiohttp.ClientSession() as http:
        for url in urls:
            async with http.get(f"{url}/simulator") as response:
                told: dict[str, Any] = await response.json()
            for name, value in told.items():
                if isinstance(value, int):
                    found[name] = found.get(name, 0) + value
    return found
