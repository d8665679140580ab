"""Two asyncio helpers that the standard library lacks: a cheap `gather` for one item, and a semaphore that counts bytes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import asynccontextmanager
from typing import TypeVar

Result = TypeVar("Result")


async def gather(works: Iterable[Awaitable[Result]]) -> list[Result]:
    """As `asyncio.gather`. A batch is mostly a single message, and a task for each cost a tenth of what its handling does."""
    waiting = list(works)
    if len(waiting) == 1:
        return [await waiting[0]]
    return await asyncio.gather(*waiting)


class WeightedSemaphore:
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
