"""Turns at something that so many may have at a time: first come, first served."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Turns:
    """Who may generate: at most `slots` at a time (0: any number), in the order in which they came."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._taken = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @asynccontextmanager
    async def mine(self) -> AsyncIterator[None]:
        """Wait for a slot, and have it for the block. Who is cancelled while waiting leaves the queue."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        self._admit()
        try:
            await turn
            yield
        finally:
            if turn.cancelled():
                with suppress(ValueError):  # passed over meanwhile
                    self._queue.remove(turn)
            else:
                self._taken -= 1
                self._admit()

    def resize(self, slots: int) -> None:
        """Who has a slot keeps it."""
        self._slots = slots
        self._admit()

    def _admit(self) -> None:
        while self._queue and (not self._slots or self._taken < self._slots):
            turn = self._queue.popleft()
            if not turn.cancelled():
                turn.set_result(None)
                self._taken += 1
