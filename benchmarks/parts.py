"""The parts of a measurement that has to say when each of them starts: nats-server, simulated models, the service."""

import os
import resource
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.service import Serving, served
from parley.app import simulator
from parley.broker.jetstream.embedded import EmbeddedNats, embedded_nats


def raise_file_limit() -> int:
    """As many open files as the machine allows this process and what it starts, sockets among them; how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def plain_environment(**settings: str) -> dict[str, str]:
    """Ours without any setting of Parley's, and with these."""
    foreign = ("NATS_URL", "RAY_ADDRESS", "VLLM_URL", "VLLM_MODEL", "VLLM_API_KEY")
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in foreign and not name.startswith("PARLEY_")
    }
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
        service = served(
            self.nats,
            self.model_urls,
            self.folder,
            pool="ray",
            inherited=plain_environment(),
            environment=environment,
        )
        return await self._stack.enter_async_context(service)


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


async def behave(urls: Sequence[str], **manner: Any) -> None:
    """Have the simulated models behave so from now on."""
    async with aiohttp.ClientSession() as http:
        for url in urls:
            async with http.post(f"{url}/simulator", json=manner) as response:
                response.raise_for_status()
