"""The requests that are stored and that intake has not taken in yet, by name: they are PENDING, and have no tally.

Only a question for a name without a tally leads here. `d-<n>` is looked up at its place. Other names are in the bodies,
so the untaken part of REQUESTS is read, once: each question reads on from where the last one stopped.
"""

import asyncio
from contextlib import aclosing

from parley.broker.core.headers_and_ids import OWN_NAME
from parley.broker.jetstream import topology
from parley.broker.jetstream.acks_and_pulls import parse_reply
from parley.broker.jetstream.consumer_floor import consumer_floor
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.scan import scan
from parley.handlers.intake import readable_task_id

# Names remembered, about 200 bytes each: 10 MiB.
MAX_NAMES = 50_000
# What one question reads of the stream. The next one reads on.
READ_BYTES = 16 * 1024 * 1024
# Messages of one pull request: each may be as large as the server allows.
BATCH = 16


class UntakenRequests:
    def __init__(self, jetstream: JetStream) -> None:
        self._jetstream = jetstream
        # By task_id: the sequence of its newest request that was untaken when it was read. Oldest first.
        self._names: dict[str, int] = {}
        # The sequence to read on from.
        self._next = 1
        # When the last reading that came to the stream's end began.
        self._read_at = float("-inf")
        # One reader at a time: the others wait for what it reads.
        self._reading = asyncio.Lock()

    async def holds(self, task_id: str) -> bool | None:
        """Whether a request of this name waits to be taken in; None: so many wait that it is not known.

        `d-<n>` counts while the message at that place waits, also if it has a `task_id` of its own: it may be rejected
        under this name. Raises BrokerUnavailable.
        """
        asked_at = asyncio.get_running_loop().time()
        taken, waits = await self._taken()
        if OWN_NAME.fullmatch(task_id):
            return await self._waits_at(int(task_id.removeprefix("d-")), taken)
        if not waits:
            return False
        async with self._reading:
            self._forget(taken)
            if task_id in self._names:
                return True
            if self._read_at < asked_at and not await self._read_on():
                return True if task_id in self._names else None
            return task_id in self._names

    async def _taken(self) -> tuple[int, bool]:
        """The sequence up to which intake has settled every request, and whether any waits."""
        floor = await consumer_floor(self._jetstream, topology.INTAKE)
        return floor.settled, not floor.idle

    async def _waits_at(self, seq: int, taken: int) -> bool:
        # JetStream counts in 64 bits; a larger number is no place.
        if not taken < seq < 2**63:
            return False
        stored = await self._jetstream.get(topology.REQUESTS, seq)
        return stored is not None and stored.subject == topology.REQUESTED

    def _forget(self, taken: int) -> None:
        """Forget what intake has settled meanwhile."""
        self._next = max(self._next, taken + 1)
        for name in list(self._names):
            if self._names[name] > taken:
                break
            del self._names[name]

    async def _read_on(self) -> bool:
        """Read names. False if the stream has more of them than may be read or remembered now."""
        began, size = asyncio.get_running_loop().time(), 0
        stored = scan(self._jetstream, topology.REQUESTS, topology.REQUESTED, first=self._next, batch=BATCH)
        async with aclosing(stored) as messages:
            async for message in messages:
                if size >= READ_BYTES or len(self._names) >= MAX_NAMES:
                    return False
                size += len(message.data)
                seq, _, _ = parse_reply(message.reply)
                self._next = seq + 1
                # Most have none: they need not be read.
                name = readable_task_id(message.data) if b'"task_id"' in message.data else None
                if name is not None:
                    self._names.pop(name, None)
                    self._names[name] = seq
        self._read_at = began
        return True
