"""A redis-server on loopback, as durable as Parley's NATS: an append-only file, synced every second."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.rig.child import child, listens
from tests.rig.proc import free_port

START_SECONDS = 10.0


@asynccontextmanager
async def redis_server(folder: Path) -> AsyncIterator[str]:
    """Yields its URL, without a database's number. Raises FileNotFoundError if redis-server is not installed."""
    executable = shutil.which("redis-server")
    if executable is None:
        raise FileNotFoundError("redis-server is not installed")
    port = free_port()
    settings = {
        "bind": "127.0.0.1", "port": str(port), "dir": str(folder), "save": "", "appendonly": "yes",
        "appendfsync": "everysec",
    }  # fmt: skip
    command = [executable, *(word for name, value in settings.items() for word in (f"--{name}", value))]
    async with child(command, folder / "redis.log", os.environ, batch=True) as server:
        await server.ready(lambda: listens(port), START_SECONDS)
        yield f"redis://127.0.0.1:{port}"
