"""The virtual clock in place of `time` in the handlers, with an error of its own for each process."""

import asyncio
import contextvars
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

# Seconds this process's clock is ahead of the server's.
SKEW: contextvars.ContextVar[float] = contextvars.ContextVar("skew", default=0.0)


class VirtualTime:
    """Stands in for the module `time`."""

    @staticmethod
    def time() -> float:
        return asyncio.get_running_loop().time() + SKEW.get()

    monotonic = time  # its error too: `ServerClock` has to find it


class CountedTokens:
    """Stands in for the module `secrets`: a history's names are the same each time."""

    @staticmethod
    def token_hex(nbytes: int) -> str:
        loop: Any = asyncio.get_running_loop()
        loop.tokens += 1
        return f"{loop.tokens:0{2 * nbytes}x}"


@contextmanager
def virtual_time() -> Iterator[None]:
    """While the block lasts, the handlers read the clock of the running loop, and draw their tokens from it."""
    with (
        patch("parley.broker.jetstream.server_clock.time", VirtualTime),
        patch("parley.handlers.deadline_rearm.time", VirtualTime),
        patch("parley.broker.jetstream.object_store.secrets", CountedTokens),
    ):
        yield
