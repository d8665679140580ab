"""Messages that may kill each process that handles them: how often each was begun and never finished.

A handler that raises is counted by its process. One that ends its process (out of memory, a crash of a C library) is
not: only that it was begun is known afterwards, and only if that was stored. So a message that has been delivered
several times without this process knowing why is noted in the stream SUSPECTS before it is handled, and handled alone.
A message that is handled at its first deliveries costs nothing here.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from cachetools import LRUCache

from parley.broker.core.errors import ParleyError
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.topology import Durable

log = logging.getLogger("parley.broker")

# From this delivery on a message is noted before it is handled. A drain, or a process that dies of something else,
# costs one delivery.
SUSPECT_DELIVERIES = 3
# Begun this often and never finished, a message is given up. With the deliveries before, a message ends five
# processes, as one that raises has five deliveries.
MAX_BEGUN = 3
# Other messages wait so long for a suspect. Most are handled in milliseconds; an ending may take long.
WAIT_SECONDS = 0.25
# Messages that this process remembers to have handled without harm.
REMEMBERED = 8_192


class Suspects:
    """One for a process. It handles one suspect at a time: if it dies then, that one is noted and no other."""

    def __init__(self, jetstream: JetStream) -> None:
        self._jetstream = jetstream
        # Held while a suspect is handled.
        self._alone = asyncio.Lock()
        # Messages that were handled in this process, and are to come again: by consumer and sequence.
        self._harmless: LRUCache[tuple[str, int], None] = LRUCache(REMEMBERED)

    def suspects(self, durable: Durable, seq: int, count: int) -> bool:
        """Whether a message, at its delivery `count`, may have killed the processes that had it before."""
        return count >= SUSPECT_DELIVERIES and (durable.name, seq) not in self._harmless

    def note_harmless(self, durable: Durable, seq: int) -> None:
        """This process has handled the message, with whatever result."""
        self._harmless[durable.name, seq] = None

    @property
    def busy(self) -> bool:
        """A suspect is being handled: another message that begins now might end the process in its place."""
        return self._alone.locked()

    async def wait_idle(self) -> None:
        """Wait until no suspect is being handled, for WAIT_SECONDS at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(WAIT_SECONDS), self._alone:
                pass

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Handle a suspect in this block."""
        async with self._alone:
            yield

    async def begin(self, durable: Durable, seq: int) -> bool:
        """Note that the message is begun. False if it was begun so often that it must not be again."""
        subject = topology.suspect_subject(durable, seq)
        try:
            last = await self._jetstream.get_last(topology.SUSPECTS, subject)
            begun = int(last.data) if last is not None and last.data.isdigit() else 0
            if begun >= MAX_BEGUN:
                return False
            await self._jetstream.publish(subject, str(begun + 1).encode())
        except (
            ParleyError
        ) as error:  # a store that is full, or streams of an older version: handled without a note
            log.warning("message %d of %s is handled without a note: %s", seq, durable.name, error)
        return True

    async def finish(self, durable: Durable, seq: int) -> None:
        """The message is handled, with whatever result, or given up: its notes count no more."""
        try:
            await self._jetstream.publish(topology.suspect_subject(durable, seq), b"0")
        except ParleyError as error:
            log.warning("the note of message %d of %s stays: %s", seq, durable.name, error)
