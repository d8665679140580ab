"""`deliberation.cancel`: end a deliberation.

A cancel may be stored before its request (by up to CANCEL_AHEAD_SECONDS), or come while intake is away. Then it waits
for the request, however long that takes: it is asked for again, more and more seldom.
"""

from parley.broker.core.backoff import backoff
from parley.broker.core.messages import DeliberationCancel
from parley.broker.core.tally import CANCEL_AHEAD_SECONDS, CancelRequested
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.topology import Durable
from parley.handlers.delivery import ACK, Delivery, Retry, Settlement
from parley.handlers.effects import EffectRunner

# Seconds before the handler looks again for the request of a cancel: doubled each time, up to the second while the
# request may still be stored, and up to the third while intake is behind.
REQUEST_WAIT_SECONDS = 0.5
SOON_WAIT_SECONDS = 8.0
LONGEST_WAIT_SECONDS = 30.0


class Cancel:
    """`intake`: the consumer of the requests in the same stream."""

    def __init__(
        self, jetstream: JetStream, effects: EffectRunner, *, intake: Durable = topology.INTAKE
    ) -> None:
        self._jetstream = jetstream
        self._effects = effects
        self._intake = intake

    async def handle(self, delivery: Delivery[DeliberationCancel]) -> Settlement:
        """Raises InvalidMessage."""
        cancel = delivery.payload(DeliberationCancel)
        event = CancelRequested(cancel.reason, delivery.seq, delivery.at)
        if (await self._effects.apply(cancel.task_id, [(event, self._effects.now())])).tally is not None:
            return ACK
        age = self._effects.now() - delivery.at
        if await self._may_come_yet(delivery, age):
            longest = LONGEST_WAIT_SECONDS if age > CANCEL_AHEAD_SECONDS else SOON_WAIT_SECONDS
            return Retry(backoff(delivery.count, REQUEST_WAIT_SECONDS, longest))
        # Intake has settled every request that it may be for: the request is recorded, or it never will be.
        await self._effects.apply(cancel.task_id, [(event, self._effects.now())])
        return ACK

    async def _may_come_yet(self, delivery: Delivery[DeliberationCancel], age: float) -> bool:
        """Whether a request that this cancel counts for may still be stored, or be taken in."""
        if age < CANCEL_AHEAD_SECONDS:
            return True
        with self._jetstream.translate_errors():
            intake = await self._jetstream.js.consumer_info(self._intake.stream, self._intake.name)
        settled = intake.ack_floor.stream_seq if intake.ack_floor is not None else 0
        if not intake.num_pending and not intake.num_ack_pending:
            return False
        if settled < delivery.seq:
            return True
        last = await self._jetstream.get(self._intake.stream, settled)
        return last is not None and last.at is not None and last.at < delivery.at + CANCEL_AHEAD_SECONDS
