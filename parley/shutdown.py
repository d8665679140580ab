"""Stopping a service: the first SIGINT, SIGTERM or SIGHUP stops it in order, the second ends the process at once. SIGHUP
has a service with a file of endpoints read it again, unless its terminal was closed.

Any part may be killed at any moment without loss, so an immediate end is safe: other replicas, or the next start,
do the unfinished work.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from parley.terminal import leave_closed_terminals

# How often a running service is asked whether it can still work.
CHECK_SECONDS = 1.0
# How long an interrupted start may take to undo itself.
UNDO_SECONDS = 15.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

T = TypeVar("T")


class Interrupted(Exception):
    """A signal came before the service was up."""


class Supervised(Protocol):
    @property
    def disabled(self) -> str | None:
        """Why the service cannot work any more in this process; None while it can."""
        ...

    async def read_endpoints_again(self) -> None:
        """What SIGHUP asks for. Raises nothing."""
        ...


class Shutdown:
    """Handles the signals from its creation on. `reads_again`: SIGHUP has the service read its endpoints again."""

    def __init__(self, *, reads_again: bool = False) -> None:
        # Set by the first signal.
        self._requested = asyncio.Event()
        # Set by SIGHUP until the service has been told.
        self._hung_up = False
        # Beside the waiting: a stop does not wait for it.
        self._reading: asyncio.Task[None] | None = None
        self._reads_again = reads_again
        ignores_hangup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # as `nohup` wants it
        self._signals = SIGNALS[:2] if ignores_hangup and not reads_again else SIGNALS
        self._has_terminal = sys.stdin is not None and sys.stdin.isatty()
        self.handle_signals()

    def handle_signals(self) -> None:
        """Install the handlers. Repeat it after Ray has started: Ray replaces SIGTERM's by one that prints a stack."""
        loop = asyncio.get_running_loop()
        for number in self._signals:
            loop.remove_signal_handler(number)
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGHUP:
            leave_closed_terminals()
            # When a terminal is closed, what runs in it gets this signal too: it ends, as everything else there.
            is_closed = self._has_terminal and not sys.stdin.isatty()
            if self._reads_again and not is_closed:
                self._hung_up = True
                return
            # The kernel and the shell send it both, and systemd may send it right after SIGTERM.
            if self._requested.is_set():
                return
        if self._requested.is_set():
            # The processes that we started end with this one (`child_setup`; Ray does the same for its own).
            print("parley: stopped at once; what was in hand is done later", file=sys.stderr, flush=True)
            os._exit(128 + number)
        self._requested.set()

    async def during(self, start: Coroutine[Any, Any, T]) -> T:
        """The result of `start`. A signal cancels `start`; then this raises Interrupted."""
        starting = asyncio.create_task(start)
        requested = asyncio.create_task(self._requested.wait())
        try:
            await asyncio.wait((starting, requested), return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                return starting.result()
            starting.cancel()
            await asyncio.wait((starting,), timeout=UNDO_SECONDS)
            raise Interrupted
        finally:
            requested.cancel()
            if not starting.done():
                starting.cancel()

    async def wait_for_signal(self) -> None:
        await self._requested.wait()

    async def wait(self, service: Supervised) -> str | None:
        """Return None after a signal, or why the service cannot work any more: a supervisor then starts it anew."""
        try:
            return await self._wait(service)
        finally:
            if self._reading is not None:
                self._reading.cancel()

    async def _wait(self, service: Supervised) -> str | None:
        while not self._requested.is_set():
            if service.disabled is not None:
                return service.disabled
            if self._hung_up and (self._reading is None or self._reading.done()):
                self._hung_up = False
                self._reading = asyncio.create_task(service.read_endpoints_again(), name="reading-endpoints")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._requested.wait(), CHECK_SECONDS)
        return None
