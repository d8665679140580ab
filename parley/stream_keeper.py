"""Makes streams and consumers again that vanish while the service runs: a NATS that is back with an empty store, a
consumer or a stream that somebody deleted."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

import nats.errors

from parley.broker.core.errors import BrokerUnavailable, TopologyMismatch
from parley.broker.jetstream.connection import reason
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.provision import Extent, Findings, Wanted, examine, provision

log = logging.getLogger("parley")

# How often it looks. What vanished is to work again within ten seconds.
CHECK_SECONDS = 3.0
# A process that cannot make what is missing leaves after this long, and a supervisor starts another one.
GIVE_UP_SECONDS = 30.0

# Called with what NATS says of each stream, whenever it was looked at.
OnLook = Callable[[Findings], Awaitable[None]]


class StreamKeeper:
    """`fatal_reason` says why a process should leave. `on_loss` runs when a stream or consumer was made anew, by whatever
    process. Each of `on_look` runs at every look."""

    def __init__(
        self,
        jetstream: JetStream,
        wanted: Wanted,
        *,
        on_loss: Callable[[], Awaitable[object]] | None = None,
        on_look: Sequence[OnLook] = (),
    ) -> None:
        self._jetstream = jetstream
        self._wanted = wanted
        self._on_loss = on_loss
        self._on_look = on_look
        # When each stream was created, by name, as NATS said at the last look.
        self._created: Mapping[str, datetime | None] = {}
        # When something was first found missing that could not be made (monotonic); None: nothing is.
        self._missing_since: float | None = None
        # What was logged since something was first missing.
        self._told: set[str] = set()
        # What cannot be made again, and why; empty while nothing is missing for long.
        self._gave_up = ""

    @property
    def fatal_reason(self) -> str | None:
        """Why this process cannot work any more, as far as NATS is concerned; None while it can."""
        if self._jetstream.closed:
            why = self._jetstream.nc.last_error
            return (
                f"NATS closed the connection for good ({reason(why) if why else 'were credentials changed?'})"
            )
        return self._gave_up or None

    async def run(self) -> None:
        """Look now, after each reconnect and every `CHECK_SECONDS`, until the connection is closed for good."""
        connection = self._jetstream.nc
        while True:
            try:
                await connection.wait_connected()
            except nats.errors.ConnectionClosedError:
                return
            reconnects = connection.reconnects
            try:
                await self.look()
            except BrokerUnavailable:
                if connection.is_connected:
                    raise
                continue  # NATS is away, and the log says so
            with suppress(TimeoutError):
                async with asyncio.timeout(CHECK_SECONDS):
                    await connection.wait_reconnected(reconnects)

    async def want_limits(self) -> None:
        """Model servers have limits from now on: make what these need. Raises Unavailable."""
        if not self._wanted.limits:
            wanted = replace(self._wanted, limits=True)
            with self._jetstream.translate_errors():
                await provision(self._jetstream.js, wanted, extent=Extent.MISSING)
            self._wanted = wanted

    async def look(self) -> None:
        """Make what is missing. Raises BrokerUnavailable if NATS does not answer."""
        with self._jetstream.translate_errors():
            found = await examine(self._jetstream.js, limits=self._wanted.limits)
        lost = found.missing
        if lost and not await self._make(lost):
            return
        self._missing_since = None
        self._told.clear()
        created = {name: info.created for name, info in found.streams.items() if info is not None}
        remade = any(self._created.get(name, at) != at for name, at in created.items())
        if (lost or remade) and self._on_loss is not None:
            await self._on_loss()
        self._created = created  # last: a loss that could not be followed up is found again
        for on_look in self._on_look:
            await on_look(found)

    async def _make(self, lost: list[str]) -> bool:
        """Whether that worked."""
        self._tell(f"vanished while the service runs: {', '.join(lost)}")
        try:
            made = await provision(self._jetstream.js, self._wanted, extent=Extent.MISSING)
        except (nats.errors.Error, TimeoutError, TopologyMismatch) as error:
            now = time.monotonic()
            self._missing_since = self._missing_since or now
            why = str(error) or type(error).__name__
            self._tell(f"cannot make {', '.join(lost)} again: {why}")
            if now - self._missing_since >= GIVE_UP_SECONDS:
                self._gave_up = f"missing in NATS and not to be made: {', '.join(lost)} ({why})"
            return False
        log.warning("made again: %s", ", ".join(made) or "by another process")
        return True

    def _tell(self, line: str) -> None:
        """Log, once for as long as it is so."""
        if line not in self._told:
            self._told.add(line)
            log.warning("%s", line)
