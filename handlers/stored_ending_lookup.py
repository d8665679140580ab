"""Looks for the stored ending of a deliberation, where the server may have forgotten its Msg-Id, or the bucket its
tally.

Most look-ups come in crowds: after an absence each old request asks for its own ending, and most have none. So the
endings that were read are remembered by name, and the next look-up reads only what was stored since.
"""

import asyncio
from contextlib import aclosing

from nats.aio.msg import Msg

from parley.broker.core.errors import InvalidMessage
from parley.broker.core.messages import decode_ending
from parley.broker.jetstream import topology
from parley.broker.jetstream.acks_and_pulls import parse_reply
from parley.broker.jetstream.ending_of_stored_message import ending_of
from parley.broker.jetstream.jetstream import JetStream, StoredMessage
from parley.broker.jetstream.scan import scan

# Both endings. Timers and deadlines have one token more.
ENDINGS = "deliberation.*"
# Names remembered, about 300 bytes each: 30 MiB. Beyond it the oldest are forgotten, and a look-up that needs them
# reads the stream by itself.
MAX_NAMES = 100_000
# Seconds for which what was read counts as all there is. The server remembers the Msg-Id of an ending for longer
# (180 s at least), so a newer ending cannot be stored twice.
FRESH_SECONDS = 30.0
# Seconds before the first look-up's instant from which on endings are remembered: those that ask after it were stored
# at about the same time.
MARGIN_SECONDS = 60.0
# Messages of one pull request: each may be as large as the server allows.
BATCH = 16


class EndingLookup:
    """One for a process: its look-ups share what they read."""

    def __init__(self, jetstream: JetStream) -> None:
        self._jetstream = jetstream
        # By task_id: the newest ending's sequence and when it was stored. Oldest first.
        self._places: dict[str, tuple[int, float]] = {}
        # `_places` has the endings stored from this instant on.
        self._since = float("inf")
        # The sequence to read on from, and when that was last done.
        self._next = 1
        self._read_at = float("-inf")
        # Names were forgotten, because there were too many.
        self._overflowed = False
        # One reader at a time: the others wait for what it reads.
        self._reading = asyncio.Lock()

    async def find(self, task_id: str, since: float) -> int | None:
        """The place in DELIBERATIONS of an ending of `task_id` that was stored at the instant `since` or later.

        It may miss one that was stored within the last `FRESH_SECONDS`. Raises BrokerUnavailable.
        """
        async with self._reading:
            if since < self._since and not self._overflowed:
                self._places.clear()
                self._since = max(0.0, since - MARGIN_SECONDS)
                self._next, self._read_at = 1, float("-inf")
            if self._jetstream.clock.now() - self._read_at >= FRESH_SECONDS:
                await self._read_on()
            place = self._places.get(task_id)
            remembered = since >= self._since
        if not remembered:
            return await self._search(task_id, since)
        if place is None or place[1] < since:
            return None
        return place[0] if await self.holds(task_id, place[0]) else await self._search(task_id, since)

    async def get(self, task_id: str, seq: int) -> StoredMessage | None:
        """The message at `seq`, if it is an ending of `task_id`. Raises BrokerUnavailable."""
        stored = await self._jetstream.get(topology.DELIBERATIONS, seq)
        return stored if stored is not None and ending_of(stored, task_id) is not None else None

    async def holds(self, task_id: str, seq: int) -> bool:
        """Whether an ending of `task_id` is stored at `seq`. Raises BrokerUnavailable."""
        return await self.get(task_id, seq) is not None

    async def _read_on(self) -> None:
        now = self._jetstream.clock.now()
        since = self._since if self._next == 1 else None
        stored = scan(
            self._jetstream, topology.DELIBERATIONS, ENDINGS, first=self._next, since=since, batch=BATCH
        )
        async with aclosing(stored) as messages:
            async for message in messages:
                seq, at, _ = parse_reply(message.reply)
                self._next = seq + 1
                name = _name_of(message)
                if name is not None:
                    self._remember(name, seq, at)
        self._read_at = now

    def _remember(self, name: str, seq: int, at: float) -> None:
        self._places.pop(name, None)
        if len(self._places) == MAX_NAMES:
            self._overflowed = True
            _, self._since = self._places.pop(next(iter(self._places)))
        self._places[name] = (seq, at)

    async def _search(self, task_id: str, since: float) -> int | None:
        """Read the stream for one name."""
        stored = scan(self._jetstream, topology.DELIBERATIONS, ENDINGS, since=since, batch=BATCH)
        async with aclosing(stored) as messages:
            async for message in messages:
                if message.subject in (topology.COMPLETED, topology.FAILED) and (
                    _name_in(message.data) == task_id
                ):
                    return parse_reply(message.reply)[0]
        return None


def _name_of(message: Msg) -> str | None:
    """Whose ending this is, by its Msg-Id, which costs less than reading it."""
    if message.subject not in (topology.COMPLETED, topology.FAILED):
        return None
    name, mark, _ = (message.headers or {}).get("Nats-Msg-Id", "").partition(":ending")
    return name if mark else _name_in(message.data)


def _name_in(body: bytes) -> str | None:
    try:
        return decode_ending(body).task_id
    except InvalidMessage:
        return None
