"""The virtual clock in place of `time` in the handlers, with an error of its own for each process."""

import asyncio
import contextvars
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

# Seconds this process's clock is ahead of the server's.
SKEW: contextvars.ContextVar[float] = contextvars.ContextVar("skew", default=0.0)


class VirtualTime:
    """Stands in for the module `time`."""

    @staticmethod
    def time() -> float:
        return asyncio.get_running_loop().time() + SKEW.get()

    monotonic = time  # its error too: `ServerClock` has to find it


@contextmanager
def virtual_time() -> Iterator[None]:
    """While the block lasts, the handlers read the clock of the running loop."""
    with (
        patch("parley.broker.jetstream.server_clock.time", VirtualTime),
        patch("parley.handlers.deadline_recovery.time", VirtualTime),
    ):
        yield
