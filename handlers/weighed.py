"""A semaphore whose holders weigh differently: bounds bytes where counting would bound nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Weighed:
    """At most `limit` at a time; one holder heavier than that is let in alone. First come, first served."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.held = 0
        self._turn = asyncio.Lock()
        self._lighter = asyncio.Event()

    @asynccontextmanager
    async def holding(self, weight: int) -> AsyncIterator[None]:
        """Hold `weight` for as long as the block lasts, once there is room."""
        async with self._turn:
            while self.held and self.held + weight > self._limit:
                self._lighter.clear()
                await self._lighter.wait()
            self.held += weight
        try:
            yield
        finally:
            self.held -= weight
            self._lighter.set()
