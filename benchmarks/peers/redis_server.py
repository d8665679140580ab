"""A redis-server on loopback, as durable as Parley's NATS: an append-only file, synced every second."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.machine import free_port
from benchmarks.peers.child import child
from benchmarks.peers.skipped import REDIS, Skipped

START_SECONDS = 10.0


@asynccontextmanager
async def redis_server(folder: Path) -> AsyncIterator[str]:
    """Yields its URL, without a database's number. Raises Skipped if none is installed."""
    executable = shutil.which("redis-server")
    if executable is None:
        raise Skipped("redis-server is not installed", REDIS)
    port = free_port()
    settings = {
        "bind": "127.0.0.1",
        "port": str(port),
        "dir": str(folder),
        "save": "",
        "appendonly": "yes",
        "appendfsync": "everysec",
    }
    command = [executable, *(word for name, value in settings.items() for word in (f"--{name}", value))]
    async with child(command, log=folder / "redis.log") as server:
        try:
            await asyncio.wait_for(_listening(port), START_SECONDS)
        except TimeoutError:
            raise RuntimeError(f"redis-server does not listen: {server.last_words()}") from None
        yield f"redis://127.0.0.1:{port}"


async def _listening(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return
