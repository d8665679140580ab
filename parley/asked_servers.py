"""The model servers of a service that runs: whether they serve its model, and reading their file again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Self

from parley.broker.core.errors import Unavailable
from parley.settings import Settings
from parley.workers.model.endpoint_address import Endpoint
from parley.workers.model.model_server import ModelServer
from parley.workers.model.model_servers import ModelServers
from parley.workers.model.readiness import ModelReadiness
from parley.workers.pool.pool import Pool

log = logging.getLogger("parley")


class AskedServers:
    """Use as an async context manager. Readiness asks the servers as the workers do: with their key and limits, and
    streamed where they stream."""

    def __init__(self, settings: Settings, model: str, pool: Pool) -> None:
        self._settings = settings
        self._model = model
        self._pool = pool
        self._servers: Sequence[ModelServer] = settings.servers
        # Both for the servers in use; None until the block is entered.
        self._readiness: ModelReadiness | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    @property
    def endpoints(self) -> list[Endpoint]:
        return [server.endpoint for server in self._servers]

    @property
    def limited(self) -> bool:
        """Whether any of them has a limit that all workers share."""
        return any(server.limited for server in self._servers)

    async def unready_reason(self) -> str | None:
        """Why agents cannot be answered, or None."""
        assert self._readiness is not None
        return await self._readiness.unready_reason()

    async def read_again(self, want_limits: Callable[[], Awaitable[None]]) -> None:
        """Ask the servers that the file names now. With a mistake in it, those before stay, and the log says so. Raises
        nothing. `want_limits`: prepares what limits need; may raise Unavailable."""
        try:
            # Elsewhere than in the event loop: a large file with mistakes takes a while.
            servers = await asyncio.to_thread(self._settings.read_servers)
            if any(server.limited for server in servers):
                await want_limits()
            before, known = self._stack, self._readiness
            await self._pool.use_servers(servers)
            same = {server.endpoint for server in servers if server in self._servers}
            self._servers = servers
            await self._open()
        except (ValueError, Unavailable) as error:
            log.error("PARLEY_ENDPOINTS: %s; the endpoints before stay in force", error)
        except Exception:
            log.exception("PARLEY_ENDPOINTS was not taken in through a bug")
        else:
            if known is not None and self._readiness is not None:
                self._readiness.know(known, same)
            await before.aclose()
            log.info("asking %s", ", ".join(map(str, self.endpoints)))

    async def _open(self) -> None:
        stack = AsyncExitStack()
        client = await stack.enter_async_context(
            ModelServers(
                self._servers,
                timeouts=self._settings.call_timeouts,
                stream=self._settings.vllm_stream,
                connections=2 * len(self._servers),
            )
        )
        readiness = ModelReadiness(client, self.endpoints, self._model, lambda: self._pool.endpoint_statuses)
        self._readiness = await stack.enter_async_context(readiness)
        self._stack = stack
