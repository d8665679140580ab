"""The connections of the HTTP server for operators: how many may be open, and for how long one may be idle.

aiohttp (3.14) waits without end for a connection's first request, and takes as many connections as come: whoever
reaches the port could use up the descriptors that the service needs for NATS and the model servers.
"""

import asyncio
import resource
from collections.abc import Awaitable, Callable

from aiohttp import web

# A scrape, a probe and a browser need a few.
MAX_CONNECTIONS = 64
# Of the process's descriptors at most one in this many is a connection of this server.
DESCRIPTOR_SHARE = 8
# Connections that the kernel may hold ready. They are accepted together, so this many may come beyond the bound.
BACKLOG = 16
# A connection without a request in hand is closed after this long. Prometheus connects again.
IDLE_SECONDS = 15.0
CHECK_SECONDS = 1.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Refused(asyncio.Protocol):
    """A connection too many: closed as it comes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


class Connections:
    """Bounds those of an application's server. `count_requests` is a middleware of the application."""

    def __init__(self) -> None:
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.limit = max(1, min(MAX_CONNECTIONS, descriptors // DESCRIPTOR_SHARE))
        # Those with a request in hand. object: aiohttp's protocol of a connection.
        self._busy: set[object] = set()
        # The others, each with the time from which on it was idle.
        self._idle_since: dict[object, float] = {}

    @web.middleware
    async def count_requests(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        connection = request.protocol
        self._busy.add(connection)
        self._idle_since.pop(connection, None)
        try:
            return await handler(request)
        finally:
            self._busy.discard(connection)

    def protocol(self, server: web.Server) -> asyncio.BaseProtocol:
        """The protocol of a connection that has just come."""
        return server() if len(server.connections) < self.limit else _Refused()

    async def close_idle(self, server: web.Server) -> None:
        """Runs until it is cancelled."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            now, there = asyncio.get_running_loop().time(), server.connections
            idle = [connection for connection in there if connection not in self._busy]
            self._idle_since = {connection: self._idle_since.get(connection, now) for connection in idle}
            for connection in idle:
                if now - self._idle_since[connection] >= IDLE_SECONDS:
                    connection.force_close()
