"""The wish to stop a service: SIGINT or SIGTERM once, for a good order; a second time, at once.

Every part may be killed at any moment and nothing is lost, so leaving at once is safe; what was in hand is done by others, or
after the next start.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Protocol, TypeVar

# How often a service looks whether it can still do its work.
LOOK_SECONDS = 1.0
# For what was begun to be undone when the wish comes during the start.
UNDO_SECONDS = 15.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)

T = TypeVar("T")


class Interrupted(Exception):
    """It was to stop before it was up."""


class Able(Protocol):
    @property
    def disabled(self) -> str | None:
        """Why it cannot work any more in this process; None while it can."""
        ...


class Stop:
    def __init__(self) -> None:
        self._wished = asyncio.Event()
        self.listen()

    def listen(self) -> None:
        """Once before anything is started, and once after: Ray puts a handler of its own over SIGTERM that prints a stack."""
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.remove_signal_handler(number)
            loop.add_signal_handler(number, self._hear, number)

    def _hear(self, number: int) -> None:
        if self._wished.is_set():
            # Everything we started ends with us (`child_setup`; Ray does the same for its own).
            print("parley: stopped at once; what was in hand is done later", file=sys.stderr, flush=True)
            os._exit(128 + number)
        self._wished.set()

    async def during(self, start: Coroutine[Any, Any, T]) -> T:
        """The result of `start`, unless the wish comes first: then `start` is cancelled. Raises Interrupted."""
        starting = asyncio.create_task(start)
        wish = asyncio.create_task(self._wished.wait())
        try:
            await asyncio.wait((starting, wish), return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                return starting.result()
            starting.cancel()
            await asyncio.wait((starting,), timeout=UNDO_SECONDS)
            raise Interrupted
        finally:
            wish.cancel()
            if not starting.done():
                starting.cancel()

    async def until(self, service: Able) -> str | None:
        """Wait for the wish. A service that cannot work any more stops too, and why is returned, for a supervisor to start anew."""
        while not self._wished.is_set():
            if service.disabled is not None:
                return service.disabled
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wished.wait(), LOOK_SECONDS)
        return None
