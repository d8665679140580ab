"""What a single machine may lack: `parley up` and the demo start a nats-server and a simulated model server."""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from parley.broker.child_process import child
from parley.broker.core.errors import Unavailable
from parley.broker.jetstream.embedded import embedded_nats
from parley.monitoring.http import check_port
from parley.settings import Settings


@asynccontextmanager
async def embedded(
    settings: Settings, folder: Path, *, simulated: Sequence[str] = ()
) -> AsyncIterator[Settings]:
    """The settings, with what they lack started and filled in: a nats-server in `folder`, a simulated model server
    with the arguments `simulated`."""
    async with AsyncExitStack() as stack:
        found: dict[str, object] = {}
        if settings.nats_url is None:
            server = await stack.enter_async_context(embedded_nats(folder, port=_free(4222)))
            settings = settings.at_local_nats(server.url)
        if settings.vllm_url is None:
            found["vllm_url"] = await stack.enter_async_context(simulator(*simulated))
        yield settings.model_copy(update=found)


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
