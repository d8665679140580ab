"""One test file a source file. What they share: a server of this folder's own that is emptied for each test."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nats.aio.client import Client as Nats

from broker import topology
from broker.connection import close, connect


@asynccontextmanager
async def emptied(url: str) -> AsyncIterator[Nats]:
    """A connection to a server whose streams are all new: half the time that starting a new server takes."""
    nc = await connect(url, "test")
    js = nc.jetstream()
    for info in await js.streams_info():
        await js.delete_stream(str(info.config.name))
    await topology.provision(js)
    try:
        yield nc
    finally:
        await close(nc)
