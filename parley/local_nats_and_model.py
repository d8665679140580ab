"""What a single machine may lack: `parley up` and the demo start a nats-server and a model server."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from parley.broker.child_process import child
from parley.broker.core.errors import Unavailable
from parley.broker.jetstream.embedded import embedded_nats
from parley.local_model_choice import LocalModel
from parley.monitoring.http import check_port
from parley.settings import Settings
from parley.tiny_model_process import tiny_model

# An answer of the tiny model begins when one of its few slots is free, which many questions wait for.
TINY_FIRST_BYTE_SECONDS = 3_600.0


@dataclass(frozen=True, slots=True)
class LocalParts:
    """`settings`: with what they lacked filled in. `model`: the one that was started; None if the settings name servers."""

    settings: Settings
    model: LocalModel | None


@asynccontextmanager
async def embedded(
    settings: Settings,
    folder: Path,
    *,
    model: LocalModel = LocalModel.SIMULATED,
    simulated: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[LocalParts]:
    """Start what the settings lack: a nats-server in `folder`, and `model`, with its log there.

    A tiny model that cannot be had here is told to `say` in one line, and the simulated one takes its place.
    `simulated`: arguments of the simulated one.
    """
    async with AsyncExitStack() as stack:
        if settings.nats_url is None:
            server = await stack.enter_async_context(embedded_nats(folder, port=_free(4222)))
            settings = settings.at_local_nats(server.url)
        if settings.has_servers:
            yield LocalParts(settings, None)
            return
        found: dict[str, object] = {}
        if model is LocalModel.TINY:
            try:
                found = _streamed(settings, await stack.enter_async_context(tiny_model(folder)))
            except Unavailable as error:
                say(f"no tiny model here: {error}. The simulated one answers instead")
                model = LocalModel.SIMULATED
        if model is LocalModel.SIMULATED:
            found = {"vllm_url": await stack.enter_async_context(simulator(*simulated))}
        yield LocalParts(settings.model_copy(update=found), model)


def _streamed(settings: Settings, url: str) -> dict[str, object]:
    """The settings that fit llama.cpp: of its answers only those that are streamed end when their client leaves."""
    first_byte = max(settings.vllm_first_byte_timeout_seconds, TINY_FIRST_BYTE_SECONDS)
    return {"vllm_url": url, "vllm_stream": True, "vllm_first_byte_timeout_seconds": first_byte}


@asynccontextmanager
async def simulator(*arguments: str) -> AsyncIterator[str]:
    """A simulated model server in a process of its own, on a free port of loopback. Yields its URL."""

    async def printed(process: asyncio.subprocess.Process) -> str:
        assert process.stdout is not None
        line = await process.stdout.readline()
        if not line:
            raise Unavailable("the simulated model server did not start")
        return line.decode().strip()

    # -P: the child finds modules in the installation only, not in the working directory.
    command = (sys.executable, "-P", "-m", "parley.workers.simulator", "--port", "0", *arguments)
    async with child(command, printed, stdout=asyncio.subprocess.PIPE, stderr=None) as (_, url):
        yield url


def _free(port: int) -> int:
    """`port` if it is free, else -1 (any)."""
    try:
        check_port("127.0.0.1", port)
    except OSError:
        return -1
    return port
