"""`deliberation.cancel`: end a deliberation.

A cancel may be stored before its request (by up to CANCEL_AHEAD_SECONDS), or come while intake is away. Then it waits
for the request, however long that takes: it is asked for again, more and more seldom.

Cancels of unknown names cost a look each time. Where very many wait, each has less patience, so that a client that sends
thousands of them does not hold up everybody else's.
"""

import sys

from cachetools import TTLCache

from parley.broker.core.backoff import backoff
from parley.broker.core.events_and_effects import CancelRequested
from parley.broker.core.messages import DeliberationCancel
from parley.broker.core.reactions import CANCEL_AHEAD_SECONDS
from parley.broker.jetstream import topology
from parley.broker.jetstream.consumer_floor import consumer_floor
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.topology import Durable
from parley.handlers.delivery import ACK, Delivery, Retry, Settlement
from parley.handlers.effects import EffectRunner

# Seconds before the handler looks again for the request of a cancel: doubled each time, up to the second while the
# request may still be stored, and up to the third while intake is behind.
REQUEST_WAIT_SECONDS = 0.5
SOON_WAIT_SECONDS = 8.0
LONGEST_WAIT_SECONDS = 30.0
# With so many waiting, a cancel waits for a request that may still be stored no longer than this, and for less than ten
# looks: 60,000 of unknown names held an honest one up for minutes.
CROWD = 1_000
CROWD_AHEAD_SECONDS = 2.0
# Seconds for which a crowd takes what intake has settled as known. Less than the above: it is known after the cancel.
KNOWN_SECONDS = 1.0


class Cancel:
    """`intake`: the consumer of the requests in the same stream."""

    def __init__(
        self, jetstream: JetStream, effects: EffectRunner, *, intake: Durable = topology.INTAKE
    ) -> None:
        self._jetstream = jetstream
        self._effects = effects
        self._intake = intake
        # Cancels that wait for their request, by sequence: the newest CROWD of them.
        self._waiting: TTLCache[int, None] = TTLCache(CROWD, 2 * LONGEST_WAIT_SECONDS)
        # What intake had settled when it was last asked, and when that was, by the server's clock.
        self._settled, self._asked_at = (0, 0.0), float("-inf")

    async def handle(self, delivery: Delivery[DeliberationCancel]) -> Settlement:
        """Raises InvalidMessage."""
        cancel = delivery.payload(DeliberationCancel)
        event = CancelRequested(cancel.reason, delivery.seq, delivery.at)
        if (await self._effects.apply(cancel.task_id, [(event, self._effects.now())])).tally is None:
            crowd = len(self._waiting) >= CROWD
            age = self._effects.now() - delivery.at
            if await self._may_come_yet(delivery, age, crowd=crowd):
                self._waiting[delivery.seq] = None
                return Retry(_wait(delivery.count, age, crowd=crowd))
            # Intake has settled every request that it may be for: the request is recorded, or it never will be.
            await self._effects.apply(cancel.task_id, [(event, self._effects.now())])
        self._waiting.pop(delivery.seq, None)
        return ACK

    async def _may_come_yet(self, delivery: Delivery[DeliberationCancel], age: float, *, crowd: bool) -> bool:
        """Whether a request that this cancel counts for may still be stored, or be taken in."""
        ahead = CROWD_AHEAD_SECONDS if crowd else CANCEL_AHEAD_SECONDS
        if age < ahead:
            return True
        now = self._effects.now()
        if not crowd or now - self._asked_at >= KNOWN_SECONDS:
            self._settled, self._asked_at = await self._settled_at(now), now
        seq, at = self._settled
        return seq < delivery.seq or at < delivery.at + ahead

    async def _settled_at(self, now: float) -> tuple[int, float]:
        """Intake has settled all requests up to this sequence, and all that were stored before this instant."""
        floor = await consumer_floor(self._jetstream, self._intake)
        if floor.idle:
            return sys.maxsize, now
        if not floor.settled:
            return 0, 0.0
        last = await self._jetstream.get(self._intake.stream, floor.settled)
        return floor.settled, last.at if last is not None and last.at is not None else now


def _wait(count: int, age: float, *, crowd: bool) -> float:
    """Seconds until a cancel is looked at again."""
    if crowd and age < CROWD_AHEAD_SECONDS:
        return CROWD_AHEAD_SECONDS
    longest = LONGEST_WAIT_SECONDS if age > CANCEL_AHEAD_SECONDS else SOON_WAIT_SECONDS
    return backoff(count, REQUEST_WAIT_SECONDS, longest)
